"""Readers of datasets and of caches: files to records."""

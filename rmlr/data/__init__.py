"""Readers of datasets and caches: records from files."""

"""Scored triplets as files: our table, and the official result files of V-COCO and HICO-DET."""

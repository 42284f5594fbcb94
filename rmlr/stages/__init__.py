"""The stages, one file each: paths in, files out."""

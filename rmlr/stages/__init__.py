"""One file, one node of the study: paths in, files out."""

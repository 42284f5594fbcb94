"""Infrastructure of all stages: settings, output folders, files, tracking, digests of code."""

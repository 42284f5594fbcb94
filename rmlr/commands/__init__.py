"""Commands for users that are not part of the study's graph."""

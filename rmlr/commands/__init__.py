"""What people type and the study's graph does not."""

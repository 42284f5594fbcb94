"""What surrounds every stage: its settings, its output folder, its files, its tracker, the digest of its code."""

"""Official protocols: metrics from scored triplets."""

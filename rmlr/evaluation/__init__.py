"""Official protocols: scored triplets to metrics."""

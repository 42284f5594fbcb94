"""Training and inference: the trainer, the sources of examples, a trained network in use."""

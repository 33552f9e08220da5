"""Checkpoints of the training state: saving, integrity, selection."""

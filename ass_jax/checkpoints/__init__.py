"""Checkpoints of the training state: saved in the background, checked, chosen."""

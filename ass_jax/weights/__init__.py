"""Weights in files: other projects', and a run's own."""

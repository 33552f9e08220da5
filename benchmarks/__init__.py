"""Longer programs that measure the project; each writes its report into `docs/results/`."""

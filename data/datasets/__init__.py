"""The datasets: one file each, joined by `registry.py`."""

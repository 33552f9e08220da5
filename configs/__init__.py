"""Configurations: plain values, one file per experiment; `base.py` has every key."""

"""Prepared splits, opened and decoded."""

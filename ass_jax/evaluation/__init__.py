"""Scores of a segmenter on the target domain."""

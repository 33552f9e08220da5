"""Predictions of a trained segmenter: for images of any size, in memory and as files."""

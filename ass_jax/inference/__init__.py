"""Predictions of a trained segmenter for images of any size."""

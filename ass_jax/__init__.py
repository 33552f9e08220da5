"""Semi-supervised domain adaptation for semantic segmentation: the method ASS (arXiv 2004.00794) in JAX.

Shapes in all docstrings: B batch, H W pixels, h w feature cells, C classes, D feature channels.
"""

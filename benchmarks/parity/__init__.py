"""Comparisons of our numbers with PyTorch, with float64 and with another version of the code."""

"""Numbers compared with PyTorch, with float64 and with earlier code."""

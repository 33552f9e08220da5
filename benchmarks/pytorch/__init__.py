"""The same training in PyTorch, for comparisons of speed."""

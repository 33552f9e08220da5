"""The same training in PyTorch: the peer of the benchmarks of speed."""

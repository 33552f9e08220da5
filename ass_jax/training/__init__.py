"""The training loop, its reports and its checks."""

"""Speed and memory of steps, input and evaluation."""

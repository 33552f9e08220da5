"""The method: losses, class means, teacher, training step. Pure functions; no input or output."""

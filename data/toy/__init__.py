"""Generated streets in two domains."""

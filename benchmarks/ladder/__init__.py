"""The ladder: every variant of the method, trained over several seeds."""

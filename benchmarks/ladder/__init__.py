"""Every variant of the method, trained over several seeds."""

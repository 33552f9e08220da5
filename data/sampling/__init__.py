"""Which image stands at which position of a stream."""

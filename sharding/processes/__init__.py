"""One solve by several processes."""

"""One call over many points: compiled batches, their layout and their memory forecast."""

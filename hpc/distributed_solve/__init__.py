"""One model on several machines, into a store."""

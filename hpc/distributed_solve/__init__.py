"""One model by several processes, into a store."""

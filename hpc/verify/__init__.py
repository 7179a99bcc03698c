"""An independent check of a store, in NumPy."""

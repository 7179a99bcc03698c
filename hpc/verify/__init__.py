"""An independent check of stored results, in NumPy."""

"""Tasks on the workers of a dask scheduler."""

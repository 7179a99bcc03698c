"""The Zarr store of a sweep."""

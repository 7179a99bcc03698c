"""Many calls over many machines: sweep files, plan, executors, the Zarr store, the command line."""

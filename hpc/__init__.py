"""Many calls over many machines: sweep files, plan, store, workers, SLURM, command line."""

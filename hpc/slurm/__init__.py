"""Workers in SLURM jobs."""

"""Many calls over many machines: sweep files, plan, store, workers, SLURM, command line.

Read as the data flows: ``sweep_file``, ``plan``, ``store``, ``run``, ``cluster``, ``slurm``,
``cli``.
"""

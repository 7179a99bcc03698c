"""Workers in SLURM jobs.

Read ``executor.py`` first, then ``job_pool.py`` and ``worker_job.py``; in the job,
``worker_process.py``.
"""

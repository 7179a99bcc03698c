"""Tasks on the workers of a dask scheduler.

Read ``coordinator.py`` (the driver's side) and ``worker.py`` (the other one), then
``task_queue.py`` and ``retries.py``.
"""

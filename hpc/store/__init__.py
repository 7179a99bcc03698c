"""The Zarr store of a sweep.

Read ``store.py`` first: the commit; then ``create.py``, ``buckets.py`` and ``checksums.py``.
"""

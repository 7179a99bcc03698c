"""One model on several machines, into a store.

Read ``stored_solve.py`` first, then ``commit.py`` and ``checkpoints.py``.
"""

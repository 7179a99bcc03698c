"""One model on several machines, into a store.

Read ``solve.py`` first, then ``commit.py`` and ``checkpoints.py``.
"""

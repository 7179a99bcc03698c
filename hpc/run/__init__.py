"""A sweep from beginning to end, in this process.

Read ``sweep.py`` first, then ``executor.py``.
"""

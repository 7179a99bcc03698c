"""An independent check of stored results, in NumPy.

Read ``verification.py`` (the run), ``stored_point.py`` (one point), then ``proofs.py``: what the
numbers prove. ``definition.py`` and ``bellman.py`` are the operator, written a second time, in
NumPy.
"""

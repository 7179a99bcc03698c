"""An independent check of stored results, in NumPy.

Read ``verification.py`` (the run), ``stored_point.py`` (one point), then ``proofs.py``: what the
numbers prove. What they are computed with is :mod:`dpsolve.hpc.model_definition`.
"""

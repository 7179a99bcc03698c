"""A model's definition, evaluated in plain NumPy: what an independent check computes with.

Read ``pairs.py`` (states and choices, pair by pair), then ``bellman.py``: the operator, written a
second time.
"""

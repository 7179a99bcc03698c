"""What can be told of a model before it is solved: faults, sizes, memory.

``check.py`` and ``describe.py`` are what a user calls; the other two are asked by every solve.
"""

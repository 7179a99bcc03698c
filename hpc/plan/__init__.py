"""From a sweep to its points, tasks and arrays.

Read ``plan.py`` first, then ``design.py`` (points), ``tasks.py`` and ``store_schema.py`` (arrays).
"""

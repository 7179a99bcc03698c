"""One call over many points and many devices.

Read ``solve_many.py`` (what a user calls), then ``batches/program.py``.
"""

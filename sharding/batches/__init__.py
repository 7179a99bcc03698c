"""Many points in one compiled program.

Read ``program.py`` first, then ``outline.py`` (what is known before compiling), ``lanes.py``,
``rounds.py`` and ``refill.py``; ``single_pass.py`` is the simpler sibling of ``rounds.py``.
"""

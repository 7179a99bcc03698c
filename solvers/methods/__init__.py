"""Solution methods and the bounds that certify them.

Read ``bounds.py`` first, then ``discounted.py``; ``average.py`` is its sibling, ``loop.py`` picks
one of them, and ``finite_horizon.py`` needs neither.
"""

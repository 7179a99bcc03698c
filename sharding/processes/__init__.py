"""One solve by several processes.

Read ``rendezvous.py``, then ``group.py``, then ``stepwise.py``: in the order of a solve.
"""

"""Agents under a policy.

Read ``tables.py`` first: what a policy says, as tables; then ``agents.py``.
"""

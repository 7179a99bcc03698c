"""Concavity proved: a model's functions read by the rules of disciplined convex programming.

Read ``proof.py`` first; ``interpreter.py`` walks the functions, ``rules.py`` knows the rules.
"""

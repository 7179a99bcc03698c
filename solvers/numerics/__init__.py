"""Numerical building blocks that know no model.

Each module stands by itself.
"""

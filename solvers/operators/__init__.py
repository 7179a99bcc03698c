"""Bellman operators of models, and of one policy."""

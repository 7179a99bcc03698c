"""Bellman operators of models with taste shocks."""

"""Panels of simulated agents.

Read ``simulate.py`` first.
"""

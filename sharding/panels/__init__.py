"""Panels of simulated agents."""

"""Distributions under a policy: stationary, over time, and their moments."""

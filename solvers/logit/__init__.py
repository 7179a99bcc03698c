"""Taste shocks as a model states them, and log-sums, probabilities and entropies of values."""

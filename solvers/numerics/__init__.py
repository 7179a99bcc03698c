"""Numerical building blocks that know no model."""

"""Agents under a policy."""

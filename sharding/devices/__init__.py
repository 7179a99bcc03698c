"""Devices, meshes, and what fits on them."""

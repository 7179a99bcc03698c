"""Devices, meshes, and what fits on them.

Read ``mesh.py`` first.
"""

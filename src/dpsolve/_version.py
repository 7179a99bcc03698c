"""The version, where every room can read it without the face."""

__version__ = "0.1.0"

"""The version, where every room can read it without the face."""

__version__ = "0.2.0"

"""The version: the one place that says it, read by the build, too."""

__version__ = "0.2.0"

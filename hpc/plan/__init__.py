"""From a sweep to its points, and to tasks."""

"""From a sweep to its points, tasks and arrays."""

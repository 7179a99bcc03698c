"""Sizes of the built-ins, refused in words where they are none."""

from dpsolve.solvers.errors import UsageError


def at_least(least: int, **sizes: object) -> None:
    """Refuse sizes that are no whole numbers, or too small."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}={value!r}; it is a whole number, at least {least}")

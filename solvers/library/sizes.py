"""Sizes of the built-ins, refused in words where they are none."""

from dpsolve.solvers.errors import UsageError


def at_least(least: int, **sizes: object) -> None:
    """Refuse sizes that are no whole numbers, or too small."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}={value!r}; it is a whole number, at least {least}")


def true_or_false(**switches: object) -> None:
    """Refuse switches that are neither, for a word would count as true."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r}; it is True or False")

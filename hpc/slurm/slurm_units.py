"""SLURM's own ways to write durations and sizes."""

from __future__ import annotations

import re

_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def walltime_seconds(text: str) -> float:
    """Return a duration in seconds: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    found = _WALLTIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    parts = [int(part) for part in found["rest"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return float(((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(parts) == 1:
        return 60.0 * parts[0]
    hours, minutes, seconds = (0, *parts)[-3:]
    return float((hours * 60 + minutes) * 60 + seconds)


def memory_bytes(text: str) -> int:
    """Return a size in bytes; units are powers of 1024, and MiB where there is none, as for SLURM.

    Raises
    ------
    ValueError
        If it is no size.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ValueError(text)
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 2
    return int(float(found[1]) * 1024**power)

"""The content of arrays as something to compare by: their numbers, shapes and types, in short."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


def content(x: Any, of: Callable[[Any], Any] = repr) -> Any:
    """Return what is equal for arrays of equal type, shape and numbers, and hashable.

    Parameters
    ----------
    x : array of NumPy or JAX
    of : function
        Of the list that an array of objects holds.
    """
    array = np.asarray(x)
    if array.dtype.hasobject:
        return "array", array.shape, of(array.tolist())
    data = array.tobytes() if array.nbytes <= 64 else np.ascontiguousarray(array)
    # 1 to 2 GB/s, with the instructions that processors have for it.
    held = data if isinstance(data, bytes) else hashlib.sha256(data.view(np.uint8).data).digest()
    return type(x), array.shape, array.dtype.str, held


_arrays: dict[int, tuple[weakref.ref[Any], Any]] = {}


def content_once(array: Any) -> Any:
    """Return the content of an array of JAX, which cannot change: read once."""
    key = id(array)
    known = _arrays.get(key)
    if known is not None and known[0]() is array:
        return known[1]
    found = content(array)
    _arrays[key] = (weakref.ref(array, lambda _: _arrays.pop(key, None)), found)
    return found

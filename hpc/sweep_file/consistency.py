"""What a sweep's sections must agree on, with each other and the model.

Works on the tables as written, not on validated ones, so that a mistake in one field hides none in
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dpsolve.solvers.errors import did_you_mean
from dpsolve.solvers.model.factory_signature import REQUIRED, Signature, gradient_mistake
from dpsolve.solvers.parameters.array import ArrayParameter

from .array_values import Arrays, is_nested, is_written
from .fields import GRADIENT, ONE_VALUE, Sample
from .mistakes import Key, Mistake, look_up

_ROWS = ("zip", "sample", "table")


def disagreements(raw: Mapping[str, Any], signature: Signature | None) -> Iterator[Mistake]:
    """Yield what does not fit together.

    Parameters
    ----------
    raw : mapping
        The sweep's tables; ``[table]`` with the values that were read.
    signature : Signature or None
        The model's; None if the model could not be loaded, which leaves the parts to be compared
        with each other.
    """
    given = _given(raw)
    yield from _one_row_section(raw, given)
    yield from _twice(given)
    yield from _lengths(raw)
    if signature is not None:
        yield from _unknown(given, signature)
        yield from _missing(given, signature)
        for key in given:
            yield from _unfit(key, raw, signature)
        for key, name in _gradients(raw):
            if text := gradient_mistake(signature, name):
                yield Mistake(key, text)


def _gradients(raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """Yield each parameter to differentiate by, and where it stands."""
    solve, store = raw.get("solve"), raw.get("store")
    for key in ("gradients", "gradients_fixed_policy"):
        names = solve.get(key) if isinstance(solve, Mapping) else None
        if isinstance(names, str):
            yield from ((("solve", key), part.strip()) for part in names.split(","))
        elif isinstance(names, list | tuple):
            yield from ((("solve", key, i), n) for i, n in enumerate(names) if _is_text(n))
    keep = store.get("keep") if isinstance(store, Mapping) else None
    for i, name in enumerate(keep if isinstance(keep, list | tuple) else ()):
        if _is_text(name) and (found := GRADIENT.fullmatch(name)):
            yield ("store", "keep", i), found["parameter"]


def _is_text(name: Any) -> bool:
    return isinstance(name, str) and bool(name)


def _given(raw: Mapping[str, Any]) -> list[Key]:
    """Return the key of every parameter that the sweep gives, by section."""
    keys: list[Key] = []
    for section in ("fixed", "grid", "zip"):
        part = raw.get(section)
        keys += [(section, name) for name in part] if isinstance(part, Mapping) else []
    sample = raw.get("sample")
    if isinstance(sample, Mapping):
        ranges = sample.get("ranges")
        if isinstance(ranges, Mapping):
            keys += [("sample", "ranges", name) for name in ranges]
        else:
            keys += [
                ("sample", name)
                for name, value in sample.items()
                if name not in Sample.model_fields and isinstance(value, Mapping)
            ]
    table = raw.get("table")
    if isinstance(table, Mapping) and isinstance(table.get("values"), Mapping):
        keys += [("table", "values", name) for name in table["values"]]
    return keys


def _one_row_section(raw: Mapping[str, Any], given: list[Key]) -> Iterator[Mistake]:
    present = [section for section in _ROWS if raw.get(section, {}) != {}]
    for section in present[1:]:
        yield Mistake(
            (section,),
            f"[{present[0]}] is there already, and both would run along the dimension 'point'. "
            "Keep one; [grid] can be combined with it.",
        )
    if "sample" in present and not any(key[0] == "sample" for key in given):
        text = "no parameter to sample; add a range: beta = { from = 0.90, to = 0.99 }."
        yield Mistake(("sample",), text)
    if not present and not raw.get("grid") and not raw.get("one_point"):
        name = raw.get("model", "MODEL")
        yield Mistake(
            (),
            "nothing is swept: add [grid], [zip], [sample] or [table]; --grid on the command line, "
            f"grid= in Python. One point alone: dpsolve solve {name}, or dp.solve",
        )


def _twice(given: list[Key]) -> Iterator[Mistake]:
    first: dict[str | int, Key] = {}
    for key in given:
        name = key[-1]
        if name in first:
            text = f"'{name}' is given in [{first[name][0]}] as well; keep one of the two."
            yield Mistake(key, text, show_value=False)
        first.setdefault(name, key)


def _lengths(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    lists = raw.get("zip")
    if not isinstance(lists, Mapping):
        return
    lengths = {k: len(v) for k, v in lists.items() if hasattr(v, "__len__") and len(v)}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        text = f"the lists are paired and need equal lengths, but {each}."
        yield Mistake(("zip",), text, show_value=False)


def _unknown(given: list[Key], signature: Signature) -> Iterator[Mistake]:
    for key in given:
        name = str(key[-1])
        if name not in signature.names:
            where = "the column is no parameter: " if key[0] == "table" else ""
            hint = "; choose columns with columns = [...]" if key[0] == "table" else ""
            text = (
                f"{where}model '{signature.name}' has no parameter '{name}'{hint}."
                f"{did_you_mean(name, signature.names)} {_listing(signature)}"
            )
            yield Mistake(key, text, show_value=False)


def _listing(signature: Signature) -> str:
    text = f"Its parameters: {', '.join(signature.parameters) or '(none)'}"
    return text + (f"; sizes: {', '.join(signature.sizes)}." if signature.sizes else ".")


def _missing(given: list[Key], signature: Signature) -> Iterator[Mistake]:
    names = {key[-1] for key in given}
    defaults = {**signature.parameters, **signature.sizes}
    for name, default in defaults.items():
        if isinstance(default, ArrayParameter) and default.fill is None:
            default = None
        if name not in names and (default is REQUIRED or default is None):
            if default is None and name in signature.sizes:
                continue  # a static option whose default is None
            text = f"model '{signature.name}' has no default for '{name}': give it in [fixed] "
            yield Mistake(("fixed", name), text + "or sweep it.")


def _unfit(key: Key, raw: Mapping[str, Any], signature: Signature) -> Iterator[Mistake]:
    """Compare the values of one parameter with what the model takes."""
    name, section = str(key[-1]), key[0]
    if name in signature.sizes and section == "sample":
        text = f"'{name}' is a size, and sampled values are not whole; list sizes in [grid]."
        yield Mistake(key, text)
        return
    if declared := signature.arrays.get(name):
        yield from _unfit_array(key, raw, declared)
        return
    if name not in signature.names or section == "sample":
        return
    if _is_array(given := look_up(raw, key)) and (section == "fixed" or is_nested(given)):
        rows = f"'{name}' takes one number a point, and this is an array for each."
        yield Mistake(key, ONE_VALUE if section == "fixed" else rows)
        return
    for where, value in _values(key, raw):
        if name in signature.parameters:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            wanted = "a number"
        else:
            fits, wanted = _fits(value, signature.sizes[name])
        if not fits:
            place = ("table", "columns", name) if section == "table" else where
            shown = f"{value} does not fit: " if section == "table" else ""
            if where[-1] == "points":
                shown = f"the values would be {value:.4g} apart: "
            yield Mistake(place, f"{shown}'{name}' takes {wanted}.")
            return


def _unfit_array(key: Key, raw: Mapping[str, Any], declared: ArrayParameter) -> Iterator[Mistake]:
    """Compare what a parameter that is an array is given with its number of axes."""
    name, section, value = str(key[-1]), key[0], look_up(raw, key)
    dims = ", ".join(declared.named(name))
    if section in ("grid", "sample"):
        yield Mistake(
            key,
            f"'{name}' is an array ({dims}), and no axis of numbers. Sweep it along 'point': an "
            ".npz file in [table], or [zip], with an array (points, ...).",
        )
        return
    points = 0 if section == "fixed" else 1
    if isinstance(value, Arrays):
        ndim = len(value.shape)
    elif is_written(value):
        ndim = len(value["shape"])
    else:
        try:
            ndim = np.ndim(value)
        except ValueError:  # told by the field itself
            return
    if ndim != declared.ndim + points:
        wanted = f"(point, {dims})" if points else f"({dims})"
        how = "" if points else ": its entries in brackets, or the name of an .npz or .npy file"
        yield Mistake(key, f"'{name}' is an array {wanted}, and not of {ndim} axes{how}.")


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple | Arrays) or hasattr(value, "ndim") or is_written(value)


def _values(key: Key, raw: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    value: Any = raw
    for part in key:
        value = value[part]
    if isinstance(value, list | tuple):
        yield from (((*key, i), item) for i, item in enumerate(value))
    elif isinstance(value, Mapping):
        yield from (((*key, end), value[end]) for end in ("from", "to") if end in value)
        yield from _steps(key, value)
    else:
        yield key, value


def _steps(key: Key, value: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    """Yield the step of a range, which is whole where its values are."""
    try:
        step = (value["to"] - value["from"]) / (value["points"] - 1)
    except (KeyError, TypeError, ZeroDivisionError):
        return
    if value.get("spacing", "linear") == "linear":
        yield (*key, "points"), int(step) if step.is_integer() else step


def _fits(value: Any, default: Any) -> tuple[bool, str]:
    """Tell whether a static parameter takes `value`, judged by its default."""
    if isinstance(default, bool):
        return isinstance(value, bool), "true or false"
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole, f"a whole number (it is a size; {default} by default)"
    if isinstance(default, str):
        return isinstance(value, str), f'text in quotes ("{default}" by default)'
    return True, ""

"""Provenance of a store, and why a resume is refused.

The root attributes of a store are texts and numbers only, so that a dataset opened from it can be
saved as NetCDF; what has structure is JSON text.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from difflib import unified_diff
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve._version import __version__
from dpsolve.hpc.plan.store_schema import FORMAT
from dpsolve.hpc.sweep_file.local_imports import same_code

if TYPE_CHECKING:
    from dpsolve.hpc.plan.design import Bucket
    from dpsolve.hpc.plan.plan import Plan

    from .store import Store


PACKAGES = ("dpsolve", "jax", "jaxlib", "numpy")
DECISIVE = ("dpsolve", "jax", "jaxlib")  # another version may round differently


def root_attributes(plan: Plan, command: str) -> dict[str, Any]:
    """Return what the root of a new store says of its origin."""
    import jax

    devices = jax.devices()
    kind, platform_name = devices[0].device_kind, devices[0].platform
    attributes: dict[str, Any] = {
        "dpsolve_store": FORMAT,
        "title": f"{plan.points} points of the model {plan.source.name}",
        **{f"model_{key}": text for key, text in plan.source.as_dict().items()},
        "model_folder": plan.source.folder,
        "sweep": json.dumps(plan.sweep.as_dict()),
        "solve": json.dumps(plan.options.as_dict()),
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "platform": platform.platform(),
        "device": f"{len(devices)} x {kind}" + f" ({platform_name})" * (kind != platform_name),
        "python_version": platform.python_version(),
        **{f"{name}_version": _version(name) for name in PACKAGES},
    }
    if any(groups := [part.bucket.group for part in plan.buckets]):
        attributes["groups"] = json.dumps(groups)  # their order, which is that of the tasks
    if commit := _git_commit(Path(plan.source.folder or os.curdir)):
        attributes["git_commit"] = commit
    return attributes


def bucket_attributes(bucket: Bucket, arrays: Iterable[str]) -> dict[str, Any]:
    """Return what the group of a bucket says of its points, and the order of its arrays."""
    return {
        "arrays": json.dumps(list(arrays)),  # zarr's consolidated metadata are sorted by name
        "swept": json.dumps(list(bucket.parameters)),
        "fixed": json.dumps({n: x for n, x in bucket.fixed.items() if n not in bucket.own}),
        **_of_arrays(bucket),
        # Other sizes are defaults of the factory, and its source is in the root attributes.
        "sizes": json.dumps({k: v for k, v in bucket.sizes.items() if _is_scalar(v)}),
    }


def _of_arrays(bucket: Bucket) -> dict[str, Any]:
    """Say which coordinates are parameters that are arrays; in xarray's words, too."""
    if not bucket.own:
        return {}
    fixed = [name for name in bucket.own if name in bucket.fixed]
    return {"fixed_arrays": json.dumps(fixed), "coordinates": " ".join(bucket.own)}


def differences(store: Store, plan: Plan) -> list[str]:
    """Return how what was asked differs from what the store holds: a line or more for each field.

    Where the results lie and how they are cut into tasks makes no difference.
    """
    lines: list[str] = []
    held, asked = store.source, plan.source
    if held.name != asked.name:
        lines.append(_line("model", held.name, asked.name))
    if held.kind != asked.kind or (held.kind == "module" and held.reference != asked.reference):
        # A module is found by its name, whatever text the store has.
        lines.append(_line("model", *(f"{x.reference} ({x.kind})" for x in (held, asked))))
    if not same_code(held.source, asked.source):
        lines.append(_line("model source (sha256)", held.sha256[:12], asked.sha256[:12]))
        lines += _source_difference(held.source, asked.source)
    first, second = dict(held.files), dict(asked.files)
    for name in sorted({**first, **second}):
        if name not in first or name not in second:
            found = ("the file" if name in each else "nothing" for each in (first, second))
            lines.append(_line(f"imported {name}", *found))
        elif not same_code(first[name], second[name]):
            lines.append(f"imported {name}: the store has another text than this call")
            lines += _source_difference(first[name], second[name])
    lines += _compare(  # both as they read now: an option may have had another default
        {f"solve.{k}": v for k, v in store.options.as_dict().items()} | {"solve.tol": store.tol},
        {f"solve.{k}": v for k, v in plan.options.as_dict().items()} | {"solve.tol": plan.tol},
    )
    held_buckets = {b.bucket.group: _facts(b.bucket, b.kept) for b in store.buckets}
    asked_buckets = {
        b.bucket.group: _facts(b.bucket, {k: v.dtype for k, v in b.variables.items()})
        for b in plan.buckets
    }
    if held_buckets.keys() != asked_buckets.keys():
        return [*lines, _line("sizes", _groups(held_buckets), _groups(asked_buckets))]
    for group, facts in held_buckets.items():
        prefix = f"{group}: " if group else ""
        lines += [prefix + line for line in _compare(facts, asked_buckets[group])]
    return lines


def version_notes(attributes: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each package whose version may change the last digits."""
    return [
        f"the store was begun with {name} {then}, this is {now}: new points may differ from the "
        "old ones in the last digits"
        for name in DECISIVE
        if (then := attributes.get(f"{name}_version")) != (now := _version(name))
    ]


def _facts(bucket: Bucket, kept: Mapping[str, str]) -> dict[str, Any]:
    """Return what of a bucket decides its numbers, under the names that a user knows."""
    facts: dict[str, Any] = {f"size {k}": v for k, v in bucket.sizes.items() if _is_scalar(v)}
    facts |= {f"fixed {name}": value for name, value in bucket.fixed.items()}
    for name, (dims, values) in bucket.parameters.items():
        facts[f"parameter {name}"] = values
        if dims != (name,):
            facts[f"dimension of {name}"] = ", ".join(dims)
    facts["dimensions"] = ", ".join(bucket.axes)
    facts["keep"] = ", ".join(sorted(kept))
    facts |= {f"dtype of {name}": dtype for name, dtype in kept.items()}
    return facts


def _compare(held: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for name in {**held, **asked}:
        if name.startswith("dtype of") and not (name in held and name in asked):
            continue  # told by `keep` already
        if not _same(held.get(name), asked.get(name)):
            yield _line(name, *_described(held.get(name), asked.get(name)))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and np.array_equal(a, b, equal_nan=True)
    return bool(a == b) or (_is_nan(a) and _is_nan(b))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _line(name: str, held: Any, asked: Any) -> str:
    return f"{name}: the store has {held}, this call asks for {asked}"


def _described(held: Any, asked: Any) -> tuple[str, str]:
    first, second = _text(held), _text(asked)
    if isinstance(held, np.ndarray) and isinstance(asked, np.ndarray) and first == second:
        held, asked = held.ravel(), asked.ravel()
        at = int(np.flatnonzero(held != asked)[0])
        return f"{first}, number {at + 1} {held[at]!s}", f"{second}, number {at + 1} {asked[at]!s}"
    return first, second


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    if not isinstance(value, np.ndarray):
        return str(value)
    return _values(value)


def _values(values: NDArray[Any]) -> str:
    if values.size <= 6:
        return "[" + ", ".join(f"{v}" for v in values.tolist()) + "]"
    return f"{values.size} values from {values.min()} to {values.max()}"


def _groups(buckets: Mapping[str, Any]) -> str:
    if list(buckets) == [""]:
        return ", ".join(
            f"{k.removeprefix('size ')}={v}" for k, v in buckets[""].items() if k.startswith("size")
        )
    return ", ".join(buckets)


def _source_difference(held: str, asked: str, most: int = 12) -> list[str]:
    lines = unified_diff(held.splitlines(), asked.splitlines(), "store", "now", lineterm="", n=0)
    changed = [f"  {line}" for line in lines if not line.startswith(("---", "+++"))]
    rest = len(changed) - most
    return changed[:most] + ([f"  ... and {rest} more lines"] if rest > 0 else [])


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


@cache
def _version(package: str) -> str:
    if package == "dpsolve":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git_commit(folder: Path) -> str | None:
    """Return the commit of the repository that `folder` is in, if it is in one.

    Git's files are read rather than git run: a process costs more than writing all the metadata of
    a store, and a compute node may have no git.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            break
    else:
        return None
    try:
        git = place / ".git"
        if git.is_file():  # a worktree or a submodule points to its own
            git = (place / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        shared = (git / common.read_text().strip()).resolve() if common.exists() else git
        if (shared / name).exists():
            return (shared / name).read_text().strip()
        for line in (shared / "packed-refs").read_text().splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    except OSError:
        pass  # a repository that cannot be read has no commit to tell
    return None

"""Whether files, numbers and coordinates still are what was written.

Nothing is solved or evaluated here. Arrays are read by zarr, not by the code that wrote them; the
codecs' checksums vouch for the bytes, the manifest for the numbers, the sweep in the attributes
for the coordinates, and the records of a point (status, error bound, message) for each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan import store_schema
from dpsolve.hpc.plan.array_parameters import completed
from dpsolve.hpc.plan.design import Bucket, make_design
from dpsolve.hpc.store.atomic_files import read_plain
from dpsolve.hpc.store.damage import Block, as_zarr_reads, in_short, node_faults
from dpsolve.hpc.store.store import NONSENSE
from dpsolve.hpc.store.trust import alteration
from dpsolve.hpc.sweep_file.array_values import checksum
from dpsolve.hpc.zarr_format import METADATA, ZarrArray
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.outcomes import CERTIFIES, LEFT_OUT, UNCERTIFIED

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


RECORDS = frozenset({*store_schema.RECORDS, "code"})
"""What is known of a point beside its arrays."""

STATUSES = ("solved", "inexact", "failed")
NOTHING = CERTIFIES.index("none")


# -- before any task ------------------------------------------------------------------------------


def coordinates(path: Path) -> tuple[dict[str, Block], list[str]]:
    """Read every coordinate of a store; return them by group, and what cannot be read."""
    import zarr

    document = json.loads((path / METADATA).read_bytes())
    nodes = document["consolidated_metadata"]["metadata"]
    with as_zarr_reads(path):
        root = zarr.open_group(path, mode="r")
    found: dict[str, Block] = {}
    faults = []
    for name in [key for key, node in nodes.items() if node["node_type"] == "array"]:
        group, _, short = name.rpartition("/")
        prefix = f"{group}/" if group else ""
        axes = nodes[f"{prefix}status"]["dimension_names"]
        dims = nodes[name]["dimension_names"]
        attributes = nodes[group]["attributes"] if group else document["attributes"]
        if dims[: len(axes)] == axes and short not in (*axes, *json.loads(attributes["swept"])):
            continue  # a result
        try:
            meant = ZarrArray.from_document(nodes[name])
            meant.decode(read_plain(path / name / meant.key((0,) * len(meant.dims))))
            array = root[name]
            assert isinstance(array, zarr.Array)
            found.setdefault(group, {})[short] = np.asarray(array[...])
        except Exception as error:  # whatever a codec raises on damaged bytes
            faults.append(f"the coordinate {name} cannot be read: {in_short(error)}")
    return found, faults


def alterations(store: Store) -> list[str]:
    """Say what was altered of that which decides numbers; nothing that the store keeps runs."""
    faults = [*node_faults(store)]
    if altered := alteration(store):
        faults.append(altered)
        if len(faults) == 1 and store.source.is_builtin:
            faults += metadata_faults(store)  # where, as far as the sweep tells
    return faults


def metadata_faults(store: Store) -> Iterator[str]:
    """Compare attributes and coordinates with the sweep that the store holds.

    This loads the model, whose parameters have defaults.
    """
    from dpsolve.hpc.sweep_file.fields import options_of, sweep_from
    from dpsolve.solvers.model.factory_signature import signature

    attributes = store.attributes
    try:
        sweep = sweep_from(json.loads(attributes["sweep"]))
        options = options_of(sweep)
    except (UsageError, *NONSENSE) as error:
        yield f"the attribute sweep cannot be read: {in_short(error)}"
        return
    # Where no tol is given none is written, and 1e-6 was.
    tol = options.tolerance(any(b.certifies == "continuum" for b in store.buckets))
    if options.as_dict() | {"tol": tol} != store.options.as_dict() | {"tol": store.tol}:
        yield "the attribute solve differs from the options in the attribute sweep"
    factory = store.source.load()
    design = completed(make_design(sweep, signature(factory)), factory)
    meant = {b.group: b for b in design.buckets}
    held = {b.bucket.group: b.bucket for b in store.buckets}
    if meant.keys() != held.keys():
        yield f"the store has the groups {sorted(held)}, but its sweep {sorted(meant)}"
        return
    for group, bucket in held.items():
        for text in _design_faults(bucket, meant[group]):
            yield f"{group}: {text}" if group else text


def _numbers(bucket: Bucket) -> dict[str, Any]:
    return {name: x for name, x in bucket.fixed.items() if name not in bucket.own}


def _design_faults(held: Bucket, meant: Bucket) -> Iterator[str]:
    pairs: dict[str, tuple[Any, Any]] = {
        f"the coordinate {name}": (values, meant.axes.get(name))
        for name, values in held.axes.items()
    }
    pairs |= {
        f"the parameter {name}": (values, meant.parameters.get(name, ((), None))[1])
        for name, (_, values) in held.parameters.items()
        if name not in held.axes
    }
    pairs |= {
        f"the parameter {name}": (held.fixed[name], meant.fixed.get(name))
        for name in held.own
        if name in held.fixed
    }
    for what, (values, wanted) in pairs.items():
        if wanted is not None and np.asarray(wanted).dtype.kind == "U":  # of arrays: by checksums
            each = values if np.ndim(wanted) else values[None]
            values, wanted = np.array([checksum(x) for x in each]), np.atleast_1d(wanted)
        if wanted is None or np.shape(wanted) != np.shape(values):
            yield f"{what} has {np.size(values)} values, but the sweep {np.size(wanted)}"
            continue
        differ = ~((values == wanted) | ((values != values) & (wanted != wanted)))
        if differ.any():
            i = int(np.argmax(differ))
            yield (
                f"{what}: number {i + 1} is stored as {values.flat[i]!s}, but the sweep says "
                f"{wanted.flat[i]!s}"
            )
    for what, values, wanted in (
        ("fixed", _numbers(held), _numbers(meant)),
        ("sizes", held.sizes, {k: meant.sizes.get(k) for k in held.sizes}),
    ):
        for name in {**values, **wanted}:
            a, b = values.get(name), wanted.get(name)
            if a != b and (a == a or b == b):
                yield f"the attribute {what} says {name}={a}, but the sweep says {name}={b}"


# -- what is recorded of points -------------------------------------------------------------------


def record_faults(
    block: Mapping[str, NDArray[Any]],
    tol: float | None,
    certified: bool,
    distribution_tol: float = math.inf,
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Compare what is recorded of some points with itself; yield the points and the sentence.

    Parameters
    ----------
    block : mapping
        Arrays over points.
    tol : float or None
        The certified error that was asked for; None: none was, and that there is one will do.
    certified : bool
        Whether error bounds are claimed at all: not for a factory's own arrays.
    distribution_tol : float
        The same of distributions.
    """
    status, message = block.get("status"), block.get("message")
    bound = block.get("error_bound")
    if status is None:
        return
    most = np.finfo(float).max if tol is None else tol
    within = np.ones(len(status), bool) if bound is None else bound <= most
    above = f"above tol={tol:g}" if tol is not None else "no bound"
    # One whose bounds are of less than the continuum is inexact whatever they are.
    whose = block.get(store_schema.CERTIFIES, np.ones(len(status)))
    continuum = whose == CERTIFIES.index("continuum")
    unknown = ~np.isin(status, STATUSES)
    yield unknown, f"status is {status[unknown][:1].tolist()}, which is none of {STATUSES}"
    if bound is not None and certified:
        yield (
            (status == "solved") & ~within,
            f"status is solved, but error_bound is {above}",
        )
        loose = _loose(block, status, distribution_tol)
        yield (
            (status == "solved") & loose,
            f"status is solved, but distribution_error is above {distribution_tol:g}, or a "
            "distribution holds NaN",
        )
        yield (
            (status == "inexact") & within & ~loose & (tol is not None) & continuum,
            f"status is inexact, but error_bound is within tol={tol or 0:g}",
        )
        if store_schema.CERTIFIES in block:
            yield (
                (status == "solved") & (block[store_schema.CERTIFIES] == NOTHING),
                "status is solved, but nothing is certified",
            )
        if "certificate" in block:
            yield (
                (status == "solved") & (block["certificate"] == 1),
                "status is solved, but no certificate: a sample of states bounds no error",
            )
    if bound is not None and not certified:  # a factory may itself state the error of its arrays
        yield (
            (status == "solved") & ~within & ~np.isnan(bound),
            f"status is solved, but error_bound is {above}",
        )
    if message is not None:
        periodic = (
            block.get("distribution_period", np.ones(len(status))) > 1
        )  # is told, and is fine
        left_out = np.array([LEFT_OUT in str(said) for said in message])
        unbound = (message == UNCERTIFIED) & np.bool_(not certified)
        yield (
            (status == "solved") & (message != "") & ~periodic & ~unbound & ~left_out,
            "status is solved, but message says why not",
        )
        if bound is not None:
            yield unbound & ~np.isnan(bound), "an error_bound is stored, but message says of none"
        yield (status != "solved") & (message == ""), "status is not solved, but message is empty"
    failed = status == "failed"
    for name, values in block.items():
        if values.dtype.kind == "f" and certified and not name.startswith("grid_"):
            if name in ("residual", "seconds"):
                continue
            known = ~np.isnan(values.reshape(len(values), -1)).all(1)
            yield failed & known, f"status is failed, but {name} is not NaN"


def _loose(
    block: Mapping[str, NDArray[Any]], status: NDArray[Any], tol: float
) -> NDArray[np.bool_]:
    """Tell which points have a distribution or a path that is not what was asked for."""
    loose = np.zeros(len(status), dtype=bool)
    if "distribution_error" in block:
        loose |= ~(block["distribution_error"] <= tol)
    for name in ("distribution", "distribution_path"):
        if name in block:
            loose |= np.isnan(block[name].reshape(len(status), -1)).any(1)
    return loose

r"""``dp.convergence``: what a finer grid changes, and how fast that falls.

One model is solved at several sizes. Value and policy are compared at the nodes of the coarsest
grid, where those of a finer one are interpolated linearly, with the finest; moments, bounds and the
policy's loss are numbers as they are.

The observed order p is that of an error :math:`C h^p`, with :math:`h = 1 / (n - 1)` the width of a
cell relative to the grid. For a quantity q whose limit is not known it takes three sizes in a row:

.. math::
    \frac{|q_1 - q_2|}{|q_2 - q_3|} = \frac{h_1^p - h_2^p}{h_2^p - h_3^p},

which is solved for p, whatever the ratios of the sizes; with halved steps it is the logarithm to
base 2 of the ratio of successive differences. Of value and policy the differences are the largest
ones at the coarsest nodes. A bound goes to zero, and two sizes do:
:math:`p = \log(e_1 / e_2) / \log(h_1 / h_2)`. An order stands at the last of its sizes.

Differences between grids are no bounds: what is certified of each size is its ``error_bound``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.distributions.solved_points import model_of, states_of
from dpsolve.solvers.errors import ModelError, UsageError, did_you_mean
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.factory_signature import Factory, signature
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.operators.interpolation import Location, locate, looked_up
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.solution import Solution

from .solve import solve

if TYPE_CHECKING:
    import xarray

BOUNDS = ("error_bound", "policy_loss")
STEEPEST = 12.0  # an order above this is rounding
TOLD = "differences between grids are no bounds: what is certified of a size is its error_bound"


def convergence(
    model: Factory | str,
    params: Mapping[str, Any] | None = None,
    *,
    moments: Sequence[str] | str = (),
    **given: Any,
) -> xarray.Dataset:
    """Solve a model at several sizes and tabulate what changes.

    Parameters
    ----------
    model : factory or str
        Or the name of a built-in model.
    params : dict, optional
        Parameters, and sizes that stay as they are.
    moments : list of str, optional
        Of the stationary distribution, as for :func:`dpsolve.solve`.
    **given
        Sizes as rising lists, ``n_a=[100, 200, 400]``; several lists of one length go together.
        All else is an option of :func:`dpsolve.solve`.

    Returns
    -------
    xarray.Dataset
        Along the first size: ``value_difference`` and ``policy_difference_<choice>``, the largest
        ones to the finest grid at the coarsest one's nodes; ``moment_<name>``; ``error_bound`` and
        ``policy_loss`` (where there is one); and of each the observed order, ``order_value`` and so
        on (see :mod:`dpsolve.sharding.convergence`); ``status``, ``seconds``. The attribute
        ``table`` is all of it in print, and ``dp.plot.convergence`` draws it.

    Raises
    ------
    UsageError
        If no size is a rising list, or lists differ in length.
    ModelError
        If a size changes a chain or a range of integers, so that there is nothing to compare; or if
        a solve fails.
    """
    factory = as_factory(model)
    sizes, options = _sizes(factory, given)
    first, *_ = sizes
    solved = []
    for i in range(len(sizes[first])):
        here = {**(params or {}), **{n: int(x[i]) for n, x in sizes.items()}}
        found = solve(factory, here, moments=moments, **options)
        if found.status == "failed":
            at = ", ".join(f"{n}={here[n]}" for n in sizes)
            raise ModelError(f"{found.problem.name} at {at} failed: {found.message}")
        solved.append(found)
    return _dataset(sizes, solved)


def _sizes(factory: Factory, given: Mapping[str, Any]) -> tuple[dict[str, Numpy], dict[str, Any]]:
    """Split what is given into lists of sizes and options of a solve."""
    known = signature(factory).sizes
    sizes = {n: np.asarray(x) for n, x in given.items() if n in known}
    options = {n: x for n, x in given.items() if n not in known}
    if not sizes:
        names = ", ".join(known) or "none"
        near = "".join(did_you_mean(n, known) for n in given)
        raise UsageError(
            "dp.convergence needs a size of the model as a rising list, such as "
            f"n_a=[100, 200, 400].{near} The sizes of {signature(factory).name} are: {names}."
        )
    for name, x in sizes.items():
        rising = x.ndim == 1 and x.size >= 2 and x.dtype.kind in "iu" and x[0] >= 2
        if not rising or not (np.diff(x) > 0).all():
            raise UsageError(
                f"{name}={given[name]!r}; it is a rising list of sizes, at least two of them, such "
                f"as {name}=[100, 200, 400]. A size that stays goes into params."
            )
    if len({x.size for x in sizes.values()}) > 1:
        each = ", ".join(f"{x.size} of {n}" for n, x in sizes.items())
        raise UsageError(f"sizes go together, one of each list: there are {each}")
    return sizes, options


def _dataset(sizes: Mapping[str, Numpy], solved: Sequence[Solution]) -> xarray.Dataset:
    import xarray

    (dim, n), *_ = sizes.items()
    coarse, finest = solved[0], solved[-1]
    columns: dict[str, Numpy] = {}
    orders: dict[str, Numpy] = {}
    wanted = {"value": "value"} | {f"policy_{c}": f"policy_difference_{c}" for c in coarse.policy}
    wanted["value"] = "value_difference"
    for name, column in wanted.items():
        there = [_at_coarsest(s, name, coarse) for s in solved]
        last = there[-1]
        columns[column] = np.array([_distance(x, last) for x in there[:-1]] + [np.nan])
        gaps = [_distance(x, y) for x, y in pairwise(there)]
        orders[f"order_{name}"] = _orders_of_gaps(gaps, n)
    for name in finest.arrays:
        if name.startswith("moment_"):
            x = np.array([float(s[name]) for s in solved])
            columns[name] = x
            orders[f"order_{name}"] = _orders_of_gaps(np.abs(np.diff(x)), n)
    for name in BOUNDS:
        if name in finest.arrays:
            x = np.array([float(s[name]) for s in solved])
            columns[name] = x
            if "policy_loss" in finest.arrays:  # else the bound is of each grid's own problem
                orders[f"order_{name}"] = _orders_of_bounds(x, n)
    found: dict[str, Any] = {name: (dim, x) for name, x in (columns | orders).items()}
    found["seconds"] = (dim, np.array([float(np.asarray(s.seconds)) for s in solved]))
    found["status"] = (dim, np.array([str(s.status) for s in solved], dtype=object))
    coords: dict[str, Any] = {name: (dim, x) for name, x in sizes.items()}
    coords |= {p: float(x) for p, x in finest.parameters.items() if np.ndim(x) == 0}
    attrs = {"model": finest.problem.name, "note": TOLD}
    attrs["table"] = _table(dim, n, columns, orders, [str(s.status) for s in solved])
    return xarray.Dataset(found, coords, attrs)


def _at_coarsest(solution: Solution, name: str, coarse: Solution) -> Numpy:
    """Interpolate an array (states...) of a solution at the nodes of the coarsest."""
    array = jnp.asarray(solution[name], jnp.float64)
    if solution is coarse:
        return np.asarray(array)
    made = model_of(solution.problem, solution.parameters)
    grids = states_of(_plain(solution), "convergence")
    aims = states_of(_plain(coarse), "convergence")
    at: dict[str, Location] = {}
    for state, nodes in grids.items():
        spec: Any = made.states[state] if isinstance(made, Model) else None
        if isinstance(spec, Grid):
            x = NamedArray(jnp.asarray(aims[state], jnp.float64), (state,))
            at[f"{state} at nodes"] = locate(replace(spec, outside="clip"), x).lean()
        elif np.shape(nodes) != np.shape(aims[state]):
            raise ModelError(
                f"the size changes '{state}', which stands for itself: values at "
                f"{np.size(aims[state])} and at {np.size(nodes)} of its members are of different "
                "models. Take sizes of continuous grids"
            )
    dims = tuple(f"{n} at nodes" if f"{n} at nodes" in at else n for n in grids)
    found = looked_up(NamedArray(array, ("t",)[: array.ndim - len(dims)] + dims), at)
    order = [d for d in ("t", *grids) if d in found.dims]
    return np.asarray(jnp.transpose(found.array, [found.dims.index(d) for d in order]))


def _plain(solution: Solution) -> Solution:
    """Return the solution without grids of a distribution's own."""
    options = replace(solution.problem.options, distribution_grid=())
    return replace(solution, problem=replace(solution.problem, options=options))


def _distance(x: Numpy, y: Numpy) -> float:
    """Return the largest distance; of two equal infinities there is none."""
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(x == y, 0.0, np.abs(x - y))))


def _orders_of_gaps(gaps: ArrayLike, n: Numpy) -> Numpy:
    """Return the orders (n,) that successive differences tell, NaN at the first two sizes."""
    gaps, h = np.asarray(gaps), 1.0 / (n - 1.0)
    found = np.full(len(n), np.nan)
    for k in range(2, len(n)):
        if gaps[k - 1] > 0.0:
            steps = [float(x) for x in h[k - 2 : k + 1]]
            found[k] = _order(float(gaps[k - 2] / gaps[k - 1]), *steps)
    return found


def _order(ratio: float, h1: float, h2: float, h3: float) -> float:
    """Solve for the order at which errors C h**p give a ratio of successive differences."""

    def at(p: float) -> float:
        return float((h1**p - h2**p) / (h2**p - h3**p)) - ratio

    low, high = 1e-6, STEEPEST
    if not at(low) < 0.0 < at(high):
        return float("nan")  # no error that falls with the step has such differences
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < 0.0 else (low, middle)
    return (low + high) / 2


def _orders_of_bounds(x: Numpy, n: Numpy) -> Numpy:
    """Return the orders (n,) at which a bound goes to zero, NaN at the first size."""
    found = np.full(len(n), np.nan)
    for k in range(1, len(n)):
        if 0.0 < x[k] < np.inf and 0.0 < x[k - 1] < np.inf:
            found[k] = log(x[k - 1] / x[k]) / log((n[k] - 1) / (n[k - 1] - 1))
    return found


def _table(
    dim: str,
    n: Numpy,
    columns: Mapping[str, Numpy],
    orders: Mapping[str, Numpy],
    words: Sequence[str],
) -> str:
    """Print a row for each quantity, and at its end the observed orders."""
    rows = [[dim, *(f"{x:,}" for x in n), "order"]]
    for name, x in columns.items():
        shown = ".7g" if name.startswith("moment_") else ".2e"
        order = orders.get("order_" + name.replace("_difference", ""), np.full(1, np.nan))
        told = ", ".join(f"{p:.2f}" for p in order if np.isfinite(p))
        rows.append([name, *("" if np.isnan(v) else format(v, shown) for v in x), told])
    rows.append(["status", *words, ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join((*lines, f"({TOLD})"))

"""A model with continuous choices that is not concave, solved inside a trace.

Where its value rises in its one continuous state (declared by ``increasing``) and the next state is
affine in its one continuous choice, it is bounded over the whole continuum by monotone rounding
(:mod:`.rounding`). Everywhere else what is certified is the best choice of a table
(:mod:`.table`), and the result says so; :func:`obstacle` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.methods.discounted import Fixpoint
from dpsolve.solvers.methods.finite_horizon import backward, terminal_value
from dpsolve.solvers.methods.loop import solve
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Certifies, Outcome

from .between import Probe, largest_error, largest_of
from .divided import divided
from .landing import Landing, read_landing
from .policy import best_share, marks_beside, optimal_choices
from .rounding import Side, rounded
from .table import choices_of, tabulated, widest

LEFT = 0.05
"""Of a tolerance, what the iterations may leave; the grid leaves the rest."""

TIGHTEST = 1e-9
"""The smallest tolerance that is asked of the iterations."""

USUAL = 1e-7
"""What is asked of them where no tolerance is given."""


def obstacle(model: Model) -> str:
    """Return why a model that is not concave cannot be bounded over its continuum, or ''."""
    landing, why = read_landing(model)
    if landing is None:
        return why
    if landing.state not in model.increasing:
        return (
            f"it does not say that its value rises in '{landing.state}'; if it does, write "
            f"increasing=('{landing.state}',)"
        )
    return ""


def solve_nonconcave(
    model: Model, options: SolveOptions, live: Array | bool = True
) -> dict[str, Array]:
    """Solve a model with continuous choices that is not concave.

    Parameters
    ----------
    model : Model
        At one parameter point.
    options : SolveOptions
    live : bool
        A point that is not fails at once.

    Returns
    -------
    dict
        As for every model; ``certifies`` is 1 where ``lower`` and ``upper`` hold for the continuous
        problem, 3 where they do for choices of a table, and 4 where a counterexample to what was
        declared was found.
    """
    landing, _ = read_landing(model)
    if landing is None or obstacle(model):
        return _on_table(model, options, live)
    return _rounded(landing, options, live)


# -- monotone rounding ----------------------------------------------------------------------------


def _rounded(landing: Landing, options: SolveOptions, live: Array | bool) -> dict[str, Array]:
    model = landing.model
    inner = _inner(options)
    below, above = (_bound(landing, side, inner, live) for side in ("below", "above"))
    lower, upper = below["lower"], above["upper"]
    left = below["error_bound"] + above["error_bound"]
    scale = largest_of(jnp.abs(lower), jnp.abs(upper))
    slack = 2.0 * left + 64 * EPS * scale
    probe = Probe(landing, options.memory)
    closed = tabulated(model)
    sought = _divided(landing, "above", options) is None
    names = [f"policy_index_{n}" for n in model.choices]
    labels = {n.removeprefix("policy_index_"): below[n] for n in names}

    def read(t: ArrayLike | None, x: Any) -> tuple[dict[str, Array], Array]:
        now, then, chosen = x
        values = {n: _values(model, landing, n)[i] for n, i in chosen.items()}
        operator = GridOperator(closed, t=t, block=1, memory=options.memory)
        marks = marks_beside(landing, operator, values, chosen[landing.choice])
        share, _ = best_share(
            operator, operator.expectation.before_choice(then[0]), values, landing.choice, marks
        )
        arrays = _named(model, operator, {**values, landing.choice: share})
        if sought:
            rival = GridOperator(rounded(landing, "above"), t=t, block=1, memory=options.memory)
            ends = optimal_choices(landing, rival, now[0] - slack, then[1])
        else:
            ends = widest(model, operator)
        for which, end in zip(("lower", "upper"), ends, strict=True):
            arrays[f"policy_{which}_{landing.choice}"] = end
        return arrays, probe.worst(t, now, then, chosen)

    now = lower, upper
    if model.horizon is None:
        more, worst = read(None, (now, now, labels))
    else:
        end = terminal_value(closed)
        then = tuple(jnp.concatenate([x[1:], end[None]]) for x in now)
        times = jnp.arange(int(model.horizon))
        more, by_period = lax.map(lambda x: read(x[0], x[1]), (times, (now, then, labels)))
        worst = jnp.maximum(largest_of(by_period), probe.terminal(end))
    axis = list(model.states).index(landing.state) + (model.horizon is not None)
    refuted = ~(worst <= slack)
    error = jnp.where(refuted, jnp.inf, largest_error(lower, upper, axis))
    failed = jnp.maximum(below["code"], above["code"]) >= 10
    code = jnp.where(
        failed,
        jnp.maximum(below["code"], above["code"]),
        jnp.where(refuted, Outcome.NOT_RISING, _reached(error, options, below, above)),
    ).astype(jnp.int32)
    arrays = {"value": (lower + upper) / 2}
    arrays |= {"lower": jnp.where(refuted, -jnp.inf, lower)}
    arrays |= {"upper": jnp.where(refuted, jnp.inf, upper)}
    arrays |= more
    for which, nothing in (("lower", -jnp.inf), ("upper", jnp.inf)):
        name = f"policy_{which}_{landing.choice}"
        arrays[name] = jnp.where(refuted, nothing, arrays[name])
    arrays |= {
        n: i for n, i in below.items() if n in names and n != f"policy_index_{landing.choice}"
    }
    numbers = {"error_bound": error, "residual": jnp.maximum(below["residual"], above["residual"])}
    numbers |= {"policy_loss": jnp.asarray(jnp.inf)}
    numbers |= {"iterations": below["iterations"] + above["iterations"]}
    certifies = jnp.where(refuted, Certifies.NONE, Certifies.CONTINUUM)
    return _finished(model, arrays, numbers, code, certifies)


def _bound(
    landing: Landing, side: Side, options: SolveOptions, live: Array | bool
) -> dict[str, Array]:
    """Solve the problem of choices among nodes on one side."""
    derived = rounded(landing, side)
    if derived.horizon is None:
        return _solved(derived, options, live)
    return backward(derived, options, live, operator_of=_divided(landing, side, options))


def _divided(
    landing: Landing, side: Side, options: SolveOptions
) -> Callable[[Array], GridOperator] | None:
    """Return the operator of a period by divide and conquer, where that is what is used."""
    along = landing.choice, landing.state
    hinted = side == "below" or along in landing.model.monotone.items()
    if landing.model.horizon is None or not hinted or options.block is not None or landing.drawn:
        return None
    return divided(rounded(landing, side), along, options.memory)


def _values(model: Model, landing: Landing, name: str) -> Array:
    """Return the values of a discrete choice; for the continuous one, positions of nodes."""
    if name == landing.choice:
        return jnp.arange(landing.nodes.shape[0])
    return jnp.asarray(model.grid_of(name).values)


def _reached(
    error: Array, options: SolveOptions, below: Mapping[str, Array], above: Mapping[str, Array]
) -> Array:
    """Return how a solve ended that did not fail: by its error, then by its iterations."""
    worse = jnp.where(below["code"] == Outcome.SOLVED, above["code"], below["code"])
    if options.tol is None:
        return worse
    loose = jnp.where(worse == Outcome.SOLVED, Outcome.TOO_COARSE, worse)
    return jnp.where(error <= options.tol, Outcome.SOLVED, loose)


# -- a table --------------------------------------------------------------------------------------


def _on_table(model: Model, options: SolveOptions, live: Array | bool) -> dict[str, Array]:
    closed = tabulated(model)
    found = _solved(closed, _inner(options, share=1.0), live)
    labels = {n: found[f"policy_index_{n}"] for n in model.choices}

    def read(t: ArrayLike | None, chosen: dict[str, Array]) -> dict[str, Array]:
        operator = GridOperator(closed, t=t, block=1, memory=options.memory)
        values = {n: jnp.asarray(closed.grid_of(n).values)[i] for n, i in chosen.items()}
        arrays = _named(model, operator, values)
        if len(model.continuous) == 1:
            (name,) = model.continuous
            low, high = widest(model, operator)
            arrays |= {f"policy_lower_{name}": low, f"policy_upper_{name}": high}
        return arrays

    if model.horizon is None:
        more = read(None, labels)
    else:
        times = jnp.arange(int(model.horizon))
        more = lax.map(lambda x: read(x[0], x[1]), (times, labels))
    arrays = {name: found[name] for name in ("value", "lower", "upper")} | more
    arrays |= {f"policy_index_{n}": labels[n] for n in model.gridded}
    numbers = {name: found[name] for name in ("error_bound", "residual", "iterations")}
    numbers["policy_loss"] = jnp.asarray(jnp.inf)
    return _finished(model, arrays, numbers, found["code"], jnp.asarray(Certifies.GRID))


# -- what both share ------------------------------------------------------------------------------


def _inner(options: SolveOptions, share: float = LEFT) -> SolveOptions:
    """Return options for a problem that stands for the model, and leaves a share of the error."""
    tol = USUAL if options.tol is None else max(share * options.tol, TIGHTEST)
    return SolveOptions(
        tol=tol,
        method=options.method,
        max_iter=options.max_iter,
        steps=options.steps,
        inner_iter=options.inner_iter,
        block=options.block,
        memory=options.memory,
    )


def _solved(model: Model, options: SolveOptions, live: Array | bool) -> dict[str, Array]:
    """Solve a model on grids, by the loop or backwards."""
    if model.horizon is not None:
        return backward(model, options, live)
    operators = Operators(model, options)
    found = solve(operators, options, live)
    assert isinstance(found, Fixpoint)
    arrays = {n: getattr(found, n) for n in ("value", "lower", "upper", "residual", "error_bound")}
    labels = operators.whole.labels(found.policy)
    arrays |= {f"policy_index_{n}": i for n, i in labels.items()}
    return arrays | {"iterations": found.iterations, "code": found.code}


def _named(model: Model, operator: GridOperator, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return choices, their ends, and outputs (states...), of discrete choices and of shares."""
    arrays = {f"policy_{n}": values[n] for n in model.gridded}
    fixed = operator.between(values)
    given = {n: x for n, x in fixed.env.items() if n in model.choices}
    own = choices_of(model, operator.functions, given)
    arrays |= {f"policy_{n}": x for n, x in own.items()}
    if operator.model.outputs:
        arrays |= {f"output_{n}": x for n, x in fixed.outputs().items()}
    return arrays


def _finished(
    model: Model,
    arrays: dict[str, Array],
    numbers: dict[str, Array],
    code: Array,
    certifies: Array,
) -> dict[str, Array]:
    """Return a result with its grids; a failed point has no arrays."""
    failed = code >= 10
    for name, x in arrays.items():
        missing = jnp.nan if x.dtype.kind == "f" else -1
        arrays[name] = jnp.where(failed, jnp.asarray(missing, x.dtype), x)
    for name in ("error_bound", "residual", "policy_loss"):
        numbers[name] = jnp.where(failed, jnp.nan, numbers[name])
    grids = {f"grid_{n}": jnp.asarray(s.values) for n, s in model.states.items()}
    certifies = jnp.where(failed, Certifies.NONE, certifies).astype(jnp.int8)
    told = {"code": code, "certifies": certifies, "concavity": jnp.zeros((), jnp.int8)}
    return arrays | grids | numbers | told

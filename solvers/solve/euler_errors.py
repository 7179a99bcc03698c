r"""``dp.euler_errors``: how far a policy is from its Euler equation, between the nodes.

At every node the equation may hold and between them not: so it is looked at in the middle of every
cell, and at a random place of each. Where a choice lies at an end of its interval, or a next state
at one that it may not pass, there is no equation, and the error is NaN.

The error of a choice y is, where marginal utility can be told from the model, in units of
consumption: :math:`|\tilde c / c - 1|`, where :math:`\tilde c` is the consumption whose marginal
utility is what the equation's right-hand side says. Consumption is

- the output that ``dp.Model(inverse_marginal={"consumption": f})`` names; else
- an output that is linear in the choice, or the choice itself, where the reward depends on states
  and choice through it alone (which is looked at: its slopes in all of them are proportional to
  the output's); marginal utility is the reward's slope then, inverted by bisection.

Else it is free of units: :math:`|1 + D\, E[V_x f_y] / F_y|`. A choice that moves no state has no
Euler equation, and is left out.

They are the literature's measure (Judd, 1992, *Journal of Economic Theory* 58), and no bound: an
error that is small everywhere it was looked at bounds neither value nor policy. What is certified
is ``solution.error_bound`` and ``solution.policy_loss``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.distributions.solved_points import model_of, states_of
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.small_programs import mapped
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.solution import Problem, Solution

from .euler_equation import EulerEquation

if TYPE_CHECKING:
    import xarray

NO_BOUND = "Euler errors are no bound: what is certified are error_bound and policy_loss"
SIDE_BY_SIDE = 2048  # states looked at together
PROPORTIONAL = 1e-7  # relative: slopes that agree so far are proportional
WIDEST = 4.0  # of log consumption that a root is looked for in
HALVINGS = 55
LEAST = 1e-16  # errors below this are rounding


@dataclass(frozen=True)
class EulerErrors:
    """Errors of the Euler equation off the nodes: no bound.

    Attributes
    ----------
    errors : dict of str to array (states...), with a horizon (t, states...)
        log10 of each choice's error; NaN where the choice is not interior.
    grids : dict of str to array (n,)
        Where they were looked at, by state.
    units : dict of str to str
        Of each choice's error: ``consumption``, with what that is; or ``unit-free``.
    problem : Problem
    """

    errors: Mapping[str, Numpy] = field(repr=False)
    grids: Mapping[str, Numpy] = field(repr=False)
    units: Mapping[str, str]
    problem: Problem = field(repr=False)

    @property
    def max(self) -> dict[str, float]:
        """The largest log10 error by choice; NaN where no state is interior."""
        return {c: _over(np.max, x) for c, x in self.errors.items()}

    @property
    def mean(self) -> dict[str, float]:
        """The mean log10 error by choice, over all states that were looked at alike."""
        return {c: _over(np.mean, x) for c, x in self.errors.items()}

    def to_xarray(self) -> xarray.Dataset:
        """Return ``euler_error_<choice>`` over the states, with ``t`` first for a horizon."""
        import xarray

        dims = tuple(self.grids)
        found = {}
        for choice, x in self.errors.items():
            labels = {"long_name": f"log10 of the Euler equation's error: {choice}",
                      "units": self.units[choice], "note": NO_BOUND}  # fmt: skip
            found[f"euler_error_{choice}"] = (("t",)[: x.ndim - len(dims)] + dims, x, labels)
        return xarray.Dataset(found, dict(self.grids), {"model": self.problem.name})

    def __repr__(self) -> str:
        each = []
        for choice, x in self.errors.items():
            interior = np.isfinite(x).mean()
            each.append(
                f"{choice} ({self.units[choice]}): log10 at most {self.max[choice]:.2f}, mean "
                f"{self.mean[choice]:.2f}, at {x.size:,} states off the nodes of which "
                f"{100 * interior:.0f} % are interior"
            )
        return f"<Euler errors of {self.problem.name}: {'; '.join(each)}. {NO_BOUND}>"


def _over(f: Callable[..., Any], x: Numpy) -> float:
    known = x[np.isfinite(x)]
    return float(f(known)) if known.size else float("nan")


def euler_errors(solution: Solution, *, seed: int = 0) -> EulerErrors:
    """Find the errors of a continuous policy's Euler equation, off the nodes.

    Parameters
    ----------
    solution : Solution
        Of one point, with a continuous choice: from ``dp.solve`` of a model with ``dp.interval``,
        or ``dp.certify``.
    seed : int
        Of the random place in each cell, beside its middle.

    Returns
    -------
    EulerErrors
        log10 of each choice's error, in units of consumption where they can be told (see
        :mod:`.euler_errors`); NaN where a constraint binds. They bound nothing.

    Raises
    ------
    UsageError
        If it is no solution of one point.
    ModelError
        If no choice is continuous, none moves a continuous state, or there is no policy.
    """
    if not isinstance(solution, Solution):
        raise UsageError(f"euler_errors takes a solution, as dp.solve returns it: {solution!r:.60}")
    name = solution.problem.name
    if not is_concrete(solution.arrays):
        raise UsageError(f"the solution of {name} is traced; Euler errors are looked at outside")
    if solution.problem.batched:
        raise UsageError(
            f"the solution of {name} has {np.size(solution.code)} points; pick one: "
            "dp.euler_errors(solution.point(0))"
        )
    states_of(solution, "Euler equation")
    if solution.status == "failed":
        raise ModelError(f"the solution of {name} failed: {solution.message}")
    decisions = {c: jnp.asarray(x) for c, x in solution.decisions.items()}
    made = model_of(solution.problem, solution.parameters)
    if not isinstance(made, Model) or all(c in solution.policy_index for c in decisions):
        raise ModelError(
            f"{name} chooses from lists, and an Euler equation is of a choice that is continuous: "
            'make it one, such as dp.interval("a")'
        )
    equation = EulerEquation(made, decisions)
    if not equation.states:
        raise ModelError(f"{name} has no continuous state, and so no Euler equation")
    axes, grids = _places(equation, seed)
    shape = tuple(len(x) for x in grids.values())
    if made.horizon is not None:
        shape = (made.horizon, *shape)
    look = _program(solution.problem, tuple(_candidates(equation)))
    found = jax.tree.map(np.asarray, look(dict(solution.parameters), decisions, *axes))
    errors, units = {}, {}
    for j, choice in enumerate(equation.choices):
        interior = found["interior"][..., j]
        if not interior.any():
            continue
        error, units[choice] = _in_units(equation, found, j)
        error = np.where(interior & np.isfinite(error), error, np.nan)
        errors[choice] = np.log10(np.maximum(error, LEAST)).reshape(shape)
    if not errors:
        raise ModelError(
            f"{name} has no continuous choice that moves a continuous state and is anywhere "
            "between the ends of its interval: there is no Euler equation"
        )
    return EulerErrors(errors, grids, units, solution.problem)


def _places(
    equation: EulerEquation, seed: int
) -> tuple[tuple[Array, Array, Array], dict[str, Numpy]]:
    """Return the states to look at, one after the other (with periods first), and their axes."""
    model, generator = equation.model, np.random.default_rng(seed)
    grids, index = {}, {}
    for name, spec in model.states.items():
        nodes = np.asarray(spec.values, np.float64)
        index[name] = np.arange(len(nodes))
        if name in equation.states:
            share = np.stack([np.full(len(nodes) - 1, 0.5), generator.random(len(nodes) - 1)], 1)
            nodes = np.sort((nodes[:-1, None] + np.diff(nodes)[:, None] * share).ravel())
            index[name] = np.arange(len(nodes))
        grids[name] = nodes
    mesh = dict(zip(index, np.meshgrid(*index.values(), indexing="ij"), strict=True))
    x = np.stack([grids[n][mesh[n].ravel()] for n in equation.states], -1)
    rest = [mesh[n].ravel() for n in equation.others]
    z = np.stack(rest, -1) if rest else np.zeros((len(x), 0), int)
    periods = model.horizon or 1
    t = np.repeat(np.arange(periods), len(x))
    tiled = [np.tile(a, (periods, 1)) for a in (x, z)]
    return (jnp.asarray(t), jnp.asarray(tiled[0]), jnp.asarray(tiled[1])), grids


def _candidates(equation: EulerEquation) -> list[str]:
    """Return what may be consumption: what the model names, then outputs, then choices."""
    named = tuple(getattr(equation.model, "inverse_marginal", None) or {})
    return list(dict.fromkeys((*named, *equation.model.outputs, *equation.choices)))


@lru_cache(maxsize=16)
def _program(problem: Problem, candidates: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """Return the compiled function of a point that looks at the equation at many states."""

    def run(parameters: Any, decisions: Any, t: Array, x: Array, z: Array) -> dict[str, Any]:
        equation = EulerEquation(cast("Model", model_of(problem, parameters)), decisions)
        later = _later(equation)
        each = partial(_at, equation, candidates, later)
        found: dict[str, Any] = mapped(lambda one: each(*one), (t, x, z), SIDE_BY_SIDE)
        return found

    return jax.jit(run)


def _later(equation: EulerEquation) -> Array:
    """Return the marginal values at the nodes (d, states...); with a horizon (t + 1, d, ...)."""
    horizon = equation.model.horizon
    if horizon is None:
        return equation.settled()
    states = equation.model.states
    axes = jnp.meshgrid(*(jnp.arange(s.size) for s in states.values()), indexing="ij")
    index = {n: i.ravel() for n, i in zip(states, axes, strict=True)}
    x = jnp.stack([jnp.asarray(states[n].values, float)[index[n]] for n in equation.states], -1)
    rest = [index[n] for n in equation.others]
    z = jnp.stack(rest, -1) if rest else jnp.zeros((len(x), 0), jnp.int32)
    last = jax.vmap(lambda x, z: equation.of_terminal((x, z)))(x, z)
    last = jnp.moveaxis(last, -1, 0).reshape(len(equation.states), *equation.model.shape)

    def back(later: Array, t: Array) -> tuple[Array, Array]:
        now = jnp.nan_to_num(equation.at_nodes(t, later))
        return now, now

    _, every = lax.scan(back, last, jnp.arange(horizon), reverse=True)
    return jnp.concatenate([every, last[None]])


def _at(
    equation: EulerEquation, candidates: tuple[str, ...], later: Array, t: Array, x: Array, z: Array
) -> dict[str, Any]:
    """Look at the equation at one state."""
    model = equation.model
    listed = equation.policy((x, z), t)
    y = jnp.stack([listed[c] for c in equation.choices])

    def env_of(x: Array, y: Array) -> dict[str, Any]:
        return equation.environment(x, y, z, listed, t)

    def slopes(f: Callable[[dict[str, Any]], Array], x: Array, y: Array) -> tuple[Array, Array]:
        found: tuple[Array, Array] = jax.grad(lambda x, y: f(env_of(x, y)), (0, 1))(x, y)
        return found

    env = env_of(x, y)
    in_x, in_y = slopes(equation.reward, x, y)
    bound, _, free = equation.moves(x, y, env_of)

    def next_slope(reached: Array, places: Array) -> Array:
        if model.horizon is None:
            return equation.marginal_value((reached, places), t, later)
        soon = jnp.minimum(t + 1, model.horizon - 1)
        inner = equation.marginal_value((reached, places), soon, later[soon + 1])
        over = t + 1 >= model.horizon
        return jnp.where(over, equation.of_terminal((reached, places)), inner)

    def after(i: Mapping[str, Array]) -> Array:
        reached, places = equation.following(env, i)
        f_y = jax.jacobian(lambda y: equation.following(env_of(x, y), i)[0])(y)
        p = equation.over_chains(z, places, lambda k: next_slope(reached, k), t)
        # What moves no state is multiplied by no marginal value, which may be infinite.
        return jnp.sum(jnp.where(f_y @ free != 0.0, (f_y @ free) * p[:, None], 0.0), 0)

    chances = equation.chances(env)
    each = jnp.where(chances[:, None] > 0.0, jax.vmap(after)(equation.draws), 0.0)
    future = equation.discount(env) * (chances @ each)
    own = free.T @ in_y
    found: dict[str, Any] = {"own": own, "future": future}
    wall = equation.at_a_wall(env)
    # Without a future (a last period, no survival) the condition is not about two periods.
    interior = ~bound & ~wall & jnp.isfinite(own) & jnp.isfinite(future)
    found["interior"] = interior & (future != 0.0)
    for name in candidates:
        found[name] = _as_consumption(equation, name, (x, y), (in_x, own, future), slopes, free,
                                      env_of, t)  # fmt: skip
    return found


def _as_consumption(
    equation: EulerEquation,
    name: str,
    at: tuple[Array, Array],
    reward: tuple[Array, Array, Array],
    slopes: Callable[..., tuple[Array, Array]],
    free: Array,
    env_of: Callable[[Array, Array], dict[str, Any]],
    t: Array,
) -> dict[str, Array]:
    """Read the equation with an output (or choice) as consumption."""
    (x, y), (in_x, own, future) = at, reward
    outputs = equation.model.outputs

    def consumed(env: Mapping[str, Any]) -> Array:
        if name in outputs:
            return equation.average(outputs[name], env)
        return jnp.asarray(env[name], jnp.float64)

    c = consumed(env_of(x, y))
    c_x, c_y = slopes(consumed, x, y)
    kappa = free.T @ c_y
    unit = jnp.where(kappa == 0.0, 1.0, kappa)
    marginal = own / unit  # (m,): of consumption, as each choice tells it
    size = jnp.abs(in_x)[:, None] + jnp.abs(marginal * c_x[:, None])
    alone = (jnp.abs(in_x[:, None] - marginal * c_x[:, None]) <= PROPORTIONAL * size).all(0)
    wanted = -future / unit
    inverse = (getattr(equation.model, "inverse_marginal", None) or {}).get(name)

    def chosen(j: int) -> tuple[Array, Array]:
        def to(other: Array) -> Array:
            """Return the choices that consume `other` instead."""
            return y + (other - c) / unit[j] * free[:, j]

        probe = 0.99 * c
        linear = jnp.abs(consumed(env_of(x, to(probe))) - probe) <= 1e-9 * jnp.abs(c)
        if inverse is not None:
            known = env_of(x, y)
            chains = [n for n, s in equation.model.states.items() if isinstance(s, Markov)]
            more = {n: known[n] for n in arguments(inverse, (*chains, "t"))}
            return jnp.abs(inverse(wanted[j], **more) / c - 1.0), jnp.asarray(True)

        def excess(s: Array) -> Array:
            _, in_y = slopes(equation.reward, x, to(c * jnp.exp(s)))
            return (free.T @ in_y)[j] / unit[j] - wanted[j]

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            too_little = excess(middle) > 0.0  # marginal utility falls
            return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

        low, high = lax.fori_loop(0, HALVINGS, halve, (jnp.asarray(-WIDEST), jnp.asarray(WIDEST)))
        found = jnp.abs(jnp.expm1((low + high) / 2))
        return jnp.where(wanted[j] > 0.0, found, jnp.nan), linear

    pairs = [chosen(j) for j in range(len(equation.choices))]
    error, linear = (jnp.stack(list(part)) for part in zip(*pairs, strict=True))
    fits = (kappa != 0.0) & (marginal > 0.0) & (c > 0.0) & linear
    if inverse is None:
        fits &= alone
    return {"error": error, "fits": fits}


def _in_units(equation: EulerEquation, found: Mapping[str, Any], j: int) -> tuple[Numpy, str]:
    """Return a choice's errors and their units."""
    interior = found["interior"][..., j]
    for name in _candidates(equation):
        if found[name]["fits"][..., j][interior].all():
            return np.asarray(found[name]["error"][..., j]), f"consumption: {name}"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(1.0 + found["future"][..., j] / found["own"][..., j])
    return ratio, "unit-free"

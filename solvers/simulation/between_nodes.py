r"""One period of simulated agents whose states lie between nodes, inside a trace.

Where a choice is continuous, agents follow the policy itself: a continuous state has whatever value
the transition gives it, and the policy there is linear between the nodes at which it is known
(:mod:`~dpsolve.solvers.distributions.policy_function`). Nothing is rounded to a node, no lottery is
drawn, and a post-decision variable on a continuous grid has its own value, too. Markov states move
by their chains, integers to members, and shocks are drawn with the probabilities they have at the
agent's own state and choice.

Draws are those of :mod:`.agents`, by inversion, and have the same places in an agent's stream; so a
panel with one key meets the same luck whatever the solution is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.distributions.policy_function import PolicyFunction
from dpsolve.solvers.distributions.solved_points import model_of
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.operators.named_arrays import NamedArray, mapped
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.probability.probabilities import normalised
from dpsolve.solvers.solution import Problem

from .agents import invert
from .streams import Keys, agent_keys, uniform
from .tables import cumulated

AGENT = "agent"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Start:
    """Where agents begin.

    Attributes
    ----------
    masses : array (nodes,)
        Cumulative, over all states' nodes flattened.
    grids : dict of str to array (n,)
        Values of the continuous states at these nodes.
    exact : dict of str to float
        Continuous states at which all agents have one value, which need be no node.
    shape : tuple of int
        Nodes of each state (static).
    """

    masses: AnyArray
    grids: dict[str, AnyArray]
    exact: dict[str, AnyArray]
    shape: tuple[int, ...] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """What agents follow: a solution's parameters and decisions, and cumulative probabilities.

    Attributes
    ----------
    parameters, decisions
        Of a :class:`~dpsolve.Solution` with one point.
    chains : dict of str to array (n, n) or (horizon, n, n)
        Cumulative, of each Markov state.
    shocks : dict of str to array (n,)
        Cumulative, of the shocks whose probabilities are not a function.
    """

    parameters: Mapping[str, AnyArray]
    decisions: Mapping[str, AnyArray]
    chains: dict[str, Numpy]
    shocks: dict[str, Numpy]

    @classmethod
    def of(cls, model: Model, parameters: Mapping[str, Any], decisions: Mapping[str, Any]) -> Point:
        """Cumulate probabilities on the host, where sums go from left to right."""
        chains = {
            n: cumulated(np.asarray(s.transition_matrix))
            for n, s in model.states.items()
            if isinstance(s, Markov)
        }
        shocks = {
            w: cumulated(np.asarray(s.probs))
            for w, s in model.shocks.items()
            if not callable(s.probs)
        }
        return cls(dict(parameters), dict(decisions), chains, shocks)


@dataclass(frozen=True)
class _Agents:
    """Some agents of one model in one period."""

    model: Model
    point: Point
    policy: PolicyFunction
    keys: Keys
    t: Array

    def luck(self, name: str) -> Array:
        """Return the number (agents,) at the place of a shock or a state in this period."""
        draws = (*self.model.shocks, *self.model.states, *self.model.post)
        base = jnp.uint32(1) + self.t.astype(jnp.uint32) * np.uint32(len(draws))
        made: Array = lax.optimization_barrier(
            uniform(self.keys, base + np.uint32(draws.index(name)))
        )
        return made

    def step(self, at: Mapping[str, Array]) -> tuple[dict[str, NamedArray], dict[str, Array]]:
        """Return what is true of the agents in this period, by name, and where they are next.

        Parameters
        ----------
        at : mapping of str to array (agents,)
            Values of continuous states, positions of the others.
        """
        model = self.model
        named = {n: NamedArray(x, (AGENT,)) for n, x in at.items()}
        env = {n: self._value(n, x) for n, x in named.items()}
        env |= self.policy.at(named)
        if model.horizon is not None:
            env["t"] = NamedArray(self.t)
        for name in model.drawn:
            if name in model.post:
                at_post = self._reached(name, model.post[name].spec, env)
                env[name] = self._value(name, at_post)
            else:
                values = jnp.asarray(model.shocks[name].values)
                env[name] = NamedArray(values[self._drawn(name, env)], (AGENT,))
        after = {}
        for name, spec in model.states.items():
            if isinstance(spec, Markov):
                after[name] = self._by_chain(name, at[name])
            else:
                after[name] = self._reached(name, spec, env).array
        return env, after

    def _value(self, name: str, x: NamedArray) -> NamedArray:
        spec = self.model.grid_of(name)
        return x if isinstance(spec, Grid) else x.map(lambda i: jnp.asarray(spec.values)[i])

    def _reached(self, name: str, spec: Any, env: Mapping[str, NamedArray]) -> NamedArray:
        """Return where a rule leads (agents,): a value, or a position among integers."""
        rule = self.model.rule_of(name)
        x = env[rule] if isinstance(rule, str) else self._evaluated(rule, env, f"rule of '{name}'")
        value = jnp.broadcast_to(x.array, next(iter(env.values())).array.shape)
        if isinstance(spec, Integers):
            nearest = jnp.clip(jnp.round(value), spec.lo, spec.hi)
            return NamedArray((nearest - spec.lo).astype(jnp.int32), (AGENT,))
        ends = jnp.asarray(spec.values, jnp.float64)
        return NamedArray(jnp.clip(value, ends[0], ends[-1]), (AGENT,))

    def _by_chain(self, name: str, at: Array) -> Array:
        rows = jnp.asarray(self.point.chains[name])
        rows = rows if rows.ndim == 2 else rows[self.t]
        n = rows.shape[-1]
        return invert(rows.ravel(), at * n, n - 1, n, self.luck(name))

    def _drawn(self, shock: str, env: Mapping[str, NamedArray]) -> Array:
        """Draw a shock's position (agents,)."""
        u = self.luck(shock)
        spec = self.model.shocks[shock]
        if not callable(spec.probs):
            row = jnp.asarray(self.point.shocks[shock])
            return invert(row, jnp.zeros(u.shape, jnp.int32), spec.size - 1, spec.size, u)
        own = {shock: spec.size}
        p = mapped(spec.probs, env, (AGENT,), f"probabilities of shock '{shock}'", own)
        chances = jnp.broadcast_to(normalised(p.array), (*u.shape, spec.size))
        total, passed = jnp.zeros(u.shape), jnp.zeros(u.shape, jnp.int32)
        for k in range(spec.size - 1):  # from left to right: no outcome without a chance is drawn
            total = total + jnp.maximum(chances[:, k], 0.0)
            passed = passed + (total <= u)
        return passed

    def _evaluated(self, f: Any, env: Mapping[str, NamedArray], what: str) -> NamedArray:
        return mapped(f, env, (AGENT,), what).map(lambda a: jnp.asarray(a, jnp.float64))

    def recorded(self, name: str, env: Mapping[str, NamedArray], agents: int) -> Array:
        """Return a variable (agents,) as it is in this period."""
        if name not in env:
            found = mapped(self.model.outputs[name], env, (AGENT,), f"output '{name}'")
        else:
            found = env[name]
        return jnp.broadcast_to(found.array, (agents,))


def _begin(model: Model, start: Start, keys: Keys) -> dict[str, Array]:
    """Draw where agents begin."""
    masses = jnp.asarray(start.masses)
    u = uniform(keys, jnp.uint32(0))
    n = masses.shape[0]
    node = invert(masses, jnp.zeros(u.shape, jnp.int32), n - 1, n, u)
    at = {}
    for name, i in zip(model.states, jnp.unravel_index(node, start.shape), strict=True):
        at[name] = i.astype(jnp.int32)
        if name in start.exact:
            at[name] = jnp.broadcast_to(jnp.asarray(start.exact[name], jnp.float64), u.shape)
        elif name in start.grids:
            at[name] = jnp.asarray(start.grids[name], jnp.float64)[at[name]]
    return at


@lru_cache(maxsize=64)
def panel_program(
    problem: Problem, variables: tuple[str, ...], agents: int, periods: int, burn: int = 0
) -> Callable[..., dict[str, Array]]:
    """Return the compiled program that follows some agents and records variables.

    It takes a :class:`Point`, a :class:`Start`, a key and the first agent's number, and returns
    arrays (periods, agents) by name.
    """

    def run(point: Point, start: Start, key: Keys, first: Array) -> dict[str, Array]:
        model = cast("Model", model_of(problem, point.parameters))
        keys = agent_keys(key, first + jnp.arange(agents, dtype=jnp.uint32))
        decisions = {c: jnp.asarray(x) for c, x in point.decisions.items()}

        def living(t: Array) -> _Agents:
            now = decisions
            if model.horizon is not None:
                now = {c: x[t] for c, x in decisions.items()}
            return _Agents(model, point, PolicyFunction.of(model, now), keys, t)

        at = _begin(model, start, keys)
        if burn:
            at = lax.fori_loop(0, burn, lambda t, x: living(t).step(x)[1], at)

        def period(at: dict[str, Array], t: Array) -> tuple[dict[str, Array], dict[str, Array]]:
            here = living(t)
            env, after = here.step(at)
            return after, {name: here.recorded(name, env, agents) for name in variables}

        found: dict[str, Array] = lax.scan(period, at, jnp.arange(burn, burn + periods))[1]
        return found

    return jax.jit(run)

r"""A model read as a concave problem: one continuous state, and the choice of its next value.

.. math::
    v(x, z) = \max_{y \in Y(x, z)} F(x, y, z) + \sum_{z'} D(z, z')\, v(y, z'),
    \qquad D(z, z') = \beta(z) P(z, z').

Arrays are over (z, x): the Markov states, flattened, before the nodes of the continuous one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.markov import Markov
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model


@dataclass(frozen=True)
class ConcaveProblem:
    """One model at one parameter point, whose reward is declared concave in state and choice.

    Attributes
    ----------
    model : Model
    state, choice : str
        The continuous state, and the choice that is its next value.
    nodes : array (x,)
        Where the value is computed; bounds hold over their hull.
    interval : tuple of float
        The range that the choice is made from, before anything is infeasible.
    members : dict of str to array (z,)
        Each Markov state's value at the members of the joint chain.
    weights : array (z, z')
        Discount times the chances of the next member.
    """

    model: Model
    state: str
    choice: str
    nodes: Array
    interval: tuple[Array, Array]
    members: Mapping[str, Array]
    weights: Array

    @classmethod
    def of(cls, model: Model, state: str, choice: str) -> ConcaveProblem:
        """Read off what does not depend on the nodes."""
        chains = [n for n in model.states if n != state]
        axes = [jnp.asarray(model.states[n].values) for n in chains]
        grids = jnp.meshgrid(*axes, indexing="ij") if axes else []
        members = {n: x.ravel() for n, x in zip(chains, grids, strict=True)}
        joint = jnp.ones((1, 1))
        for name in chains:
            joint = jnp.kron(joint, jnp.asarray(model.states[name].transition_matrix))
        nodes = jnp.asarray(model.states[state].values, jnp.float64)
        ends = (nodes[0], nodes[-1])
        if choice not in model.continuous:
            values = jnp.asarray(model.grid_of(choice).values, jnp.float64)
            ends = (values[0], values[-1])
        return cls(
            model, state, choice,
            nodes=nodes,
            interval=ends,
            members=members,
            weights=_discounts(model, members) * joint,
        )  # fmt: skip

    @property
    def lengths(self) -> tuple[int, ...]:
        """Members of each Markov state."""
        return tuple(self.model.size_of(n) for n in self.members)

    @property
    def shape(self) -> tuple[int, int]:
        """Members of the joint chain, and nodes."""
        return self.weights.shape[0], self.nodes.shape[0]

    # -- the model's functions ------------------------------------------------------------------

    def _scalar(self, f: Any, env: Mapping[str, Any]) -> Array:
        return jnp.asarray(f(**{n: env[n] for n in arguments(f, self.model.arguments)}))

    def _average(self, f: Any, env: Mapping[str, Any]) -> Array:
        """Evaluate a function, averaged over the shocks that it names."""
        named = [w for w in self.model.shocks if w in arguments(f, self.model.arguments)]
        if not named:
            return self._scalar(f, env).astype(jnp.float64)
        first, shock = named[0], self.model.shocks[named[0]]
        if len(named) > 1:
            rest = self._joint(named)
        else:
            rest = {first: jnp.asarray(shock.values)}, jnp.asarray(shock.probs)
        draws, chances = rest
        # What never happens must not enter: where its value is no number, neither is its slope.
        likely = jnp.argmax(chances)
        draws = {w: jnp.where(chances > 0, x, x[likely]) for w, x in draws.items()}
        values = jax.vmap(lambda draw: self._scalar(f, {**env, **draw}))(draws)
        return jnp.sum(values * chances)

    def _joint(self, named: list[str]) -> tuple[dict[str, Array], Array]:
        shocks = [self.model.shocks[w] for w in named]
        values = jnp.meshgrid(*(jnp.asarray(s.values) for s in shocks), indexing="ij")
        chances = jnp.ones(())
        for s in shocks:
            chances = chances[..., None] * jnp.asarray(s.probs)
        return {w: x.ravel() for w, x in zip(named, values, strict=True)}, chances.ravel()

    def _environment(self, x: Array, y: Array, z: Array) -> dict[str, Array]:
        own = {n: values[z] for n, values in self.members.items()}
        return {self.state: x, self.choice: y, **own}

    def _everywhere(self, f: Callable[[Array, Array, Array], Any], x: Array, y: Array) -> Any:
        """Apply a scalar function to arrays (z, ...) of states and choices."""
        x, y = jnp.broadcast_arrays(x, y)
        z = jnp.arange(self.shape[0]).reshape(-1, *(1,) * (x.ndim - 1))
        flat = jax.vmap(f)(x.ravel(), y.ravel(), jnp.broadcast_to(z, x.shape).ravel())
        return jax.tree.map(lambda a: a.reshape(x.shape), flat)

    def reward(self, x: Array, y: Array) -> Array:
        """Return F (z, ...), -inf where infeasible."""

        def at(x: Array, y: Array, z: Array) -> Array:
            env = self._environment(x, y, z)
            total: Array = sum((self._average(f, env) for f in self.model.reward), jnp.zeros(()))
            if self.model.feasible is not None:
                total = jnp.where(self._feasible(env), total, -jnp.inf)
            return jnp.where(jnp.isnan(total), -jnp.inf, total)

        found: Array = self._everywhere(at, x, y)
        return found

    def _feasible(self, env: Mapping[str, Array]) -> Array:
        f = self.model.feasible
        assert f is not None
        named = [w for w in self.model.shocks if w in arguments(f, self.model.arguments)]
        if not named:
            return self._scalar(f, env)
        draws, _ = self._joint(named)
        ok: Array = jax.vmap(lambda draw: self._scalar(f, {**env, **draw}))(draws)
        return ok.all()

    def expansion(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return F and its derivatives in state and choice (z, ...), at feasible pairs."""

        def total(x: Array, y: Array, z: Array) -> Array:
            env = self._environment(x, y, z)
            terms = (self._average(f, env) for f in self.model.reward)
            found: Array = sum(terms, jnp.zeros(()))
            return found

        def at(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
            value, (dx, dy) = jax.value_and_grad(total, (0, 1))(x, y, z)
            return value, dx, dy

        found: tuple[Array, Array, Array] = self._everywhere(at, x, y)
        return found

    def outputs(self, y: Array) -> dict[str, Array]:
        """Return the model's outputs (z, x) at a policy."""
        found = {}
        for name, f in self.model.outputs.items():

            def at(x: Array, y: Array, z: Array, f: Any = f) -> Array:
                return self._average(f, self._environment(x, y, z))

            found[name] = self._everywhere(at, self.nodes, y)
        return found

    def over_states(self, a: Array) -> Array:
        """Put an array (z, x) into the model's order of states."""
        whole = a.reshape(*self.lengths, a.shape[-1])
        return jnp.moveaxis(whole, -1, list(self.model.states).index(self.state))

    def from_states(self, a: Array) -> Array:
        """Undo :meth:`over_states`."""
        moved = jnp.moveaxis(a, list(self.model.states).index(self.state), -1)
        return moved.reshape(self.shape[0], -1)


def read_problem(model: Any, name: str = "the model") -> ConcaveProblem:
    """Read a model as a concave problem.

    Raises
    ------
    ModelError
        If it is of another kind, with what it would have to be.
    """
    if isinstance(model, TabularModel) or not isinstance(model, Model):
        raise ModelError(f"{name} has no continuous state: what it is solved for is exact")
    grids = [n for n, spec in model.states.items() if isinstance(spec, Grid)]
    others = [n for n, s in model.states.items() if not isinstance(s, Grid | Markov)]
    if not grids:
        raise ModelError(f"{name} has no continuous state: what it is solved for is exact")
    why = ""
    if len(grids) > 1:
        why = f"it has {len(grids)} continuous states ({', '.join(grids)})"
    elif others:
        why = f"its state '{others[0]}' is a range of integers"
    elif model.horizon is not None:
        why = f"its horizon is finite ({model.horizon} periods)"
    elif model.post:
        why = f"it has a post-decision variable ('{next(iter(model.post))}')"
    elif len(model.choices) > 1:
        why = f"it has {len(model.choices)} choices ({', '.join(model.choices)})"
    if why:
        raise ModelError(_unknown(name, why))
    (state,), (choice,) = grids, model.choices
    moving = model.transition[state]
    on_grid = choice in model.continuous or isinstance(model.grid_of(choice), Grid)
    if moving != choice or not on_grid:
        raise ModelError(_unknown(name, f"the next {state} is not the choice '{choice}' itself"))
    if callable(model.discount) and arguments(model.discount, (state, choice)):
        raise ModelError(_unknown(name, f"its discount depends on '{state}' or '{choice}'"))
    for shock, spec in model.shocks.items():
        if callable(spec.probs):
            raise ModelError(_unknown(name, f"the probabilities of shock '{shock}' are a function"))
    if not model.concave:
        raise ModelError(
            f"{name} does not say that its reward is concave, and bounds over a continuum rest on "
            f"that: write dp.Model(..., concave=True) if the reward is jointly concave in {state} "
            f"and {choice} (it is tested then, at random pairs)"
        )
    return ConcaveProblem.of(model, state, choice)


def _discounts(model: Model, members: Mapping[str, Array]) -> Array:
    """Return the discount at the members of the joint chain (z, 1), or one for all."""
    discount = model.discount
    if not callable(discount):
        return jnp.asarray(discount, jnp.float64)
    named = arguments(discount, tuple(members))

    def rate(at: Mapping[str, Array]) -> Array:
        return jnp.asarray(discount(**{n: at[n] for n in named}), jnp.float64)

    found: Array = jax.vmap(rate)(dict(members))[:, None]
    return found


def _unknown(name: str, why: str) -> str:
    return (
        f"{name} cannot be certified over a continuum, because {why}: dp.certify knows models of "
        "one continuous state (and Markov states), whose next value is the one choice, over an "
        "infinite horizon"
    )


def feasible_start(problem: ConcaveProblem, candidates: int = 129) -> Array:
    """Return a feasible choice (z, x) for every node, NaN where none was found."""
    low, high = problem.interval
    share = jnp.linspace(0.0, 1.0, candidates) ** 3  # many where constraints usually leave some
    table = low + share * (high - low)
    x = problem.nodes[None, :, None]
    rewards = problem.reward(jnp.broadcast_to(x, (*problem.shape, 1)), table[None, None, :])
    good = jnp.isfinite(rewards)
    first = jnp.argmax(good, -1)
    last = candidates - 1 - jnp.argmax(good[..., ::-1], -1)
    middle = table[first] + 0.3 * (table[last] - table[first])
    inside = jnp.isfinite(problem.reward(problem.nodes, middle))
    chosen = jnp.where(inside, middle, table[first])
    return jnp.where(good.any(-1), chosen, jnp.nan)


def name_node(problem: ConcaveProblem, bad: Any) -> str:
    """Name the first node of a bool array (z, x)."""
    z, i = np.unravel_index(int(np.argmax(np.asarray(bad))), np.shape(bad))
    own = [f"{n}={float(v[z]):.6g}" for n, v in problem.members.items()]
    return ", ".join([f"{problem.state}={float(problem.nodes[i]):.6g}", *own])

r"""The Euler equation of a policy between its nodes, at one state at a time.

With F the reward, f the next state, D the discount and :math:`V_x` the marginal value of the
states, an interior choice y that moves the state has

.. math::
    F_y + D\, E[V_x(f)\, f_y] = 0, \qquad
    V_x = F_x + \Lambda^\top F_y + D\, E[(f_x + f_y \Lambda)^\top V_x(f)].

The second is the envelope theorem for a way :math:`\Lambda` in which choices move with the state.
A choice at an end of its interval moves with that end, which costs no multiplier; the others move
so as to leave the next state alone, as nearly as they can. Where they can (a next state that is the
choice itself; consumption out of cash on hand), the last term vanishes and :math:`V_x` is exact at
any state; else it is solved for at the nodes and interpolated there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.distributions.policy_function import PolicyFunction
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid, Integers, Interval
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.interpolation import Location, locate, looked_up
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.probability.probabilities import normalised

AT_END = 1e-7  # of an interval's length: a choice this near to an end lies on it
RIDGE = 1e-13  # of the moves' own size: a choice that moves no state has a column of zeros
ROUNDS = 5000  # of the envelope theorem's recursion at the nodes
SETTLED = 1e-11  # a relative change at which it ends

State = tuple[Array, Array]  # values (d,) of continuous states, and positions (k,) of the others


@dataclass(frozen=True)
class EulerEquation:
    """A model and a policy, in one period.

    Attributes
    ----------
    model : Model
    decisions : mapping of str to array (states...), with a horizon (t, states...)
        Positions of choices from a list, values of the others.
    """

    model: Model
    decisions: Mapping[str, Array]

    # -- names ----------------------------------------------------------------------------------

    @cached_property
    def states(self) -> tuple[str, ...]:
        """The continuous states."""
        return tuple(n for n, s in self.model.states.items() if isinstance(s, Grid))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The states that are members of something."""
        return tuple(n for n in self.model.states if n not in self.states)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The continuous choices."""
        found = self.decisions.items()
        return tuple(c for c, x in found if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Everything that a function can name."""
        model = self.model
        return (*model.states, *model.choices, *model.shocks, *model.post, *model.outputs, "t")

    @cached_property
    def draws(self) -> dict[str, Array]:
        """Positions (draws,) of each shock, over all draws together."""
        sizes = [np.arange(s.size) for s in self.model.shocks.values()]
        grids = np.meshgrid(*sizes, indexing="ij") if sizes else []
        found = {w: jnp.asarray(g.ravel()) for w, g in zip(self.model.shocks, grids, strict=True)}
        return found or {"": jnp.zeros(1, int)}

    # -- the model's functions at one state -----------------------------------------------------

    def policy(self, at: State, t: Array) -> dict[str, Array]:
        """Return every choice at a state."""
        now = {c: jnp.asarray(x) for c, x in self.decisions.items()}
        if self.model.horizon is not None:
            now = {c: x[t] for c, x in now.items()}
        where = {n: NamedArray(at[0][i]) for i, n in enumerate(self.states)}
        where |= {n: NamedArray(at[1][i]) for i, n in enumerate(self.others)}
        return {c: x.array for c, x in PolicyFunction.of(self.model, now).at(where).items()}

    def environment(
        self, x: Array, y: Array, members: Array, listed: Mapping[str, Array], t: Array
    ) -> dict[str, Any]:
        """Return what each name stands for, but for shocks and what follows from them."""
        env: dict[str, Any] = {n: x[i] for i, n in enumerate(self.states)}
        for i, n in enumerate(self.others):
            env[n] = jnp.asarray(self.model.states[n].values)[members[i]]
        env |= {c: y[i] for i, c in enumerate(self.choices)}
        return env | {c: v for c, v in listed.items() if c not in self.choices} | {"t": t}

    def _call(self, f: Any, env: Mapping[str, Any]) -> Array:
        return jnp.asarray(f(**{n: env[n] for n in arguments(f, self.names) if n in env}))

    def _drawn(self, env: Mapping[str, Any], at: Mapping[str, Array]) -> dict[str, Any]:
        """Add one draw of the shocks, and the post-decision variables after it."""
        model = self.model
        own = {w: jnp.asarray(model.shocks[w].values)[i] for w, i in at.items() if w}
        full = {**env, **own}
        for name in (n for n in model.drawn if n in model.post):
            rule = model.post[name].rule
            full[name] = full[rule] if isinstance(rule, str) else self._call(rule, full)
        return full

    def chances(self, env: Mapping[str, Any]) -> Array:
        """Return the probability (draws,) of each draw."""
        found = jnp.ones(len(next(iter(self.draws.values()))))

        def row(p: Any, at: Mapping[str, Array]) -> Array:
            return normalised(self._call(p, self._drawn(env, at)))

        for w, shock in self.model.shocks.items():
            p = shock.probs
            if callable(p):
                rows = jax.vmap(partial(row, p))(self.draws)
                found = found * jnp.take_along_axis(rows, self.draws[w][:, None], 1)[:, 0]
            else:
                found = found * jnp.asarray(p)[self.draws[w]]
        return lax.stop_gradient(found)

    def average(self, f: Any, env: Mapping[str, Any]) -> Array:
        """Return a function averaged over the shocks."""
        chances = self.chances(env)
        each = jax.vmap(lambda i: self._call(f, self._drawn(env, i)).astype(float))(self.draws)
        return jnp.sum(jnp.where(chances > 0.0, each * chances, 0.0))

    def reward(self, env: Mapping[str, Any]) -> Array:
        """Return the expected reward."""
        total: Array = sum((self.average(f, env) for f in self.model.reward), jnp.zeros(()))
        return total

    def following(self, env: Mapping[str, Any], draw: Mapping[str, Array]) -> State:
        """Return the next continuous states (d,), and the positions (k,) of others with a rule."""
        full = self._drawn(env, draw)
        x, members = [], []
        for name, spec in self.model.states.items():
            if isinstance(spec, Markov):
                members.append(jnp.zeros((), jnp.int32))
                continue
            rule = self.model.transition[name]
            value = full[rule] if isinstance(rule, str) else self._call(rule, full)
            value = jnp.asarray(value, jnp.float64)
            if isinstance(spec, Integers):
                nearest = jnp.clip(jnp.round(value), spec.lo, spec.hi)
                members.append((nearest - spec.lo).astype(jnp.int32))
            else:
                ends = jnp.asarray(spec.values)
                x.append(jnp.clip(value, ends[0], ends[-1]))
        return jnp.stack(x), jnp.stack(members) if members else jnp.zeros(0, jnp.int32)

    def discount(self, env: Mapping[str, Any]) -> Array:
        """Return the discount."""
        d = self.model.discount
        return self._call(d, env) if callable(d) else jnp.asarray(d, jnp.float64)

    def over_chains(
        self, at: Array, reached: Array, f: Callable[[Array], Array], t: Array
    ) -> Array:
        """Average a function of the next positions (k,) over the Markov states' chains."""
        chains = [i for i, n in enumerate(self.others) if isinstance(self.model.states[n], Markov)]
        if not chains:
            return f(reached)
        p = jnp.ones(())
        sizes = []
        for i in chains:
            spec: Any = self.model.states[self.others[i]]
            p = p[..., None] * jnp.asarray(spec.at(t))[at[i]]
            sizes.append(np.arange(spec.size))
        each = np.stack([g.ravel() for g in np.meshgrid(*sizes, indexing="ij")], -1)
        places = jnp.asarray(chains)
        found = jax.vmap(lambda z: f(reached.at[places].set(z)))(jnp.asarray(each, jnp.int32))
        return jnp.tensordot(p.ravel(), found, 1)

    # -- what binds -----------------------------------------------------------------------------

    def ends(self, choice: str, env: Mapping[str, Any]) -> tuple[Array, Array]:
        """Return both ends of a choice's interval."""
        spec: Any = self.model.choices[choice]
        if not isinstance(spec, Interval):  # of dp.certify: the range of its grid
            values = jnp.asarray(self.model.grid_of(choice).values, jnp.float64)
            return values[0], values[-1]
        found = [self._call(e, env) if callable(e) else e for e in (spec.lo, spec.hi)]
        if spec.state is not None:
            values = jnp.asarray(self.model.states[spec.state].values, jnp.float64)
            cut = zip((values[0], values[-1]), found, (jnp.maximum, jnp.minimum), strict=True)
            found = [own if e is None else both(own, e) for own, e, both in cut]
        return jnp.asarray(found[0], jnp.float64), jnp.asarray(found[1], jnp.float64)

    def moves(
        self, x: Array, y: Array, env_of: Callable[[Array, Array], dict[str, Any]]
    ) -> tuple[Array, Array, Array]:
        """Return which choices lie at an end (m,), and how they move with states and free choices.

        Choices move by C dx + S dy, where dy are the moves of those that are free.
        """
        m, d = len(self.choices), len(self.states)
        bound, rows, free = [], jnp.zeros((m, d)), jnp.zeros((m, m))
        for j, choice in enumerate(self.choices):

            def both(x: Array, y: Array, choice: str = choice) -> Array:
                return jnp.stack(self.ends(choice, env_of(x, y)))

            lo, hi = both(x, y)
            slack = AT_END * jnp.maximum(hi - lo, 1.0)
            low, high = y[j] - lo <= slack, hi - y[j] <= slack
            in_x, in_y = jax.jacobian(both, (0, 1))(x, y)
            which = jnp.where(low, 0, 1)
            at_end = low | high
            c, s = in_x[which] + in_y[which] @ rows, in_y[which] @ free
            rows = rows.at[j].set(jnp.where(at_end, c, 0.0))
            free = free.at[j].set(jnp.where(at_end, s, jnp.eye(m)[j]))
            bound.append(at_end)
        return jnp.stack(bound), rows, free

    def at_a_wall(self, env: Mapping[str, Any]) -> Array:
        """Tell whether a draw that can happen leads to an end that no next state may pass."""
        chances = self.chances(env)
        found = jnp.asarray(False)
        reached = jax.vmap(lambda i: self.following(env, i)[0])(self.draws)
        for i, name in enumerate(self.states):
            spec: Any = self.model.states[name]
            if isinstance(self.model.transition[name], str):
                continue  # whose ends are the choice's own
            below, above = spec.sides
            values = jnp.asarray(spec.values)
            slack = AT_END * (values[-1] - values[0])
            low = (reached[:, i] <= values[0] + slack) & (below == "error")
            high = (reached[:, i] >= values[-1] - slack) & (above == "error")
            found |= ((low | high) & (chances > 0.0)).any()
        return found

    # -- marginal values ------------------------------------------------------------------------

    def marginal_value(self, at: State, t: Array, later: Array) -> Array:
        """Return V_x (d,) at a state, by the envelope theorem.

        Parameters
        ----------
        later : array (d, states...)
            Marginal values of the next period at the nodes.
        """
        listed = self.policy(at, t)
        y = jnp.stack([listed[c] for c in self.choices])
        x, members = at

        def env_of(x: Array, y: Array) -> dict[str, Any]:
            return self.environment(x, y, members, listed, t)

        env = env_of(x, y)
        in_x, in_y = jax.grad(lambda x, y: self.reward(env_of(x, y)), (0, 1))(x, y)
        f_x, f_y = jax.vmap(
            lambda i: jax.jacobian(lambda x, y: self.following(env_of(x, y), i)[0], (0, 1))(x, y)
        )(self.draws)
        _, rows, free = self.moves(x, y, env_of)
        chances = self.chances(env)
        lead, turn = f_x + f_y @ rows, f_y @ free
        normal = jnp.einsum("w,wij,wik->jk", chances, turn, turn)
        ridge = RIDGE * jnp.trace(normal) + 1e-300
        aim = jnp.einsum("w,wij,wik->jk", chances, turn, lead)
        way = rows - free @ jnp.linalg.solve(normal + ridge * jnp.eye(len(y)), aim)
        left = f_x + f_y @ way
        left = jnp.where(jnp.abs(left) <= 1e-9 * (1.0 + jnp.abs(f_x)), 0.0, left)

        def after(i: Mapping[str, Array], k: Array) -> Array:
            reached, places = self.following(env, i)
            nodal = self.over_chains(members, places, lambda z: self._between(later, reached, z), t)
            return jnp.where((k != 0.0).any(), k.T @ nodal, 0.0)

        follows = jnp.tensordot(chances, jax.vmap(after)(self.draws, left), 1)
        found: Array = in_x + way.T @ in_y + self.discount(env) * follows
        return found

    def _between(self, nodal: Array, x: Array, members: Array) -> Array:
        """Interpolate (d, states...) at a state."""
        at: dict[str, Location] = {}
        for i, n in enumerate(self.states):
            spec: Any = self.model.states[n]
            at[n] = locate(Grid(spec.values, "clip", spec.span), NamedArray(x[i])).lean()
        at |= {n: Location(NamedArray(members[i])) for i, n in enumerate(self.others)}
        dims = tuple(self.model.states)
        return jnp.stack([looked_up(NamedArray(one, dims), at).array for one in nodal])

    def at_nodes(self, t: Array, later: Array) -> Array:
        """Return V_x (d, states...) at the nodes."""
        axes = [jnp.arange(s.size) for s in self.model.states.values()]
        index = dict(zip(self.model.states, jnp.meshgrid(*axes, indexing="ij"), strict=True))
        x = [jnp.asarray(self.model.states[n].values)[index[n].ravel()] for n in self.states]
        z = [index[n].ravel() for n in self.others]
        places = jnp.stack(z, -1) if z else jnp.zeros((x[0].size, 0), jnp.int32)
        found = jax.vmap(lambda x, z: self.marginal_value((x, z), t, later))(
            jnp.stack(x, -1), places
        )
        return jnp.moveaxis(found, -1, 0).reshape(len(self.states), *self.model.shape)

    def settled(self) -> Array:
        """Return V_x (d, states...) at the nodes over an infinite horizon."""
        t = jnp.int32(0)
        zero = jnp.zeros((len(self.states), *self.model.shape))

        def going(carry: tuple[Array, Array, Array]) -> Array:
            now, before, n = carry
            change = jnp.nanmax(jnp.abs(now - before) / (1.0 + jnp.abs(now)))
            return (change > SETTLED) & (n < ROUNDS)

        def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            now, _, n = carry
            return jnp.nan_to_num(self.at_nodes(t, now)), now, n + 1

        first = jnp.nan_to_num(self.at_nodes(t, zero))
        found: Array = lax.while_loop(going, again, (first, zero, jnp.int32(0)))[0]
        return found

    def of_terminal(self, at: State) -> Array:
        """Return the marginal value (d,) after the last period."""
        f = self.model.terminal
        if f is None:
            return jnp.zeros(len(self.states))
        none = jnp.zeros(len(self.choices))

        def value(x: Array) -> Array:
            env = self.environment(x, none, at[1], {}, jnp.int32(self.model.horizon or 0))
            env = {n: v for n, v in env.items() if n in self.model.states}
            return self._call(f, env).astype(float)

        found: Array = jax.grad(value)(at[0])
        return found

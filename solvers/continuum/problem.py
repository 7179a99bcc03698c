r"""A model read as a problem with continuous states and choices.

.. math::
    v(x, z) = \max_{y \in Y(x, z)} F(x, y, z)
              + \sum_{z'} D(z, z')\, E_w\, v\bigl(f(x, y, z, w), z'\bigr),
    \qquad D(z, z') = \beta(z) P(z, z').

x are the continuous states and y the choices, in the model's order; z is the member of the joint
Markov chain, and w a joint draw of the shocks that transitions name. Each choice is made from an
interval, whose ends may depend on x, z and the choices before it.

The functions here are of one state and one choice: x (d,), y (m,), z a position on the chain.
Arrays over states are (z, node): the chain's members before the nodes, those in C order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.arguments import arguments, named_by
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.named_arguments.order import ancestors
from dpsolve.solvers.named_arguments.positions import SUFFIX
from dpsolve.solvers.named_arguments.reading import looks_up
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.probability.probabilities import normalised

ROUNDED = 1e-12
"""How far a lower end may lie above an upper one by rounding, of their size."""

BENT = 1e-9
"""How far what is affine may be off a line by rounding, of its size."""


@dataclass(frozen=True)
class ContinuousProblem:
    """One model at one parameter point (and in one period, with a horizon).

    Attributes
    ----------
    model : Model
    states, choices : tuple of str
        The continuous states, and the choices; d and m of them.
    grids : tuple of Grid
        The nodes of each continuous state.
    members : dict of str to array (z,)
        Each Markov state's value at the members of the joint chain.
    nodes : array (n, d)
        All of them.
    weights : array (z, z')
        Discount times the chances of the next member.
    t : int, optional
        The period, with a horizon.
    """

    model: Model
    states: tuple[str, ...]
    choices: tuple[str, ...]
    grids: tuple[Grid, ...]
    members: Mapping[str, Array]
    nodes: Array
    weights: Array
    t: ArrayLike | None = None

    @classmethod
    def of(cls, model: Model, t: ArrayLike | None = None) -> ContinuousProblem:
        """Read off a model."""
        continuous = tuple(n for n, s in model.states.items() if isinstance(s, Grid))
        chains = [n for n in model.states if n not in continuous]
        axes = [jnp.asarray(model.states[n].values) for n in chains]
        meshes = jnp.meshgrid(*axes, indexing="ij") if axes else []
        joint = jnp.ones((1, 1))
        for name in chains:
            spec = model.states[name]
            assert isinstance(spec, Markov)
            joint = jnp.kron(joint, jnp.asarray(spec.at(t)))
        members = {n: x.ravel() for n, x in zip(chains, meshes, strict=True)}
        grids = tuple(s for s in model.states.values() if isinstance(s, Grid))
        weights = _discounts(model, members, joint.shape[0], t) * joint
        choices = tuple(model.choices)
        return cls(model, continuous, choices, grids, members, _mesh(grids), weights, t)

    # -- sizes and layout -----------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of each continuous state."""
        return tuple(grid.size for grid in self.grids)

    @property
    def shape(self) -> tuple[int, int]:
        """Members of the joint chain, and nodes."""
        return self.weights.shape[0], int(np.prod(self.sizes))

    @property
    def box(self) -> tuple[Array, Array]:
        """Least and greatest of the continuous states (d,)."""
        return self.nodes[0], self.nodes[-1]

    def each(self, f: Callable[..., Any], *arrays: Any) -> Any:
        """Apply a function of x, z and entries of arrays (z, n, ...) at every state."""
        n_z, n = self.shape
        x = jnp.broadcast_to(self.nodes, (n_z, *self.nodes.shape)).reshape(n_z * n, -1)
        z = jnp.repeat(jnp.arange(n_z), n)
        flat = jax.tree.map(lambda a: a.reshape(n_z * n, *a.shape[2:]), arrays)
        found = jax.vmap(f)(x, z, *flat)
        return jax.tree.map(lambda a: a.reshape(n_z, n, *a.shape[1:]), found)

    def over_states(self, a: Array) -> Array:
        """Put an array (z, n) into the model's order of states."""
        lengths = [self.model.size_of(n) for n in self.members]
        whole = a.reshape(*lengths, *self.sizes)
        order = [*self.members, *self.states]
        return jnp.transpose(whole, [order.index(n) for n in self.model.states])

    def from_states(self, a: Array) -> Array:
        """Undo :meth:`over_states`."""
        order = list(self.model.states)
        moved = jnp.transpose(a, [order.index(n) for n in (*self.members, *self.states)])
        return moved.reshape(self.shape)

    # -- the model's functions ------------------------------------------------------------------

    def _env(self, x: Array, y: Array, z: Array) -> dict[str, Array]:
        env = {n: values[z] for n, values in self.members.items()}
        env |= {n: x[i] for i, n in enumerate(self.states)}
        env |= {n: y[j] for j, n in enumerate(self.choices)}
        return env if self.t is None else env | {"t": jnp.asarray(self.t)}

    def _call(self, f: Any, env: Mapping[str, Array]) -> Array:
        """Evaluate a rule or function; post variables are what their rules say, between points."""
        post = self.model.post
        if isinstance(f, str):
            return self._call(post[f].rule, env) if f in post else env[f]
        needed = arguments(f, self.model.later_arguments)
        found = {n: self._call(post[n].rule, env) if n in post else env[n] for n in needed}
        return jnp.asarray(f(**found))

    def depends_on(self, f: Any) -> frozenset[str]:
        """Return what a rule or function depends on, through post variables too."""
        post = self.model.post
        names = {f} if isinstance(f, str) else set(arguments(f, self.model.later_arguments))
        direct = names - set(post)
        return frozenset(direct.union(*(self.depends_on(post[n].rule) for n in names & set(post))))

    def _shocks(self, *fs: Any) -> list[str]:
        known: set[str] = set().union(*(self.depends_on(f) for f in fs))
        laws = self.model.shocks
        while more := set[str]().union(*(self.depends_on(laws[w].probs) for w in known & {*laws}
                                         if callable(laws[w].probs))) - known:  # fmt: skip
            known |= more
        return [w for w in self.model.drawn if w in laws and w in known]

    def _draws(self, shocks: list[str], env: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """Return the joint draws (w,) of some shocks, and their chances.

        A draw that never comes is replaced by a likely one: where its value is no number, neither
        is its slope.
        """
        chances = jnp.ones((1,))
        values: list[Array] = []
        for name in shocks:
            spec = self.model.shocks[name]
            probs = spec.probs
            if callable(probs):
                before = dict(zip(shocks, values, strict=False))
                drawn = {n: before[n] for n in before if n in self.depends_on(probs)}

                def law(draw: Mapping[str, Array], probs: Any = probs) -> Array:
                    return normalised(self._call(probs, {**env, **draw}))

                probs = jax.vmap(law)(drawn) if drawn else law({})
            points = jnp.asarray(spec.values)
            values = [jnp.repeat(v, points.size) for v in values]
            values.append(jnp.tile(points, chances.size))
            chances = (chances[:, None] * jnp.asarray(probs)).ravel()
        likely = jnp.argmax(chances)
        possible = {
            n: jnp.where(chances > 0, v, v[likely]) for n, v in zip(shocks, values, strict=True)
        }
        return possible, chances

    def _average(self, f: Any, env: Mapping[str, Array]) -> Array:
        shocks = self._shocks(f)
        if not shocks:
            return self._call(f, env).astype(jnp.float64)
        draws, chances = self._draws(shocks, env)
        values = jax.vmap(lambda draw: self._call(f, {**env, **draw}))(draws)
        return jnp.sum(values * chances)

    def reward(self, x: Array, y: Array, z: Array) -> Array:
        """Return F, whether or not the choice is feasible."""
        env = self._env(x, y, z)
        total: Array = sum((self._average(f, env) for f in self.model.reward), jnp.zeros(()))
        return total

    def feasible(self, x: Array, y: Array, z: Array) -> Array:
        """Tell whether a choice is allowed, and pays more than -inf."""
        reward = self.reward(x, y, z)
        return self.allowed(x, y, z) & (jnp.isfinite(reward) | (reward == jnp.inf))

    def allowed(self, x: Array, y: Array, z: Array) -> Array:
        """Tell whether the conditions hold, and no next state is off a side that forbids it."""
        env = self._env(x, y, z)
        fine = self._stays_inside(x, y, z)
        for f in self.model.conditions:
            draws, _ = self._draws(self._shocks(f), env)
            if draws:
                ok = jax.vmap(lambda draw, f=f: self._call(f, {**env, **draw}))(draws)
                fine = fine & ok.all()
            else:
                fine = fine & self._call(f, env)
        return fine

    def _stays_inside(self, x: Array, y: Array, z: Array) -> Array:
        watched = [i for i, n in enumerate(self.states) if self._may_leave(n)]
        fine = jnp.asarray(True)
        if not watched:
            return fine
        there = self.following(x, y, z)
        for i in watched:
            low, high = self.box[0][i], self.box[1][i]
            touch = ROUNDED * (jnp.abs(low) + jnp.abs(high))
            bottom, top = self.grids[i].sides
            if bottom == "error":
                fine = fine & ~jnp.any(there[:, i] < low - touch)
            if top == "error":
                fine = fine & ~jnp.any(there[:, i] > high + touch)
        return fine

    def at_state(self, f: Any, known: Iterable[str], x: Array, z: Array) -> Array:
        """Return a function of states alone, such as the terminal value."""
        env = self._env(x, jnp.zeros(len(self.choices)), z)
        return jnp.asarray(f(**{n: env[n] for n in arguments(f, known)}), jnp.float64)

    def output(self, f: Any, x: Array, y: Array, z: Array) -> Array:
        """Return an output, averaged over the shocks that it names."""
        return self._average(f, self._env(x, y, z))

    def _rules(self) -> list[Any]:
        return [self.model.transition[n] for n in self.states]

    def chances(self, z: Array) -> Array:
        """Return the chances (w,) of the joint draws that move the continuous states."""
        env = self._env(self.nodes[0], jnp.zeros(len(self.choices)), z)
        return self._draws(self._shocks(*self._rules()), env)[1]

    def following(self, x: Array, y: Array, z: Array) -> Array:
        """Return the next continuous states (w, d).

        Above a grid that clips they are what they would be: a value is read at the grid's end, and
        a line of the upper bound goes on (it rises, so that it bounds the value at the end too).
        """
        env = self._env(x, y, z)
        rules = self._rules()
        draws, chances = self._draws(self._shocks(*rules), env)

        def move(draw: Mapping[str, Array]) -> Array:
            each = [self._call(rule, {**env, **draw}) for rule in rules]
            return jnp.stack([jnp.asarray(e, jnp.float64) for e in each])

        if not draws:
            return move({})[None]
        return jax.vmap(move)(draws) + 0.0 * chances[:, None]

    def moved(self, rule: Any, x: Array, y: Array, z: Array, draw: Mapping[str, Any]) -> Array:
        """Return what a rule makes of one state, one choice and one draw of the shocks."""
        return self._call(rule, {**self._env(x, y, z), **draw}).astype(jnp.float64)

    @property
    def clips(self) -> Array:
        """Tell for each state (d,) whether it may be cut off at its top."""
        return jnp.asarray(
            [g.sides[1] == "clip" and self._may_leave(n)
             for n, g in zip(self.states, self.grids, strict=True)]
        )  # fmt: skip

    # -- intervals ------------------------------------------------------------------------------

    def ends(self, j: int, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return both ends of the interval of choice j, given those before it.

        They hold what the model says, and that no possible next state leaves a grid on a side that
        forbids it.
        """
        low, high = self._own_ends(j, x, y, z)
        edge = self.box
        for i in self._kept_inside[j]:
            bottom, top = self.grids[i].sides
            at_zero, slope = self.reach(i, j, x, y, z)
            flat = slope == 0.0
            safe = jnp.where(flat, 1.0, slope)
            for limit, side, sign in ((edge[0][i], bottom, -1), (edge[1][i], top, 1)):
                if side != "error":
                    continue
                reached = (limit - at_zero) / safe
                above = ~flat & (sign * slope > 0)  # the choice may not exceed what reaches it
                below = ~flat & (sign * slope < 0)
                # By position, for XLA may compute what is reached twice and round it otherwise: the
                # derivative of a least number looks for the one that is equal to it.
                most, least = (
                    jnp.where(above, reached, jnp.inf),
                    jnp.where(below, reached, -jnp.inf),
                )
                high = jnp.minimum(high, most[jnp.argmin(lax.stop_gradient(most))])
                low = jnp.maximum(low, least[jnp.argmax(lax.stop_gradient(least))])
        touch = ROUNDED * (jnp.abs(low) + jnp.abs(high))
        return low, jnp.where((low > high) & (low <= high + touch), low, high)

    def _own_ends(self, j: int, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        name = self.choices[j]
        spec = self.model.continuous.get(name)
        if spec is None:  # a grid read as a range, by dp.certify
            values = jnp.asarray(self.model.grid_of(name).values, jnp.float64)
            return values[0], values[-1]
        env = self._env(x, y, z)

        def end(given: Any) -> Array:
            value = self._call(given, env) if callable(given) else given
            return jnp.asarray(value, jnp.float64)

        if spec.state is None:
            return end(spec.lo), end(spec.hi)
        values = jnp.asarray(self.model.states[spec.state].values, jnp.float64)
        low, high = values[0], values[-1]
        if spec.lo is not None:
            low = jnp.maximum(low, end(spec.lo))
        if spec.hi is not None:
            high = jnp.minimum(high, end(spec.hi))
        return low, high

    @cached_property
    def _kept_inside(self) -> list[list[int]]:
        """For each choice the states that it, the last to move them, must keep on their grids."""
        found: list[list[int]] = [[] for _ in self.choices]
        for i, name in enumerate(self.states):
            depends = self.depends_on(self.model.transition[name])
            movers = [j for j, c in enumerate(self.choices) if c in depends]
            if movers and self._may_leave(name):
                found[movers[-1]].append(i)
        return found

    def _may_leave(self, state: str) -> bool:
        """Tell whether a state could leave its grid, were its transition not held inside."""
        rule = self.model.transition[state]
        return not (rule in self.choices and self._ranges_over(str(rule), state))

    def bent(self, x: Array, y: Array, z: Array) -> Array:
        """Tell whether a next state that ends hold inside is not affine in the choice that does.

        What keeps it there was solved for as if it were (:meth:`ends`).
        """
        found = jnp.asarray(False)
        for j, held in enumerate(self._kept_inside):
            for i in held:
                if "error" not in self.grids[i].sides:
                    continue
                at_zero, slope = self.reach(i, j, x, y, z)
                there = self.following(x, y, z)[:, i]
                size = jnp.abs(at_zero) + jnp.abs(slope * y[j]) + jnp.abs(there)
                straight = jnp.abs(there - at_zero - slope * y[j]) <= BENT * size
                found = found | ~straight.all()
        return found

    def reach(self, i: int, j: int, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return a next state (w,) were choice j zero, and its slope in that choice."""

        def there(choice: Array) -> Array:
            return self.following(x, y.at[j].set(choice), z)[:, i]

        found: tuple[Array, Array] = jax.jvp(there, (jnp.zeros(()),), (jnp.ones(()),))
        return found

    def _ranges_over(self, choice: str, state: str) -> bool:
        """Tell whether a choice is made from the range of a state (or of its grid)."""
        return _ranges_over(self.model, choice, state)

    def at(self, t: ArrayLike) -> ContinuousProblem:
        """Return the problem of another period, on the same nodes."""
        return ContinuousProblem.of(self.model, t).on(self.grids)

    def on(self, grids: tuple[Grid, ...]) -> ContinuousProblem:
        """Return the same problem on other nodes of the same range."""
        return replace(self, grids=grids, nodes=_mesh(grids))


def _ranges_over(model: Model, choice: str, state: str) -> bool:
    """Tell whether a choice is made from the range of a state; one on a grid is, by dp.certify."""
    spec = model.choices[choice]
    return isinstance(spec, Grid) or getattr(spec, "state", spec) == state


def _mesh(grids: tuple[Grid, ...]) -> Array:
    axes = [jnp.asarray(grid.values, jnp.float64) for grid in grids]
    return jnp.stack([x.ravel() for x in jnp.meshgrid(*axes, indexing="ij")], -1)


def _discounts(model: Model, members: Mapping[str, Array], n: int, t: ArrayLike | None) -> Array:
    """Return the discount at the members of the joint chain (z, 1)."""
    discount = model.discount
    if not callable(discount):
        return jnp.full((n, 1), jnp.asarray(discount, jnp.float64))
    env = dict(members)
    if t is not None:
        env["t"] = jnp.broadcast_to(jnp.asarray(t), (n,))
    own = arguments(discount, tuple(env))
    if not own:
        return jnp.full((n, 1), jnp.asarray(discount(), jnp.float64))

    def rate(at: Mapping[str, Array]) -> Array:
        return jnp.asarray(discount(**at), jnp.float64)

    found: Array = jax.vmap(rate)({name: env[name] for name in own})[:, None]
    return found


def read_problem(model: Any, name: str = "the model", known: bool = False) -> ContinuousProblem:
    """Read a model as a concave problem: one that says so, or is `known` to be.

    Raises
    ------
    ModelError
        If it is of another kind, with what it would have to be.
    """
    if not isinstance(model, Model) or isinstance(model, TabularModel):
        raise ModelError(f"{name} has no continuous state: what it is solved for is exact")
    continuous = [n for n, spec in model.states.items() if isinstance(spec, Grid)]
    if not continuous:
        raise ModelError(f"{name} has no continuous state: what it is solved for is exact")
    for state in continuous:
        if model.size_of(state) < 2:
            raise ModelError(f"the grid of '{state}' is one point, which is no continuum")
    if why := not_concave(model):
        raise ModelError(f"{name} cannot be certified over a continuum, because {why}")
    if not (model.concave or (known and model.concave is None)):
        raise ModelError(
            f"{name} does not say that its reward is concave, and bounds over a continuum rest on "
            f"that: write dp.Model(..., concave=True) if the reward is jointly concave in "
            f"{listed((*continuous, *model.choices))} (it is tested then, at random pairs)"
        )
    return ContinuousProblem.of(model, None if model.horizon is None else 0)


def not_concave(model: Model) -> str:
    """Return why a model is none whose value could be concave, or ''."""
    for name, spec in model.states.items():
        if not isinstance(spec, Grid | Markov):
            return f"its state '{name}' is a range of integers"
    for name in model.gridded:
        if model.continuous or not isinstance(model.grid_of(name), Grid):
            return f"its choice '{name}' is discrete"
    moving = {n for n, s in model.states.items() if isinstance(s, Grid)} | set(model.choices)
    if callable(model.discount) and (named := arguments(model.discount, moving)):
        return f"its discount depends on '{named[0]}'"
    for shock in model.shocks:
        named = tuple(n for n in _law_names(model, shock) if n in moving)
        if named:
            return f"the probabilities of shock '{shock}' depend on '{named[0]}'"
    for f in model.functions:
        for name in sorted(looks_up(f) & moving):
            return f"a table is looked up at '{name}{SUFFIX}', in steps"
    for name, spec in model.states.items():
        if isinstance(spec, Grid) and spec.sides[0] == "clip":
            rule = model.transition[name]
            if not (rule in model.choices and _ranges_over(model, str(rule), name)):
                return f"next states below the grid of '{name}' are set to its end (outside='clip')"
        if isinstance(spec, Grid) and "extrapolate" in spec.sides:
            return f"next states are extrapolated beyond the grid of '{name}'"
    return ""


def _law_names(model: Model, shock: str) -> list[str]:
    """Return what a shock's law depends on, through other shocks and post variables, too."""
    given = [shock, *sorted(ancestors(model.needs, shock))]
    rules = [model.post[n].rule if n in model.post else model.shocks[n].probs for n in given]
    return [n for rule in rules for n in sorted(named_by(rule))]


def listed(names: Iterable[str]) -> str:
    """Return names in words: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last

r"""Bounds by monotone rounding: two problems of choices among nodes, one below and one above.

Let :math:`x_0 < \dots < x_n` be the nodes of the continuous state, :math:`s = (x, d)` with d the
discrete states, k the discrete choices, and let :math:`r(s, k, x')` be the reward as a function of
the next state that the continuous choice leads to (:mod:`.landing`).

*Below.* Go from a node to a node exactly, and be paid for it:

.. math::
    l_i = \max_{k, j}\; r(x_i, k, x_j) + \beta E\, l_j .

These are choices of the model itself, so l is below the true value at the nodes, whatever the
reward is, and where it is smooth it is so by the square of the step. Where the interval of choices
ends between two nodes, its end leads to the node below it: that takes a value that rises.

*Above.* Pay for one node and receive the next one:

.. math::
    u_i = \max_{k, j}\; r(x_i, k, x_{j-1}) + \beta E\, u_j .

*Between the nodes* the bounds are steps: :math:`L(x) = l_i` for :math:`x_i \le x < x_{i+1}`, and
:math:`U(x) = u_i` for :math:`x_{i-1} < x \le x_i`.

*Proof.* Let the reward fall in :math:`x'`, and let it and what is feasible rise in x at a given
:math:`x'`. At a node every choice leads into a cell, :math:`x' \in (x_{j-1}, x_j]`, where U is
:math:`u_j` and the reward at most that of :math:`x_{j-1}` (or of the least :math:`x'` that can be
chosen, if that lies within the cell: it is what is paid then). So :math:`TU(x_i) \le u_i`. A state
x below :math:`x_i` has no better choices, so :math:`TU(x) \le TU(x_i) \le U(x)` in the cell below
it: :math:`TU \le U` everywhere, hence :math:`v^* \le U`. Likewise a state x above :math:`x_i` can
go where :math:`x_i` went and is paid no less, so :math:`TL \ge L` and :math:`v^* \ge L`. Over a
finite horizon the same is said of each period, :math:`T_t U_{t+1} \le U_t`, and of the terminal
value, which must rise. Nothing is concave here, and no value is interpolated.

Both conclusions are inequalities that can be tried at any state, without the premises that they
follow from: :mod:`.refutation` does.

*Edges.* A next state beyond a grid's end is a choice that is not there (``outside="error"``), or
is received as the end (``"clip"``).

*Shocks.* Where the next state depends on a shock, a cell is that of its likeliest value; what is
received is, for each value, the node below the next state that the payment leads to, or the node
above the one that the far end of the cell leads to. (The next state rises in the choice for all
values, or falls for all.) Then the bound below is of the first order, too.

*Rounding.* Where the choice is computed from the next state, the bound below aims that much above
its node, and the bound above that much below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model

from .landing import ByName, Landing, Reach, call, leaves, names_of

Side = Literal["below", "above"]


@dataclass(frozen=True)
class Payment:
    """What it takes to receive a node.

    Attributes
    ----------
    choice : float
        The continuous choice that is paid for.
    possible : bool
        Whether the interval of choices allows it.
    """

    choice: Array
    possible: Array


def payment(landing: Landing, side: Side, reach: Reach, node: Array) -> Payment:
    """Return what is paid for a node of the grid, on one side."""
    nodes = landing.nodes
    grid = landing.model.states[landing.state]
    assert isinstance(grid, Grid)
    n = nodes.shape[0] - 1
    j = jnp.searchsorted(nodes, node)
    lifted, cut = (word == "clip" for word in grid.sides)
    first, last = j == 0, j >= n
    bottom = -jnp.inf if lifted else nodes[0]  # of the cell that the first node stands for
    top = jnp.inf if cut else nodes[-1]
    miss = jnp.zeros(()) if landing.exact else reach.slack(node)
    if side == "below":
        target = jnp.where(first, bottom, node + 2 * miss)
        target = jnp.maximum(target, reach.least)
        beyond = jnp.where(last, target > top, target >= nodes[jnp.minimum(j + 1, n)])
        possible = (target <= reach.most) & ~beyond
    else:
        target = jnp.where(first, bottom, nodes[jnp.maximum(j - 1, 0)]) - 3 * miss
        target = jnp.maximum(target, reach.least)
        most = jnp.where(last & cut, jnp.inf, node + miss)
        possible = (target <= reach.most + miss) & (reach.least <= most)
    return Payment(reach.choice_of(target), possible & (reach.low <= reach.high))


def paid(landing: Landing, env: Mapping[str, Any], *, far: bool) -> Array:
    """Return the end of a cell's choices that is paid for above, or the far one."""
    reach = landing.reach(env)
    node = env[landing.choice]
    if not far:
        return payment(landing, "above", reach, node).choice
    last = node >= landing.nodes[-1]
    miss = 0.0 if landing.exact else 2 * reach.slack(node)  # cells overlap by less than they miss
    return reach.choice_of(jnp.where(last, jnp.inf, node - miss))


def rounded(landing: Landing, side: Side, grid: Grid | None = None) -> Model:
    """Return the problem of choices among nodes whose value is a bound.

    Parameters
    ----------
    landing : Landing
    side : {"below", "above"}
    grid : Grid, optional
        The states that it is posed at, where they are not the nodes alone; they contain these.

    Returns
    -------
    Model
        Its choice in place of the continuous one is a node to receive, under the same name.
    """
    model, name = landing.model, landing.choice
    known = (*model.arguments, *model.post)

    def actual(env: Mapping[str, Any]) -> tuple[dict[str, Any], Payment]:
        found = payment(landing, side, landing.reach(env), env[name])
        return {**env, name: found.choice}, found

    def wrapped(f: Any) -> ByName:
        taken = names_of(known, f)
        if name in taken:
            taken = tuple(n for n in known if n in {*taken, *landing.names})
        return ByName(lambda env: call(f, actual(env)[0] if name in taken else env), taken)

    def feasible(env: Mapping[str, Any]) -> Any:
        chosen, found = actual(env)
        possible = found.possible
        if landing.drawn and side == "below":
            possible &= ~leaves(model, chosen)
        if model.feasible is None:
            return possible
        return possible & jnp.asarray(call(model.feasible, chosen), bool)

    def received(env: Mapping[str, Any]) -> Array:
        nodes, reach = landing.nodes, landing.reach(env)
        if side == "below":
            chosen = payment(landing, side, reach, env[name]).choice
        else:
            chosen = paid(landing, env, far=True)
        x = jnp.asarray(call(landing.rule, {**env, name: chosen}), jnp.float64)
        miss = reach.slack(x)
        low = jnp.searchsorted(nodes, x - miss, side="right") - 1
        high = jnp.searchsorted(nodes, x + miss, side="left")
        return nodes[jnp.clip(low if side == "below" else high, 0, nodes.shape[0] - 1)]

    taken = {name, *landing.names, *landing.drawn, *names_of(known, model.feasible)}
    rule: Any = name
    if landing.drawn:
        rule = ByName(received, (name, *landing.names, *landing.drawn))
    own = landing.state if grid is None else Grid(landing.nodes)
    states = dict(model.states)
    plain = states[landing.state]
    assert isinstance(plain, Grid)
    states[landing.state] = replace(plain, outside="error") if grid is None else grid
    return replace(
        model,
        states=states,
        choices={n: own if n == name else c for n, c in model.choices.items()},
        transition={**model.transition, landing.state: rule},
        reward=tuple(wrapped(f) for f in model.reward),
        feasible=ByName(feasible, tuple(n for n in known if n in taken)),
        outputs={},
        moments={},
        **plainly(model),
    )


def plainly(model: Model) -> dict[str, Any]:
    """Return what is declared of a problem that is derived from a model: nothing."""
    none: dict[str, Any] = {
        "concave": None,
        "increasing": (),
        "marginal": {},
        "inverse_marginal": {},
    }
    known = {f.name for f in fields(model)}
    return {name: x for name, x in none.items() if name in known}

r"""Whether the endogenous grid method applies to a problem, and which condition fails where.

It applies where there is one continuous state x, one choice y, and

.. math::
    F(x, y, z) = u(c, z) + \text{terms without } y, \qquad c = M(x, z) - b(z)\, s, \qquad
    f = g(s, z, w).

What is left behind, s, is all that the next state depends on; consumption c, which is linear in the
choice, is all by which the reward does. s is the choice itself where the next state does not depend
on the state; else the next state but for a term of its own, where that is linear in state and
choice (consumption out of cash on hand).

All of this is read off traces: c is an expression of the reward without which it is free of the
choice, and slopes are expressions that name neither state nor choice. So it holds at every
parameter point, or is not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.utility import CRRA

from .problem import ContinuousProblem

ADDS = frozenset({"add", "add_any", "sub", "neg", "convert_element_type", "copy", "copy_p"})
"""Operations by which parts stay apart."""

Scalar = Callable[..., Array]
X, Y = 0, 1  # positions among the arguments x, y, z
AT = (1.0, 1.0, np.int32(0))  # some arguments


@dataclass(frozen=True)
class Resources:
    """A problem as the endogenous grid method sees it; functions of numbers x, y, c, s and of z.

    Attributes
    ----------
    problem : ContinuousProblem
    consumption : function (x, y, z)
        Linear in y.
    marginal : function (c, z)
        Marginal utility.
    inverse : function (m, z), or None
        Consumption at which that is m; None where it has no closed form.
    through : bool
        Whether the next state depends on the state, beside the choice.
    """

    problem: ContinuousProblem
    consumption: Scalar
    marginal: Scalar
    inverse: Scalar | None
    through: bool


def resources_of(problem: ContinuousProblem) -> Resources | str:
    """Read a problem, or say which condition of the endogenous grid method fails."""
    for what, names in (("continuous states", problem.states), ("choices", problem.choices)):
        if len(names) != 1:
            return f"it has {len(names)} {what} ({', '.join(names)}), where one is wanted"
    (choice,) = problem.choices
    through = _next_state(problem)
    if isinstance(through, str):
        return through
    trace = _Trace.of(problem)
    fitting, bent = [], False
    for found in trace.candidates():
        free = not slope_names(trace.up_to(found), Y, *AT) & {X, Y}
        fitting += [found] * free
        bent |= not free
    if not fitting:
        state = problem.states[0]
        if bent:
            return f"what '{choice}' costs is not linear in '{choice}', or depends on '{state}'"
        return (
            f"the reward depends on '{choice}' by more than one expression (consumption), or on "
            f"'{state}' beside it"
        )
    closed = [(v, f) for v in fitting if (f := trace.exponent(v)) is not None]
    chosen, exponent = closed[0] if closed else (fitting[0], None)
    found = _with(problem, trace.up_to(chosen), through)
    falls = jax.make_jaxpr(jax.grad(found.marginal))(1.0, np.int32(0)).jaxpr.outvars[0]
    if isinstance(falls, Literal) and falls.val == 0.0:
        return f"the reward is linear in '{choice}': no marginal utility falls"
    if exponent is not None:

        def inverse(m: Array, z: Array) -> Array:
            at_one = found.marginal(jnp.ones(()), z)
            return jnp.exp((jnp.log(at_one) - jnp.log(m)) / exponent(z))

        found = replace(found, inverse=inverse)
    return _as_given(found)


def _with(problem: ContinuousProblem, consumption: Scalar, through: bool) -> Resources:
    """Return resources whose marginal utility is the reward's derivative, at the first node.

    What else the reward is made of there has no derivative in consumption.
    """

    def marginal(c: Array, z: Array) -> Array:
        x = problem.nodes[0, 0]

        def reward(y: Array) -> Array:
            return problem.reward(x[None], y[None], z)

        at_zero, slope = jax.jvp(lambda y: consumption(x, y, z), (jnp.zeros(()),), (jnp.ones(()),))
        found: Array = jax.grad(reward)((c - at_zero) / slope) / slope
        return found

    return Resources(problem, consumption, marginal, None, through)


def _as_given(found: Resources) -> Resources | str:
    """Take marginal utility and its inverse from the model, where it gives them."""
    problem, model = found.problem, found.problem.model
    names = tuple({**model.marginal, **model.inverse_marginal})
    if not names:
        return found
    name = names[0]
    output = model.outputs[name]

    def consumption(x: Array, y: Array, z: Array) -> Array:
        return problem.output(output, x[None], y[None], z)

    if slope_names(consumption, Y, *AT) & {X, Y}:
        return f"the output '{name}', whose marginal utility is given, is not linear in the choice"

    def given(f: Any) -> Scalar:
        def call(number: Array, z: Array) -> Array:
            beside = {n: v[z] for n, v in problem.members.items()}
            beside |= {} if problem.t is None else {"t": jnp.asarray(problem.t)}
            own = {n: v for n, v in beside.items() if n in arguments(f, tuple(beside))}
            return jnp.asarray(f(number, **own), jnp.float64)

        return call

    found = _with(problem, consumption, found.through)
    if name in model.marginal:
        found = replace(found, marginal=given(model.marginal[name]))
    if name in model.inverse_marginal:
        found = replace(found, inverse=given(model.inverse_marginal[name]))
    return found


def _next_state(problem: ContinuousProblem) -> bool | str:
    """Tell whether the next state depends on the state beside the choice; or what is wrong."""
    (state,), (choice,) = problem.states, problem.choices
    rule = problem.model.transition[state]
    named = problem.depends_on(rule)
    if choice not in named:
        return f"the next '{state}' does not depend on '{choice}'"
    if state not in named:
        return False

    def following(x: Array, y: Array, z: Array, draw: dict[str, Array]) -> Array:
        return problem.moved(rule, x[None], y[None], z, draw)

    draws = {n: 1.0 for n in problem.model.shocks if n in named}
    for which in (X, Y):
        if slope_names(following, which, *AT, draws) & {X, Y, *range(3, 3 + len(draws))}:
            return (
                f"the next '{state}' depends on '{state}' beside '{choice}', and is not linear in "
                "both with the same slopes for every draw"
            )
    return True


# -- traces ---------------------------------------------------------------------------------------


def slope_names(f: Scalar, which: int, *given: Any) -> set[int]:
    """Return which arguments (numbered flat) the slope of a function in one of them depends on."""

    def slope(*args: Any) -> Array:
        def along(v: Array) -> Array:
            return f(*args[:which], v, *args[which + 1 :])

        found: Array = jax.jvp(along, (args[which],), (jnp.ones(()),))[1]
        return found

    return dependence(jax.make_jaxpr(slope)(*given).jaxpr)[0]


def dependence(jaxpr: Any) -> list[set[int]]:
    """Return for each output of a trace which of its arguments it is computed from."""
    known: dict[Any, set[int]] = {v: {i} for i, v in enumerate(jaxpr.invars)}

    def of(v: Any) -> set[int]:
        return set() if isinstance(v, Literal) else known.get(v, set())

    for e in jaxpr.eqns:
        inner = e.params.get("jaxpr", e.params.get("call_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(e.invars):
            each = [set().union(*(of(e.invars[i]) for i in own)) for own in dependence(inner)]
        else:
            each = [set().union(*map(of, e.invars))] * len(e.outvars)
        known |= dict(zip(e.outvars, each, strict=True))
    return [of(v) for v in jaxpr.outvars]


def _shared(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return a trace in which what is computed twice, such as a consumption, is computed once."""
    same: dict[Any, Any] = {}
    known: dict[Any, list[Any]] = {}
    equations = []
    for e in closed.jaxpr.eqns:
        args = [v if isinstance(v, Literal) else same.get(v, v) for v in e.invars]
        named = tuple(("number", str(v.val), v.aval) if isinstance(v, Literal) else v for v in args)
        key = e.primitive.name, str(e.params), named
        if key in known and not e.effects:
            same |= dict(zip(e.outvars, known[key], strict=True))
        else:
            known[key] = e.outvars
            equations.append(e.replace(invars=args))
    out = [v if isinstance(v, Literal) else same.get(v, v) for v in closed.jaxpr.outvars]
    return ClosedJaxpr(closed.jaxpr.replace(eqns=equations, outvars=out), closed.consts)


@dataclass(frozen=True)
class _Trace:
    """The trace of a reward as a function of numbers x and y, and of z."""

    closed: ClosedJaxpr

    @classmethod
    def of(cls, problem: ContinuousProblem) -> _Trace:
        def reward(x: Array, y: Array, z: Array) -> Array:
            return problem.reward(x[None], y[None], z)

        return cls(_shared(jax.make_jaxpr(reward)(jnp.ones(()), jnp.ones(()), np.int32(0))))

    def candidates(self) -> Iterator[Any]:
        """Return numbers by which alone the reward depends on y, and on x but for what is added."""
        jaxpr = self.closed.jaxpr
        for v in (jaxpr.invars[Y], *(v for e in jaxpr.eqns for v in e.outvars)):
            if v.aval.shape == () and self._is_cut(v):
                yield v

    def _is_cut(self, cut: Any) -> bool:
        jaxpr = self.closed.jaxpr
        own, x, y, mixed = {cut}, {jaxpr.invars[X]}, {jaxpr.invars[Y]}, set()
        x, y = x - own, y - own
        for e in jaxpr.eqns:
            if cut in e.outvars:
                continue
            args = {v for v in e.invars if not isinstance(v, Literal)}
            apart = e.primitive.name in ADDS
            for reached in (own, x, y, mixed):
                if args & reached:
                    reached |= set(e.outvars)
            if not apart and args & own and args & x:
                mixed |= set(e.outvars)
        out = jaxpr.outvars[0]
        return out in own and out not in y and out not in mixed

    def up_to(self, v: Any) -> Scalar:
        """Return a variable as a function of x, y and z."""
        jaxpr = self.closed.jaxpr.replace(outvars=[v])
        run = jaxpr_as_fun(ClosedJaxpr(jaxpr, self.closed.consts))

        def value(x: Array, y: Array, z: Array) -> Array:
            found: Array = run(*(jnp.asarray(a, b.aval.dtype) for a, b in
                                 zip((x, y, z), jaxpr.invars, strict=True)))[0]  # fmt: skip
            return found

        return value

    def exponent(self, cut: Any) -> Scalar | None:
        """Return g(z) where the reward is linear in something whose slope is like ``c**-g``."""
        jaxpr = self.closed.jaxpr
        users = [e for e in jaxpr.eqns if cut in [v for v in e.invars if not isinstance(v, Literal)]]
        if len(users) != 1:
            return None
        (use,) = users
        name, linear = use.primitive.name, set(use.outvars)
        for e in jaxpr.eqns:
            args = [v for v in e.invars if not isinstance(v, Literal) and v in linear]
            if not args:
                continue
            scaled = len(args) == 1 and (
                e.primitive.name == "mul" or (e.primitive.name == "div" and args[0] is e.invars[0])
            )
            if not (e.primitive.name in ADDS or scaled):
                return None
            linear |= set(e.outvars)
        if jaxpr.outvars[0] not in linear:
            return None
        fixed = {"log": 1.0, "sqrt": 0.5, "rsqrt": 1.5}
        if name in fixed or name == "integer_pow":
            power = fixed[name] if name in fixed else 1.0 - use.params["y"]
            return lambda z: jnp.asarray(power)
        takes = use.params.get("name") == CRRA or name == "pow"
        if not takes or use.invars[0] is not cut:
            return None
        given = use.invars[1]
        if not isinstance(given, Literal) and self._depends_on_choice(given):
            return None

        def exponent(z: Array) -> Array:
            number = given.val if isinstance(given, Literal) else self.up_to(given)(1.0, 1.0, z)
            return jnp.asarray(number if name != "pow" else 1.0 - number, jnp.float64)

        return exponent

    def _depends_on_choice(self, v: Any) -> bool:
        return bool(dependence(self.closed.jaxpr.replace(outvars=[v]))[0] & {X, Y})

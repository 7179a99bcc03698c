r"""``dp.Model``: what the user writes, and the checks of its construction.

.. math::
    v(s) = \max_{c \,\text{feasible}} \; E_w[r(s, c, w)]
           + \beta(s, c)\, E_w \sum_{z'} P(z, z')\, v\bigl(x'(s, c, w), z'\bigr)

The state :math:`s = (x, z)` has components that follow a rule (:math:`x`) and components that move
by their own Markov chain (:math:`z`); :math:`w` are shocks drawn afresh each period. All functions
are scalar functions; their arguments are bound by name.

With post-decision variables :math:`p = f(s, c, w)` the next state and the reward may depend on
:math:`p` in place of (or beside) state and choice: the period has two stages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from jax import Array

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.numerics.tracing import is_concrete

from .arguments import bind
from .constructor import named_fields, read_dict
from .grids import MOST, Grid, Iid, Integers, Interval, vector
from .markov import Markov
from .post_decision import read_post
from .returns import Argument, check_returns
from .user_functions import numbers

State = Grid | Integers | Markov
Choice = Grid | Integers | Interval
Rule = str | Callable[..., Any]

# Names of the results' own variables and dimensions, and of the time argument.
RESERVED = frozenset(
    {"t", "time", "point", "value", "lower", "upper", "status", "message"}
    | {"residual", "error_bound", "iterations", "seconds", "code", "start"}
    | {"distribution", "distribution_path", "distribution_residual", "distribution_error"}
    | {"distribution_period", "moments", "gradients", "gradients_fixed_policy"}
    | {"gain", "gain_lower", "gain_upper"}
)

# The moments that every model has: a statistic of a variable, `gini_a`.
STATISTIC = re.compile(r"(?P<statistic>mean|sd|var|gini|top|bottom|p[1-9][0-9]?)_(?P<variable>.+)")


def _specification(kind: str, name: str, given: Any) -> State:
    if isinstance(given, Grid | Integers | Markov):
        return given
    if isinstance(given, Iid):
        raise ModelError(f"{kind} '{name}' is an iid shock; put it under shocks={{...}}")
    try:
        return Grid(vector(given, f"the grid of {kind} '{name}'"))
    except (TypeError, ValueError):
        raise ModelError(
            f"{kind} '{name}' is {given!r}; it can be dp.grid(...), dp.integers(...), "
            "dp.markov(...) or a one-dimensional array"
        ) from None


@named_fields
@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """One model, as a factory returns it.

    Parameters
    ----------
    states : dict
        Ordered; the names become the dimensions of the result. Each is a continuous grid
        (``dp.grid`` or an array), an integer range (``dp.integers``) or a Markov chain
        (``dp.markov``, ``dp.rouwenhorst``, ``dp.tauchen``).
    choices : dict
        Each is a continuous range (``dp.interval``), a grid, an integer range, or the name of a
        state whose grid it shares. Several choices form a product; the ends of an interval may
        depend on choices before it.
    reward : function or list of functions
        Of states, choices and shocks; a list is summed, each averaged over just the shocks it
        names.
    discount : float or function
        A function takes states and choices.
    transition : dict
        For every state that is not a Markov chain: the name of a choice, the name of another
        state, or a function of states, choices and shocks. On an integer state the result must be
        a member; on a continuous grid it is interpolated linearly.
    feasible : function, optional
        Of states, choices and shocks (feasible means: for every shock): true or false, never a
        number. Infeasible choices are masked before their reward is used.
    shocks : dict, optional
        ``dp.iid`` draws.
    post : dict, optional
        Post-decision variables: ``{"stock": (dp.integers(0, 20), f)}`` gives each its grid
        (``dp.grid``, ``dp.integers`` or the name of a state or choice that has one) and its rule,
        a function of states, choices and shocks, or the name of a choice. `transition`, `reward`
        and `outputs` may name them in place of, or beside, states and choices. Shocks that enter
        only after them are averaged once per value of the variable, not once per state and
        choice. On an integer range the rule must return a member; on a continuous grid what
        follows is interpolated linearly in it.
    outputs : dict, optional
        Functions evaluated at the optimum (averaged over the shocks they name).
    moments : dict, optional
        Functions of states, choices, shocks and outputs, by name; their expectation under the
        stationary distribution is ``moment_<name>``. An output named like a state is the state.
    monotone : dict, optional
        A hint, never trusted: ``{"a_next": "a"}`` says that the optimal choice rises with the
        state.
    concave : bool, optional
        True declares that the reward is jointly concave in the continuous state and choice, which
        bounds over a continuum rest on (``dp.certify``); they are tested where they are used.
    horizon : int, optional
        Number of periods; functions may then take ``t`` = 0, ..., horizon - 1.
    terminal : function, optional
        Value of each state after the last period (default 0).

    Raises
    ------
    ModelError
        If a name is unknown, missing or used twice, or a function takes an argument that is none
        of the names it could take, or does not return what is wanted of it: true or false of
        `feasible`, numbers of 64 bits of the others.
    """

    states: Mapping[str, Any]
    choices: Mapping[str, Any]
    reward: Any
    discount: Array | float | Callable[..., Any]
    transition: Mapping[str, Rule] = field(default_factory=dict)
    feasible: Callable[..., Any] | None = None
    shocks: Mapping[str, Iid] = field(default_factory=dict)
    post: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    moments: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    monotone: Mapping[str, str] = field(default_factory=dict)
    concave: bool | None = None
    horizon: int | None = None
    terminal: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("states", "choices"):
            if not isinstance(getattr(self, name), Mapping) or not getattr(self, name):
                raise ModelError(f"{name} must be a dict with at least one entry")
        put = object.__setattr__  # the way a frozen dataclass normalises its own fields
        put(self, "states", {k: _specification("state", k, v) for k, v in self.states.items()})
        put(
            self,
            "choices",
            {
                k: v if isinstance(v, str | Interval) else _specification("choice", k, v)
                for k, v in self.choices.items()
            },
        )
        for name in ("shocks", "outputs", "moments", "transition", "monotone"):
            put(self, name, read_dict(name, getattr(self, name)))
        reward = self.reward
        several = isinstance(reward, Sequence) and not isinstance(reward, str)
        put(self, "reward", tuple(reward) if several else (reward,))
        if not self.reward:
            raise ModelError("reward is an empty list; give a function, or a list to be summed")
        specs = {n: self.grid_of(n) for n in (*self.states, *self.gridded) if self._has_grid(n)}
        put(
            self,
            "post",
            {k: read_post(k, v, specs) for k, v in read_dict("post", self.post).items()},
        )
        self._check_names()
        self._check_sizes()
        self._check_functions()
        self._check_transitions()
        self._check_values()
        self._check_returns()

    # -- what is asked of a model ---------------------------------------------------------------

    def grid_of(self, name: str) -> State | Iid:
        """Return what specifies a state, choice (its own or shared), shock or post variable.

        A continuous choice has no values that could be listed; it is among :attr:`continuous`.
        """
        spec: Any
        if name in self.choices:
            spec = self.choices[name]
            spec = self.states[spec] if isinstance(spec, str) else spec
        else:
            spec = self.states[name] if name in self.states else self._beside(name)
        assert not isinstance(spec, Interval), f"{name} is continuous"
        found: State | Iid = spec
        return found

    @property
    def continuous(self) -> dict[str, Interval]:
        """The choices that are made from an interval."""
        return {n: c for n, c in self.choices.items() if isinstance(c, Interval)}

    @property
    def gridded(self) -> dict[str, Any]:
        """The choices that are made from a list of values."""
        return {n: c for n, c in self.choices.items() if not isinstance(c, Interval)}

    def on_grids(self) -> Model:
        """Return the model with lists of values for its continuous choices.

        It is for evaluating its functions at choices that are known: which values are listed is
        no matter, but that those of a state are listed where the interval is the state's.
        """
        if not self.continuous:
            return self
        listed = {n: c.state or Grid(np.asarray([0.0, 1.0])) for n, c in self.continuous.items()}
        return replace(self, choices={n: listed.get(n, c) for n, c in self.choices.items()})

    def _beside(self, name: str) -> Any:
        return self.post[name].spec if name in self.post else self.shocks[name]

    def _has_grid(self, name: str) -> bool:
        spec = self.choices.get(name)
        return not isinstance(spec, str) or spec in self.states

    def size_of(self, name: str) -> int:
        """Return the number of values of a state, choice, shock or post variable."""
        return self.grid_of(name).size

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points of each state, in order."""
        return tuple(s.size for s in self.states.values())

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names a function of this model can take: states, choices, shocks, and ``t``."""
        time = ("t",) if self.horizon is not None else ()
        return (*self.states, *self.choices, *self.shocks, *time)

    @property
    def later_arguments(self) -> tuple[str, ...]:
        """Names that what comes after a decision can take: post variables, too."""
        return (*self.arguments, *self.post)

    def rule_of(self, name: str) -> Rule:
        """Return the rule of a state that follows one, or of a post variable."""
        rule: Rule = self.post[name].rule if name in self.post else self.transition[name]
        return rule

    # -- construction checks: names and signatures, never values that could be traced -----------

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for kind in ("states", "choices", "shocks", "post"):
            for name in getattr(self, kind):
                if not str(name).isidentifier():
                    raise ModelError(f"{kind}: {name!r} is not a name (letters, digits and _)")
                if name in RESERVED:
                    raise ModelError(f"{kind}: '{name}' is taken by the results; rename it")
                if name in seen:
                    raise ModelError(f"'{name}' stands under {seen[name]} and under {kind}")
                seen[name] = kind
        for name, interval in self.continuous.items():
            self._check_interval(name, interval)
        for name, spec in self.gridded.items():
            if isinstance(spec, str) and spec not in self.states:
                raise ModelError(
                    f"choice '{name}' shares the grid of '{spec}', which is no state."
                    f"{did_you_mean(spec, self.states)} The states are: {', '.join(self.states)}."
                )
            if isinstance(spec, Markov):
                raise ModelError(f"choice '{name}' is a Markov chain; a choice is a grid")
        for name, shock in self.shocks.items():
            if not isinstance(shock, Iid):
                raise ModelError(f"shock '{name}' is {shock!r}; make it with dp.iid(values, probs)")
        for kind in ("outputs", "moments"):
            for name in getattr(self, kind):
                if not str(name).isidentifier():
                    raise ModelError(f"{kind}: {name!r} is not a name (letters, digits and _)")
        variables = (*self.states, *self.choices, *self.outputs)
        for name in self.moments:
            usual = STATISTIC.fullmatch(name)
            if usual and usual["variable"] in variables:
                raise ModelError(
                    f"moments: '{name}' is the name of the {usual['statistic']} of "
                    f"'{usual['variable']}', which every model has; rename yours"
                )
        for choice, state in self.monotone.items():
            if choice not in self.choices or state not in self.states:
                raise ModelError(
                    f"monotone={{'{choice}': '{state}'}} names a choice and a state; the choices "
                    f"are {', '.join(self.choices)}, the states {', '.join(self.states)}"
                )

    def _check_interval(self, name: str, interval: Interval) -> None:
        state = interval.state
        if state is not None and not isinstance(self.states.get(state), Grid):
            grids = [n for n, spec in self.states.items() if isinstance(spec, Grid)]
            raise ModelError(
                f"choice '{name}' has the range of '{state}', which is no continuous state."
                f"{did_you_mean(state, grids)} Those are: {', '.join(grids) or 'none'}."
            )
        time = ("t",) if self.horizon is not None else ()
        before = tuple(self.choices)[: list(self.choices).index(name)]
        for which, end in (("lower", interval.lo), ("upper", interval.hi)):
            if callable(end):
                what = f"the {which} end of choice '{name}'"
                bind(end, (*self.states, *before, *time), what)

    def _check_sizes(self) -> None:
        """Refuse more than can be counted, before anything is made of it."""
        for name in (*self.states, *self.gridded, *self.post):
            if self.size_of(name) > MOST:
                raise ModelError(
                    f"'{name}' has {self.size_of(name):,} values, and positions are counted to "
                    f"{MOST:,}: take a coarser grid, or a shorter range"
                )
        sizes = {name: self.size_of(name) for name in self.gridded}
        joint = prod(sizes.values())
        if joint > MOST:
            each = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
            raise ModelError(
                f"the choices ({each}) make {joint:,} joint choices, and policies count to "
                f"{MOST:,}: take coarser grids, or let one choice follow from the others"
            )

    def _check_functions(self) -> None:
        everything, later = self.arguments, self.later_arguments
        time = ("t",) if self.horizon is not None else ()
        known = (*self.states, *self.choices, *time)
        for i, f in enumerate(self.reward):
            bind(f, later, "reward" if len(self.reward) == 1 else f"reward {i + 1}")
        if self.feasible is not None:
            bind(self.feasible, everything, "feasible")
        for name, f in self.outputs.items():
            bind(f, later, f"output '{name}'")
        for name, f in self.moments.items():
            bind(f, (*everything, *self.outputs), f"moment '{name}'")
        for name, post in self.post.items():
            post.check_rule(name, everything, (*self.choices, *self.states))
        for name, shock in self.shocks.items():
            if callable(shock.probs):
                bind(shock.probs, known, f"the probabilities of shock '{name}'")
        if callable(self.discount):
            bind(self.discount, known, "discount")
        if self.terminal is not None:
            if self.horizon is None:
                raise ModelError("terminal is given but horizon is not; add horizon=T")
            bind(self.terminal, tuple(self.states), "terminal")

    def _check_transitions(self) -> None:
        for name in self.transition:
            if name not in self.states:
                raise ModelError(
                    f"transition names '{name}', which is no state."
                    f"{did_you_mean(name, self.states)} The states are: {', '.join(self.states)}."
                )
        for name, spec in self.states.items():
            rule = self.transition.get(name)
            if isinstance(spec, Markov):
                if rule is not None:
                    raise ModelError(
                        f"state '{name}' is a Markov chain and moves by itself; remove its "
                        "transition, or make it a grid"
                    )
            elif rule is None:
                raise ModelError(
                    f"state '{name}' has no transition; give the name of a choice or of another "
                    f"state, or a function of {', '.join(self.later_arguments)}"
                )
            elif isinstance(rule, str):
                names = (*self.choices, *self.states, *self.post)
                if rule not in names:
                    raise ModelError(
                        f"the transition of '{name}' is '{rule}', which is no choice or state."
                        f"{did_you_mean(rule, names)} It can be: {', '.join(names)}, or a function."
                    )
            else:
                bind(rule, self.later_arguments, f"the transition of '{name}'")

    def _check_returns(self) -> None:
        names = (*self.states, *self.gridded, *self.shocks, *self.post)
        known = {name: _argument(self.grid_of(name)) for name in names}
        known |= {name: Argument(np.dtype(np.float64)) for name in self.continuous}
        if self.horizon is not None:
            known["t"] = Argument(np.dtype(np.int32), (0, self.horizon - 1))
        if self.feasible is not None:
            check_returns(self.feasible, known, "feasible", boolean=True)
        for i, f in enumerate(self.reward):
            check_returns(f, known, "reward" if len(self.reward) == 1 else f"reward {i + 1}")
        named: dict[str, Any] = {f"output '{name}'": f for name, f in self.outputs.items()}
        named |= {f"the transition of '{name}'": f for name, f in self.transition.items()}
        named |= {f"the rule of post variable '{n}'": p.rule for n, p in self.post.items()}
        named |= {"discount": self.discount, "terminal": self.terminal}
        for name, interval in self.continuous.items():
            named |= {f"the lower end of choice '{name}'": interval.lo}
            named |= {f"the upper end of choice '{name}'": interval.hi}
        for what, rule in named.items():
            if callable(rule):
                check_returns(rule, known, what)
        for name, shock in self.shocks.items():
            if callable(shock.probs):
                what = f"the function of probabilities of shock '{name}'"
                check_returns(shock.probs, known, what, shape=(shock.size,))
        found = {name: Argument(np.dtype(np.float64)) for name in self.outputs}
        for name, f in self.moments.items():
            check_returns(f, found | known, f"moment '{name}'")

    def _check_values(self) -> None:
        posts = {name: post.spec for name, post in self.post.items()}
        for name, spec in (*self.states.items(), *posts.items()):
            if isinstance(spec, Grid) and is_concrete(spec.values) and spec.size > 1:
                step = np.diff(np.asarray(spec.values, dtype=np.float64))
                if np.isfinite(step).all() and not (step > 0).all():
                    i = int(np.argmin(step))
                    raise ModelError(
                        f"the grid of {'state' if name in self.states else 'post variable'} "
                        f"'{name}' does not increase at point {i + 1}: "
                        f"{spec.values[i]:g} is followed by {spec.values[i + 1]:g}; sort it and "
                        "remove duplicates"
                    )
        if self.horizon is not None and (
            isinstance(self.horizon, bool)
            or not isinstance(self.horizon, int | np.integer)
            or not 1 <= self.horizon <= MOST
        ):
            raise ModelError(
                f"horizon={self.horizon!r}; it is a positive number of periods, at most {MOST:,}"
            )
        if not callable(self.discount):
            number = numbers(self.discount, "discount", "is")
            if number.ndim or number.dtype.kind not in "biuf":
                what = "an array" if number.ndim else repr(self.discount)
                raise ModelError(
                    f"discount is {what}; give a number, or a function of named states and choices"
                )


def _argument(spec: State | Iid) -> Argument:
    """Return what a function is given of a state, a choice or a shock; no range is written out."""
    if isinstance(spec, Integers):
        return Argument(np.dtype(np.int64), (spec.lo, spec.hi))
    return Argument.of(spec.values)

"""What is refused when a ``dp.Model`` is made: names, signatures, sizes and what functions return.

Nothing that could be traced is looked at, so that a model is checked alike with numbers and inside
a compiled program.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.logit.taste_shocks import ERROR, TasteShocks, read_taste_shocks
from dpsolve.solvers.named_arguments.order import drawing_order
from dpsolve.solvers.numerics.given import MOST, check_horizon, vector
from dpsolve.solvers.numerics.tracing import is_concrete, namespace
from dpsolve.solvers.probability.iid import Iid
from dpsolve.solvers.probability.markov import Markov

from .arguments import Conjunction, bind, bind_after_number, named_by
from .grids import Grid, Integers, Interval
from .lookups import check_lookups
from .post_decision import PostDecision
from .returns import Argument, check_returns
from .user_functions import numbers

State = Grid | Integers | Markov
Rule = str | Callable[..., Any]

# Names of the results' own variables and dimensions, and of the time argument.
RESERVED = frozenset(
    {"t", "time", "point", "value", "lower", "upper", "status", "message"}
    | {"residual", "error_bound", "iterations", "seconds", "code", "start"}
    | {"distribution", "distribution_path", "distribution_residual", "distribution_error"}
    | {"distribution_period", "moments", "gradients", "gradients_fixed_policy"}
    | {"gain", "gain_lower", "gain_upper"}
    | {"certifies", "concavity", "policy_loss", "consumption_equivalent", "refined_size"}
)

# The moments that every model has: a statistic of a variable, `gini_a`.
STATISTIC = re.compile(r"(?P<statistic>mean|sd|var|gini|top|bottom|p[1-9][0-9]?)_(?P<variable>.+)")


def read_specification(kind: str, name: str, given: Any) -> State:
    """Return what a state or choice was given as; an array is the points of a grid."""
    if isinstance(given, Grid | Integers | Markov):
        return given
    if isinstance(given, Iid):
        if kind != "state":
            raise ModelError(f"{kind} '{name}' is an iid shock; put it under shocks={{...}}")
        if callable(given.probs):
            raise ModelError(
                f"state '{name}' is a distribution whose probabilities are a function, and a "
                "chain's are numbers; put it under shocks={...}, or make it a dp.integers with a "
                "transition"
            )
        rows = namespace(given.probs).tile(given.probs, (given.size, 1))
        return Markov(given.values, rows)
    try:
        return Grid(vector(given, f"the grid of {kind} '{name}'"))
    except (TypeError, ValueError):
        raise ModelError(
            f"{kind} '{name}' is {given!r}; it can be dp.grid(...), dp.integers(...), "
            "dp.markov(...) or a one-dimensional array"
        ) from None


class Constructed:
    """A model's fields as they were given, what is asked of them, and the checks that they pass."""

    states: Mapping[str, Any]
    choices: Mapping[str, Any]
    reward: Any
    discount: Any
    transition: Mapping[str, Rule]
    feasible: Any
    shocks: Mapping[str, Iid]
    post: Mapping[str, PostDecision]
    outputs: Mapping[str, Callable[..., Any]]
    moments: Mapping[str, Callable[..., Any]]
    taste_shocks: Mapping[Any, Any]
    monotone: Mapping[str, str]
    concave: bool | None
    increasing: Sequence[str]
    marginal: Mapping[str, Callable[..., Any]]
    inverse_marginal: Mapping[str, Callable[..., Any]]
    horizon: int | None
    terminal: Callable[..., Any] | None
    labels: Mapping[str, str]

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
    def conditions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that `feasible` is made of, all of which must be true."""
        if isinstance(self.feasible, Conjunction):
            return self.feasible.parts
        return () if self.feasible is None else (self.feasible,)

    @property
    def gridded(self) -> dict[str, Any]:
        """The choices that are made from a list of values."""
        return {n: c for n, c in self.choices.items() if not isinstance(c, Interval)}

    @cached_property
    def taste(self) -> TasteShocks | None:
        """The taste shocks, read and checked; None if there are none."""
        continuous = {name: name in self.continuous for name in self.choices}

        def values_of(name: str) -> Any:
            return self.grid_of(name).values

        return read_taste_shocks(self.taste_shocks, continuous, values_of)

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
    def lengths(self) -> dict[str, int]:
        """What an array can have an entry for: states, choices from a list and ``t``."""
        names = dict.fromkeys((*self.states, *self.gridded))
        time = {"t": int(self.horizon)} if self.horizon is not None else {}
        return {name: self.size_of(name) for name in names} | time

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names a function of this model can take: states, choices, shocks, and ``t``."""
        time = ("t",) if self.horizon is not None else ()
        return (*self.states, *self.choices, *self.shocks, *time)

    @property
    def later_arguments(self) -> tuple[str, ...]:
        """Names that what comes after a decision can take: post variables, too."""
        return (*self.arguments, *self.post)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """All functions of states, choices and shocks that decide the value."""
        given = (*self.conditions, *self.reward, *self.transition.values(), self.discount)
        laws = (shock.probs for shock in self.shocks.values())
        rules = (post.rule for post in self.post.values())
        return tuple(f for f in (*given, *laws, *rules, self.terminal) if callable(f))

    @cached_property
    def needs(self) -> dict[str, frozenset[str]]:
        """Of each shock and post variable the others that its law or its rule names."""
        laws: dict[str, Any] = {n: s.probs for n, s in self.shocks.items()}
        rules: dict[str, Any] = {n: p.rule for n, p in self.post.items()}
        known = (*self.shocks, *self.post)
        return {n: frozenset(known) & named_by(f) for n, f in (laws | rules).items()}

    @cached_property
    def drawn(self) -> tuple[str, ...]:
        """Shocks and post variables in the order in which they come to be known."""
        words = {n: f"the function of probabilities of shock '{n}'" for n in self.shocks}
        words |= {n: f"the rule of post variable '{n}'" for n in self.post}
        return drawing_order(self.needs, words)

    @property
    def labelled_names(self) -> tuple[str, ...]:
        """Names that `labels` may have, beside the factory's parameters."""
        return (*self.later_arguments, *self.outputs, *self.moments, "value")

    def rule_of(self, name: str) -> Rule:
        """Return the rule of a state that follows one, or of a post variable."""
        rule: Rule = self.post[name].rule if name in self.post else self.transition[name]
        return rule

    # -- construction checks: names and signatures, never values that could be traced -----------

    def _check_construction(self) -> None:
        """Refuse what no model is."""
        self._check_continuous()
        self._check_sizes()
        self._check_taste()
        self._check_functions()
        self._check_transitions()
        self._check_values()
        self._check_returns()

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
            for end in ("lower", "upper"):
                if f"{end}_{name}" in self.choices:
                    raise ModelError(
                        f"choice '{end}_{name}' stands beside the continuous choice '{name}', "
                        f"whose bounds are called policy_{end}_{name} in results; rename it"
                    )
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
                raise ModelError(
                    f"shock '{name}' is {shock!r}; make it with dp.iid(values, "
                    "probs), or by a distribution: dp.normal(mean, sd, n)"
                )
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

    def _check_continuous(self) -> None:
        """Check what is said of continuous states and choices, and what cannot stand beside."""
        if not (self.concave is None or isinstance(self.concave, bool | np.bool_)):
            raise ModelError(
                f"concave={self.concave!r}; it can be True (declared), None (proved if possible) "
                "or False (not tried)"
            )
        if self.concave and self.continuous and self.gridded:
            own, other = next(iter(self.continuous)), next(iter(self.gridded))
            raise ModelError(
                f"concave=True beside the discrete choice '{other}': nothing is concave in a list "
                f"of values, nor is the best of several values of it in '{own}'; leave concave "
                f"out, or make '{other}' a dp.interval"
            )
        grids = [n for n, spec in self.states.items() if isinstance(spec, Grid)]
        for name in self.increasing:
            if name not in grids:
                raise ModelError(
                    f"increasing names {name!r}, which is no continuous state."
                    f"{did_you_mean(str(name), grids)} Those are: {', '.join(grids) or 'none'}."
                )
        chains = [n for n, spec in self.states.items() if isinstance(spec, Markov)]
        time = ("t",) if self.horizon is not None else ()
        for what in ("marginal", "inverse_marginal"):
            for name, f in getattr(self, what).items():
                if name not in self.outputs:
                    outputs = ", ".join(self.outputs) or "none"
                    raise ModelError(
                        f"{what} names {name!r}, which is no output."
                        f"{did_you_mean(str(name), self.outputs)} The outputs are: {outputs}; add "
                        f"what it is the marginal utility of: outputs={{{name!r}: ...}}"
                    )
                bind_after_number(f, (*chains, *time), f"the {what} of '{name}'")
        posts = {name: post.spec for name, post in self.post.items()}
        for name, spec in (*self.states.items(), *posts.items()) if self.continuous else ():
            if isinstance(spec, Grid) and "extrapolate" in spec.sides:
                raise ModelError(
                    f"the grid of '{name}' has outside='extrapolate' beside the continuous choice "
                    f"'{next(iter(self.continuous))}': nothing bounds a value off the grid; give "
                    "it outside='clip', ('error', 'clip'), or 'error', which forbids choices "
                    "that could leave it"
                )

    def _check_taste(self) -> None:
        """Check taste shocks, and that nothing else goes by the names of their results."""
        if self.taste is None:
            return
        for name in (*self.states, *self.choices):
            if name in (self.taste.name, ERROR):
                raise ModelError(
                    f"'{name}' is what results call the probabilities of a choice with taste "
                    "shocks, or their bound; rename it"
                )

    def _check_interval(self, name: str, interval: Interval) -> None:
        state = interval.state
        if state is not None and not isinstance(self.states.get(state), Grid):
            grids = [n for n, spec in self.states.items() if isinstance(spec, Grid)]
            raise ModelError(
                f"choice '{name}' has the range of '{state}', which is no continuous state."
                f"{did_you_mean(state, grids)} Those are: {', '.join(grids) or 'none'}."
            )

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

    def _numbered(self, kind: str, i: int) -> str:
        """Return what to call one of the rewards or conditions: by its number, if it has one."""
        several = self.conditions if kind == "feasible" else self.reward
        return kind if len(several) == 1 else f"{kind} {i + 1}"

    def _check_functions(self) -> None:
        everything, later = self.arguments, self.later_arguments
        time = ("t",) if self.horizon is not None else ()
        known = (*self.states, *self.choices, *time)
        for i, f in enumerate(self.reward):
            bind(f, later, self._numbered("reward", i))
        for i, f in enumerate(self.conditions):
            bind(f, everything, self._numbered("feasible", i))
        for name, interval in self.continuous.items():
            before = tuple(self.choices)[: list(self.choices).index(name)]
            for which, end in (("lower", interval.lo), ("upper", interval.hi)):
                if callable(end):
                    what = f"the {which} end of choice '{name}'"
                    bind(end, (*self.states, *before, *time), what)
        for name, f in self.outputs.items():
            bind(f, later, f"output '{name}'")
        for name, f in self.moments.items():
            bind(f, (*everything, *self.outputs), f"moment '{name}'")
        for name, post in self.post.items():
            post.check_rule(name, later, (*self.choices, *self.states, *self.shocks, *self.post))
        for name, shock in self.shocks.items():
            if callable(shock.probs):
                bind(shock.probs, later, f"the probabilities of shock '{name}'")
        assert self.drawn is not None  # no circle
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
                names = (*self.choices, *self.states, *self.shocks, *self.post)
                if rule not in names:
                    raise ModelError(
                        f"the transition of '{name}' is '{rule}', which is no choice, state or "
                        "shock."
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
        for i, f in enumerate(self.conditions):
            check_returns(f, known, self._numbered("feasible", i), boolean=True)
        # Where some choices are not allowed, what functions make of them does not count.
        excused = frozenset((*self.choices, *self.post) if self.conditions else ())
        for i, f in enumerate(self.reward):
            what = self._numbered("reward", i)
            check_lookups(f, check_returns(f, known, what), known, what, excused)
        named: dict[str, Any] = {f"output '{name}'": f for name, f in self.outputs.items()}
        named |= {f"the transition of '{name}'": f for name, f in self.transition.items()}
        named |= {f"the rule of post variable '{n}'": p.rule for n, p in self.post.items()}
        named |= {"discount": self.discount, "terminal": self.terminal}
        for name, interval in self.continuous.items():
            named |= {f"the lower end of choice '{name}'": interval.lo}
            named |= {f"the upper end of choice '{name}'": interval.hi}
        for what, rule in named.items():
            if callable(rule):
                check_lookups(rule, check_returns(rule, known, what), known, what, excused)
        for name, shock in self.shocks.items():
            if callable(shock.probs):
                what = f"the function of probabilities of shock '{name}'"
                check_returns(shock.probs, known, what, shape=(shock.size,))
        for what_of in ("marginal", "inverse_marginal"):
            for name, f in getattr(self, what_of).items():
                first = next(iter(inspect.signature(f).parameters))
                beside = known | {first: Argument(np.dtype(np.float64))}
                check_returns(f, beside, f"the {what_of} of '{name}'")
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
        if self.horizon is not None:
            check_horizon(self.horizon)
        if not callable(self.discount):
            number = numbers(self.discount, "discount", "is")
            if number.ndim or number.dtype.kind not in "biuf":
                what = "an array" if number.ndim else repr(self.discount)
                raise ModelError(
                    f"discount is {what}; give a number, or a function of named states and choices"
                )


def is_horizon(given: Any) -> bool:
    """Tell whether a horizon is none, or a number of periods."""
    if given is None:
        return True
    try:
        check_horizon(given)
    except ModelError:
        return False
    return True


def _argument(spec: State | Iid) -> Argument:
    """Return what a function is given of a state, a choice or a shock; no range is written out."""
    if isinstance(spec, Integers):
        return Argument(np.dtype(np.int64), (spec.lo, spec.hi))
    return Argument.of(spec.values)

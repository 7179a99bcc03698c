r"""``dp.Model``: what the user writes; the checks of it are in :mod:`.construction`.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from jax import Array

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.labels import check_values, read_labels
from dpsolve.solvers.named_arguments.families import Family, members, rules_of_members
from dpsolve.solvers.named_arguments.reading import Reading
from dpsolve.solvers.probability.iid import Iid
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.probability.unfolding import unfold

from .arguments import Conjunction, named_fields, read_dict
from .construction import STATISTIC as STATISTIC
from .construction import Constructed, Rule, is_horizon, read_specification
from .grids import Grid, Interval
from .post_decision import read_post


@named_fields
@dataclass(frozen=True, eq=False, kw_only=True)
class Model(Constructed):
    """One model, as a factory returns it.

    Parameters
    ----------
    states : dict
        Ordered; the names become the dimensions of the result. Each is a continuous grid
        (``dp.grid`` or an array), an integer range (``dp.integers``) or a Markov chain
        (``dp.markov``, ``dp.rouwenhorst``, ``dp.tauchen``). A distribution is a chain with equal
        rows: drawn anew each period, and known when the choice is made. Several states that move
        together stand under a tuple of names, ``("g", "r"): dp.var1(...)``: one dimension, ``g_r``,
        of their joint values; functions take `g` and `r`, and these are outputs, too.
    choices : dict
        Empty where nothing is chosen, and the model is only evaluated. Each is a continuous range
        (``dp.interval``), a grid, an integer range, or the name of a state whose grid it shares.
        Several choices form a product; the ends of an interval may depend on choices before it in
        the dict. A continuous choice from which a possible shock leaves a grid with
        ``outside="error"`` is infeasible; of a choice from a list that is an error, and `feasible`
        says what is not allowed.
    reward : function or list of functions
        Of states, choices and shocks; a list is summed, each averaged over just the shocks it
        names.
    discount : float or function
        A function takes states, choices and post variables whose rules take no shock; such a one
        stands for what its rule returns, before its grid. The number 1, without a horizon, makes it
        a shortest path: every state needs a way to an end, where nothing moves any more and the
        best reward is 0, and going on for ever has to cost.
    transition : dict
        For every state that is not a Markov chain: the name of a choice, of another state or of a
        shock, or a function of states, choices and shocks. On an integer state the result must be
        a member; on a continuous grid it is interpolated linearly, and what lies beyond its ends
        means what the grid's `outside` says.
    feasible : function or list of functions, optional
        Of states, choices and shocks (feasible means: for every shock): true or false, never a
        number. A post variable stands for what its rule returns, before its grid. Of a list all
        must be true. Infeasible choices are masked before their reward is used. What can bind on a
        continuous choice belongs in its interval's ends: of the functions that name a continuous
        state or choice, the true set is taken to be connected along each interval, and may leave
        out its ends (consumption above 0).
    shocks : dict, optional
        ``dp.iid`` draws, or a distribution's (``dp.normal``, ``dp.lognormal``, ``dp.poisson``, …);
        independent of each other, but for one whose ``probs`` are a function of others, of post
        variables or of ``t``. Correlated ones stand under a tuple of names,
        ``("ret", "y"): dp.normal(means, cov, n)``.
    post : dict, optional
        Post-decision variables: ``{"stock": (dp.integers(0, 20), f)}`` gives each its grid
        (``dp.grid``, ``dp.integers`` or the name of a state or choice that has one) and its rule,
        a function of states, choices, shocks and other post variables, or the name of one of
        these. `transition`, `reward`, `feasible`, `discount`, ``probs`` of shocks
        and `outputs` may name them in place of, or beside, states and choices. Shocks that enter
        only after them are averaged once per value of the variable, not once per state and
        choice. On an integer range the rule must return a member; on a continuous grid what
        follows is interpolated linearly in it.
    outputs : dict, optional
        Functions evaluated at the optimum (averaged over the shocks they name).
    moments : dict, optional
        Functions of states, choices, shocks and outputs, by name; their expectation under the
        stationary distribution is ``moment_<name>``. An output named like a state is the state.
    taste_shocks : dict, optional
        ``{"choice": scale}``: to the value of each value of a choice from a list comes a shock,
        known before choosing: type-I extreme value (Gumbel) of mean zero, independent, of that
        scale in units of the reward. ``{("a", "b"): scale}`` has one for each combination;
        ``{"choice": dp.nested(scale, nests)}`` correlates them within nests. The value is the
        log-sum over that choice of the values maximised over all others, and
        ``probability_<choice>`` (states..., choice) the chances (see
        :mod:`dpsolve.solvers.logit.log_sum`). `policy` of the choice is the likeliest; that of
        other choices, and `outputs`, have its dimension; distributions, moments and panels take
        each value by its chance.
    monotone : dict, optional
        A hint, never trusted: ``{"a_next": "a"}`` says that the optimal choice rises with the
        state. Of a continuous choice it is used where the model is not concave.
    concave : bool, optional
        True declares that reward + discount · E v(transition) is jointly concave in the continuous
        states and choices, for the concave v that occur: a concave reward with an affine transition
        is the plain case, lower ends of intervals are convex and upper ends concave, `terminal` is
        concave, and the discount and the probabilities are free of continuous states and choices.
        Bounds over a continuum rest on it, and it is tested where they are used. None, the default:
        certified if it can be proved; False: not tried. True beside an interval and a choice from a
        list of values is an error.
    increasing : tuple of str, or str, optional
        Continuous states in which the value rises: declared, and tested as concavity is.
    marginal, inverse_marginal : dict of str to function, optional
        The marginal utility of an output that is affine in state and choice, and its inverse:
        ``marginal={"consumption": lambda c: c**-gamma}`` is the reward's derivative by consumption,
        in units of reward. Each takes one number, first and under any name, and may take Markov
        states and ``t`` by name after it. Without them the reward is differentiated, and that is
        inverted numerically.
    horizon : int, optional
        Number of periods; functions may then take ``t`` = 0, ..., horizon - 1.
    terminal : function, optional
        Value of each state after the last period (default 0).
    labels : dict of str to str, list or pair, optional
        Words, with units in parentheses: ``{"a": "assets (annual income)", "beta": "discount
        factor"}``, for states, choices, outputs, moments, ``value`` and the factory's parameters.
        A list says what each value of a state, or each period, is called: ``{"regime":
        ["recession", "boom"], "t": [str(age) for age in range(25, 85)]}``; a pair says both.
        Stores keep them as ``long_name`` and ``units``, and pictures and reports show them. A
        choice that is the next value of a labelled state needs none of its own.

    Notes
    -----
    In every function ``a_index`` is the position of `a`, a state, choice, shock or post variable,
    among its values. A family of states (:func:`~dpsolve.family`) is an array of its members.

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
    feasible: Any = None
    shocks: Mapping[str, Iid] = field(default_factory=dict)
    post: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    moments: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    taste_shocks: Mapping[Any, Any] = field(default_factory=dict)
    monotone: Mapping[str, str] = field(default_factory=dict)
    concave: bool | None = None
    increasing: Sequence[str] = ()
    marginal: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    inverse_marginal: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    horizon: int | None = None
    terminal: Callable[..., Any] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    parts: ClassVar[Mapping[str, str]] = MappingProxyType({})  # of what is drawn together: in what

    def __post_init__(self) -> None:
        if not isinstance(self.states, Mapping) or not self.states:
            raise ModelError("states must be a dict with at least one entry")
        if not isinstance(self.choices, Mapping):
            raise ModelError(
                "choices must be a dict; of a model that has none, and is only evaluated, an empty "
                "one: choices={}"
            )
        put = object.__setattr__  # the way a frozen dataclass normalises its own fields
        families = self._expand_families()
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, x in (unfold(given) or {}).items():
            put(self, name, x)
        states = {k: read_specification("state", k, v) for k, v in self.states.items()}
        if is_horizon(self.horizon):
            states = {
                k: s.over(k, self.horizon) if isinstance(s, Markov) else s
                for k, s in states.items()
            }
        put(self, "states", states)
        put(
            self,
            "choices",
            {
                k: v if isinstance(v, str | Interval) else read_specification("choice", k, v)
                for k, v in self.choices.items()
            },
        )
        for name in ("outputs", "moments", "monotone", "marginal", "inverse_marginal"):
            put(self, name, read_dict(name, getattr(self, name)))
        put(self, "taste_shocks", read_dict("taste_shocks", self.taste_shocks))
        put(self, "labels", read_dict("labels", self.labels))
        periods = {} if self.horizon is None else {"t": int(self.horizon)}
        sizes = {n: state.size for n, state in self.states.items()}
        check_values(read_labels(self.labels), sizes | periods)
        put(self, "reward", _listed(self.reward))
        put(self, "feasible", _all_of(() if self.feasible is None else _listed(self.feasible)))
        if not self.reward:
            raise ModelError("reward is an empty list; give a function, or a list to be summed")
        specs = {n: self.grid_of(n) for n in (*self.states, *self.gridded) if self._has_grid(n)}
        put(
            self,
            "post",
            {k: read_post(k, v, specs) for k, v in self.post.items()},
        )
        self._check_names()
        self._read_functions(families)
        self._check_construction()

    def _expand_families(self) -> dict[str, tuple[str, ...]]:
        """Put families' members in their places, and return their names by family."""
        put = object.__setattr__
        families: dict[str, tuple[str, ...]] = {}
        for kind in ("states", "choices", "shocks"):
            found, own = members(kind, read_dict(kind, getattr(self, kind)))
            put(self, kind, found)
            families |= own
        post = read_dict("post", self.post)
        posts = {
            n: Family((p[0].member, p[1]), p[0].size)
            for n, p in post.items()
            if isinstance(p, Sequence) and len(p) == 2 and isinstance(p[0], Family)
        }
        found, own = members("post", post | posts)
        rules = rules_of_members({n: post[n][1] for n in posts}, own)
        put(self, "post", {n: (p[0], rules[n]) if n in rules else p for n, p in found.items()})
        families |= own
        rules = rules_of_members(read_dict("transition", self.transition), families)
        put(self, "transition", rules)
        put(
            self,
            "increasing",
            tuple(m for n in _listed(self.increasing) for m in families.get(n, (n,))),
        )
        return families

    def _read_functions(self, families: Mapping[str, tuple[str, ...]]) -> None:
        """Read all functions as functions of states, choices, shocks and post variables."""
        put = object.__setattr__
        reading = self._reading(families)
        reading.check()

        def named(kind: str, what: str) -> None:
            given = getattr(self, kind).items()
            put(self, kind, {n: reading.of(f, f"{what} '{n}'") for n, f in given})

        conditions = (
            reading.of(f, self._numbered("feasible", i), decided=True)
            for i, f in enumerate(self.conditions)
        )
        put(self, "feasible", _all_of(tuple(conditions)))
        numbered = enumerate(self.reward)
        put(self, "reward", tuple(reading.of(f, self._numbered("reward", i)) for i, f in numbered))
        put(self, "discount", reading.of(self.discount, "discount", decided=True))
        put(self, "terminal", reading.of(self.terminal, "terminal"))
        named("transition", "the transition of")
        named("outputs", "output")
        named("moments", "moment")
        put(self, "post", {n: replace(p, rule=reading.rules[n]) for n, p in self.post.items()})
        laws = {n: f"the probabilities of shock '{n}'" for n in self.shocks}
        put(self, "shocks", {
            n: replace(s, probs=reading.of(s.probs, laws[n])) if callable(s.probs) else s
            for n, s in self.shocks.items()
        })  # fmt: skip
        ends = {
            n: Interval(c.state, *(reading.of(e, f"an end of choice '{n}'") for e in (c.lo, c.hi)))
            for n, c in self.continuous.items()
        }
        put(self, "choices", {n: ends.get(n, c) for n, c in self.choices.items()})

    def _reading(self, families: Mapping[str, tuple[str, ...]]) -> Reading:
        names = (*self.states, *self.gridded, *self.shocks, *self.post)
        specs: dict[str, Any] = {n: self.grid_of(n) for n in names}
        between = {n: "as a choice from an interval does" for n in self.continuous}
        for own in list(self.continuous)[:1]:
            grids = (n for n in names if isinstance(specs[n], Grid))
            between |= {n: f"beside the continuous choice '{own}'" for n in grids}
        specs |= dict.fromkeys(self.continuous)
        reading = Reading(specs, families, between)
        rules = {n: reading.of(p.rule, f"the rule of post variable '{n}'")
                 for n, p in self.post.items()}  # fmt: skip
        return replace(reading, rules=rules)

    def on_grids(self) -> Model:
        """Return the model with lists of values for its continuous choices.

        It is for evaluating its functions at choices that are known: which values are listed is
        no matter, but that those of a state are listed where the interval is the state's.
        """
        if not self.continuous:
            return self
        listed = {n: c.state or Grid(np.asarray([0.0, 1.0])) for n, c in self.continuous.items()}
        return replace(self, choices={n: listed.get(n, c) for n, c in self.choices.items()})


def _all_of(conditions: tuple[Any, ...]) -> Any:
    """Return one function that is true where all conditions are; None of none."""
    if len(conditions) > 1:
        return Conjunction(conditions)
    return conditions[0] if conditions else None


def _listed(given: Any) -> tuple[Any, ...]:
    """Return what may be one thing or a list of them as a tuple."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(given) if several else (given,)

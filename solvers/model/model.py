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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax import Array

from dpsolve.solvers.errors import ModelError

from .arguments import Conjunction, named_fields, read_dict
from .construction import STATISTIC as STATISTIC
from .construction import Constructed, Rule, read_specification
from .grids import Grid, Iid, Interval
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
        (``dp.markov``, ``dp.rouwenhorst``, ``dp.tauchen``).
    choices : dict
        Each is a continuous range (``dp.interval``), a grid, an integer range, or the name of a
        state whose grid it shares. Several choices form a product; the ends of an interval may
        depend on choices before it in the dict. A continuous choice from which a possible shock
        leaves a grid with ``outside="error"`` is infeasible; of a choice from a list that is an
        error, and `feasible` says what is not allowed.
    reward : function or list of functions
        Of states, choices and shocks; a list is summed, each averaged over just the shocks it
        names.
    discount : float or function
        A function takes states and choices.
    transition : dict
        For every state that is not a Markov chain: the name of a choice, the name of another
        state, or a function of states, choices and shocks. On an integer state the result must be
        a member; on a continuous grid it is interpolated linearly, and what lies beyond its ends
        means what the grid's `outside` says.
    feasible : function or list of functions, optional
        Of states, choices and shocks (feasible means: for every shock): true or false, never a
        number. Of a list all must be true. Infeasible choices are masked before their reward is
        used. What can bind on a continuous choice belongs in its interval's ends: of the functions
        that name a continuous state or choice, the true set is taken to be connected along each
        interval, and may leave out its ends (consumption above 0).
    shocks : dict, optional
        ``dp.iid`` draws, or a distribution's (``dp.lognormal``); independent of each other.
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

    def __post_init__(self) -> None:
        for name in ("states", "choices"):
            if not isinstance(getattr(self, name), Mapping) or not getattr(self, name):
                raise ModelError(f"{name} must be a dict with at least one entry")
        put = object.__setattr__  # the way a frozen dataclass normalises its own fields
        put(self, "states", {k: read_specification("state", k, v) for k, v in self.states.items()})
        put(
            self,
            "choices",
            {
                k: v if isinstance(v, str | Interval) else read_specification("choice", k, v)
                for k, v in self.choices.items()
            },
        )
        for name in ("shocks", "outputs", "moments", "transition", "taste_shocks", "monotone"):
            put(self, name, read_dict(name, getattr(self, name)))
        for name in ("marginal", "inverse_marginal"):
            put(self, name, read_dict(name, getattr(self, name)))
        put(self, "reward", _listed(self.reward))
        put(self, "increasing", _listed(self.increasing))
        conditions = () if self.feasible is None else _listed(self.feasible)
        put(self, "feasible", Conjunction(conditions) if len(conditions) > 1 else None)
        if len(conditions) == 1:
            put(self, "feasible", conditions[0])
        if not self.reward:
            raise ModelError("reward is an empty list; give a function, or a list to be summed")
        specs = {n: self.grid_of(n) for n in (*self.states, *self.gridded) if self._has_grid(n)}
        put(
            self,
            "post",
            {k: read_post(k, v, specs) for k, v in read_dict("post", self.post).items()},
        )
        self._check_construction()

    def on_grids(self) -> Model:
        """Return the model with lists of values for its continuous choices.

        It is for evaluating its functions at choices that are known: which values are listed is
        no matter, but that those of a state are listed where the interval is the state's.
        """
        if not self.continuous:
            return self
        listed = {n: c.state or Grid(np.asarray([0.0, 1.0])) for n, c in self.continuous.items()}
        return replace(self, choices={n: listed.get(n, c) for n, c in self.choices.items()})


def _listed(given: Any) -> tuple[Any, ...]:
    """Return what may be one thing or a list of them as a tuple."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(given) if several else (given,)

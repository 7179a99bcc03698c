r"""Post-decision variables.

A period of a model with a post-decision variable :math:`p` has two stages (Powell, 2011,
*Approximate Dynamic Programming*, ch. 4.6; Van Roy, Bertsekas, Lee and Tsitsiklis, 1997). The
decision turns state and choice into :math:`p = f(s, c, w)`; then the shocks that are left move
:math:`p` on to the next state:

.. math::
    W(p) = E_w v(x'(p, w)), \qquad q(s, c) = r(s, c) + \beta W(f(s, c)).

:math:`W` is taken once for each :math:`p`, however many pairs lead there. Where :math:`p` has a
continuous grid, :math:`W` and the rewards that name :math:`p` are interpolated linearly between its
points: a decision that leads between two of them is a lottery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.numerics.given import vector
from dpsolve.solvers.probability.iid import Iid
from dpsolve.solvers.probability.markov import Markov

from .arguments import bind
from .grids import Grid, Integers


@dataclass(frozen=True, eq=False)
class PostDecision:
    """A post-decision variable.

    Attributes
    ----------
    spec : Grid or Integers
        What values it has.
    rule : str or function
        How states, choices and shocks decide it.
    """

    spec: Grid | Integers
    rule: str | Callable[..., Any]

    def check_rule(self, name: str, known: Iterable[str], names: Iterable[str]) -> None:
        """Refuse a rule that is no function of `known` and none of `names`."""
        what = f"the rule of post variable '{name}'"
        if not isinstance(self.rule, str):
            bind(self.rule, known, what)
        elif self.rule not in names:
            raise ModelError(
                f"{what} is '{self.rule}', which is no choice, state or shock."
                f"{did_you_mean(self.rule, names)} It can be: {', '.join(names)}, or a function."
            )


def read_post(name: str, given: Any, specs: Mapping[str, Any]) -> PostDecision:
    """Read an entry of a model's `post`.

    Parameters
    ----------
    name : str
        Of the variable.
    given : (grid, rule)
        As the user wrote it.
    specs : mapping
        Of the states and choices, whose grids it may share.

    Raises
    ------
    ModelError
        If it is no such pair, or the grid is none.
    """
    if isinstance(given, PostDecision):
        return given
    try:
        spec, rule = given
    except (TypeError, ValueError):
        raise ModelError(
            f"post variable '{name}' is {given!r}; give its grid and its rule: "
            f"post={{'{name}': (dp.integers(0, 20), f)}}"
        ) from None
    if isinstance(spec, str) and spec not in specs:
        raise ModelError(
            f"post variable '{name}' shares the grid of '{spec}', which is no state or choice."
            f"{did_you_mean(spec, specs)} They are: {', '.join(specs)}."
        )
    spec = specs[spec] if isinstance(spec, str) else spec
    if isinstance(spec, Grid | Integers):
        return PostDecision(spec, rule)
    if not isinstance(spec, Markov | Iid):
        try:
            return PostDecision(Grid(vector(spec, f"the grid of post variable '{name}'")), rule)
        except (TypeError, ValueError):
            pass
    raise ModelError(
        f"post variable '{name}' has the grid {spec!r}; it can be dp.grid(...), dp.integers(...), "
        "a one-dimensional array, or the name of a state or choice with a grid of its own"
    )

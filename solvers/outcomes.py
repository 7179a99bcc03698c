"""Result codes of a solve, and the sentence of advice shown for each.

The command line begins here, so that NumPy is loaded where there is an array to put into words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RECORDS = ("residual", "error_bound", "iterations")
PER_POINT = (*RECORDS, "code")  # one number per point, whatever the model


class Certifies(IntEnum):
    """What bounds are of, by the number that a result holds; see :mod:`.certified`."""

    EXACT = 0
    CONTINUUM = 1
    INTERPOLATED = 2
    GRID = 3
    NONE = 4


class Concavity(IntEnum):
    """What is known of the concavity that bounds over a continuum rest on, likewise."""

    NONE = 0
    DECLARED = 1
    PROVED = 2


CERTIFIES = tuple(one.name.lower() for one in Certifies)
CONCAVITY = tuple(one.name.lower() for one in Concavity)
OF_CONTINUUM = ("certifies", "concavity", "policy_loss", "consumption_equivalent", "refined_size")
"""Numbers of a point with continuous choices, where it has them."""


class Outcome(IntEnum):
    """Result codes of a solve: 0 solved, 10 and above failed, all others inexact."""

    NOT_RISING = -6
    NO_BOUND = -5
    NOT_CONCAVE = -4
    TOO_COARSE = -3
    SAMPLED = -2
    GAIN_DIFFERS = -1
    SOLVED = 0
    MAX_ITER = 1
    ROUNDING = 2
    STALLED = 3
    NO_CERTIFICATE = 4
    DISTRIBUTION_LOOSE = 5
    SEVERAL_CLASSES = 6
    NOT_PROBABILITIES = 7
    OWN_BOUND = 8
    RUNNING = 9
    INFEASIBLE = 10
    NOT_FINITE = 11
    OFF_GRID = 12
    LEAK = 13
    DISCOUNT = 14
    NOT_INCREASING = 15
    DIVERGED = 16
    REFUSED = 17
    DISCOUNTED = 18


_SENTENCES = {
    Outcome.GAIN_DIFFERS: "the bounds on the gain stopped closing in on each other: the average "
    "reward seems to differ between states, as it does where no choice leads from one recurrent "
    "class to a better one (a multichain model); the bounds hold from every state, but no single "
    "gain does: connect the states, or solve each closed part by itself",
    Outcome.NOT_RISING: "the value is declared increasing in a state, and a step between the nodes "
    "says that it is not, or that the reward does not fall in the next state: nothing is certified "
    "of a continuous choice",
    Outcome.NO_BOUND: "no bound was found: slopes are no numbers at many nodes, or the value falls "
    "in a state that is cut off at its top (outside='clip') and is not concave then; nothing is "
    "certified",
    Outcome.NOT_CONCAVE: "the reward is declared concave, and is not: nothing is certified of a "
    "continuous choice",
    Outcome.TOO_COARSE: "this grid does not allow an error bound of tol over the continuum; take "
    "more points",
    Outcome.SAMPLED: "no better choice at {sample} sampled states (confidence .999), which bounds "
    "no error: nothing is certified; certificate='full' finds a bound",
    Outcome.SOLVED: "",
    Outcome.MAX_ITER: "the largest number of sweeps was reached before the certified error fell "
    "to tol; raise max_iter, or let method='auto' choose",
    Outcome.ROUNDING: "float64 rounding does not allow a smaller certified error at this discount "
    "and scale of values; raise tol to what error_bound says",
    Outcome.STALLED: "the certified error stopped falling before it reached tol; try another "
    "method, or raise inner_iter",
    Outcome.NO_CERTIFICATE: "the discount times the weights of extrapolation reaches 1, so that "
    "the Bellman operator need not contract and no bound holds; widen the grid or use "
    "outside='clip'",
    Outcome.DISTRIBUTION_LOOSE: "the certified distance from the stationary distribution did not "
    "reach tol; raise tol or max_iter, or try another method",
    Outcome.SEVERAL_CLASSES: "the policy's chain has several recurrent classes, which never meet, "
    "so that no stationary distribution is the only one; pass initial=... to dp.stationary for the "
    "long run from there",
    Outcome.NOT_PROBABILITIES: "the policy's transitions are no probabilities: a next state is "
    "extrapolated, a row does not sum to one, or an entry is negative or NaN; use outside='clip', "
    "or divide each row by its sum",
    Outcome.OWN_BOUND: "the error that the factory states of its arrays is above tol; raise tol to "
    "what error_bound says, or let the factory compute more exactly",
    Outcome.RUNNING: "the solve did not finish",
    Outcome.INFEASIBLE: "a state has no feasible choice, or all of its choices pay -inf",
    Outcome.NOT_FINITE: "a reward, next state, probability, discount, terminal value, output, grid "
    "or parameter is NaN or infinite",
    Outcome.OFF_GRID: "a feasible next state lies off its grid",
    Outcome.LEAK: "a row of probabilities does not sum to one",
    Outcome.DISCOUNT: "at this discount no bound on the value can be certified",
    Outcome.NOT_INCREASING: "the grid of a state does not increase",
    Outcome.DIVERGED: "the values grew without bound or became NaN during the iterations",
    Outcome.REFUSED: "the factory refuses these parameters",
    Outcome.DISCOUNTED: "criterion='average' takes a discount of exactly 1; set the discount to 1, "
    "or solve with criterion='discounted'",
}


def word(code: Any) -> str | np.ndarray[Any, Any]:
    """Return the status word of a code, or an array of words for an array of codes."""
    import numpy as np

    codes = np.asarray(code)
    words = np.where(codes == 0, "solved", np.where(codes < 10, "inexact", "failed"))
    return str(words) if words.ndim == 0 else words


UNCERTIFIED = "nothing is certified: the factory states no error_bound of its arrays"
"""What is said of points that have no error bound at all, not even an infinite one."""


LEFT_OUT = "error_bound leaves out the cells beside them"
"""How the message of a solved point ends where some states are worth -inf."""


def sentence(code: int, sample: int | None = None) -> str:
    """Return the sentence of one code ('' for solved); `sample` is the number of states drawn."""
    return _SENTENCES[Outcome(int(code))].format(sample="the" if sample is None else f"{sample:,}")


def listed(values: Mapping[str, Any]) -> str:
    """Return names and values in one line: ``beta=0.96, n_a=200``; of an array its shape."""
    numbers = {k: shown(v) for k, v in values.items()}
    each = (f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in numbers.items())
    return ", ".join(each)


def shown(value: Any) -> Any:
    """Return a parameter as it is shown: a number, or what an array's entries lie between."""
    if not hasattr(value, "dtype"):
        return value
    import numpy as np

    array = np.asarray(value)
    if array.ndim == 0 or not array.size:
        return array.item() if array.ndim == 0 else f"array {array.shape}"
    low, high = array.min(), array.max()
    between = f"of {low:g}" if low == high else f"between {low:g} and {high:g}"
    return f"array {array.shape} {between}"


def in_words(words: tuple[str, ...], numbers: Any) -> str | np.ndarray[Any, Any]:
    """Return the words of int8 numbers, those of :data:`CERTIFIES` or :data:`CONCAVITY`."""
    import numpy as np

    codes = np.asarray(numbers).astype(np.int64)  # of none, which is of no type
    known = (codes >= 0) & (codes < len(words))  # a point that is not there has another
    found = np.where(known, np.array(words, dtype=object)[np.where(known, codes, 0)], "none")
    return found if found.ndim else str(found)


def accuracy(
    bound: float, tol: float | None, what: str = "certified error", of_what: str = ""
) -> str:
    """Return what is said of an error bound in a summary, which is nothing where it is none.

    Parameters
    ----------
    bound : float
    tol : float or None
        None: none was asked for, and whatever the grid allows will do.
    what : str
        What to call the bound.
    of_what : str
        What it is of, in words (:func:`.certified.of_what`).
    """
    if math.isnan(bound):
        return UNCERTIFIED
    asked = "" if tol is None else f" (tol {tol:g})"
    if math.isinf(bound):
        some = " at some points" if what.startswith("worst") else ""
        return f"nothing is certified{some}: error_bound is inf{asked}"
    first, more, rest = of_what.partition("; ")
    return " ".join(filter(None, [what, f"{bound:.3g}", first])) + asked + more + rest

"""What a result's arrays are called in words, in which units, and what each of them is.

A store opened without the model's file and without this package says so itself: every array has a
``long_name``, ``units`` where the model's labels have some, and a ``description``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from dpsolve.solvers.distributions.top_mass import PREFIX
from dpsolve.solvers.inspection.requests import FIXED
from dpsolve.solvers.labels import Label
from dpsolve.solvers.logit.taste_shocks import ERROR
from dpsolve.solvers.logit.taste_shocks import PREFIX as PROBABILITY
from dpsolve.solvers.model.construction import STATISTIC
from dpsolve.solvers.outcomes import CERTIFIES, CONCAVITY
from dpsolve.solvers.solution import CERTIFICATE
from dpsolve.solvers.solve.result_dims import ModelShape, differentiated


def _numbered(words: tuple[str, ...]) -> str:
    return ", ".join(f"{i} {word}" for i, word in enumerate(words))


LONG_NAMES = {
    "value": "value function",
    "lower": "certified lower bound on the value function",
    "upper": "certified upper bound on the value function",
    "gain": "average reward per period",
    "gain_lower": "certified lower bound on the gain, from every state",
    "gain_upper": "certified upper bound on the gain, from every state",
    CERTIFICATE: "what was looked at: 0 full sweeps, which certify; 1 a sample of states, "
    "which bounds no error",
    "certifies": "what the bounds are of: " + _numbered(CERTIFIES),
    "concavity": "concavity of the model: " + _numbered(CONCAVITY),
    "policy_loss": "bound on what the policy loses at any state, interpolated between nodes",
    "consumption_equivalent": "width of the bounds, as a share of consumption in every period",
    ERROR: "certified bound on the error of the probabilities",
    "distribution": "stationary distribution",
    "distribution_path": "distribution over time",
    "distribution_residual": "change of the distribution in one period, L1 norm",
    "distribution_error": "certified L1 distance of the distribution from the stationary one",
    "distribution_period": "period of the chain",
}

DESCRIPTIONS = {
    "value": "What each state is worth under the policy that was found, in units of the reward.",
    "lower": "The true value is nowhere below it; of which problem, error_bound says.",
    "upper": "The true value is nowhere above it; of which problem, error_bound says.",
    "distribution": "Mass at each state in the long run under the policy; sums to one.",
    "distribution_path": "Mass at each state and time under the policy; sums to one at each time.",
}
BY_PREFIX = {
    "policy_index_": "Position of the choice that was found on its grid, at each state.",
    "policy_lower_": "No optimal choice lies below it, at each state.",
    "policy_upper_": "No optimal choice lies above it, at each state.",
    "policy_": "The choice that was found, at each state.",
    PROBABILITY: "Chance of each value of the choice, at each state: tastes decide; sums to one.",
    "output_": "A function of the model at the policy, averaged over the shocks that it takes.",
    "moment_": "Of the stationary distribution under the policy.",
    "grid_": "The points of this state, which differ from one parameter point to another.",
    PREFIX: "Mass at the end of a grid: where it is large, the grid ends too early.",
}
_STATISTICS = {"mean": "mean", "sd": "standard deviation", "var": "variance", "gini": "Gini index",
               "top": "mass at the upper end", "bottom": "mass at the lower end"}  # fmt: skip


class Called(NamedTuple):
    """What an array is called, and what it is."""

    label: Label
    description: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of the stored array."""
        told = {"description": self.description} if self.description else {}
        return self.label.attributes | told


def named(name: str, names: Collection[str], shape: ModelShape) -> Called:
    """Return what an array is called, by the model's labels where it has some.

    Parameters
    ----------
    name : str
    names : collection of str
        Of all arrays.
    shape : ModelShape
    """
    description = DESCRIPTIONS.get(name, "")
    if not description and name not in LONG_NAMES and shape.own is None:
        prefix = next((p for p in BY_PREFIX if name.startswith(p)), "")
        description = BY_PREFIX.get(prefix, "")
    return Called(_label(name, names, shape), description)


def _label(name: str, names: Collection[str], shape: ModelShape) -> Label:
    if name in LONG_NAMES and shape.own is None:
        units = shape.labels["value"].units if "value" in shape.labels else ""
        own = name in ("value", "lower", "upper")
        if name == "value" and "value" in shape.labels:
            return shape.labels["value"]
        return Label(LONG_NAMES[name], units if own else "")
    variable = differentiated(name, names)
    if variable != name:
        parameter = name.removeprefix(f"d_{variable}_d_")
        held = ", at the fixed policy," if parameter.endswith(FIXED) else ""
        by = parameter.removesuffix(FIXED)
        return Label(f"derivative by {by}{held} of: {_label(variable, (), shape).words}")
    labels = choice_labels(shape)
    for prefix, words, after in (
        ("policy_index_", "optimal choice, as a position on its grid: ", ", position on its grid"),
        ("policy_lower_", "certified lower end of the optimal choice: ", ", certified lower end"),
        ("policy_upper_", "certified upper end of the optimal choice: ", ", certified upper end"),
        ("policy_", "optimal choice: ", ""),
        (PROBABILITY, "probability of the choice: ", None),
        ("output_", "at the optimum: ", ""),
        ("grid_", "grid of ", ""),
        (PREFIX, "mass on the last point of the grid of ", None),
    ):
        if name.startswith(prefix):
            what = name.removeprefix(prefix)
            if what not in labels or after is None:
                return Label(words + (labels[what].words if what in labels else what))
            units = "" if prefix == "policy_index_" else labels[what].units
            return Label(labels[what].words + after, units)
    if name.startswith("moment_"):
        return _moment(name.removeprefix("moment_"), labels)
    return Label(LONG_NAMES.get(name, name))


def _moment(name: str, labels: Mapping[str, Label]) -> Label:
    if name in labels:
        return labels[name]
    usual = STATISTIC.fullmatch(name)
    of = labels.get(usual["variable"]) if usual else None
    if usual is None or of is None:
        return Label(f"under the stationary distribution: {name}")
    statistic = usual["statistic"]
    words = _STATISTICS.get(statistic, f"percentile {statistic[1:]}")
    keeps = statistic in ("mean", "sd") or words.startswith("percentile")
    return Label(f"{words} of {of.words}", of.units if keeps else "")


def choice_labels(shape: ModelShape) -> dict[str, Label]:
    """Return the labels, with that of a state for the choice that is its next value."""
    after = {
        choice: Label(f"{shape.labels[state].words} next period", shape.labels[state].units)
        for choice, state in shape.next_of.items()
        if state in shape.labels
    }
    return {**after, **shape.labels}

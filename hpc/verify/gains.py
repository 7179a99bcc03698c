r"""What one step of the definition proves about an average reward, and what contradicts it.

With :math:`d = Tv - v` for the stored relative value :math:`v`, every state's gain lies in
:math:`[\min d, \max d]` (see :mod:`dpsolve.solvers.methods.average`).
So a stored bound is confirmed if it
is no tighter than that, but for rounding. A policy that is greedy for the stored value loses
nothing in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bellman import Array, Index
from .proofs import EPS, Claim, Place, Step

GAINS = ("gain", "gain_lower", "gain_upper")


@dataclass(frozen=True)
class GainStep:
    """One step from a stored relative value (n,), and what is stored of the gain.

    ``error`` is the independent bound on the error of the stored gain, NaN if none is stored.
    """

    step: Step
    gains: Mapping[str, float]

    @property
    def residual(self) -> float:
        """Half the span of the change."""
        change = self.step.difference
        return float(change.max() - change.min()) / 2

    @property
    def error(self) -> float:
        """How far the stored gain may be off, by this step alone."""
        gain, change = self.gains.get("gain", np.nan), self.step.difference
        reach = max(change.max() - gain, gain - change.min())
        return float(reach) + self.step.rounding

    def faults(self, policy: Index | None) -> Iterator[str]:
        """Yield each contradiction between what is stored and the step."""
        step, bound = self.step, self.step.bound
        if not np.isfinite(step.sweep.value[0]).all():
            i = int(np.argmin(np.isfinite(step.sweep.value[0])))
            yield (
                f"value: the definition gives {step.sweep.value[0][i]} at {step.at(i)} (no "
                "feasible choice, or a reward that is not a number), but the point is not stored "
                "as failed"
            )
            return
        yield from self._wrong_numbers()
        least, most = step.sweep.discount
        if not abs(least - 1) <= 1e-8 or not abs(most - 1) <= 1e-8:
            yield f"the gain is of a discount of 1, but the model's reaches {most:.12g}"
        if not step.sweep.monotone and np.isfinite(bound):
            yield "a bound on the gain is claimed, but a next state is extrapolated: none holds"
        change, slack = step.difference, 2 * step.rounding
        for name, sign, proven in (
            ("gain_lower", 1.0, float(change.min())),
            ("gain_upper", -1.0, float(change.max())),
        ):
            claimed = self.gains.get(name, sign * -np.inf)
            if sign * (claimed - proven) > slack:
                i = int(np.argmin(sign * change))
                yield (
                    f"{name} is {claimed:.12g}, which is not confirmed: at {step.at(i)} one step "
                    f"of the definition moves the value by {proven:.12g}"
                )
        if self.residual > bound + slack:
            yield (
                f"one step of the definition leaves the gain open by {self.residual:.3g} either "
                f"way, but error_bound claims {bound:.3g}"
            )
        if policy is not None:
            yield from step.policy_faults(policy)

    def _wrong_numbers(self) -> Iterator[str]:
        """Compare the stored numbers with each other."""
        bound = self.step.bound
        if np.isnan(bound) or bound < 0:
            yield f"error_bound is {bound}, which is no bound"
            return
        for name, x in self.gains.items():
            if np.isnan(x):
                yield f"{name} is NaN"
        if "gain" not in self.gains or not np.isfinite(bound):
            return
        gain = self.gains["gain"]
        allowed = bound * (1 + 8 * EPS) + 16 * EPS * abs(gain)
        for name, sign in (("gain_lower", 1.0), ("gain_upper", -1.0)):
            apart = sign * (gain - self.gains.get(name, gain))
            if not 0 <= apart <= allowed:
                yield (
                    f"gain={gain:.12g} and {name}={self.gains[name]:.12g} contradict "
                    f"error_bound={bound:.12g}"
                )


def gain_step(
    place: Place, arrays: Mapping[str, NDArray[np.float64]], bound: float
) -> GainStep | None:
    """Take one step from the stored relative value; None if no value is stored."""
    if "value" not in arrays:
        return None
    value: Array = np.asarray(arrays["value"], np.float64).reshape(-1)
    claim = Claim(value, value, value, (None, None))
    gains = {name: float(arrays[name]) for name in GAINS if name in arrays}
    return GainStep(Step(place, None, claim, claim, bound), gains)

"""The options of a solve, checked once, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import UsageError, did_you_mean

__all__ = ["METHODS", "SolveOptions"]

# The canonical name of each method, and what else it is called in the literature.
METHODS: dict[str, tuple[str, ...]] = {
    "auto": (),
    "vi": ("value", "vfi", "value_iteration", "value_function_iteration"),
    "pi": ("policy", "hpi", "howard", "policy_iteration", "howard_policy_iteration"),
    "opi": ("optimistic", "mpi", "modified", "optimistic_policy_iteration",
            "modified_policy_iteration"),
}  # fmt: skip


@dataclass(frozen=True)
class SolveOptions:
    """How to solve.

    Attributes
    ----------
    tol : float
        Certified sup-norm error of the value to reach.
    method : str
        ``auto``, ``vi`` (value iteration), ``pi`` (Howard policy iteration with a Krylov inner
        solver) or ``opi`` (optimistic policy iteration). None changes what is certified.
    max_iter : int
        Bellman sweeps (full maximisations) at most.
    steps : int
        Evaluation steps per sweep of optimistic policy iteration.
    inner_iter : int
        Krylov iterations per sweep at most.
    block : int or None
        Number of choices looked at together; None: as many as fit `memory`.
    memory : int
        Bytes the arrays over states and choices may take. The reward is kept when it fits, and
        recomputed block by block when it does not.
    """

    tol: float = 1e-6
    method: str = "auto"
    max_iter: int = 100_000
    steps: int = 50
    inner_iter: int = 500
    block: int | None = None
    memory: int = 256 * 2**20

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _method(self.method))
        if isinstance(self.tol, bool) or not isinstance(self.tol, int | float):
            raise UsageError(f"tol={self.tol!r} is not a number; write for example tol = 1e-8")
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise UsageError(f"tol={self.tol!r}; it is the certified error to reach, above 0")
        object.__setattr__(self, "tol", float(self.tol))
        for name in ("max_iter", "steps", "inner_iter", "block", "memory"):
            x = getattr(self, name)
            if name == "block" and x is None:
                continue
            if isinstance(x, bool) or not isinstance(x, int) or x < 1:
                raise UsageError(f"{name}={x!r}; it is a whole number, at least 1")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> SolveOptions:
        """Make options from a mapping, such as the ``[solve]`` table of a sweep file.

        Raises
        ------
        UsageError
            If a key is unknown or a value is unusable.
        """
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise UsageError(
                    f"there is no solve option '{name}'.{did_you_mean(name, known)} "
                    f"The options are: {', '.join(known)}."
                )
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return asdict(self)


def _method(name: Any) -> str:
    wanted = str(name).lower().replace("-", "_").replace(" ", "_")
    for method, aliases in METHODS.items():
        if wanted == method or wanted in aliases:
            return method
    names = [n for method, aliases in METHODS.items() for n in (method, *aliases)]
    raise UsageError(
        f"method={name!r} is unknown.{did_you_mean(wanted, names)} The methods are: "
        f"{', '.join(METHODS)}."
    )

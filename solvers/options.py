"""SolveOptions: every option of a solve and its default, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .errors import UsageError, did_you_mean

# The canonical name of each method, and what else it is called in the literature.
METHODS: dict[str, tuple[str, ...]] = {
    "auto": (),
    "vi": ("value", "vfi", "value_iteration", "value_function_iteration"),
    "pi": ("policy", "hpi", "howard", "policy_iteration", "howard_policy_iteration"),
    "opi": ("optimistic", "mpi", "modified", "optimistic_policy_iteration",
            "modified_policy_iteration"),
    "egm": ("endogenous_grid", "endogenous_grid_method"),
}  # fmt: skip

# What is maximised, and what else it is called.
CRITERIA: dict[str, tuple[str, ...]] = {
    "discounted": ("discount",),
    "average": ("average_reward", "gain", "long_run_average"),
}

# The same for stationary distributions.
STATIONARY_METHODS: dict[str, tuple[str, ...]] = {
    "auto": (),
    "plain": ("iteration", "power"),
    "krylov": ("accelerated",),
    "arnoldi": ("eigenvector",),
    "linear": ("direct",),
    "null": ("null_space",),
    "gth": (),
}

# What an initial distribution may say of a state, beside a number and a list of masses.
INITIAL_WORDS = ("stationary", "uniform")
INITIAL_SLACK = 1e-9  # how far masses may miss one before they are refused

PRECISIONS: dict[str, tuple[str, ...]] = {"double": ("float64",), "mixed": ("float32", "single")}
# Nothing is left uncertified unless that was asked for: so `auto` is the full certificate.
CERTIFICATES: dict[str, tuple[str, ...]] = {"full": ("auto",), "sampled": ("sample",)}

# What a point is asked for beside its value: absent from `as_dict` when it is not asked for, so
# that what was stored before there was such an option still reads the same.
_EXTRAS = ("distribution", "moments", "gradients", "gradients_fixed_policy", "periods", "initial")
# Options that came later: absent at their default, for the same reason. So is a `tol` that is not
# given, which stood there as 1e-6 when every choice was made on a grid.
_LATER = ("criterion", "precision", "warm", "certificate", "sample", "sample_seed", "cycles",
          "tol", "refine", "distribution_grid")  # fmt: skip
GRID_TOL = 1e-6  # what is reached where none is asked for, and choices are made on a grid
_EXTRAS_TUNING = ("distribution_tol", "distribution_method")


@dataclass(frozen=True)
class SolveOptions:
    """How to solve.

    Attributes
    ----------
    tol : float or None
        Certified sup-norm error of the value to reach. None: 1e-6 where choices are made on a grid,
        and for continuous choices (``dp.interval``) whatever the grid allows: such a point is
        solved as soon as it is certified. See :meth:`tolerance`.
    method : str
        ``auto``, ``vi`` (value iteration), ``pi`` (Howard policy iteration with a Krylov inner
        solver) or ``opi`` (optimistic policy iteration); for continuous choices ``auto``, or
        ``egm`` (the endogenous grid method), which ``auto`` takes where it applies, and which is
        refused where it does not. None changes what is certified. Names of
        the literature mean these, and are kept as these: ``howard`` and ``policy_iteration`` are
        ``pi``, ``vfi`` and ``value_iteration`` are ``vi``, ``modified`` and ``mpi`` are ``opi``.
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
    distribution : bool
        Also find the stationary distribution of the optimal policy.
    moments : tuple of str
        Moments of it to find (see :mod:`.moments`): ``gini_a``, ``mean_consumption``, ``p90_a``,
        one of the model's own; ``moments`` stands for a usual set. They imply the distribution.
    gradients : tuple of str
        Parameters to differentiate by: the value, whose derivative does not ask how the policy
        moves (the envelope theorem), and all that a concave model with continuous choices, a model
        without choices, or a factory of arrays, gives. Where choices are from lists it is refused
        beside moments and distributions.
    gradients_fixed_policy : tuple of str
        Parameters to differentiate everything by *at the fixed policy*: outputs, distribution,
        moments and path, whose true derivatives these are not (see :mod:`.gradients`).
    periods : int or None
        Also follow the distribution over so many periods, from `initial`.
    initial : mapping or None
        The initial distribution by state name: a number (all mass there), a list of masses,
        ``stationary`` (a Markov state's default) or ``uniform``. Kept as a sorted tuple.
    distribution_tol : float
        Certified L1 distance of the stationary distribution to reach.
    distribution_method : str
        ``auto``, ``plain``, ``krylov``, ``arnoldi``, ``linear``, ``null`` or ``gth``.
    distribution_grid : mapping of str to int
        Points of continuous states' grids that distributions, paths and moments are on, where they
        are to be others than the value's: ``{"a": 1000}`` (see :mod:`.finer_grid`). Kept as a
        sorted tuple.
    warm : bool or None
        Whether points of a sweep start from what was found at the points before them; None: if the
        model is so large that a core works on one point at a time. Certificates are each point's
        own in any case.
    criterion : str
        ``discounted``, or ``average``: the average reward per period (the gain), at a discount of
        1. `tol` is then the certified error of the gain; see :mod:`.average`.
    cycles : bool
        Sweep a state that is a cycle (a weekday) phase by phase, where that can be done; see
        :mod:`.cyclic`. It changes how long a solve takes, and nothing that it certifies.
    precision : str
        ``double``, or ``mixed``: where rewards are kept, sweeps go ahead in float32 as far as that
        leads, and end in float64. What is certified does not change.
    certificate : str
        ``full`` (``auto`` is another word for it): a sweep over all pairs of a state and a choice.
        ``sampled``: over those of a random sample of states, where the maximum goes by divide and
        conquer. That is a statement of probability and certifies nothing: a point that it ends is
        ``inexact``, with an `error_bound` of inf (see :mod:`.sampled_certificate`).
    sample, sample_seed : int
        States in the sample, and the seed that draws them.
    refine : tuple of str
        Sizes of a model with continuous choices that are taken from n to 2n - 1 points until `tol`
        holds: each time the nodes contain the old ones. See :mod:`.refinement`.
    """

    tol: float | None = None
    method: str = "auto"
    max_iter: int = 100_000
    steps: int = 50
    inner_iter: int = 500
    block: int | None = None
    memory: int = 256 * 2**20
    distribution: bool = False
    moments: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    gradients_fixed_policy: tuple[str, ...] = ()
    periods: int | None = None
    initial: Any = None
    distribution_tol: float = 1e-8
    distribution_method: str = "auto"
    distribution_grid: Any = ()
    warm: bool | None = None
    criterion: str = "discounted"
    cycles: bool = True
    precision: str = "double"
    certificate: str = "full"
    sample: int = 2_000
    sample_seed: int = 0
    refine: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__  # the way a frozen dataclass normalises its own fields
        put(self, "method", canonical("method", self.method, METHODS))
        put(self, "criterion", canonical("criterion", self.criterion, CRITERIA))
        put(self, "precision", canonical("precision", self.precision, PRECISIONS))
        put(self, "certificate", canonical("certificate", self.certificate, CERTIFICATES))
        known = STATIONARY_METHODS
        put(self, "distribution_method", canonical("distribution_method", self.distribution_method,
                                                 known))  # fmt: skip
        if self.tol is not None:
            put(self, "tol", _tolerance("tol", self.tol, "the certified error to reach"))
        l1 = "the certified L1 distance of the distribution to reach"
        put(self, "distribution_tol", _tolerance("distribution_tol", self.distribution_tol, l1))
        for name in ("max_iter", "steps", "inner_iter", "block", "memory", "periods", "sample"):
            x = getattr(self, name)
            if name in ("block", "periods") and x is None:
                continue
            if isinstance(x, bool) or not isinstance(x, int) or x < 1:
                raise UsageError(f"{name}={x!r}; it is a whole number, at least 1")
            most = 2**63 - 1 if name == "memory" else 2**31 - 1  # what they are counted in
            if x > most:
                raise UsageError(f"{name}={x!r}; it is a whole number, at most {most:,}")
        seed = self.sample_seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UsageError(f"sample_seed={seed!r}; it is a whole number, 0 or above, of 63 bits")
        if self.warm not in (None, True, False):
            raise UsageError(f"warm={self.warm!r}; it is true or false, or left out")
        for name in ("distribution", "cycles"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r}; it is true or false")
        for name in ("moments", "gradients", "gradients_fixed_policy"):
            put(self, name, _names(name, getattr(self, name)))
        put(self, "initial", _initial(self.initial))
        put(self, "distribution_grid", distribution_sizes(self.distribution_grid))
        put(self, "refine", _names("refine", self.refine))
        if self.refine and self.tol is None:
            raise UsageError(
                f"refine={self.refine[0]!r} takes more points until tol holds, and no tol is "
                "given: add for example tol = 1e-4"
            )

    @property
    def tol_on_grid(self) -> float:
        """The certified error to reach where choices are made on a grid."""
        return GRID_TOL if self.tol is None else self.tol

    def tolerance(self, made: Any) -> float | None:
        """Return the certified error to reach of a model; None: as good as its grid allows.

        Parameters
        ----------
        made : Model, or anything else that a factory returns
            Or a bool: whether choices are continuous.
        """
        continuous = made if isinstance(made, bool) else bool(getattr(made, "continuous", None))
        return self.tol if continuous else self.tol_on_grid

    @property
    def differentiated_by(self) -> tuple[str, ...]:
        """The parameters by which anything is differentiated."""
        return tuple(dict.fromkeys((*self.gradients, *self.gradients_fixed_policy)))

    @property
    def stationary(self) -> bool:
        """Whether the stationary distribution is needed."""
        return self.distribution or bool(self.moments)

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
        """Return the options as plain values, which ``from_mapping`` reads back."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        if self.initial is not None:
            plain["initial"] = {name: _plain(given) for name, given in self.initial}
        dropped = {name for name in _LATER if getattr(self, name) == getattr(SolveOptions, name)}
        plain["distribution_grid"] = dict(self.distribution_grid)
        asked = [name for name in _EXTRAS if plain[name] not in (None, False, [])]
        tuning = _EXTRAS_TUNING if self.stationary else ()
        dropped |= {*_EXTRAS, *_EXTRAS_TUNING} - {*asked, *tuning}
        return {name: x for name, x in plain.items() if name not in dropped}


def _plain(value: Any) -> Any:
    return [_plain(x) for x in value] if isinstance(value, tuple) else value


def _tolerance(name: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}={value!r} is not a number; write for example {name} = 1e-8")
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name}={value!r}; it is {what}, above 0")
    return float(value)


def _names(name: str, given: Any) -> tuple[str, ...]:
    """Read a list of names, or one text with commas, and drop repetitions."""
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if not isinstance(given, Sequence) or not all(isinstance(x, str) and x for x in given):
        examples = {"moments": '["gini_a", "mean_consumption"]', "refine": '["n_a"]'}
        such = examples.get(name, '["beta", "gamma"]')
        raise UsageError(f"{name}={given!r}; it is a list of names, such as {such}")
    return tuple(dict.fromkeys(given))


def _initial(given: Any) -> Any:
    """Read an initial distribution, and refuse what can be refused without the model."""
    if given is None:
        return None
    if isinstance(given, tuple):  # as it is kept
        given = dict(given)
    if not isinstance(given, Mapping):
        raise UsageError(
            f"initial={given!r}; it says for each state where its mass is: "
            '{ a = 0.0, z = "stationary" }'
        )
    return tuple(sorted((str(name), _marginal(str(name), x)) for name, x in given.items()))


def _marginal(name: str, given: Any) -> Any:
    if isinstance(given, str):
        if given not in INITIAL_WORDS:
            raise UsageError(
                f"initial: {name} is {given!r}.{did_you_mean(given, INITIAL_WORDS)} It is a number "
                "(all mass there), a list of masses, 'stationary' or 'uniform'"
            )
        return given
    if hasattr(given, "tolist"):  # an array or a scalar of NumPy or JAX
        given = given.tolist()
    if isinstance(given, int | float) and not isinstance(given, bool):
        if not math.isfinite(given):
            raise UsageError(f"initial: {name} is {given}, which is no value of a state")
        return given
    if not isinstance(given, Sequence) or not all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in given
    ):
        raise UsageError(
            f"initial: {name} is {given!r}; it is a number (all mass there), a list of masses, "
            "'stationary' or 'uniform'"
        )
    for i, x in enumerate(given):
        if not x >= 0:
            raise UsageError(f"initial: entry {i + 1} of {name} is {x}; a mass is 0 or above")
    total = math.fsum(given)
    if not abs(total - 1.0) <= INITIAL_SLACK:
        remedy = f"divide each by {total:.12g}" if total > 0 else "put some mass somewhere"
        raise UsageError(f"initial: the masses of {name} sum to {total:.12g}, not to 1; {remedy}")
    return tuple(float(x) for x in given)


MOST_POINTS = 2**31 - 1  # which positions are counted to


def distribution_sizes(given: Any) -> tuple[tuple[str, int], ...]:
    """Read the sizes of a distribution's grids by state, sorted.

    Raises
    ------
    UsageError
        If it is no mapping of names to numbers of points, at least 2.
    """
    if given is None or isinstance(given, tuple):  # as it is kept
        given = dict(given or ())
    if not isinstance(given, Mapping):
        raise UsageError(
            f"distribution_grid={given!r}; it says for a continuous state how many points its "
            "distribution has: { a = 1000 }"
        )
    for name, n in given.items():
        whole = isinstance(n, int) and not isinstance(n, bool)
        if not whole or not 2 <= n <= MOST_POINTS:
            raise UsageError(
                f"distribution_grid: {name} is {n!r}; it is a whole number of points, at least 2"
            )
    return tuple(sorted((str(name), n) for name, n in given.items()))


def canonical(option: str, name: Any, known: Mapping[str, tuple[str, ...]]) -> str:
    """Return the canonical name of a method, given by that or by what else it is called."""
    wanted = str(name).lower().replace("-", "_").replace(" ", "_")
    for method, aliases in known.items():
        if wanted == method or wanted in aliases:
            return method
    names = [n for method, aliases in known.items() for n in (method, *aliases)]
    each = (m + f" ({', '.join(aliases)})" * bool(aliases) for m, aliases in known.items())
    raise UsageError(
        f"{option}={name!r} is unknown.{did_you_mean(wanted, names)} It is one of: "
        f"{', '.join(each)}."
    )

"""What a solve returns: ``Solution`` and its ``Problem``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.model.factory_signature import Factory, look_over, signature
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import is_concrete

from .errors import UsageError
from .labelled import entry, labelled
from .options import SolveOptions
from .outcomes import RECORDS, UNCERTIFIED, Outcome, accuracy, sentence, word

if TYPE_CHECKING:
    import xarray


CERTIFICATE = "certificate"  # the array that tells which it was: 0 full, 1 by a sample
BESIDE_POLICY = ("index_", "lower_", "upper_", "loss")  # arrays that tell more of a policy


@dataclass(frozen=True)
class Problem:
    """What was solved, but for the values of the parameters.

    Attributes
    ----------
    factory : function or None
        The model's factory; None when a ready model was solved.
    model : Model or TabularModel or None
        The ready model.
    sizes : tuple of (name, value)
        Static parameters.
    options : SolveOptions
        How it was solved.
    dims : tuple of (name, tuple of str)
        Dimensions of each array, without the axis of points.
    batched : bool
        Whether arrays have a leading axis of points.
    """

    factory: Factory | None
    model: Any
    sizes: tuple[tuple[str, Any], ...]
    options: SolveOptions
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    batched: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return signature(self.factory).name if self.factory is not None else "model"


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Solution:
    """Value, bounds and policy of a model; with ``solve_many``, of many points of it.

    Arrays are over the states in the model's order, with ``t`` first for a finite horizon, and the
    axis of points before everything for ``solve_many``. One device's results are JAX arrays; those
    of many points, and what several devices put together unevenly, are NumPy's.

    Attributes
    ----------
    value, lower, upper : array (states...)
        The value function, and certified bounds on the true one: ``lower <= v* <= upper``. With
        ``criterion="average"`` the value is relative, 0 at the first state, and has no bounds.
    gain, gain_lower, gain_upper : float
        With ``criterion="average"``, the average reward per period and its certified bounds.
    policy : dict of str to array (states...)
        The optimal choice's value, by choice name: a grid point, or with ``dp.certify`` any.
    policy_index : dict of str to int array (states...)
        Its position on the choice's grid.
    outputs : dict of str to array (states...)
        The model's outputs at the optimum.
    grids : dict of str to array (n,)
        The states' values.
    distribution : array (states...)
        The optimal policy's stationary distribution, where ``distribution=True`` asked for it.
    distribution_path : array (time, states...)
        The distribution over time, where ``periods`` asked for it.
    moments : dict of str to float
        Moments of the stationary distribution, those that ``moments`` asked for: refused, or NaN,
        where the distribution is not certified.
    gradients : dict of str to dict of str to array
        By parameter, then by variable, those that ``gradients`` asked for:
        ``gradients["beta"]["value"]``; see :mod:`.gradients`.
    gradients_fixed_policy : dict of str to dict of str to array
        The same at the fixed policy, those that ``gradients_fixed_policy`` asked for:
        ``gradients_fixed_policy["beta"]["moment_mean_a"]``.
    residual, error_bound : float
        Sup-norm of the last sweep's change; certified sup-norm error of `value`.
    iterations : int
        Bellman sweeps made.
    status : str, or array of str
        ``solved`` (certified within tol), ``inexact`` (bounds are wider) or ``failed``.
    message : str, or array of str
        Why, in a sentence; empty when solved, but for a factory's own arrays without an error
        bound: it says that nothing is certified.
    certificate : str, or array of str
        ``full``; or ``sampled``, which is none: see :mod:`.sampled_certificate`.
    parameters : dict
        Every economic parameter.
    problem : Problem
        What was solved, so that other functions need nothing else.
    seconds, compile_seconds : float, or array of float and float
        What the solve took, and what compiling took before it: 0 once these sizes and options were
        compiled in this process.
    """

    arrays: Mapping[str, AnyArray] = field(repr=False)
    parameters: Mapping[str, AnyArray]
    problem: Problem = field(repr=False)
    messages: str | Numpy | None = field(default=None, repr=False)
    seconds: float | Numpy | None = field(default=None, repr=False)
    compile_seconds: float | None = field(default=None, repr=False)

    @property
    def value(self) -> AnyArray:
        """The value function (states...)."""
        return self._kept("value")

    @property
    def lower(self) -> AnyArray:
        """Certified lower bound on the value function (states...)."""
        return self._kept("lower")

    @property
    def upper(self) -> AnyArray:
        """Certified upper bound on the value function (states...)."""
        return self._kept("upper")

    @property
    def gain(self) -> AnyArray:
        """The average reward per period, of ``criterion="average"``: a number, or (points,)."""
        return self._of_average("gain")

    @property
    def gain_lower(self) -> AnyArray:
        """Certified lower bound on the gain, from every state: a number, or (points,)."""
        return self._of_average("gain_lower")

    @property
    def gain_upper(self) -> AnyArray:
        """Certified upper bound on the gain, from every state: a number, or (points,)."""
        return self._of_average("gain_upper")

    def _of_average(self, name: str) -> AnyArray:
        if name not in self.arrays:
            raise UsageError(
                f"this solution of {self.problem.name} has no {name}, which is of the average "
                "reward; solve with criterion='average' and a discount of 1"
            )
        return self.arrays[name]

    @property
    def certificate(self) -> str | Numpy:
        """What it rests on: ``full`` sweeps, which certify, or ``sampled`` states, which do not."""
        if CERTIFICATE in self.arrays:
            kind = np.asarray(self.arrays[CERTIFICATE])
        else:
            kind = np.zeros(np.shape(self.arrays["code"]), np.int8)
        words = np.where(kind == 1, "sampled", "full")
        return words if words.ndim else str(words)

    @property
    def certifies(self) -> str:
        """What the bounds are of: ``exact``, ``continuum``, ``grid`` or ``none``.

        ``exact``: nothing is continuous. ``continuum``: the true value, of a choice and a state
        that are continuous (``dp.certify``). ``grid``: the problem on the grid, whose choices are
        grid points and whose values between them are interpolated; of a continuous choice they say
        nothing. ``none``: nothing is certified.
        """
        if "policy_loss" in self.arrays:
            return "continuum" if np.isfinite(self.arrays["error_bound"]) else "none"
        if "value" not in dict(self.problem.dims):
            return "none"
        return "grid" if _is_continuous(self.problem) else "exact"

    def _kept(self, name: str) -> AnyArray:
        if name in ("lower", "upper") and "gain" in self.arrays:
            raise UsageError(
                f"this solution of {self.problem.name} is of the average reward: its value is "
                f"relative, and has no {name} bound. The bounds are those of the gain: "
                f"gain_{name}"
            )
        if name not in self.arrays:
            raise UsageError(
                f"this solution of {self.problem.name} has no {name}: its factory returns other "
                f'arrays, or the store it was loaded from did not keep it (keep = ["{name}"])'
            )
        return self.arrays[name]

    def _group(self, prefix: str) -> dict[str, AnyArray]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def policy_index(self) -> dict[str, AnyArray]:
        """The optimal choice's position on its grid (states...), by choice name."""
        return self._group("policy_index_")

    @property
    def policy(self) -> dict[str, AnyArray]:
        """The optimal choice's value (states...), by choice name."""
        found = {c: self.arrays[f"policy_{c}"] for c in self.policy_index}
        if "policy_loss" in self.arrays:  # of choices that lie between grid points
            between = self._group("policy_")
            found |= {c: x for c, x in between.items() if not c.startswith(BESIDE_POLICY)}
        return found

    @property
    def decisions(self) -> dict[str, AnyArray]:
        """The optimal choice (states...), by choice name: its position, or its value between."""
        return self.policy | self.policy_index

    @property
    def outputs(self) -> dict[str, AnyArray]:
        """The model's outputs (states...) at the optimum, by name."""
        return self._group("output_")

    @property
    def grids(self) -> dict[str, AnyArray]:
        """The states' values (n,), by state name."""
        return self._group("grid_")

    @property
    def distribution(self) -> AnyArray:
        """The optimal policy's stationary distribution (states...)."""
        return self._asked_for("distribution", "distribution=True")

    @property
    def distribution_path(self) -> AnyArray:
        """The distribution over time (time, states...), from the initial one."""
        return self._asked_for("distribution_path", "periods=40, initial={...}")

    def _asked_for(self, name: str, how: str) -> AnyArray:
        if name not in self.arrays:
            raise UsageError(
                f"this solution has no {name}, because it was not asked for: solve with {how}, or "
                f"call dp.{'path' if name.endswith('path') else 'stationary'}(solution)"
            )
        return self.arrays[name]

    @property
    def moments(self) -> dict[str, AnyArray]:
        """Moments of the stationary distribution, by name; empty if none was asked for.

        A number each, or (points,). They carry the status of the distribution: where it is not
        certified, one point's are refused, and those of many points, or inside a trace, are NaN.

        Raises
        ------
        UsageError
            If the distribution is not certified; ``solution["moment_<name>"]`` has the number.
        """
        found = self._group("moment_")
        if not found or "distribution_error" not in self.arrays:
            return found
        error = self.arrays["distribution_error"]
        certified = error <= self.problem.options.distribution_tol
        if not self.problem.batched and is_concrete(self.arrays) and self.status != "failed":
            code = Outcome.SOLVED if certified else Outcome.DISTRIBUTION_LOOSE
            refuse_uncertified(code, error, self.message, f"solution['moment_{next(iter(found))}']")
        return {**where_certified(found, certified)}

    @property
    def gradients(self) -> dict[str, dict[str, AnyArray]]:
        """Derivatives by parameter, then by variable; empty if none was asked for.

        Each has the shape of its variable.
        """
        return self._slopes(self.problem.options.gradients, "")

    @property
    def gradients_fixed_policy(self) -> dict[str, dict[str, AnyArray]]:
        """The same at the fixed policy: but for the value's, they are no true derivatives."""
        return self._slopes(self.problem.options.gradients_fixed_policy, "_fixed_policy")

    def _slopes(self, parameters: Iterable[str], how: str) -> dict[str, dict[str, AnyArray]]:
        found: dict[str, dict[str, AnyArray]] = {}
        for parameter in parameters:
            end = f"_d_{parameter}{how}"
            found[parameter] = {
                name.removeprefix("d_").removesuffix(end): x
                for name, x in self.arrays.items()
                if name.startswith("d_") and name.endswith(end)
            }
        return found

    @property
    def residual(self) -> AnyArray:
        """Sup-norm of the last sweep's change: a number, or (points,)."""
        return self.arrays["residual"]

    @property
    def error_bound(self) -> AnyArray:
        """Certified sup-norm error of the value: a number, or (points,)."""
        return self.arrays["error_bound"]

    @property
    def iterations(self) -> AnyArray:
        """Bellman sweeps made: a number, or (points,)."""
        return self.arrays["iterations"]

    @property
    def code(self) -> AnyArray:
        """The :class:`~.outcomes.Outcome`, as a number, or (points,)."""
        return self.arrays["code"]

    @property
    def status(self) -> str | Numpy:
        """How it ended: ``solved``, ``inexact`` or ``failed``; not to be had inside a trace."""
        return word(self.code)

    @property
    def message(self) -> str | Numpy:
        """Why, in a sentence; empty when solved."""
        if self.messages is not None:
            return self.messages
        # It came out of somebody's jit, where no place could be looked for.
        codes, sample = np.asarray(self.code), self.problem.options.sample
        words = np.array([sentence(int(c), sample) for c in codes.ravel()], dtype=object)
        words[(codes.ravel() == 0) & np.isnan(np.ravel(self.error_bound))] = UNCERTIFIED
        return words.reshape(codes.shape) if codes.ndim else str(words[0])

    def point(self, i: int) -> Solution:
        """Return one point of many as a solution of its own.

        Raises
        ------
        UsageError
            If this is a single point already, or there is no point `i`.
        """
        if not self.problem.batched:
            raise UsageError(f"this is one point of {self.problem.name} already, and not many")
        n = np.shape(self.code)[0]
        if not isinstance(i, int | np.integer) or not -n <= i < n:
            raise UsageError(f"there is no point {i!r}: the points are numbered from 0 to {n - 1}")
        one, own = jax.tree.map(lambda x: x[i], (self.arrays, self.parameters))
        messages = None if self.messages is None else str(self.messages[i])
        seconds = None if self.seconds is None else float(np.asarray(self.seconds)[i])
        return Solution(one, own, replace(self.problem, batched=False), messages, seconds)

    def __getitem__(self, name: str) -> AnyArray:
        """Return an array by the name it has in a store, or an output by its own name."""
        return entry(self.arrays, name, f"this solution of {self.problem.name}")

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an array by that name."""
        return name in self.arrays or f"output_{name}" in self.arrays

    def __repr__(self) -> str:
        if not is_concrete(self.arrays):
            return f"<Solution of {self.problem.name}, traced>"
        shape = np.shape(np.asarray(self.arrays.get("value", self.code)))
        if self.problem.batched:
            return f"<Solution of {self.problem.name}: {self._summary(shape)}>"
        why = str(self.message).rstrip(".")
        reason = (
            f"{self.status}{', ' if self.status == 'solved' else ': '}{why}" if why else "solved"
        )
        if self.status == "failed":
            return f"<Solution of {self.problem.name}: {reason}>"
        bound, sweeps = float(self.error_bound), f"{int(self.iterations)} sweeps"
        if np.isnan(bound):  # the reason says it
            return f"<Solution of {self.problem.name}: {reason}, shape {shape}>"
        certified = f"certified error {bound:.2g}{WHOSE[self.certifies]}"
        if self.certifies != "continuum":  # which is found by linear systems
            certified += f", {sweeps}"
        if not np.isfinite(bound):
            certified = f"nothing certified, {sweeps}"
        elif "value" not in dict(self.problem.dims):
            certified = f"error at most {bound:.2g} by the factory's word"
        elif self.status != "solved":
            certified += f" (tol {self.problem.options.tol:g})"
        return f"<Solution of {self.problem.name}: {reason}; {certified}, shape {shape}>"

    def _summary(self, shape: tuple[int, ...]) -> str:
        """Say in a line how many points ended how, and why the first that is not solved did."""
        status, bounds = np.atleast_1d(self.status), np.asarray(self.error_bound)
        words, counts = np.unique(status, return_counts=True)
        each = ", ".join(f"{n:,} {w}" for w, n in zip(words, counts, strict=True))
        parts = [f"{shape[0]:,} points: {each}"]
        if (bounds := bounds[status != "failed"]).size:
            worst = float(np.max(bounds))  # NaN where one has none
            parts += [accuracy(worst, self.problem.options.tol, "worst certified error")]
        if (status != "solved").any():
            first = int(np.argmax(np.where(status == "failed", 2, status == "inexact")))
            parts += [f"point {first} {status[first]}: {np.atleast_1d(self.message)[first]}"]
        return "; ".join(part.rstrip(".") for part in [*parts, f"shape {shape}"])

    # -- labelled results -----------------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """Return an ``xarray.Dataset``, with the names that a store has.

        Dimensions are the states' names (after ``point`` for many points); states' values are
        coordinates, named ``grid_<state>`` where they differ between points.
        """
        named = [
            (name, dims, self.arrays[name])
            for name, dims in self.problem.dims
            if name in self.arrays
        ]  # the store that it was loaded from may have kept less
        numbers = {name: self.arrays[name] for name in RECORDS}
        attrs = {"model": self.problem.name, "tol": self.problem.options.tol}
        return labelled(self, named, numbers, self.problem.batched).assign_attrs(attrs)

    # -- pytree ---------------------------------------------------------------------------------

    def tree_flatten(self) -> tuple[Any, Any]:
        """Split into arrays and the rest, for JAX."""
        return (self.arrays, self.parameters), self.problem

    @classmethod
    def tree_unflatten(cls, problem: Problem, children: Any) -> Solution:
        """Put together again."""
        arrays, parameters = children
        return cls(arrays, parameters, problem)


WHOSE = {"continuum": " over the continuum", "grid": " on this grid", "exact": "", "none": ""}
"""What a certified error is of, in a summary."""


def _is_continuous(problem: Problem) -> bool:
    """Tell whether a state of the model is continuous, so that its grid stands for more."""

    def look(made: Any) -> bool:
        return any(isinstance(s, Grid) for s in getattr(made, "states", {}).values())

    if problem.factory is None:
        return look(problem.model)
    return look_over(problem.factory, dict(problem.sizes), look)


def where_certified(moments: Mapping[str, AnyArray], certified: AnyArray) -> dict[str, jax.Array]:
    """Put NaN in place of the moments of distributions that are not certified.

    Parameters
    ----------
    moments : dict of str to array
        With the axis of points, if there is one, before others.
    certified : bool, or bool array (points,)
    """

    def masked(x: AnyArray) -> jax.Array:
        beside = (1,) * (np.ndim(x) - np.ndim(certified))
        return jnp.where(jnp.reshape(certified, (*np.shape(certified), *beside)), x, jnp.nan)

    return {name: masked(x) for name, x in moments.items()}


def refuse_uncertified(code: AnyArray | int, bound: AnyArray, message: object, door: str) -> None:
    """Refuse moments of one distribution that is not certified.

    Parameters
    ----------
    code, bound : int, float
        Of the distribution.
    message : str
        Why it is not certified.
    door : str
        How to get at the moments all the same.

    Raises
    ------
    UsageError
        With the bound and the remedy.
    """
    if word(code) == "inexact":
        far = "nothing bounds its distance from the true one"
        if np.isfinite(bound):
            far = f"its L1 distance from the true one is at most {min(float(bound), 2.0):.3g}"
        raise UsageError(
            f"these are moments of a distribution that is not certified ({far}): {message}. They "
            f"may be far from the true moments; {door} gives them all the same"
        )

"""What a solve returns: ``Solution`` and its ``Problem``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.logit.taste_shocks import ERROR, PREFIX
from dpsolve.solvers.model.chains import transition_matrix
from dpsolve.solvers.model.factory_signature import Factory, look_over, signature
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import is_concrete

from .certified import OF_WHAT, REFINED, TABLE, at_best, of_what
from .errors import UsageError
from .labelled import choices_of, entry, labelled
from .options import SolveOptions
from .outcomes import CERTIFIES, CONCAVITY, RECORDS, UNCERTIFIED, Outcome, in_words, sentence, word
from .summary import in_a_line

if TYPE_CHECKING:
    import xarray


CERTIFICATE = "certificate"  # the array that tells which it was: 0 full, 1 by a sample


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

    @property
    def array_dims(self) -> dict[str, tuple[str, ...]]:
        """The dimensions of the parameters that are arrays."""
        return signature(self.factory).array_dims if self.factory is not None else {}


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
        The optimal choice's value, by choice name: a grid point, or any of an interval.
    policy_lower, policy_upper : dict of str to array (states...)
        With one continuous choice, the ends between which the optimal choice lies, certified.
    probability : dict of str to array (states..., choice)
        Of a choice with taste shocks, the chances of its values; they are certified to be within
        ``probability_error`` of the true ones.
    policy_index : dict of str to int array (states...)
        Its position on the choice's grid, where that has one.
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
    certifies, concavity : str, or array of str
        What the bounds are of, and what is known of the concavity that they rest on.
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
    def certifies(self) -> str | Numpy:
        """What the bounds are of, of the weakest that applies; of many points, an array of words.

        ``exact``: nothing is continuous. ``continuum``: the true value, of choices and states that
        are continuous. ``interpolated``: a problem whose value between nodes is interpolated.
        ``grid``: likewise, and choices are grid points; of a continuous choice the bounds say
        nothing. ``none``: nothing is certified.
        """
        if "certifies" in self.arrays:
            return in_words(CERTIFIES, self.arrays["certifies"])
        if "policy_loss" in self.arrays and "policy_index_loss" not in self.arrays:
            return "continuum" if np.isfinite(self.arrays["error_bound"]) else "none"
        best = "none" if "value" not in dict(self.problem.dims) else self._look(at_best)
        return np.full(np.shape(self.code), best, object) if self.problem.batched else best

    @property
    def concavity(self) -> str | Numpy:
        """What is known of the concavity that the bounds rest on, or an array of words.

        ``proved``, ``declared`` (and tested) or ``none``.
        """
        return in_words(CONCAVITY, self.arrays.get("concavity", np.zeros_like(self.code)))

    @property
    def of_what(self) -> str:
        """What a certified error is of, in words."""
        weakest = np.atleast_1d(self.certifies)
        known = [CERTIFIES.index(word) for word in weakest if word != "none"]
        word = CERTIFIES[max(known, default=4)]
        if word == "continuum" and self._has_fewer_nodes():
            return REFINED
        if word == "grid" and "certifies" in self.arrays:
            return TABLE
        return self._look(of_what) if word == "grid" else OF_WHAT[word]

    def _has_fewer_nodes(self) -> bool:
        """Tell whether a grid was solved on of which only some nodes are here."""
        names, sizes = self.problem.options.refine, dict(self.problem.sizes)
        keys = ["refined_size"] if len(names) == 1 else [f"refined_size_{n}" for n in names]
        found = [(self.arrays[k], sizes[n]) for k, n in zip(keys, names, strict=True) if k in self]
        return any((np.asarray(solved) != kept).any() for solved, kept in found)

    def _look(self, look: Callable[[Any], str]) -> str:
        problem = self.problem
        if problem.factory is None:
            return look(problem.model)
        return look_over(problem.factory, dict(problem.sizes), look)

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
        return {c: self.arrays[f"policy_{c}"] for c in choices_of(self.arrays)}

    @property
    def policy_lower(self) -> dict[str, AnyArray]:
        """Certified lower end of the optimal choice (states...), where there is just one."""
        return {c: x for c, x in self._group("policy_lower_").items() if c in self.policy}

    @property
    def policy_upper(self) -> dict[str, AnyArray]:
        """Certified upper end of the optimal choice (states...), where there is just one."""
        return {c: x for c, x in self._group("policy_upper_").items() if c in self.policy}

    @property
    def probability(self) -> dict[str, AnyArray]:
        """With taste shocks, the chances (states..., choice) of a choice's values, by its name."""
        found = self._group(PREFIX)
        return {c: x for c, x in found.items() if PREFIX + c != ERROR}

    @property
    def decisions(self) -> dict[str, AnyArray]:
        """The optimal choice (states...), by name: its position, or its value where that is any.

        With taste shocks there is ``probability_<choice>`` beside.
        """
        chances = {PREFIX + c: x for c, x in self.probability.items()}
        return self.policy | self.policy_index | chances

    @property
    def is_of_model(self) -> bool:
        """Whether it is of a model's states, and not of arrays that a factory returned."""
        states = [n for n in dict(self.problem.dims).get("value", ()) if n != "t"]
        return bool(states) and all(f"grid_{n}" in self.arrays for n in states)

    @property
    def outputs(self) -> dict[str, AnyArray]:
        """The model's outputs (states...) at the optimum, by name."""
        return self._group("output_")

    @property
    def grids(self) -> dict[str, AnyArray]:
        """The states' values (n,), by state name."""
        return self._group("grid_")

    def transition_matrix(self, state: str) -> AnyArray:
        """Return a Markov state's chances (n, n) of each next value, or (horizon, n, n)."""
        return transition_matrix(self.problem, self.parameters, state)

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

        Each has the shape of its variable, and then that of its parameter.
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
    def tol(self) -> float | None:
        """The certified error that was to be reached; None: as good as the grid allows."""
        return self.problem.options.tolerance("certifies" in self.arrays)

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
        return f"<Solution of {self.problem.name}: {in_a_line(self)}>"

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
        attrs: dict[str, Any] = {"model": self.problem.name}
        if (tol := self.tol) is not None:
            attrs["tol"] = tol
        if (what := self.of_what) or "certifies" in self.arrays:
            attrs["certified"] = what or "nothing"
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

"""``dp.simulate`` and ``Panel``: many agents, in blocks over the devices.

A panel holds no agents. Its blocks are computed when they are asked for and forgotten when they
are used, so memory is bounded by a block for each device, whatever the number of agents. What an
agent does depends on the key and on its number and on nothing else (:mod:`.streams`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.distributions.distribution import Distribution
from dpsolve.solvers.distributions.finer_grid import on_distribution_grid
from dpsolve.solvers.distributions.initial import read_initial
from dpsolve.solvers.distributions.solved_points import model_of, states_of, with_grids
from dpsolve.solvers.errors import ModelError, UsageError, did_you_mean
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.simulation.between_nodes import Point, Start
from dpsolve.solvers.simulation.streams import PLACES, read_key
from dpsolve.solvers.simulation.tables import cumulated, policy_tables, variable_names
from dpsolve.solvers.solution import Solution

from .crowds import BetweenNodes, OnNodes, blocks_of
from .moments import Asked, MomentEstimate, estimates
from .sample_moments import Sample

if TYPE_CHECKING:
    import xarray


BLOCK_BYTES = 32 * 2**20  # of the recorded variables of a block; each device has one at a time
START_POINTS = 1000  # of the continuous state, that agents between nodes begin on
START_MOST = 100_000  # with all other states
MOST_BYTES = 4 * 2**30  # that to_xarray puts into memory


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel of simulated agents, as :func:`dpsolve.simulate` returns it. It is lazy.

    Attributes
    ----------
    solution : Solution
        Whose policy the agents follow.
    agents, periods, burn : int
        Agents, periods recorded, and periods before these that are not.
    variables : tuple of str
        What is recorded.
    block : int
        Agents to a block.
    """

    solution: Solution
    agents: int
    periods: int
    burn: int
    variables: tuple[str, ...]
    block: int
    _model: Model | TabularModel = field(repr=False)
    _crowd: OnNodes | BetweenNodes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole panel in memory."""
        return self.agents * self.periods * self._crowd.row_bytes

    def blocks(self) -> Iterator[xarray.Dataset]:
        """Yield the panel in blocks of agents, in order.

        Each has the dimensions ``agent`` (numbered over the whole panel) and ``time`` (periods
        from 0; with a horizon, the model's ``t``), and every variable.
        """
        for first, found in self._blocks():
            yield self._dataset(first, found)

    def to_xarray(self) -> xarray.Dataset:
        """Return the whole panel, with the dimensions ``agent`` and ``time``.

        Raises
        ------
        UsageError
            If it would take more than 4 GiB.
        """
        if self.nbytes > MOST_BYTES:
            raise UsageError(
                f"a panel of {self.agents:,} agents over {self.periods:,} periods with "
                f"{len(self.variables)} variables takes {self.nbytes:,} bytes, more than the "
                f"{MOST_BYTES:,} that to_xarray fills: go through panel.blocks(), ask for "
                "panel.moments(...), or name fewer variables="
            )
        whole = {
            name: np.empty((self.periods, self.agents), kind)
            for name, kind in self._crowd.dtypes.items()
        }
        for first, found in self._blocks():
            for name, x in found.items():
                whole[name][:, first : first + x.shape[1]] = x
        return self._dataset(0, whole)

    def moments(self, asked: Asked = "moments") -> dict[str, MomentEstimate]:
        """Estimate moments from the panel, without holding it.

        Agents on nodes are counted by state, exactly; the moments are those of
        :meth:`Distribution.moments` under the shares of these counts, with the probabilities of
        shocks in each state (which estimates the same as the drawn shocks would, with less noise).
        Where states lie between nodes, moments are those of the sample itself.

        Parameters
        ----------
        asked : str, list of str and functions, or dict of functions
            ``mean_a``, ``gini_consumption``, ``p90_a``, one of the model's own, or functions of
            states, choices, shocks and outputs; see :mod:`dpsolve.solvers.distributions.moments`.

        Returns
        -------
        dict of str to MomentEstimate
            ``value`` and its standard error ``error``: floats, over all agents and periods; with a
            horizon arrays (time,), over the agents of each period. Agents are independent. The
            error of an expectation is the standard deviation of the agents' averages over time,
            over the root of their number; that of a quantile, ``var``, ``sd`` and ``gini`` comes
            from groups of agents (as many as the root of their number, 64 at most). With a single
            agent it is NaN. An error tells nothing of an initial distribution that is still being
            forgotten: use ``burn``.

        Raises
        ------
        UsageError
            If there is no moment of that name.
        """
        own = self._crowd
        if isinstance(own, OnNodes):
            return estimates(
                self.solution, self._model, own.tables, asked, own.start, own.key,
                agents=self.agents, periods=self.periods, burn=self.burn,
            )  # fmt: skip
        assert isinstance(self._model, Model)
        sample = Sample(self._model, asked, self.agents, self.periods)
        wanted = replace(own, variables=sample.variables)
        for first, found in blocks_of(wanted, self.agents, self.block):
            sample.add(first, found)
        return sample.estimates()

    def __repr__(self) -> str:
        burn = f" after {self.burn:,}" if self.burn else ""
        return (
            f"<Panel of {self.solution.problem.name}: {self.agents:,} agents, {self.periods:,} "
            f"periods{burn}; {', '.join(self.variables)}>"
        )

    def _blocks(self) -> Iterator[tuple[int, dict[str, Numpy]]]:
        """Yield each block's first agent and its arrays (periods, agents)."""
        return blocks_of(self._crowd, self.agents, self.block)

    def _dataset(self, first: int, found: Mapping[str, Numpy]) -> xarray.Dataset:
        import xarray

        agents = next(iter(found.values())).shape[1]
        return xarray.Dataset(
            {name: (("agent", "time"), found[name].T) for name in self.variables},
            {"agent": np.arange(first, first + agents), "time": np.arange(self.periods)},
            {"model": self.solution.problem.name},
        )


def simulate(
    solution: Solution,
    key: AnyArray | int,
    *,
    agents: int,
    periods: int,
    initial: ArrayLike | Mapping[str, ArrayLike] | Distribution | None = "stationary",
    variables: Sequence[str] | str | None = None,
    burn: int = 0,
    block: int | None = None,
) -> Panel:
    """Simulate agents under the optimal policy.

    Where choices are grid points, agents live on the grid: a next state between two points is a
    lottery with the interpolation weights, so a panel has the law that :func:`dpsolve.stationary`
    computes (see :mod:`dpsolve.solvers.simulation.agents`). Where a choice is continuous, agents
    follow the policy itself, linear between the nodes, and continuous states have values of their
    own (see :mod:`dpsolve.solvers.simulation.between_nodes`).

    The same key gives the same panel to the last bit, whatever the devices and the block; agent 7
    of a panel of 100 is agent 7 of a panel of a million, and its first 10 periods are the same in a
    longer panel.

    Parameters
    ----------
    solution : Solution
        Of one point: from ``dp.solve``, ``dp.load``, or a ``point(i)`` of ``dp.solve_many``.
    key : JAX PRNG key or int
        An integer is a seed and stands for ``jax.random.key(seed)``.
    agents, periods : int
        Size of the panel; `periods` is at most the horizon, where there is one.
    initial : "stationary", mapping, array (states...) or Distribution
        Where agents are in the first period, as for :func:`dpsolve.path`. The stationary
        distribution of a continuous policy is taken on a finer grid. With a horizon it must
        be given. A number for a continuous state is where all agents begin, a node or not.
    variables : str or list of str, optional
        What to record: states, choices (their values), outputs and shocks (as drawn) by name.
        All but the shocks by default. An output that names shocks is recorded as it was drawn.
    burn : int
        Periods to run before the first that is recorded; 0 with a horizon.
    block : int, optional
        Agents to a block; by default as many as make 32 MiB.

    Returns
    -------
    Panel
        It is lazy: ``.blocks()``, ``.to_xarray()`` and ``.moments(...)`` compute it.

    Raises
    ------
    ModelError
        If the solution has no policy to follow or it leads off a grid that extrapolates, or the
        initial distribution is none.
    UsageError
        If an argument cannot be used: a solution of many points, an unknown variable, a count
        below 1.
    """
    _check_solution(solution)
    made = model_of(solution.problem, solution.parameters)
    if made.horizon is not None and (initial is None or isinstance(initial, str)):
        raise ModelError(
            f"{solution.problem.name} has a finite horizon, and so no stationary distribution to "
            "begin with: give initial=, such as a dict of a value for each state"
        )
    _check_counts(made, agents, periods, burn, block)
    on_nodes = all(c in solution.policy_index for c in solution.policy)
    if on_nodes:  # whose grids are those of the value
        solution = with_grids(solution, {})
    names = _variables(made, variables)
    draws = 1
    if isinstance(made, Model):
        draws = len((*made.shocks, *made.states, *made.post)) + (made.taste is not None)
    if periods + burn > (PLACES - 1) // draws:
        raise UsageError(
            f"periods={periods} and burn={burn}: a stream of 2**32 numbers lasts for "
            f"{(PLACES - 1) // draws:,} periods of this model"
        )
    crowd: OnNodes | BetweenNodes
    if on_nodes:
        tables = policy_tables(
            made, solution.problem, solution.parameters, solution.decisions, names,
            None if made.horizon is None else periods,
        )  # fmt: skip
        start = cumulated(_masses(solution, made, initial)[0].ravel())
        crowd = OnNodes(tables, start, read_key(key), periods, burn, made.horizon is not None)
    else:
        assert isinstance(made, Model)
        point = Point.of(made, solution.parameters, solution.decisions)
        begin = _beginning(solution, made, initial)
        crowd = BetweenNodes(solution.problem, point, begin, read_key(key), names, periods, burn)
    each = periods * crowd.row_bytes
    return Panel(
        solution, int(agents), int(periods), int(burn), names,
        min(int(agents), int(block or max(1, BLOCK_BYTES // each))), made, crowd,
    )  # fmt: skip


def _finer(solution: Solution, model: Model | TabularModel) -> dict[str, int]:
    """Return the points of a finer grid to begin on; none for agents that live on nodes.

    A lottery between few nodes spreads mass, and slow chains take long to forget it.
    """
    on_nodes = all(c in solution.policy_index for c in solution.policy)
    if on_nodes or not isinstance(model, Model):
        return {}
    grids = [n for n, spec in model.states.items() if isinstance(spec, Grid)]
    if len(grids) != 1 or solution.problem.options.distribution_grid:
        return {}
    size, others = model.shape[list(model.states).index(grids[0])], math.prod(model.shape)
    wanted = min(max(START_POINTS, 4 * size), START_MOST * size // others)
    return {grids[0]: wanted} if wanted > size else {}


def _beginning(solution: Solution, model: Model, initial: Any) -> Start:
    """Return where agents begin whose states lie between nodes."""
    masses, grids = _masses(solution, model, initial)
    continuous = {n for n, spec in model.states.items() if isinstance(spec, Grid)}
    exact: dict[str, AnyArray] = {}
    if isinstance(initial, Mapping):
        exact = {n: np.asarray(x, np.float64) for n, x in initial.items() if np.ndim(x) == 0
                 and n in continuous and not isinstance(x, str)}  # fmt: skip
    nodes: dict[str, AnyArray] = {n: np.asarray(grids[n]) for n in continuous}
    return Start(cumulated(masses.ravel()), nodes, exact, masses.shape)


def _check_solution(solution: Any) -> None:
    if not isinstance(solution, Solution):
        raise UsageError(
            f"simulate takes a solution, as dp.solve and dp.load return it, not "
            f"{type(solution).__name__}"
        )
    name = solution.problem.name
    if not is_concrete(solution.arrays):
        raise UsageError(
            f"the solution of {name} is traced; a panel is drawn outside of jit, vmap and grad"
        )
    if solution.problem.batched:
        raise UsageError(
            f"the solution of {name} has {np.size(solution.code)} points; pick one: "
            "dp.simulate(solution.point(0), ...)"
        )
    if not solution.is_of_model:
        raise ModelError(
            f"{name} returns arrays, and no policy that an agent could follow: only a dp.Model or "
            "dp.mdp can be simulated"
        )
    if solution.status == "failed":
        raise ModelError(f"the solution of {name} failed: {solution.message}")


def _check_counts(
    model: Model | TabularModel, agents: Any, periods: Any, burn: Any, block: Any
) -> None:
    counts = {"agents": agents, "periods": periods, "burn": burn, "block": block}
    for name, x in counts.items():
        least = 0 if name == "burn" else 1
        if name == "block" and x is None:
            continue
        if isinstance(x, bool) or not isinstance(x, int | np.integer) or x < least:
            raise UsageError(f"{name}={x!r}; it is a whole number, at least {least}")
    if agents > PLACES:
        raise UsageError(f"agents={agents}; agents are numbered with 32 bits, so {PLACES} at most")
    if model.horizon is not None and periods > model.horizon:
        raise UsageError(
            f"periods={periods}, but the model ends after {model.horizon}: its horizon"
        )
    if model.horizon is not None and burn:
        raise UsageError(f"burn={burn}; with a finite horizon every period is its own: leave it 0")


def _variables(model: Model | TabularModel, asked: Sequence[str] | str | None) -> tuple[str, ...]:
    usual, more = variable_names(model)
    if asked is None:
        return usual
    names = (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    for name in names:
        if name not in (*usual, *more):
            known = (*usual, *more)
            raise UsageError(
                f"variables names '{name}', which this model does not have."
                f"{did_you_mean(str(name), known)} It has: {', '.join(known)}."
            )
    if not names:
        raise UsageError(f"variables is empty; there are: {', '.join((*usual, *more))}")
    return names


def _masses(
    solution: Solution, model: Model | TabularModel, initial: Any
) -> tuple[Numpy, Mapping[str, AnyArray]]:
    """Return the initial distribution (states...), and the states' values at its nodes."""
    grids: Mapping[str, AnyArray] = states_of(solution, "panel")
    if initial is None or (isinstance(initial, str) and initial == "stationary"):
        from dpsolve.solvers.distributions.stationary import stationary

        if finer := _finer(solution, model):
            solution = with_grids(solution, finer)
            grids = states_of(solution, "panel")
        found = stationary(solution)
        mass = np.asarray(found.mass)
        if np.isnan(mass).any():
            raise ModelError(
                f"there is no stationary distribution to begin with: {found.message}. Give "
                "initial= to dp.simulate."
            )
        return mass, grids
    if isinstance(initial, str):
        raise ModelError(
            f"initial={initial!r}; it is 'stationary', a dict by state name, or an array of masses"
        )
    if isinstance(initial, Distribution) and isinstance(model, Model):
        grids = initial.grids
        sizes = {n: np.size(x) for n, x in grids.items() if np.size(x) != model.states[n].size}
        model = on_distribution_grid(model, tuple(sizes.items()))
    elif isinstance(model, Model):
        grids = {n: spec.values for n, spec in model.states.items()}
    return np.asarray(read_initial(getattr(initial, "mass", initial), model)), grids

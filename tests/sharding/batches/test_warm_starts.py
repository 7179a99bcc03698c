"""Warm starts: they cost or save sweeps, and change nothing that is certified."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches.program import Program, program
from dpsolve.sharding.batches.refill import Results, serve
from dpsolve.sharding.batches.rounds import Rounds
from dpsolve.sharding.batches.solving_order import STRAND, strands
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.library import growth
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

TOL = 1e-9
OPTIONS = SolveOptions(tol=TOL, method="vi", warm=True)


def chain(beta: float = 0.9, scale: float = 1.0, off: float = 0.0, *, n: int = 6) -> dp.Model:
    """A walk on a line."""
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, n)},
        choices={"y": dp.grid(0.0, 1.0, 4)},
        transition={"x": lambda x, y: 0.9 * x + 0.1 * y + off},
        reward=lambda x, y: scale * (x - 0.3 * y),
        discount=beta,
    )


def columns(beta: Any, scale: Any = 1.0, off: Any = 0.0) -> dict[str, Any]:
    beta, scale, off = np.broadcast_arrays(np.asarray(beta, float), scale, off)
    return {"beta": beta, "scale": scale, "off": off}


@lru_cache
def rounds(groups: int = 1, warm: bool = True) -> Rounds:
    made = Rounds(chain, {"n": 6}, OPTIONS, 2, MeshShape(groups), None)
    made.warm = warm
    return made


def results(
    points: dict[str, Any], groups: int = 1, workers: int = 1, warm: bool = True
) -> dict[str, Any]:
    found = Results(points["beta"].size)
    serve(rounds(groups, warm), points, found, found.left, workers)
    assert not found.left
    return found.arrays | {"start": found.start}


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


BETAS = np.linspace(0.85, 0.95, 21)


# -- strands --------------------------------------------------------------------------------------


def test_a_strand_is_a_run_of_points_of_which_the_first_starts_cold() -> None:
    found = list(strands(columns(BETAS), range(21)))
    assert [len(strand) for strand in found] == [STRAND, STRAND, 5]
    assert [start.point for strand in found for start in strand] == list(range(21))
    for strand in found:
        assert strand[0].source == -1
        assert np.isnan(strand[0].reach)
        assert [s.source for s in strand[1:]] == [s.point - 1 for s in strand[1:]]
        assert strand[1].reach == 0.0
        np.testing.assert_allclose([s.reach for s in strand[2:]], 1.0)


def test_a_strand_with_a_point_left_is_solved_again_whole() -> None:
    found = list(strands(columns(BETAS), {9, 20}))
    assert [strand[0].point for strand in found] == [8, 16]
    assert [len(strand) for strand in found] == [8, 5]


def test_cold_points_are_strands_of_their_own() -> None:
    assert [s[0].point for s in strands(columns(BETAS), {4, 2}, 1)] == [2, 4]


@pytest.mark.parametrize(
    ("beta", "scale", "reach"),
    [
        ([0.80, 0.82, 0.84], 1.0, 1.0),
        ([0.80, 0.82, 0.83], 1.0, 0.5),
        ([0.80, 0.82, 0.81], 1.0, 0.0),  # back
        ([0.80, 0.80, 0.81], 1.0, 0.0),  # no step before
        ([0.80, 0.82, 0.82], 1.0, 0.0),  # no step now
        ([0.80, 0.801, 0.9], 1.0, 0.0),  # too far
        ([0.80, 0.82, np.nan], 1.0, 0.0),
        ([0.80, 0.82, 0.84], [1.0, 1.0, 2.0], 0.0),  # round a corner
        ([0.80, 0.82, 0.84], [1.0, 2.0, 3.0], 1.0),
    ],
)
def test_the_secant_goes_on_in_the_same_direction_only(
    beta: list[float], scale: Any, reach: float
) -> None:
    (strand,) = strands(columns(beta, scale), range(3))
    assert strand[2].reach == pytest.approx(reach)


# -- what comes out -------------------------------------------------------------------------------


@pytest.mark.slow
def test_warm_starts_save_sweeps_and_stay_within_the_certificate() -> None:
    warm, cold = results(columns(BETAS)), results(columns(BETAS), warm=False)
    np.testing.assert_array_equal(warm["code"], Outcome.SOLVED)
    assert warm["iterations"].sum() < 0.8 * cold["iterations"].sum()
    assert warm["error_bound"].max() <= TOL
    # Both contain the true value, so they overlap, and either's value is within both errors.
    assert (warm["lower"] <= cold["upper"]).all()
    assert (cold["lower"] <= warm["upper"]).all()
    assert np.abs(warm["value"] - cold["value"]).max() <= 2 * TOL
    np.testing.assert_array_equal(warm["start"][:9], [-1, 0, 1, 2, 3, 4, 5, 6, -1])
    np.testing.assert_array_equal(cold["start"], -1)
    heads = warm["start"] < 0
    assert_same_bits({k: x[heads] for k, x in warm.items()}, {k: x[heads] for k, x in cold.items()})


@pytest.mark.slow
def test_bits_depend_neither_on_threads_groups_nor_portions_of_whole_strands() -> None:
    whole = results(columns(BETAS))
    assert_same_bits(results(columns(BETAS), workers=2), whole)
    assert_same_bits(results(columns(BETAS), groups=2), whole)
    first, rest = results(columns(BETAS[:STRAND])), results(columns(BETAS[STRAND:]))
    rest["start"] = np.where(rest["start"] < 0, -1, rest["start"] + STRAND)
    assert_same_bits({k: np.concatenate([first[k], rest[k]]) for k in whole}, whole)


@pytest.mark.parametrize("bad", [2, 3])
def test_the_neighbour_of_a_failed_point_starts_cold(bad: int) -> None:
    off = np.zeros(8)
    off[bad] = 0.5  # off the grid
    found = results(columns(BETAS[:8], 1.0, off))
    cold = results(columns(BETAS[:8], 1.0, off), warm=False)
    assert found["code"][bad] == Outcome.OFF_GRID
    assert found["start"][bad + 1] == -1
    for name in ("value", "iterations", "lower"):
        np.testing.assert_array_equal(found[name][bad + 1], cold[name][bad + 1])
    assert found["start"][bad + 2] == bad + 1
    assert (np.delete(found["code"], bad) == Outcome.SOLVED).all()


def test_nan_among_the_parameters_hurts_no_neighbour() -> None:
    betas = BETAS[:8].copy()
    betas[[0, 4]] = np.nan
    found = results(columns(betas))
    np.testing.assert_array_equal(np.flatnonzero(found["code"]), [0, 4])
    assert found["start"][1] == found["start"][5] == -1
    good = ~np.isnan(betas)
    cold = results(columns(BETAS[:8]), warm=False)
    assert np.abs(found["value"] - cold["value"])[good].max() <= 2 * TOL


@pytest.mark.parametrize(
    "scale",
    [
        np.resize([1.0, -1.0], 16),
        np.resize([1.0, 1000.0, 1.0, 1.0], 16),
        np.random.default_rng(3).normal(size=16) * 10.0 ** (np.arange(16) % 4 - 3),
    ],
)
def test_a_bad_start_costs_one_sweep(scale: Any) -> None:
    points = columns(np.full(16, 0.95), scale)
    warm, cold = results(points), results(points, warm=False)
    np.testing.assert_array_equal(warm["code"], Outcome.SOLVED)
    assert (warm["iterations"] - cold["iterations"]).max() <= 1
    dropped = (warm["start"] == -1) & (np.arange(16) % STRAND > 0)
    assert dropped.any()
    np.testing.assert_array_equal((warm["iterations"] - cold["iterations"])[dropped], 1)
    np.testing.assert_array_equal(warm["value"][dropped], cold["value"][dropped])


def test_the_same_point_again_is_done_at_once() -> None:
    found = results(columns(np.full(8, 0.9)))
    assert (found["iterations"][1:] == 1).all()


@pytest.mark.slow
def test_running_out_of_memory_redoes_strands_from_their_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance, calls = Rounds.advance, []

    def short(self: Rounds, *args: Any) -> Any:
        calls.append(self.lanes)
        if len(calls) == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return advance(self, *args)

    monkeypatch.setattr(Program, "_workers", lambda _: 1)
    made = Program(chain, {"n": 6}, OPTIONS)
    made.lanes = 2
    monkeypatch.setattr(Rounds, "advance", short)
    halved = made.run(columns(BETAS))
    assert set(calls[4:]) == {1}
    assert (halved.status == "solved").all()
    np.testing.assert_array_equal(halved.variables["start"], results(columns(BETAS))["start"])


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_states_cut_over_devices_start_from_their_own_parts(lanes: int) -> None:
    made = Program(chain, {"n": 6}, OPTIONS, MeshShape(2, 2))
    made.lanes = lanes
    found, cold = made.run(columns(BETAS)), results(columns(BETAS), warm=False)
    assert (found.status == "solved").all()
    assert np.abs(found.variables["value"] - cold["value"]).max() <= 2 * TOL
    np.testing.assert_array_equal(found.variables["start"], results(columns(BETAS))["start"])


@pytest.mark.slow
@pytest.mark.parametrize("hint", [{"monotone": {"y": "x"}}, {}])
def test_a_shortcut_starts_from_the_neighbour_too(hint: dict[str, Any]) -> None:
    def saving(gamma: float = 2.0, *, n: int = 300) -> dp.Model:
        return dp.Model(
            states={"x": dp.grid(0.1, 5.0, n)},
            choices={"y": "x"},
            transition={"x": "y"},
            feasible=lambda x, y: 1.0 + 1.02 * x - y > 0,
            reward=lambda x, y: dp.crra(1.0 + 1.02 * x - y, gamma),
            discount=0.95,
            **hint,
        )

    points = {"gamma": np.linspace(1.5, 2.5, 10)}
    warm, cold = (dp.solve_many(saving, points, tol=1e-7, warm=w) for w in (True, False))
    assert (warm.status == "solved").all()
    assert np.abs(warm.value - cold.value).max() <= 2e-7
    assert warm.iterations.sum() < cold.iterations.sum()
    assert (warm["start"] >= 0).sum() == 8


# -- the option -----------------------------------------------------------------------------------


def test_starts_are_warm_where_one_point_is_enough_for_a_core() -> None:
    small, large = ({"continuous": False, "n_k": n} for n in (50, 500))
    assert not program(growth, small, SolveOptions()).warm
    assert program(growth, large, SolveOptions()).warm
    assert program(growth, small, SolveOptions(warm=True)).warm
    assert not program(growth, large, SolveOptions(warm=False)).warm


def test_what_is_not_iterated_has_nothing_to_start_from() -> None:
    def finite(beta: float = 0.9) -> dp.Model:
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, 5)}, choices={"y": "x"}, transition={"x": "y"},
            reward=lambda x, y: x - y * y, discount=beta, horizon=3, terminal=lambda x: 0.0,
        )  # fmt: skip

    def arrays(beta: float = 0.9) -> dict[str, Any]:
        return {"twice": 2 * jnp.asarray(beta)}

    for factory in (finite, arrays):
        assert not program(factory, {}, SolveOptions(warm=True)).warm
        assert "start" not in dp.solve_many(factory, {"beta": np.ones(2) / 2}, warm=True).arrays


@pytest.mark.slow
def test_solve_many_says_where_each_point_started() -> None:
    found = dp.solve_many(chain, columns(BETAS[:9]), tol=TOL, method="vi", warm=True)
    assert found["start"].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, -1]
    assert found.to_xarray()["start"].dims == ("point",)
    assert found.point(3)["start"] == 2
    assert "start" not in dp.solve_many(chain, columns(BETAS[:2]), warm=False).arrays


def test_the_option_is_checked_and_left_out_where_it_is_not_given() -> None:
    assert "warm" not in SolveOptions().as_dict()
    assert SolveOptions.from_mapping(SolveOptions(warm=False).as_dict()).warm is False
    with pytest.raises(dp.UsageError, match="warm='yes'; it is true or false"):
        SolveOptions(warm="yes")  # type: ignore[arg-type]

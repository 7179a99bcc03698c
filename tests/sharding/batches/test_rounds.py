"""Rounds: a point's bits depend on nothing but the point, and a slow point holds nobody up."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches import refill
from dpsolve.sharding.batches.program import Program
from dpsolve.sharding.batches.refill import Results, serve
from dpsolve.sharding.batches.rounds import Rounds
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

LANES = 2
OPTIONS = SolveOptions(tol=1e-9, method="vi")


def chain(beta: float = 0.9, rate: float = 0.1, off: float = 0.0, *, n: int = 6) -> dp.Model:
    """A walk on a line: the slower the walk, the more sweeps value iteration takes."""
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, n)},
        choices={"y": dp.grid(0.0, 1.0, 4)},
        transition={"x": lambda x, y: (1 - rate) * x + rate * y + off},
        reward=lambda x, y: x - 0.3 * y,
        discount=beta,
    )


@lru_cache
def rounds(points: int, states: int = 1, lanes: int = LANES) -> Rounds:
    shape = MeshShape(points, states)
    return Rounds(chain, {"n": 6}, OPTIONS, lanes, shape, make_partition(chain, {"n": 6}, shape))


def columns(beta: Any, off: Any = 0.0, rate: Any = 0.1) -> dict[str, Any]:
    beta, off, rate = np.broadcast_arrays(np.asarray(beta, float), off, rate)
    return {"beta": beta, "rate": rate, "off": off}


def results(compiled: Rounds, points: dict[str, Any], workers: int = 1) -> dict[str, Any]:
    found = Results(points["beta"].size)
    serve(compiled, points, found, found.left, workers)
    assert not found.left
    assert (found.seconds > 0).all()
    return found.arrays


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


BETAS = np.random.default_rng(7).uniform(0.5, 0.98, 13)


@pytest.mark.slow
def test_a_points_bits_do_not_depend_on_neighbours_order_or_number() -> None:
    whole = results(rounds(1), columns(BETAS))
    assert (whole["code"] == Outcome.SOLVED).all()
    order = np.random.default_rng(1).permutation(13)
    shuffled = results(rounds(1), columns(BETAS[order]))
    assert_same_bits(shuffled, {k: x[order] for k, x in whole.items()})
    for some in ([4], [11, 2, 7]):
        few = results(rounds(1), columns(BETAS[some]))
        assert_same_bits(few, {k: x[some] for k, x in whole.items()})
    assert_same_bits(results(rounds(1), columns(BETAS), workers=2), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "groups", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_points_bits_do_not_depend_on_the_number_of_groups(groups: int) -> None:
    alone = results(rounds(1), columns(BETAS))
    assert_same_bits(results(rounds(groups), columns(BETAS)), alone)
    # Fewer points than lanes leave some groups with nothing to do.
    assert_same_bits(
        results(rounds(groups), columns(BETAS[:1])), {k: x[:1] for k, x in alone.items()}
    )


@pytest.mark.slow
def test_points_and_states_are_cut_at_once() -> None:
    alone = results(rounds(1), columns(BETAS))
    both = results(rounds(2, 4), columns(BETAS))
    assert (both["code"] == Outcome.SOLVED).all()
    np.testing.assert_allclose(both["value"], alone["value"], atol=2e-9)
    assert (both["lower"] <= alone["upper"]).all()
    assert (alone["lower"] <= both["upper"]).all()
    assert both["value"].shape == (13, 6)


def test_what_a_lane_finds_is_what_a_solve_alone_finds() -> None:
    found = results(rounds(1), columns(BETAS[:3]))
    for i, beta in enumerate(BETAS[:3]):
        alone = dp.solve(chain, {"beta": beta, "n": 6}, tol=1e-9, method="vi")
        np.testing.assert_allclose(found["value"][i], alone.value, atol=2e-9)
        np.testing.assert_array_equal(found["policy_y"][i], alone.policy["y"])


@pytest.mark.parametrize("groups", [1, 2])
def test_points_that_fail_leave_the_others_as_they_are(groups: int) -> None:
    betas, off = BETAS.copy(), np.zeros(13)
    betas[[0, 3]], off[[5, 6]], betas[9] = np.nan, 0.5, 1.2
    mixed = results(rounds(groups), columns(betas, off))
    clean = results(rounds(groups), columns(BETAS))
    codes = np.full(13, int(Outcome.SOLVED))
    codes[[0, 3]], codes[[5, 6]] = Outcome.NOT_FINITE, Outcome.OFF_GRID
    codes[9] = Outcome.DISCOUNT
    np.testing.assert_array_equal(mixed["code"], codes)
    good = codes == Outcome.SOLVED
    assert_same_bits(*({k: x[good] for k, x in a.items()} for a in (mixed, clean)))
    assert np.isnan(mixed["value"][~good]).all()
    assert (mixed["policy_index_y"][~good] == -1).all()


def test_when_all_points_fail_all_are_told() -> None:
    found = results(rounds(2), columns(np.full(9, np.nan)))
    assert (found["code"] == Outcome.NOT_FINITE).all()
    assert np.isnan(found["value"]).all()


@pytest.fixture
def rounds_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many points each round began."""
    made: list[int] = []
    advance = Rounds.advance

    def counted(self: Rounds, values: Any, fresh: Any, *rest: Any) -> Any:
        made.append(int(np.asarray(fresh).sum()))
        return advance(self, values, fresh, *rest)

    monkeypatch.setattr(Rounds, "advance", counted)
    return made


def test_a_slow_point_does_not_hold_its_neighbours(rounds_made: list[int]) -> None:
    betas, rate = np.full(40, 0.5), np.full(40, 0.1)
    betas[0], rate[0] = 0.99, 0.001
    found = results(rounds(1), columns(betas, 0.0, rate))
    assert (found["code"] == Outcome.SOLVED).all()
    slow, quick = found["iterations"][0], found["iterations"][1:]
    assert slow > 20 * quick.max()
    # The other lane took the quick points, one after another, while the slow one went on.
    assert rounds_made[0] == 2
    assert rounds_made.count(1) >= 38
    assert sum(rounds_made) == 40


def test_a_lane_that_failed_before_its_first_sweep_counts_as_idle(rounds_made: list[int]) -> None:
    # The first lane's points all fail at once; had they not counted as idle, they would have
    # waited for the slow point, two at a time.
    off, rate = np.full(20, 0.5), np.full(20, 0.1)
    off[0], rate[0] = 0.0, 0.001
    found = results(rounds(1), columns(np.full(20, 0.99), off, rate))
    assert found["code"][0] == Outcome.SOLVED
    assert (found["code"][1:] == Outcome.OFF_GRID).all()
    assert rounds_made.count(1) == 18


def test_points_wait_for_lanes_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []
    advance = Rounds.advance

    def watched(self: Rounds, values: Any, fresh: Any, carry: Any, *limits: Any) -> Any:
        given.append(limits[:2])
        return advance(self, values, fresh, carry, *limits)

    monkeypatch.setattr(Rounds, "advance", watched)
    results(rounds(2), columns(BETAS))
    assert given[0] == (refill.PATIENCE * LANES, refill.SWEEPS)
    assert given[-1] == (refill.FOR_EVER, refill.FOR_EVER)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_running_out_of_memory_halves_the_batch(
    groups: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Program(chain, {"n": 6}, OPTIONS, MeshShape(groups))
    made.lanes = 4
    whole = made.run(columns(BETAS))
    advance, lanes = Rounds.advance, []

    def short(self: Rounds, *args: Any) -> Any:
        lanes.append(self.lanes)
        if len(lanes) == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return advance(self, *args)

    monkeypatch.setattr(Rounds, "advance", short)
    monkeypatch.setattr(Program, "_workers", lambda _: 1)
    again = Program(chain, {"n": 6}, OPTIONS, MeshShape(groups))
    again.lanes = 4
    with caplog.at_level("WARNING", logger="dpsolve"):
        halved = again.run(columns(BETAS))
    assert "the device ran out of memory; going on with batches of 2 points" in caplog.text
    assert lanes[:2] == [4, 4]
    assert set(lanes[2:]) == {2}
    assert (halved.status == "solved").all()
    np.testing.assert_allclose(halved.variables["value"], whole.variables["value"], atol=2e-9)


def test_other_errors_of_the_device_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: a device fell off the bus")

    made = Program(chain, {"n": 6}, OPTIONS)
    made.lanes = LANES
    monkeypatch.setattr(Rounds, "advance", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="fell off the bus"):
        made.run(columns(BETAS))


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"distribution": True, "moments": ("mean_x",)},
        {"gradients": ("beta",), "gradients_fixed_policy": ("beta", "rate")},
        {"periods": 3, "initial": {"x": 0.2}},
    ],
)
@pytest.mark.parametrize("shape", [MeshShape(2, 1), MeshShape(2, 2)])
def test_what_is_asked_beside_the_value_does_not_depend_on_the_mesh(
    asked: dict[str, Any], shape: MeshShape
) -> None:
    options = SolveOptions(tol=1e-10, **asked)
    alone = Program(chain, {"n": 6}, options).run(columns(BETAS))
    found = Program(chain, {"n": 6}, options, shape).run(columns(BETAS))
    assert alone.variables.keys() == found.variables.keys()
    assert (found.status == alone.status).all()
    for name, x in alone.variables.items():
        np.testing.assert_allclose(found.variables[name], x, atol=1e-6, err_msg=name)

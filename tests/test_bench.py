"""The benchmarks measure the same thing on both sides: each peer finds the value that ours does.

The peers written here in JAX always run. Those that are packages (the extra ``bench``) are no part
of the tests' environment: where one is missing its test says so and is skipped, even in CI, and it
runs with the Python of ``.venv-bench``, which ``scripts/bench peers`` makes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from peers import (
    cost,
    epidemic,
    growth,
    mdpax_problems,
    savings,
    savings_jax,
    savings_numba,
    savings_quantecon,
)
from peers.machine import bandwidth, rate
from peers.report import replace_section, table, write_section
from peers.timing import Contender, compare, loosest, true_error
from peers.work import work

import dpsolve as dp

N_A, N_Z = 24, 3


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.asarray(savings.solve(N_A, N_Z, 1e-10).value)


@pytest.mark.parametrize("name", savings.METHODS)
def test_the_lectures_find_our_value_of_savings(name: str, truth: np.ndarray) -> None:
    value, sweeps = savings.METHODS[name](savings.household(N_A, N_Z), 1e-12)
    assert true_error(value, truth) < 1e-8
    assert 5 < int(sweeps) < 1_000


def test_sweeps_over_a_part_change_that_part_as_whole_sweeps_do() -> None:
    v = np.linspace(0.0, 1.0, N_A)[:, None] * np.ones(N_Z)
    whole = savings_jax.sweeps(savings.household(N_A, N_Z), v, 1)
    for part in (savings_jax.sweeps, savings_jax.improvements):
        some = np.asarray(part(savings.household(N_A, N_Z, part=3), v, 1))
        np.testing.assert_allclose(some[::3], whole[::3], rtol=1e-12)
        np.testing.assert_array_equal(some[1::3], v[1::3])


def test_numba_finds_our_value_of_savings(truth: np.ndarray) -> None:
    pytest.importorskip("numba", reason="numba comes with the extra bench")
    h = savings_numba.arrays(savings.household(N_A, N_Z))
    assert true_error(savings_numba.value_iteration(h, 1e-12)[0], truth) < 1e-8


def test_quantecon_finds_our_value_of_savings(truth: np.ndarray) -> None:
    pytest.importorskip("quantecon", reason="quantecon comes with the extra bench")
    ddp = savings_quantecon.problem(savings.household(N_A, N_Z))
    assert true_error(savings_quantecon.solve(ddp, 1e-10, N_A)[0], truth) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["brute_force", "parallel_loop"])
def test_growth_peers_find_our_values(peer: str) -> None:
    if peer == "parallel_loop":
        pytest.importorskip("numba", reason="numba comes with the extra bench")
    asked = growth.parameters(3)
    ours = dp.solve_many("growth", {"continuous": False, **asked, "n_k": 20}, tol=1e-10)
    value, sweeps = getattr(growth, peer)(asked["beta"], asked["alpha"], 20, 100_000)
    assert true_error(value, ours.value) <= growth.ERROR
    few = getattr(growth, peer)(asked["beta"], asked["alpha"], 20, 5)[1]
    assert np.all(np.asarray(few) == 5)
    assert np.all(np.asarray(sweeps) > 5)


SMALL = {"states": 40, "controls": 4}


@pytest.mark.slow
def test_value_iteration_finds_our_value_of_the_epidemic() -> None:
    ours = dp.solve(epidemic.epidemic, {**SMALL, "beta": 0.99}, tol=1e-9)
    reward, p = epidemic.arrays(**SMALL)
    assert p.min() >= 0
    value, sweeps = epidemic.value_iteration(reward, p, 0.99, 1e-12, 10**6)
    assert true_error(value, ours.value) < 1e-8
    # What is counted instead of waiting: the discount's own bound on the number of sweeps.
    most = np.log(1e-12 / np.abs(reward).max()) / np.log(0.99)
    assert int(sweeps) <= most + 2


def test_quantecon_finds_our_value_of_the_epidemic() -> None:
    pytest.importorskip("quantecon", reason="quantecon comes with the extra bench")
    ours = dp.solve(epidemic.epidemic, {**SMALL, "beta": 0.99}, tol=1e-9)
    ddp = epidemic.discrete(*epidemic.arrays(**SMALL), 0.99)
    assert true_error(epidemic.modified(ddp, 1e-10)[0], ours.value) < 1e-8
    assert true_error(epidemic.howard(ddp)[0], ours.value) < 1e-8


def test_forest_by_hand() -> None:
    """Three ages, always waiting is optimal: three linear equations."""
    ours = dp.solve(mdpax_problems.forest, {"beta": 0.9, "p": 0.1}, tol=1e-10)
    moves = np.array([[0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]])
    by_hand = np.linalg.solve(np.eye(3) - 0.9 * moves, [0.0, 0.0, 4.0])
    np.testing.assert_allclose(ours.value, by_hand, atol=1e-9)


@pytest.mark.parametrize(("life", "lead"), [(2, 1), (2, 2), (3, 1)])
def test_perishable_sweeps_as_mdpax_describes_it(life: int, lead: int) -> None:
    """One period without a future, in plain Python: units are sold one by one, the newest first."""
    sizes = {"life": life, "lead": lead, "largest": 2}
    model = mdpax_problems.perishable(**sizes)
    demands, probs = (np.asarray(x) for x in (model.shocks["demand"].values,
                                              model.shocks["demand"].probs))  # fmt: skip
    states = list(model.states)
    for at in np.ndindex(*model.shape):
        given = dict(zip(states, at, strict=True))
        expected = 0.0
        for demand, p in zip(demands[:12], probs[:12], strict=True):
            units = [given[f"s{i + 1}"] for i in range(life)]
            short = 0
            for _ in range(int(demand)):
                newest = next((i for i, n in enumerate(units) if n), None)
                short += newest is None
                if newest is not None:
                    units[newest] -= 1
            expected -= p * (5 * short + 7 * units[-1] + sum(units[:-1]))
            for age in range(2, life + 1):
                named = {f"s{i}": given[f"s{i}"] for i in range(1, age)}
                assert int(model.transition[f"s{age}"](**named, demand=demand)) == units[age - 2]
        stock = {f"s{i + 1}": given[f"s{i + 1}"] for i in range(life)}
        ours = sum(
            p * float(model.reward[1](**stock, demand=d))
            for d, p in zip(demands[:12], probs[:12], strict=True)
        )
        assert ours == pytest.approx(expected)
    assert model.transition["s1"] == ("order" if lead == 1 else f"t{lead - 1}")


@pytest.mark.parametrize(
    ("name", "sizes"), [("forest", {"ages": 4}), ("perishable", {"life": 2, "lead": 1})]
)
def test_mdpax_finds_our_value(name: str, sizes: dict[str, int]) -> None:
    pytest.importorskip("mdpax", reason="scripts/bench peers installs mdpax")
    ours = dp.solve(getattr(mdpax_problems, name), dict(sizes), tol=1e-8)
    one = mdpax_problems.solver(mdpax_problems.problem(name, **sizes))
    one.solve(100_000)
    assert true_error(one.values, np.ravel(ours.value)) <= 1.1 * mdpax_problems.ERROR


def test_the_machine_is_measured_in_positive_numbers() -> None:
    assert bandwidth(megabytes=1, rounds=1) > 0
    assert rate(lambda x, p: x + p, n=2**10, rounds=1) > 0


def test_comparing_counts_parts_and_holds_the_target_against_the_fastest() -> None:
    calls = []
    ours = Contender("ours", lambda: calls.append("ours"))
    slow = Contender("slow", lambda: calls.append("slow"), times=1e6, note="by count")
    quick = Contender("quick", lambda: calls.append("quick"))
    found = compare("what", ours, [slow, quick], ">= 8", rounds=2)
    assert calls == ["ours", "slow", "quick"] * 2
    assert found[1][1].startswith("slow: ~")
    assert found[2][1].startswith("quick: ")
    assert [row[3] for row in found] == ["", "", ">= 8"]


def test_the_loosest_tolerance_is_judged_by_the_true_error() -> None:
    tol, sweeps = loosest(lambda tol: ([3 * tol], 7), [0.0], 1e-3, [1e-2, 1e-3, 1e-4, 1e-5])
    assert (tol, sweeps) == (1e-4, 7)
    with pytest.raises(ArithmeticError, match="no tolerance"):
        loosest(lambda tol: ([1.0], 7), [0.0], 1e-3, [1e-2])


def test_work_counts_rewards_once_where_they_are_kept() -> None:
    kept = work(1_000, 100, 10)
    assert kept.evaluations == kept.least == 1e5
    streamed = work(25 * 20_000, 20_000, 10, others=25)
    assert streamed.least == 1e10 < streamed.evaluations < 1.02e10


def test_the_exponent_is_that_of_a_power() -> None:
    assert cost.exponent((10, 100, 1_000), [0.1, 1.0, 10.0]) == pytest.approx(1.0)


def test_the_picture_is_drawn_and_small(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "cost.png"
    cost.picture((10, 100), {"ours, certified": [1.0, 2.0], "peer": [1.0, 100.0]}, path)
    assert 1_000 < path.stat().st_size < 200_000


DOCUMENT = """before
<!-- bench: peers a -->
old
<!-- end: peers a -->
between
<!-- bench: peers ab -->
kept
<!-- end: peers ab -->
after
"""


def test_only_the_marked_section_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    write_section(path, "peers a", table([("x", r"1 \1 \g<0>", "2 (1-3)", "")]))
    text = path.read_text(encoding="utf-8")
    assert r"| x | 1 \1 \g<0> | 2 (1-3) |  |" in text
    assert "old" not in text
    assert text.partition("between")[2] == DOCUMENT.partition("between")[2]
    assert text.startswith("before\n<!-- bench: peers a -->\n| what |")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["peers b", "a"])
def test_a_section_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a line"):
        replace_section(DOCUMENT, name, "")


def test_the_document_has_a_place_for_every_section(root: Path) -> None:
    import bench_peers

    text = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in bench_peers.SECTIONS:
        assert replace_section(text, f"peers {name}", "new") != text

"""dp.simulate: the same panel however it is cut, and estimates that are as exact as they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import dpsolve as dp
from dpsolve.sharding.panels import moments
from dpsolve.sharding.panels import simulate as module

EVERY = ["mean_a", "sd_a", "var_a", "gini_a", "mean_consumption", "p90_a", "bottom_a", "mean_z"]


Devices = Callable[[int], None]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """Choose how many devices there are; two, to begin with: each compiles for itself."""
    every = jax.local_devices()
    assert len(every) == 8

    def use(count: int) -> None:
        monkeypatch.setattr(jax, "local_devices", lambda: every[:count])

    use(2)
    return use


@pytest.fixture(scope="module")
def savings() -> dp.Solution:
    return dp.solve(
        "savings", {"continuous": False, "n_a": 40, "n_z": 3, "sigma": 0.3, "beta": 0.9}, tol=1e-6
    )


@pytest.fixture(scope="module")
def growth() -> dp.Solution:
    """Capital between grid points, moved by a shock that output depends on too."""
    model = dp.Model(
        states={"k": dp.grid(0.0, 4.0, 25, outside="clip")},
        choices={"s": dp.grid(0.0, 0.9, 10)},
        shocks={"e": dp.iid([-0.3, 0.0, 0.3], [0.25, 0.5, 0.25])},
        transition={"k": lambda k, s, e: s * (1 + e) * (k + 0.1) ** 0.3 + 0.5 * k},
        reward=lambda k, s, e: jnp.log((1 - s) * (1 + e) * (k + 0.1) ** 0.3),
        outputs={"y": lambda k, e: (1 + e) * (k + 0.1) ** 0.3},
        moments={"poor": lambda k: k < 0.5, "surprise": lambda y, e: y * e},
        discount=0.9,
    )
    return dp.solve(model, tol=1e-8)


@pytest.fixture(scope="module")
def life() -> dp.Solution:
    model = dp.Model(
        states={"a": dp.grid(0.0, 3.0, 16), "z": dp.markov([0.5, 1.5], [[0.8, 0.2], [0.3, 0.7]])},
        choices={"a_next": "a"},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: a + z > a_next,
        reward=lambda a, z, a_next: jnp.log(a + z - a_next),
        discount=0.95,
        horizon=6,
    )
    return dp.solve(model)


def assert_same(one: xarray.Dataset, other: xarray.Dataset) -> None:
    xarray.testing.assert_identical(one, other)


# -- one panel, however it is cut -----------------------------------------------------------------


@pytest.mark.slow
def test_neither_blocks_nor_devices_change_a_bit(savings: dp.Solution, devices: Devices) -> None:
    whole = dp.simulate(savings, 1, agents=101, periods=30).to_xarray()
    for block, count in ((7, 8), (64, 1), (101, 3), (500, 2)):
        devices(count)
        panel = dp.simulate(savings, 1, agents=101, periods=30, block=block)
        blocks = list(panel.blocks())
        assert [b.sizes["agent"] for b in blocks[:-1]] == [block] * (len(blocks) - 1)
        assert_same(xarray.concat(blocks, "agent"), whole)
        assert_same(panel.to_xarray(), whole)


@pytest.mark.slow
def test_moments_are_the_same_on_every_number_of_devices(
    savings: dp.Solution, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "PIECE", 64)
    panel = dp.simulate(savings, 1, agents=300, periods=20)
    found = []
    for count in (1, 2, 8):
        devices(count)
        found.append(panel.moments(EVERY))
    assert found[0] == found[1] == found[2]


def _dedent(code: str) -> str:
    return "\n".join(line.removeprefix("        ") for line in code.splitlines())


@pytest.mark.slow
def test_an_agent_is_the_same_in_every_panel(savings: dp.Solution) -> None:
    small = dp.simulate(savings, 9, agents=10, periods=15).to_xarray()
    large = dp.simulate(savings, 9, agents=1000, periods=40).to_xarray()
    assert_same(large.isel(agent=slice(10), time=slice(15)), small)
    other = dp.simulate(savings, 10, agents=10, periods=15).to_xarray()
    assert not np.array_equal(other.a, small.a)
    luck = large.z.mean("time").values
    assert abs(np.corrcoef(luck[1:], luck[:-1])[0, 1]) < 4 / np.sqrt(1000)


@pytest.mark.slow
def test_a_key_and_its_seed_are_the_same(savings: dp.Solution) -> None:
    one = dp.simulate(savings, 4, agents=5, periods=5).to_xarray()
    assert_same(dp.simulate(savings, jax.random.key(4), agents=5, periods=5).to_xarray(), one)


@pytest.mark.slow
def test_one_key_means_the_same_luck_at_other_parameters(savings: dp.Solution) -> None:
    """Incomes are the very same, so that panels differ by what the parameter does alone."""
    size: dict[str, Any] = {"agents": 300, "periods": 40, "initial": {"a": 0.0}}
    patient = dp.solve(
        "savings", {"continuous": False, "n_a": 40, "n_z": 3, "sigma": 0.3, "beta": 0.91}, tol=1e-6
    )
    one, other, third = (
        dp.simulate(s, key, **size).to_xarray()
        for s, key in ((savings, 1), (patient, 1), (patient, 2))
    )
    np.testing.assert_array_equal(one.z, other.z)
    assert (other.a - one.a).mean("time").std() < 0.5 * (third.a - one.a).mean("time").std()


@pytest.mark.slow
def test_burning_leaves_out_the_first_periods(savings: dp.Solution) -> None:
    size: dict[str, Any] = {"agents": 20, "initial": {"a": 0.0}}
    long = dp.simulate(savings, 0, periods=30, **size).to_xarray()
    late = dp.simulate(savings, 0, periods=20, burn=10, **size).to_xarray()
    for name in long:
        np.testing.assert_array_equal(late[name], long[name][:, 10:])


@pytest.mark.slow
def test_blocks_are_labelled(savings: dp.Solution) -> None:
    panel = dp.simulate(savings, 0, agents=25, periods=4, block=10)
    assert [b.agent.values.tolist()[::9] for b in panel.blocks()] == [[0, 9], [10, 19], [20]]
    ds = panel.to_xarray()
    assert dict(ds.sizes) == {"agent": 25, "time": 4}
    assert list(ds) == ["a", "z", "a_next", "consumption"]
    np.testing.assert_array_equal(ds.a[:, 1:], ds.a_next[:, :-1])
    index = np.searchsorted(savings.grids["a"], ds.a), np.searchsorted(savings.grids["z"], ds.z)
    np.testing.assert_allclose(ds.consumption, np.asarray(savings.outputs["consumption"])[index])


# -- the panel and the distribution ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["savings", "growth"])
@pytest.mark.slow
def test_a_long_panel_agrees_with_the_distribution(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Within four standard errors, at fixed seeds; every moment that there is of these models."""
    solution = request.getfixturevalue(name)
    asked = EVERY if name == "savings" else ["mean_k", "sd_k", "gini_k", "mean_y", "sd_y", "poor",
                                             "surprise"]  # fmt: skip
    mu = dp.stationary(solution)
    exact = {k: float(v) for k, v in mu.moments(asked).items()}
    found = dp.simulate(solution, 11, agents=4000, periods=100).moments(asked)
    assert list(found) == asked
    for moment, (value, error) in found.items():
        assert error < 0.05 * max(abs(exact[moment]), 0.1), moment
        if not moment.startswith("p90"):  # see below
            assert abs(value - exact[moment]) <= 4 * error + 1e-12, moment


@pytest.mark.slow
def test_a_quantile_cuts_the_distribution_where_it_should(savings: dp.Solution) -> None:
    """It jumps from one grid point to the next, so what is near the truth is the mass up to it."""
    mu = dp.stationary(savings)
    panel = dp.simulate(savings, 11, agents=4000, periods=100)
    for p in (25, 50, 75, 90):
        cut = panel.moments([f"p{p}_a"])[f"p{p}_a"].value
        shares = {
            "below": lambda a, cut=cut: a < cut,
            "up_to": lambda a, cut=cut: a <= cut,
        }
        exact, found = mu.moments(shares), panel.moments(shares)
        assert float(exact["below"]) - 4 * found["below"].error < p / 100
        assert float(exact["up_to"]) + 4 * found["up_to"].error >= p / 100


@pytest.mark.slow
def test_standard_errors_are_honest(savings: dp.Solution) -> None:
    """Over 200 panels the distance to the truth, in standard errors, has deviation one."""
    asked = ["mean_a", "mean_consumption", "sd_a", "gini_a"]
    mu = dp.stationary(savings)
    exact = np.array([float(x) for x in mu.moments(asked).values()])
    z = []
    for seed in range(200):
        panel = dp.simulate(savings, seed, agents=400, periods=25, initial=mu.mass)
        found = np.array(list(panel.moments(asked).values()))
        z.append((found[:, 0] - exact) / found[:, 1])
    z = np.array(z)
    # An expectation's z is Student's with 399 degrees of freedom, a group's with 19: deviations
    # 1.00 and 1.06; over 200 draws they are known to 5 %.
    assert np.abs(z[:, :2].std(0) - 1.0).max() < 0.15
    assert np.abs(z[:, 2:].std(0) - 1.06).max() < 0.2
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(200)


@pytest.mark.slow
def test_moments_are_those_of_the_recorded_values(savings: dp.Solution) -> None:
    panel = dp.simulate(savings, 2, agents=90, periods=40)
    ds = panel.to_xarray()
    found = panel.moments(["mean_a", "var_a", "p90_a", "gini_consumption", "top_a"])
    assert found["mean_a"].value == pytest.approx(float(ds.a.mean()), rel=1e-12)
    assert found["var_a"].value == pytest.approx(float(ds.a.var()), rel=1e-12)
    ranked = np.sort(ds.a.values.ravel())
    assert found["p90_a"].value == ranked[int(np.ceil(0.9 * ranked.size)) - 1]
    c = np.sort(ds.consumption.values.ravel())
    rank = np.arange(1, c.size + 1)
    gini = (2 * rank - c.size - 1) @ c / (c.size * c.sum())
    assert found["gini_consumption"].value == pytest.approx(gini, rel=1e-9)
    error = ds.a.mean("time").std("agent", ddof=1) / np.sqrt(90)
    assert found["mean_a"].error == pytest.approx(float(error), rel=1e-9)
    groups = [
        g.a.values.var() for g in np.array_split(np.arange(90), 9) for g in [ds.isel(agent=g)]
    ]
    assert found["var_a"].error == pytest.approx(np.std(groups, ddof=1) / 3, rel=1e-9)


@pytest.mark.slow
def test_moments_do_not_depend_on_how_agents_are_grouped_for_work(
    savings: dp.Solution, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = dp.simulate(savings, 2, agents=1000, periods=10)
    whole = panel.moments(EVERY)
    for piece, count_bytes in ((37, 2**26), (2**14, 8 * 120 * 5), (1, 2**26)):
        monkeypatch.setattr(moments, "PIECE", piece)
        monkeypatch.setattr(moments, "COUNT_BYTES", count_bytes)
        for name, found in panel.moments(EVERY).items():
            assert found.value == whole[name].value, name  # counts are integers
            assert found.error == pytest.approx(whole[name].error, rel=1e-12), name


@pytest.mark.slow
def test_functions_and_shocks_in_moments(growth: dp.Solution) -> None:
    panel = dp.simulate(growth, 2, agents=3000, periods=50, variables=["k", "y", "e"])
    ds = panel.to_xarray()
    found = panel.moments({"luck": lambda y, e: y * e, "rich": lambda k: k > 1.0})
    assert found["rich"].value == pytest.approx(float((ds.k > 1.0).mean()), rel=1e-12)
    # Given the state, shocks have their probabilities: less noise than the drawn ones have.
    drawn = (ds.y * ds.e).mean("time")
    error = float(drawn.std("agent", ddof=1)) / np.sqrt(3000)
    assert found["luck"].error < 0.5 * error
    assert abs(found["luck"].value - float(drawn.mean())) < 4 * error
    assert found["luck"] == pytest.approx(panel.moments(["surprise"])["surprise"], rel=1e-9)


@pytest.mark.slow
def test_a_life_cycle_has_moments_by_age(life: dp.Solution) -> None:
    panel = dp.simulate(life, 3, agents=5000, periods=6, initial={"a": 0.5, "z": [0.5, 0.5]})
    ds = panel.to_xarray()
    found = panel.moments(["mean_a", "p50_a", "mean_a_next"])
    assert found["mean_a"].value.shape == found["p50_a"].error.shape == (6,)
    np.testing.assert_allclose(found["mean_a"].value, ds.a.mean("agent"), rtol=1e-12)
    error = ds.a.std("agent", ddof=1) / np.sqrt(5000)
    np.testing.assert_allclose(found["mean_a"].error, error, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(found["mean_a_next"].value[-1], 0.0)  # nothing is left over
    path = dp.path(life, {"a": 0.5, "z": [0.5, 0.5]}, 5)
    exact = (np.asarray(path.mass).sum(-1) * np.asarray(life.grids["a"])).sum(-1)
    assert (np.abs(found["mean_a"].value - exact) <= 4 * found["mean_a"].error + 1e-12).all()


def test_one_agent_has_no_standard_error(savings: dp.Solution) -> None:
    found = dp.simulate(savings, 0, agents=1, periods=10).moments(["mean_a", "gini_a"])
    assert np.isfinite(found["mean_a"].value)
    assert np.isnan(found["mean_a"].error)
    assert np.isnan(found["gini_a"].error)


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_panel_that_would_fill_the_memory_is_refused(savings: dp.Solution) -> None:
    panel = dp.simulate(savings, 0, agents=10**8, periods=100)
    with pytest.raises(dp.UsageError, match=r"320,000,000,000 bytes.*blocks\(\)"):
        panel.to_xarray()
    first = next(panel.blocks())
    assert first.nbytes <= 1.1 * module.BLOCK_BYTES


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_agents(fresh_python: Callable[[str], str]) -> None:
    code = """
        import os, resource
        del os.environ["XLA_FLAGS"]
        import dpsolve as dp
        s = dp.solve("savings", {"continuous": False, "n_a": 20, "n_z": 3, "sigma": 0.4}, tol=1e-6)
        def peak(agents):
            p = dp.simulate(s, 1, agents=agents, periods=20, initial={"a": 2.0})
            p.moments(["mean_a", "gini_a"])
            for block in p.blocks():
                pass
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(peak(400_000), peak(3_200_000))
    """
    small, large = (int(x) for x in fresh_python(_dedent(code)).split())
    # The larger panel would take 2 GB, 1.8 more than the smaller.
    assert large < small + 100


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"agents": 0}, "agents=0; it is a whole number, at least 1"),
        ({"periods": 0}, "periods=0"),
        ({"periods": 2.5}, "periods=2.5"),
        ({"burn": -1}, "burn=-1; it is a whole number, at least 0"),
        ({"block": 0}, "block=0"),
        ({"agents": 2**33}, "32 bits"),
        ({"periods": 2**32}, "a stream of"),
        ({"variables": ["assets"]}, "names 'assets'.*It has: a, z, a_next, consumption"),
        ({"variables": ["consumtion"]}, "Did you mean 'consumption'"),
        ({"variables": []}, "variables is empty"),
        ({"key": "x"}, "key is 'x'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    savings: dp.Solution, given: dict[str, Any], text: str
) -> None:
    size = {"key": 0, "agents": 2, "periods": 2, "initial": {"a": 0.0}} | given
    with pytest.raises(dp.UsageError, match=text):
        dp.simulate(savings, size.pop("key"), **size)


@pytest.mark.parametrize(
    ("initial", "text"),
    [
        ({"b": 0.0}, "names 'b'"),
        ({"a": -1.0}, "off the grid"),
        (np.ones((40, 3)), "sums to 120"),
        ("uniform", "initial='uniform'"),
    ],
)
def test_an_initial_distribution_that_is_none_is_refused(
    savings: dp.Solution, initial: Any, text: str
) -> None:
    with pytest.raises(dp.ModelError, match=text):
        dp.simulate(savings, 0, agents=1, periods=1, initial=initial)


def test_a_finite_horizon_needs_a_beginning_and_has_an_end(life: dp.Solution) -> None:
    with pytest.raises(dp.ModelError, match=r"finite horizon.*give initial="):
        dp.simulate(life, 0, agents=1, periods=1)
    with pytest.raises(dp.UsageError, match="periods=7, but the model ends after 6"):
        dp.simulate(life, 0, agents=1, periods=7, initial={"a": 0.0})
    with pytest.raises(dp.UsageError, match="burn=1; with a finite horizon"):
        dp.simulate(life, 0, agents=1, periods=2, burn=1, initial={"a": 0.0})


@pytest.mark.slow
def test_many_points_are_simulated_one_at_a_time() -> None:
    many = dp.solve_many(
        "growth", {"continuous": False, "beta": np.array([0.9, 0.95, 1.2]), "n_k": 30}
    )
    with pytest.raises(dp.UsageError, match=r"3 points; pick one: .*solution.point\(0\)"):
        dp.simulate(many, 0, agents=1, periods=1)
    one = dp.solve("growth", {"continuous": False, "beta": 0.95, "n_k": 30})
    for name, index in one.policy_index.items():
        np.testing.assert_array_equal(many.point(1).policy_index[name], index)
    size: dict[str, Any] = {"agents": 3, "periods": 5, "initial": {"k": float(one.grids["k"][3])}}
    assert_same(
        dp.simulate(many.point(1), 0, **size).to_xarray(), dp.simulate(one, 0, **size).to_xarray()
    )
    with pytest.raises(dp.ModelError, match="failed"):
        dp.simulate(many.point(-1), 0, **size)
    with pytest.raises(dp.UsageError, match="numbered from 0 to 2"):
        many.point(3)
    with pytest.raises(dp.UsageError, match="one point"):
        one.point(0)


def test_what_has_no_policy_is_refused() -> None:
    def arrays(a=1.0):
        return {"price": a * jnp.ones(3)}

    with pytest.raises(dp.ModelError, match="arrays returns arrays"):
        dp.simulate(dp.solve(arrays), 0, agents=1, periods=1)
    with pytest.raises(dp.UsageError, match="takes a solution"):
        dp.simulate("growth", 0, agents=1, periods=1)  # type: ignore[arg-type]

    def traced(beta):
        solution = dp.solve("growth", {"continuous": False, "beta": beta, "n_k": 10})
        return dp.simulate(solution, 0, agents=1, periods=1, initial={"k": 1.0})

    with pytest.raises(dp.UsageError, match="traced"):
        jax.jit(traced)(0.9)


@pytest.mark.slow
def test_several_recurrent_classes_are_refused_by_default() -> None:
    """Two islands that never meet: where an agent begins decides everything."""
    model = dp.mdp(np.zeros((2, 1)), np.eye(2)[:, None], 0.9)
    solution = dp.solve(model)
    with pytest.raises(dp.ModelError, match="no stationary distribution to begin with"):
        dp.simulate(solution, 0, agents=1, periods=1)
    ds = dp.simulate(solution, 0, agents=3, periods=5, initial=[0.0, 1.0]).to_xarray()
    assert (ds.state == 1).all()


@pytest.mark.slow
def test_a_panel_says_what_it_is(savings: dp.Solution) -> None:
    panel = dp.simulate(savings, 0, agents=10**6, periods=50, burn=100, initial={"a": 0.0})
    shown = "<Panel of savings: 1,000,000 agents, 50 periods after 100; a, z, a_next, consumption>"
    assert repr(panel) == shown
    with pytest.raises(dp.UsageError, match="no moment 'gini_b'"):
        panel.moments(["gini_b"])

"""Models with taste shocks, against the definition written down in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

GRID, HOURS, BONUS = np.linspace(0.2, 4.0, 12), np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.3])
WAGES, CHAIN = np.array([0.7, 1.3]), np.array([[0.8, 0.2], [0.3, 0.7]])


def worker(beta=0.95, scale=0.3, inner=0.1, r=0.04, wage=1.0, *, kind="plain", horizon=None):
    """Save, work some hours or none; hours meet taste shocks. With effort, too, if asked for."""

    def consumption(a, z, hours, a_next):
        return (1 + r) * a + wage * z * hours - a_next + 0.1

    def utility(a, z, hours, a_next):
        return jnp.log(consumption(a, z, hours, a_next)) - 0.4 * hours**2

    taste = {
        "plain": {"hours": scale},
        "nested": {"hours": dp.nested(scale, {"work": ([0.5, 1.0], inner)})},
        "pair": {("hours", "a_next"): scale},
    }[kind]
    return dp.Model(
        states={"a": dp.grid(0.2, 4.0, 12), "z": dp.markov(WAGES, CHAIN)},
        choices={"a_next": "a", "hours": HOURS},
        transition={"a": "a_next"},
        feasible=lambda a, z, hours, a_next: consumption(a, z, hours, a_next) > 0,
        reward=utility,
        discount=beta,
        taste_shocks=taste,
        outputs={"consumption": consumption},
        horizon=horizon,
    )


def consumption_table(r=0.04):
    """Consumption (a, z, hours, a_next)."""
    a, z, h, n = np.ix_(GRID, WAGES, HOURS, GRID)
    return (1 + r) * a + z * h - n + 0.1


def log_sum(q, scale):
    top = q.max(-1, keepdims=True)
    return (top + scale * np.log(np.exp((q - top) / scale).sum(-1, keepdims=True)))[..., 0]


def sweep(v, kind="plain", beta=0.95, scale=0.3, inner=0.1):
    """One application of the operator: value, probabilities of hours (or pairs), best a_next."""
    c, v = consumption_table(), v.astype(np.longdouble)
    h = HOURS[None, None, :, None]
    with np.errstate(invalid="ignore"):
        u = np.where(c > 0, np.log(np.maximum(c, 1e-300)) - 0.4 * h**2, -np.inf)
    q = u + beta * np.einsum("nz,yz->yn", v, CHAIN)[None, :, None, :]
    if kind == "pair":
        q = q.reshape(12, 2, -1)
        value = log_sum(q, scale)
        return value, np.exp((q - value[..., None]) / scale).reshape(12, 2, 3, 12), None
    best, at = q.max(-1), q.argmax(-1)
    if kind == "plain":
        value = log_sum(best, scale)
        return value, np.exp((best - value[..., None]) / scale), at
    nest = log_sum(best[..., 1:], inner)
    outer = np.stack([best[..., 0], nest], -1)
    value = log_sum(outer, scale)
    above = np.exp((outer - value[..., None]) / scale)
    within = np.exp((best[..., 1:] - nest[..., None]) / inner)
    return value, np.concatenate([above[..., :1], above[..., 1:] * within], -1), at


def fixed_point(kind="plain", **keywords):
    v = np.zeros((12, 2), np.longdouble)
    for _ in range(700):
        v = sweep(v, kind, **keywords)[0]
    return v.astype(np.float64)


@pytest.fixture(scope="module")
def solved():
    return {kind: dp.solve(worker, {"kind": kind}) for kind in ("plain", "nested", "pair")}


@pytest.mark.parametrize("kind", ["plain", "nested", "pair"])
def test_value_bounds_and_probabilities_are_those_of_the_definition(solved, kind):
    found, v = solved[kind], fixed_point(kind)
    assert found.status == "solved"
    assert (found.lower <= v).all()
    assert (v <= found.upper).all()
    np.testing.assert_allclose(found.value, v, atol=found.error_bound)
    _, p, at = sweep(v, kind)
    p = p.astype(np.float64)
    name = "hours_a_next" if kind == "pair" else "hours"
    assert np.abs(found.probability[name] - p).max() <= found["probability_error"] < 1e-6
    np.testing.assert_allclose(found.probability[name].sum(tuple(range(2, p.ndim))), 1.0)
    if kind == "pair":
        j = p.reshape(12, 2, -1).argmax(-1)
        np.testing.assert_array_equal(found.policy_index["hours"], j // 12)
        np.testing.assert_array_equal(found.policy_index["a_next"], j % 12)
        return
    np.testing.assert_array_equal(found.policy_index["hours"], p.argmax(-1))
    likely = p > 0
    np.testing.assert_array_equal(found.policy_index["a_next"][likely], at[likely])
    c = np.take_along_axis(consumption_table(), at[..., None], -1)[..., 0]
    np.testing.assert_allclose(found["consumption"][likely], c[likely])
    assert np.isnan(found["consumption"][~likely]).all()
    assert found.to_xarray()["probability_hours"].dims == ("a", "z", "hours")


@pytest.mark.parametrize("options", [{"method": "vi"}, {"method": "opi"}, {"block": 5}])
def test_every_method_and_streaming_give_the_same(solved, options):
    found = dp.solve(worker, **options)
    assert found.status == "solved"
    np.testing.assert_allclose(
        found.value, solved["plain"].value, atol=found.error_bound + solved["plain"].error_bound
    )
    np.testing.assert_allclose(found.probability["hours"], solved["plain"].probability["hours"],
                               atol=2e-6)  # fmt: skip


def test_at_a_tiny_scale_the_log_sum_is_the_maximum(solved):
    sharp = dp.solve(worker, {"scale": 1e-6})
    plain = dp.solve(lambda: without_tastes())
    assert sharp.status == plain.status == "solved"
    # What tastes of that scale add is at most scale log(alternatives) / (1 - beta).
    gap = np.asarray(sharp.value) - np.asarray(plain.value)
    error = float(sharp.error_bound + plain.error_bound)
    assert (gap >= -error).all()
    assert (gap <= 1e-6 * np.log(3) / 0.05 + error).all()
    np.testing.assert_array_equal(sharp.policy_index["hours"], plain.policy_index["hours"])
    assert np.asarray(sharp.probability["hours"]).max(-1).min() > 1 / 3


def without_tastes():
    from dataclasses import replace

    return replace(worker(), taste_shocks={}, outputs={})


def test_nests_of_one_scale_are_none(solved):
    same = dp.solve(worker, {"kind": "nested", "inner": 0.3})
    bound = float(same.error_bound + solved["plain"].error_bound)
    np.testing.assert_allclose(same.value, solved["plain"].value, atol=bound)


def test_a_finite_horizon_is_induction_backward():
    found = dp.solve(worker, {"kind": "plain", "horizon": 4})
    v = np.zeros((12, 2))
    for t in reversed(range(4)):
        v, p, at = sweep(v)
        np.testing.assert_allclose(found.value[t], np.float64(v), rtol=1e-12)
        np.testing.assert_allclose(found.probability["hours"][t], np.float64(p), atol=1e-12)
        likely = p > 0
        np.testing.assert_array_equal(found.policy_index["a_next"][t][likely], at[likely])
    assert found["probability_error"] < 1e-12
    assert dict(found.problem.dims)["probability_hours"] == ("t", "a", "z", "hours")


def test_the_stationary_distribution_takes_each_hour_by_its_chance(solved):
    found = dp.solve(worker, distribution=True, moments=["mean_hours", "mean_a_next", "mean_a"])
    p, at = np.asarray(found.probability["hours"]), np.asarray(found.policy_index["a_next"])
    move = np.zeros((12, 2, 12, 2))
    for a, z, h in np.ndindex(12, 2, 3):
        move[a, z, at[a, z, h]] += p[a, z, h] * CHAIN[z]
    mass = np.full(24, 1 / 24)
    for _ in range(4000):
        mass = mass @ move.reshape(24, 24)
    mass = mass.reshape(12, 2)
    assert np.abs(found.distribution - mass).sum() < 1e-8
    assert float(found.moments["mean_hours"]) == pytest.approx(
        (mass[..., None] * p * HOURS).sum(), abs=1e-8
    )
    saved = (mass[..., None] * p * GRID[at]).sum()
    assert float(found.moments["mean_a_next"]) == pytest.approx(saved, abs=1e-8)
    # In the stationary state savings are what there is.
    assert float(found.moments["mean_a"]) == pytest.approx(saved, abs=1e-8)


def test_a_panel_chooses_by_the_probabilities(solved):
    panel = dp.simulate(solved["plain"], 3, agents=4000, periods=3, initial={"a": 1.0}).to_xarray()
    p = np.asarray(solved["plain"].probability["hours"])
    i = int(np.argmin(np.abs(GRID - panel["a"].values[0, 0])))
    for z, wage in enumerate(WAGES):
        here = np.isclose(panel["a"][:, 0], GRID[i]) & np.isclose(panel["z"][:, 0], wage)
        n = int(here.sum())
        share = np.array([(panel["hours"].values[:, 0][here] == h).mean() for h in HOURS])
        assert n > 300
        assert (np.abs(share - p[i, z]) < 4.5 * np.sqrt(0.25 / n)).all()
    assert "consumption" in panel


def test_derivatives_of_the_value_are_those_of_the_envelope(solved):
    by = ("beta", "scale", "r", "wage")
    found = dp.solve(worker, tol=1e-10, gradients=by)
    for name in by:
        step = 1e-5
        base = {"beta": 0.95, "scale": 0.3, "r": 0.04, "wage": 1.0}[name]
        up, down = (dp.solve(worker, {name: base + s}, tol=1e-11).value for s in (step, -step))
        slope = (np.asarray(up) - np.asarray(down)) / (2 * step)
        np.testing.assert_allclose(found.gradients[name]["value"], slope, rtol=2e-4, atol=1e-4)

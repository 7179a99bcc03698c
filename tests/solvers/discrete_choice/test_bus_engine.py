"""Rust's bus engine: published numbers, and a nested fixed point in NumPy with dense LAPACK."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

_file = Path(__file__).parents[3] / "examples" / "bus_engine.py"
_spec = importlib.util.spec_from_file_location("bus_engine", _file)
assert _spec is not None
assert _spec.loader is not None
_example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_example)
bus_engine, estimate = _example.bus_engine, _example.estimate


N = 90
BETA, STEPS = 0.9999, np.array([0.3919, 0.5953, 1 - 0.3919 - 0.5953])


def nfxp(RC, theta_1, steps=STEPS, beta=BETA, n=N):
    """Newton from zero: V (n,), chances of replacing (n,), and the two transition matrices."""
    keep, new = np.zeros((2, n, n))
    for k, p in enumerate(steps):
        keep[np.arange(n), np.minimum(np.arange(n) + k, n - 1)] += p
        new[:, k] += p
    cost = 0.001 * theta_1 * np.arange(n)
    v = np.zeros(n)
    for _ in range(40):
        q = np.stack([-cost + beta * keep @ v, -RC + beta * new @ v], 1)
        top = q.max(1)
        tv = top + np.log(np.exp(q - top[:, None]).sum(1))
        p = np.exp(q - tv[:, None])
        chain = p[:, :1] * keep + p[:, 1:] * new
        step = np.linalg.solve(np.eye(n) - beta * chain, tv - v)
        v = v + step
        if np.abs(step).max() < 1e-10:
            break
    return v, p[:, 1], keep, new


def score(RC, theta_1, x, replaced):
    """The gradient by RC and theta_1, by the implicit function theorem, in NumPy."""
    _, p, keep, new = nfxp(RC, theta_1)
    chain = (1 - p)[:, None] * keep + p[:, None] * new
    dr = np.zeros((N, 2, 2))  # of rewards: state, alternative, parameter
    dr[:, 1, 0], dr[:, 0, 1] = -1.0, -0.001 * np.arange(N)
    average = (1 - p)[:, None] * dr[:, 0] + p[:, None] * dr[:, 1]
    dv = np.linalg.solve(np.eye(N) - BETA * chain, average)
    dq = dr + BETA * np.stack([keep @ dv, new @ dv], 1)
    slope = dq[:, 1] - dq[:, 0]
    return ((replaced - p[x])[:, None] * slope[x]).sum(0)


@pytest.fixture(scope="module")
def solved():
    return dp.solve(bus_engine)


def test_published_numbers_at_a_discount_of_9999(solved):
    assert solved.status == "solved"
    assert solved.error_bound < 1e-8
    v, p = np.asarray(solved.value), np.asarray(solved.probability["replace"])[:, 1]
    assert v[:3] @ STEPS == pytest.approx(-1278.609, abs=1e-3)
    assert v[0] == pytest.approx(-1278.481, abs=1e-3)
    assert p[45] == pytest.approx(0.015423, abs=1e-6)
    assert p[89] == pytest.approx(0.072705, abs=1e-6)


def test_it_is_newton_with_dense_lapack(solved):
    v, p, *_ = nfxp(10.0750, 2.2930)
    # LAPACK's own error, at a condition number of 2 / (1 - beta).
    assert (solved.lower - 1e-8 <= v).all()
    assert (v <= solved.upper + 1e-8).all()
    off = np.abs(np.asarray(solved.probability["replace"])[:, 1] - p).max()
    assert off <= solved["probability_error"] + 1e-11


DATA = {"x": np.random.default_rng(1).integers(0, N, 800)}
DATA["replace"] = (np.random.default_rng(2).random(800) < 0.02 + DATA["x"] / 900).astype(int)


@pytest.fixture(scope="module")
def likelihood():
    return dp.log_likelihood(bus_engine, DATA)


def test_likelihood_and_score_are_those_of_the_nested_fixed_point(likelihood):
    many = jax.jit(jax.vmap(jax.value_and_grad(likelihood)))
    RC, theta_1 = np.array([10.0750, 8.0, 13.0]), np.array([2.2930, 3.5, 1.0])
    value, slope = many({"RC": jnp.asarray(RC), "theta_1": jnp.asarray(theta_1)})
    for i in range(3):
        p = nfxp(RC[i], theta_1[i])[1][DATA["x"]]
        exact = np.log(np.where(DATA["replace"] == 1, p, 1 - p)).sum()
        assert float(value[i]) == pytest.approx(exact, rel=1e-10)
        mine = [float(slope["RC"][i]), float(slope["theta_1"][i])]
        np.testing.assert_allclose(mine, score(RC[i], theta_1[i], DATA["x"], DATA["replace"]),
                                   rtol=1e-7)  # fmt: skip


@pytest.mark.slow
def test_the_hessian_is_that_of_the_scores(likelihood):
    at = np.array([9.5, 2.5])
    hessian = jax.jit(jax.hessian(lambda p: likelihood({"RC": p[0], "theta_1": p[1]})))
    found = np.asarray(hessian(jnp.asarray(at)))
    step = 1e-4
    rows = []
    for k in range(2):
        up, down = at.copy(), at.copy()
        up[k], down[k] = at[k] + step, at[k] - step
        ends = [score(*p, DATA["x"], DATA["replace"]) for p in (up, down)]
        rows.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(found, rows, rtol=1e-5)
    errors = np.sqrt(np.diag(np.linalg.inv(-found)))
    assert (errors > 0).all()


def test_contributions_add_up_and_what_is_missing_drops_out(likelihood):
    short = {n: x[:20].astype(float) for n, x in DATA.items()}
    short["replace"][3] = np.nan
    each = np.asarray(dp.log_likelihood(bus_engine, short, each=True)({}))
    p = nfxp(10.0750, 2.2930)[1][DATA["x"][:20]]
    exact = np.log(np.where(DATA["replace"][:20] == 1, p, 1 - p))
    exact[3] = 0.0
    np.testing.assert_allclose(each, exact, rtol=1e-9, atol=1e-12)
    assert np.isnan(float(likelihood({"RC": np.nan})))


def replaced(**changes):
    short = {n: x[:20].astype(float) for n, x in DATA.items()}
    for name, (i, value) in changes.items():
        short[name][i] = value
    return short


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: replaced(x=(7, 90.0)), ["observation 7", "x=90", "to 89"]),
        (lambda: replaced(x=(4, np.nan)), ["observation 4", "x is NaN"]),
        (lambda: replaced(x=(2, 0.5)), ["observation 2", "x=0.5"]),
        (lambda: replaced(replace=(9, 2.0)), ["observation 9", "replace=2", "0, 1"]),
        (lambda: {"x": DATA["x"]}, ["no 'replace'", "x, replace"]),
        (lambda: {**DATA, "milage": DATA["x"]}, ["'milage'", "needs: x, replace"]),
        (lambda: {**DATA, "x": DATA["x"][:5]}, ["different lengths", "x 5", "replace 800"]),
        (lambda: [1, 2], ["list", "dict of equally long arrays"]),
    ],
)
def test_data_that_cannot_be_matched_are_named(data, words):
    with pytest.raises(dp.UsageError) as error:
        dp.log_likelihood(bus_engine, data())
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_model_without_tastes_has_no_likelihood(likelihood):
    with pytest.raises(dp.ModelError, match="growth has none"):
        dp.log_likelihood("growth", {"k": [1.0]})
    with pytest.raises(dp.ModelError, match="no parameter 'RCC'"):
        likelihood({"RCC": 1.0})
    with pytest.raises(dp.UsageError, match="vmap"):
        likelihood({"RC": jnp.ones(3)})


@pytest.mark.slow
def test_a_monte_carlo_of_estimates_is_centred_and_its_errors_are_right():
    """100 samples, each drawn and estimated by steps of its scores, in one call."""
    found = dp.solve_many(estimate, {"sample": np.arange(100.0), "buses": 80})
    for name, true in (("RC", 10.0750), ("theta_1", 2.2930)):
        estimates, told = np.asarray(found[name]), np.asarray(found[f"se_{name}"])
        assert np.isfinite(estimates).all()
        spread = estimates.std(ddof=1)
        assert abs(np.median(estimates) - true) < 4 * spread / 10
        assert np.median(told) == pytest.approx(spread, rel=0.35)

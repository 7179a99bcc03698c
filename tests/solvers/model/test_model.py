"""The model face: what is accepted, and what is refused with which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp


def model(**changes):
    """A small savings model with something changed."""
    fields = {
        "states": {"a": dp.grid(0.0, 4.0, 9), "z": dp.markov([0.5, 1.0], [[0.8, 0.2], [0.3, 0.7]])},
        "choices": {"a_next": "a"},
        "transition": {"a": "a_next"},
        "feasible": lambda a, z, a_next: a + z - a_next > 0,
        "reward": lambda a, z, a_next: jnp.log(a + z - a_next),
        "discount": 0.9,
    }
    return dp.Model(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": lambda a, zz: a}, ["'zz'", "Did you mean 'z'", "a, z, a_next"]),
        ({"reward": lambda *x: 0.0}, ["*x", "by name"]),
        ({"reward": 3.0}, ["reward must be a function"]),
        ({"choices": {"a_next": "b"}}, ["'b'", "no state", "a, z"]),
        ({"choices": None}, ["choices must be a dict", "choices={}"]),
        ({"transition": {}}, ["state 'a' has no transition"]),
        ({"transition": {"a": "a_nxt"}}, ["'a_nxt'", "Did you mean 'a_next'"]),
        ({"transition": {"a": "a_next", "z": "a_next"}}, ["'z'", "Markov chain"]),
        ({"transition": {"a": "a_next", "y": "a"}}, ["'y'", "no state"]),
        ({"discount": lambda a, w: 0.9}, ["discount", "'w'"]),
        ({"discount": jnp.array([0.9, 0.8])}, ["discount is an array"]),
        ({"states": {"value": dp.grid(0, 1, 3)}}, ["'value' is taken"]),
        ({"terminal": lambda a: a}, ["horizon"]),
        ({"horizon": 0}, ["horizon=0"]),
        ({"monotone": {"a_next": "b"}}, ["monotone"]),
        ({"shocks": {"w": [1, 2]}}, ["dp.iid"]),
        ({"shocks": {"a": dp.iid([1.0], [1.0])}}, ["'a' stands under states and under shocks"]),
        ({"states": {"a": [0.0, 2.0, 1.0], "z": [1.0]}, "transition": {"a": "a_next", "z": "z"}},
         ["does not increase", "2 is followed by 1"]),
        ({"states": {"a": "many", "z": [1.0]}}, ["state 'a'", "one-dimensional"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        model(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp.grid(1.0, 0.0, 5), ["lo=1.0", "hi=0.0"]),
        (lambda: dp.grid(0.0, 1.0, 2.5), ["n=2.5"]),
        (lambda: dp.grid(0.0, 1.0), ["dp.grid(lo, hi, n)"]),
        (lambda: dp.grid(0.0, 1.0, 5, outside="wrap"), ["'wrap'", "clip"]),
        (lambda: dp.integers(3, 1), ["lo=3"]),
        (lambda: dp.markov([1, 2], [[0.5, 0.5], [0.5, 0.49999]]), ["row 1", "0.99999"]),
        (lambda: dp.markov([1, 2], [[1.5, -0.5], [0, 1]]), ["negative"]),
        (lambda: dp.markov([1, 2], np.eye(3)), ["(2, 2)", "(3, 3)"]),
        (lambda: dp.iid([1, 2], [0.5, 0.6]), ["1.1"]),
        (lambda: dp.iid([1, 2], [1.0]), ["2 values but 1"]),
        (lambda: dp.rouwenhorst(5, 1.0, 0.1), ["rho=1.0"]),
        (lambda: dp.tauchen(5, 0.5, -0.1), ["sigma=-0.1"]),
    ],
)
def test_specifications_refuse_nonsense(make, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_grids_have_exact_ends_and_a_curve() -> None:
    g = dp.grid(0.1, 0.7, 50, curve=2)
    assert g.values[0] == 0.1
    assert g.values[-1] == 0.7
    assert np.diff(g.values)[0] < np.diff(g.values)[-1]


def test_rouwenhorst_matches_the_ar1_s_moments() -> None:
    chain = dp.rouwenhorst(9, 0.95, 0.2, mu=0.1)
    p, y = chain.transition_matrix, chain.values
    mu = np.linalg.matrix_power(p, 10_000)[0]
    mean = mu @ y
    assert mean == pytest.approx(0.1 / 0.05)
    assert mu @ (y - mean) ** 2 == pytest.approx(0.04 / (1 - 0.95**2))
    assert (mu * (y - mean)) @ p @ (y - mean) == pytest.approx(0.95 * 0.04 / (1 - 0.95**2))


def test_tauchen_rows_are_the_normal_law_of_their_bins() -> None:
    from scipy.stats import norm

    chain = dp.tauchen(5, 0.6, 0.3, width=2.5)
    y = chain.values
    step = y[1] - y[0]
    inner = norm.cdf((y[2] + step / 2 - 0.6 * y[1]) / 0.3) - norm.cdf(
        (y[2] - step / 2 - 0.6 * y[1]) / 0.3
    )
    assert chain.transition_matrix[1, 2] == pytest.approx(inner, rel=1e-12)
    np.testing.assert_allclose(chain.transition_matrix.sum(1), 1.0, atol=1e-14)
    assert y[-1] == pytest.approx(2.5 * 0.3 / np.sqrt(1 - 0.36))


def test_crra_is_log_at_one_and_keeps_its_formula() -> None:
    assert dp.crra(2.0, 1.0) == pytest.approx(np.log(2.0))
    assert dp.crra(2.0, 3.0) == pytest.approx(2.0**-2 / -2)
    assert dp.crra(2.0, jnp.float64(0.5)) == pytest.approx(2 * np.sqrt(2.0))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 1.0 + 1e-6, 2.0, 5.0])
def test_crra_at_small_large_and_impossible_consumption(gamma: float) -> None:
    c = np.array([1e-300, 1e-8, 0.5, 1.0, 7.0, 1e12])
    with np.errstate(over="ignore"):
        meant = np.log(c) if gamma == 1.0 else c ** (1.0 - gamma) / (1.0 - gamma)
    np.testing.assert_allclose(jax.vmap(lambda c: dp.crra(c, gamma))(c), meant, rtol=1e-12)
    assert dp.crra(0.0, gamma) == (0.0 if gamma < 1.0 else -np.inf)
    assert np.isnan(dp.crra(-1.0, gamma))
    slope = jax.grad(lambda c: dp.crra(c, gamma))(0.5)
    assert slope == pytest.approx(0.5**-gamma, rel=1e-12)


def test_a_shock_s_probabilities_may_depend_on_the_choice() -> None:
    # Effort e makes success (worth 1) likelier at a cost; the best effort has a closed form.
    effort = np.linspace(0, 1, 101)
    m = dp.Model(
        states={"s": dp.integers(0, 1)},
        choices={"e": effort},
        shocks={"w": dp.iid([0, 1], lambda e: jnp.stack([1 - e, e]))},
        transition={"s": lambda w: w},
        reward=[lambda s: 1.0 * s, lambda e: -(e**2)],
        discount=0.5,
    )
    s = dp.solve(m, tol=1e-10)
    # v(1) - v(0) = 1, so e* = beta/2 = .25 and v(0) = beta^2/4 / (1 - beta) = .125.
    np.testing.assert_allclose(s.policy["e"], 0.25)
    np.testing.assert_allclose(s.value, [0.125, 1.125], atol=1e-10)


@pytest.mark.slow
def test_two_choices_a_pipeline_and_an_integer_stock() -> None:
    # Order q now, it arrives next period; sell w at price 1, stock x and pipeline y.
    def after(x, y, w):
        return jnp.clip(x + y - w, 0, 6)

    m = dp.Model(
        states={"x": dp.integers(0, 6), "y": dp.integers(0, 3)},
        choices={"q": dp.integers(0, 3), "ads": [0.0, 1.0]},
        shocks={"w": dp.iid([0, 1, 2], lambda ads: jnp.where(ads > 0, jnp.array([0.1, 0.4, 0.5]),
                                                             jnp.array([0.3, 0.4, 0.3])))},
        transition={"x": after, "y": "q"},
        feasible=lambda x, y, q: (x + y + q <= 6) | (q == 0),
        reward=[lambda x, y, w: 1.0 * jnp.minimum(x + y, w), lambda q: -0.4 * q,
                lambda ads: -0.1 * ads],
        discount=0.9,
        outputs={"sold": lambda x, y, w: jnp.minimum(x + y, w)},
    )  # fmt: skip
    s = dp.solve(m, tol=1e-9)
    v = np.zeros((7, 4))
    for _ in range(400):
        new = np.full((7, 4), -np.inf)
        for x in range(7):
            for y in range(4):
                for q in range(4):
                    if x + y + q > 6 and q > 0:
                        continue
                    for ads in (0, 1):
                        p = [0.1, 0.4, 0.5] if ads else [0.3, 0.4, 0.3]
                        u = -0.4 * q - 0.1 * ads
                        for w in range(3):
                            nx = min(max(x + y - w, 0), 6)
                            u += p[w] * (min(x + y, w) + 0.9 * v[nx, q])
                        new[x, y] = max(new[x, y], u)
        v = new
    assert s.status == "solved"
    assert np.max(np.abs(s.value - v)) < 1e-8
    assert s.outputs["sold"][6, 3] == pytest.approx(1.4)  # enough for any demand; ads pay

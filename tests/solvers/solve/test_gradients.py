"""Derivatives of a solution are those of the fixed point: they match central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

STEP = 1e-5
NAMES = ("beta", "gamma", "r", "rho", "sigma")


def value(p: jax.Array) -> jax.Array:
    params = dict(zip(NAMES, p, strict=True)) | {"continuous": False, "n_a": 30, "n_z": 3}
    return dp.solve("savings", params, tol=1e-11).value[12, 1]


def difference(f, x: jax.Array) -> np.ndarray:
    """Central differences of fourth order."""
    steps = STEP * jnp.eye(x.size) if x.ndim else jnp.array([STEP])
    rows = [
        (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * STEP) for e in steps
    ]
    return np.array(rows if x.ndim else rows[0])


@pytest.mark.slow
def test_forward_and_reverse_match_central_differences() -> None:
    p = jnp.array([0.93, 2.0, 0.03, 0.9, 0.1])
    reverse = jax.grad(value)(p)
    np.testing.assert_allclose(jax.jacfwd(value)(p), reverse, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(reverse, difference(value, p), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_grid_that_moves_with_the_parameter_and_an_output() -> None:
    def capital(beta: jax.Array) -> jax.Array:
        s = dp.solve("growth", {"continuous": False, "beta": beta, "n_k": 40}, tol=1e-11)
        return s.value[20] + s.outputs["consumption"][20] + s.policy["k_next"][7]

    beta = jnp.asarray(0.95)
    assert jax.grad(capital)(beta) == pytest.approx(float(difference(capital, beta)), rel=1e-6)


@pytest.mark.slow
def test_the_steady_state_s_derivative_has_a_closed_form() -> None:
    # v(k_ss) = log(c_ss) / (1 - beta) with k_ss held at its grid point; z scales c and k_ss alike,
    # k_ss ~ z^(1/(1-alpha)), so d v / d log z = 1 / (1 - alpha) / (1 - beta).
    def steady(z: jax.Array) -> jax.Array:
        return dp.solve("growth", {"continuous": False, "z": z}, tol=1e-11).value[33]

    assert jax.grad(steady)(1.0) == pytest.approx(1 / 0.65 / 0.05, rel=1e-8)


@pytest.mark.slow
def test_finite_horizons_and_arrays_have_derivatives_too() -> None:
    def cake(beta: jax.Array) -> jax.Array:
        return dp.solve("cake", {"beta": beta, "horizon": 8, "n_x": 20}).value[0, -1]

    beta = jnp.asarray(0.95)
    assert jax.grad(cake)(beta) == pytest.approx(float(difference(cake, beta)), rel=1e-8)

    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(5, 2))

    def tabular(bonus=1.0):
        return dp.mdp(bonus * np.arange(10.0).reshape(5, 2), p, 0.9)

    def first(bonus: jax.Array) -> jax.Array:
        return dp.solve(tabular, {"bonus": bonus}, tol=1e-11).value[0]

    # The value is proportional to the bonus.
    assert jax.grad(first)(2.0) == pytest.approx(float(first(2.0)) / 2, rel=1e-9)


@pytest.mark.slow
def test_derivatives_of_many_points_at_once() -> None:
    def one(beta: jax.Array) -> jax.Array:
        return dp.solve("growth", {"continuous": False, "beta": beta, "n_k": 40}, tol=1e-11).value[
            20
        ]

    betas = jnp.array([0.92, 0.95])
    many = jax.vmap(jax.grad(one))(betas)
    np.testing.assert_allclose(many, [jax.grad(one)(b) for b in betas], rtol=1e-9)


# -- distributions, moments, paths, and gradients that are asked for -------------------------------


def depreciating(beta=0.92, delta=0.1, rho=0.6, sigma=0.2, *, n=25):
    """Capital that wears out between grid points: masses are shared, and move with delta."""
    return dp.Model(
        states={
            "k": dp.grid(0.5, 6.0, n, outside="clip"),
            "z": dp.tauchen(3, rho, sigma),
        },
        choices={"invest": dp.grid(0.0, 1.0, 9)},
        transition={"k": lambda k, invest: (1 - delta) * k + invest},
        reward=lambda k, z, invest: jnp.log(jnp.exp(z) * k**0.4 - 0.3 * invest),
        discount=beta,
        outputs={"investment": lambda k, invest: invest / k},
        moments={"rich": lambda k: jnp.exp(-k), "yield_": lambda z, investment: z * investment},
    )


ASKED = {
    "moments": ("mean_k", "sd_k", "gini_k", "mean_investment", "rich", "yield_"),
    "periods": 6,
    "initial": {"k": 1.3},
    "tol": 1e-10,
    "distribution_tol": 1e-10,
}


def everything(delta, rho, sigma) -> dict[str, jax.Array]:
    s = dp.solve(depreciating, {"delta": delta, "rho": rho, "sigma": sigma}, **ASKED)
    names = ("value", "distribution", "distribution_path", "output_investment")
    return {n: s[n] for n in names} | {f"moment_{k}": x for k, x in s.moments.items()}


def differences_of_everything(at: tuple[float, ...], i: int) -> dict[str, np.ndarray]:
    h = 1e-4
    there = {
        k: everything(*(x + k * h * (j == i) for j, x in enumerate(at))) for k in (-2, -1, 1, 2)
    }
    return {
        n: np.asarray(8 * (there[1][n] - there[-1][n]) - (there[2][n] - there[-2][n])) / (12 * h)
        for n in there[1]
    }


@pytest.mark.slow
def test_gradients_of_a_solve_match_central_differences() -> None:
    at = (0.1031, 0.6, 0.2)
    names = ("delta", "rho", "sigma")
    params = dict(zip(names, at, strict=True))
    s = dp.solve(depreciating, params, gradients_fixed_policy=names, **ASKED)
    assert s.status == "solved"
    assert s.gradients == {}
    for i, name in enumerate(names):
        meant = differences_of_everything(at, i)
        assert set(s.gradients_fixed_policy[name]) == set(meant)
        for variable, slope in meant.items():
            np.testing.assert_allclose(
                s.gradients_fixed_policy[name][variable],
                slope,
                rtol=1e-6,
                atol=1e-6,
                err_msg=f"{variable} {name}",
            )
    # And what must be so whatever the numbers are: a distribution's derivative sums to zero.
    assert abs(s["d_distribution_d_delta_fixed_policy"].sum()) < 1e-12
    assert abs(s["d_distribution_d_delta_fixed_policy"]).sum() > 0.1
    path = s["d_distribution_path_d_rho_fixed_policy"]
    np.testing.assert_allclose(path.sum((1, 2)), 0.0, atol=1e-12)
    assert abs(path[0]).max() > 1e-3  # the chain's own distribution moves


@pytest.mark.slow
def test_derivatives_of_moments_forward_and_reverse() -> None:
    def moments(p: jax.Array) -> jax.Array:
        found = everything(*p)
        return jnp.stack([found["moment_mean_k"], found["moment_gini_k"], found["moment_yield_"]])

    p = jnp.array([0.1031, 0.6, 0.2])
    forward = jax.jacfwd(moments)(p)
    np.testing.assert_allclose(jax.jacrev(moments)(p), forward, rtol=1e-8, atol=1e-9)
    s = dp.solve(depreciating, {"delta": 0.1031}, gradients_fixed_policy="delta", **ASKED)
    slopes = [
        s.gradients_fixed_policy["delta"][f"moment_{n}"] for n in ("mean_k", "gini_k", "yield_")
    ]
    np.testing.assert_allclose(forward[:, 0], slopes, rtol=1e-9)


@pytest.mark.slow
def test_the_distribution_s_derivative_has_a_closed_form() -> None:
    # One leaves state 0 with chance p and state 1 with chance q: the mass of 0 is q / (p + q).
    def two(p=0.2, q=0.3):
        return dp.mdp(jnp.zeros((2, 1)), jnp.array([[[1 - p, p]], [[q, 1 - q]]]), 0.9)

    s = dp.solve(two, distribution=True, gradients=("p", "q"), distribution_tol=1e-13)
    np.testing.assert_allclose(s.distribution, [0.6, 0.4], rtol=1e-12)
    np.testing.assert_allclose(s.gradients["p"]["distribution"], [-1.2, 1.2], rtol=1e-10)
    np.testing.assert_allclose(s.gradients["q"]["distribution"], [0.8, -0.8], rtol=1e-10)


@pytest.mark.slow
def test_policies_are_held_fixed() -> None:
    # Patience moves wealth only by moving choices, which the derivative does not see.
    small, asked = {"continuous": False, "n_a": 200, "n_z": 3, "beta": 0.94}, {"moments": "mean_a"}
    s = dp.solve("savings", small, gradients_fixed_policy="beta", **asked)
    slopes = s.gradients_fixed_policy["beta"]
    assert float(slopes["moment_mean_a"]) == 0.0
    # It is not the derivative, which differences between points show; that of the value is.
    more, less = (dp.solve("savings", {**small, "beta": b}, **asked) for b in (0.95, 0.93))
    assert float(more.moments["mean_a"] - less.moments["mean_a"]) / 0.02 > 10.0
    alone = dp.solve("savings", small, gradients="beta")
    np.testing.assert_allclose(slopes["value"], alone.gradients["beta"]["value"], rtol=1e-9)
    assert float(abs(slopes["value"]).max()) > 1.0


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"moments": ("mean_a",)}, "moment_mean_a"),
        ({"distribution": True}, "distribution"),
        ({"periods": 3, "initial": {"a": 0.0}}, "distribution_path"),
    ],
)
def test_gradients_beside_what_follows_from_a_policy_are_refused(asked: dict, what: str) -> None:
    for solve in (dp.solve, dp.solve_many):
        betas = 0.9 if solve is dp.solve else [0.9]
        with pytest.raises(dp.UsageError) as caught:
            solve(
                "savings",
                {"continuous": False, "beta": betas, "n_a": 20, "n_z": 3},
                gradients="beta",
                **asked,
            )
        for word in (
            f"gradients by 'beta' beside {what}",
            "holds the policy fixed",
            'gradients_fixed_policy = ["beta"]',
            f"d_{what}_d_beta_fixed_policy",
            "Take differences",
        ):
            assert word in str(caught.value)


@pytest.mark.slow
def test_gradients_of_a_model_with_choices_are_of_its_value_alone() -> None:
    s = dp.solve("savings", {"continuous": False, "n_a": 20, "n_z": 3}, gradients="beta")
    assert set(s.gradients["beta"]) == {"value"}
    assert "output_consumption" in s.arrays
    assert s.gradients_fixed_policy == {}
    fixed = dp.solve(
        "savings", {"continuous": False, "n_a": 20, "n_z": 3}, gradients_fixed_policy="r"
    )
    assert set(fixed.gradients_fixed_policy["r"]) == {"value", "output_consumption"}
    data = fixed.to_xarray()
    assert data["d_output_consumption_d_r_fixed_policy"].dims == ("a", "z")


@pytest.mark.slow
def test_what_is_no_number_has_no_derivative() -> None:
    # Nobody saves: wealth is zero, and its Gini coefficient undefined.
    asked = {"moments": ("gini_a", "mean_a"), "gradients_fixed_policy": "sigma"}
    s = dp.solve("savings", {"continuous": False, "beta": 0.8, "n_a": 20, "n_z": 3}, **asked)
    assert s.status == "solved"
    assert np.isnan(s.moments["gini_a"])
    assert np.isnan(s.gradients_fixed_policy["sigma"]["moment_gini_a"])
    assert float(s.gradients_fixed_policy["sigma"]["moment_mean_a"]) == 0.0

    # Everyone stays where they are: several classes, and the share of each is not known.
    def stay(beta=0.9):
        return dp.Model(
            states={"x": dp.integers(0, 2)},
            choices={"d": dp.integers(0, 0)},
            transition={"x": "x"},
            reward=lambda x: beta * x,
            discount=beta,
        )

    for more in ({}, {"initial": {"x": [0.5, 0.5, 0.0]}}):
        s = dp.solve(stay, distribution=True, gradients="beta", **more)
        assert s.status == "inexact"
        assert "never meet" in s.message
        assert np.isnan(s.gradients["beta"]["distribution"]).all()
        assert np.isfinite(s.gradients["beta"]["value"]).all()


@pytest.mark.slow
def test_gradients_over_a_finite_horizon() -> None:
    def path(delta: float, **more) -> dp.Solution:
        return dp.solve(finite, {"delta": delta}, initial={"k": 2.2}, tol=1e-9, **more)

    def finite(delta=0.1):
        return dp.Model(
            states={"k": dp.grid(0.5, 6.0, 25, outside="clip")},
            choices={"invest": dp.grid(0.0, 1.0, 9)},
            transition={"k": lambda k, invest: (1 - delta) * k + invest},
            reward=lambda k, t, invest: (1 + 0.1 * t) * jnp.log(k) - invest,
            discount=0.95,
            horizon=7,
        )

    s = path(0.1031, gradients_fixed_policy="delta")
    assert s.distribution_path.shape == (8, 25)
    for name in ("value", "distribution_path"):
        slope = difference(lambda x, n=name: path(x)[n], jnp.asarray(0.1031))
        found = s.gradients_fixed_policy["delta"][name]
        np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-6)


def test_gradients_of_a_factory_s_own_arrays() -> None:
    def product(a=1.0, b=2.0, *, n=3):
        return {"price": a * b, "path": (("t",), a + b * jnp.arange(n)), "count": jnp.arange(n)}

    many = dp.solve_many(product, {"a": [1.0, 2.0]}, gradients=("b", "a"))
    assert set(many.gradients["b"]) == {"price", "path"}
    np.testing.assert_array_equal(many.gradients["b"]["price"], [1.0, 2.0])
    np.testing.assert_array_equal(many.gradients["b"]["path"], [[0.0, 1.0, 2.0]] * 2)
    np.testing.assert_array_equal(many.gradients["a"]["price"], [2.0, 2.0])
    assert many.to_xarray()["d_path_d_b"].dims == ("point", "t")


@pytest.mark.slow
def test_points_with_gradients_do_not_depend_on_their_neighbours() -> None:
    asked = {"moments": ("mean_k", "gini_k"), "gradients_fixed_policy": ("delta", "beta")}
    betas = np.linspace(0.88, 0.95, 7)
    whole = dp.solve_many(depreciating, {"beta": betas}, **asked)
    mixed = dp.solve_many(depreciating, {"beta": [0.9, np.nan, betas[5], 1.3]}, **asked)
    assert list(mixed.status) == ["solved", "failed", "solved", "failed"]
    for name, x in whole.arrays.items():
        np.testing.assert_array_equal(x[5], mixed[name][2], err_msg=name)
        if x.dtype.kind == "f" and not name.startswith("grid_"):
            assert np.isnan(mixed[name][[1, 3]]).all(), name
    one = dp.solve(depreciating, {"beta": float(betas[5])}, **asked)
    slopes = [f"d_{n}_fixed_policy" for n in ("moment_mean_k_d_delta", "value_d_beta")]
    for name in ("moment_gini_k", *slopes):
        np.testing.assert_allclose(one[name], whole[name][5], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "gradients", "words"),
    [
        (depreciating, ("n",), ["'n' is a size of depreciating", "beta, delta"]),
        (depreciating, "detla", ["no parameter 'detla'", "Did you mean 'delta'"]),
        (depreciating(), "delta", ["a ready model has no parameters", "pass the factory"]),
    ],
)
@pytest.mark.parametrize("option", ["gradients", "gradients_fixed_policy"])
def test_gradients_by_what_is_no_parameter_are_refused(option, model, gradients, words) -> None:
    with pytest.raises(dp.UsageError) as caught:
        dp.solve(model, **{option: gradients})
    for word in words:
        assert word in str(caught.value)

"""Stationary distributions are right, and never farther from the true one than certified."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import dpsolve as dp
from dpsolve.solvers.distributions import certificate
from dpsolve.solvers.distributions.stationary_derivatives import Stationary, respond, stationary_of
from dpsolve.solvers.outcomes import Outcome

Matrix = np.ndarray
METHODS = ("auto", "plain", "krylov", "arnoldi", "linear", "null", "gth")
QUICK = tuple(m for m in METHODS if m != "plain")


def truth(p: Matrix) -> Matrix:
    """The null space of I - P', by NumPy."""
    u, _, _ = np.linalg.svd(np.eye(len(p)) - p)
    return np.abs(u[:, -1]) / np.abs(u[:, -1]).sum()


def exact(p: Matrix) -> Matrix:
    """Elimination in rational numbers; the diagonal is what is left of one."""
    a = [[Fraction(float(x)) for x in row] for row in p]
    n = len(a)
    for k in range(n - 1, 0, -1):
        total = sum(a[k][:k])
        for i in range(k):
            a[i][k] /= total
            for j in range(k):
                a[i][j] += a[i][k] * a[k][j] if i != j else 0
    x = [Fraction(1)]
    for k in range(1, n):
        x.append(sum(x[j] * a[j][k] for j in range(k)))
    return np.array([float(v / sum(x)) for v in x])


def random_chain(rng: np.random.Generator, n: int) -> Matrix:
    """Rows of very unlike sizes, and a cycle that makes the chain irreducible."""
    p = rng.dirichlet(np.full(n, rng.choice([0.05, 0.3, 1.0])), size=n)
    p += 1e-3 * np.roll(np.eye(n), 1, 1)
    return p / p.sum(1, keepdims=True)


def chains(p: Matrix, **options: object) -> Stationary:
    """Many chains at once, inside a compiled vmap."""

    def one(p: jax.Array) -> Stationary:
        proper = (p >= 0.0).all()
        return stationary_of(lambda f: p @ f, p.shape[:1], proper=proper, **options)

    return jax.jit(jax.vmap(one))(jnp.asarray(p))


def two_blocks(coupling: float) -> tuple[Matrix, Matrix]:
    """Two chains that a weak link each way couples, at rates 1 to 2: shares 2/3 and 1/3."""
    rng = np.random.default_rng(3)
    a, b = rng.dirichlet(np.ones(4), size=4), rng.dirichlet(np.ones(4), size=4)
    p = np.block([
        [a * (1 - coupling), np.full((4, 4), coupling / 4)],
        [np.full((4, 4), 2 * coupling / 4), b * (1 - 2 * coupling)],
    ])  # fmt: skip
    return p, np.array([2 / 3, 1 / 3])


# -- closed forms, independent computations -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_states(method: str) -> None:
    a, b = 0.2, 0.07
    mu = dp.stationary(np.array([[1 - a, a], [b, 1 - b]]), method=method, tol=1e-12)
    np.testing.assert_allclose(mu.mass, [b / (a + b), a / (a + b)], atol=1e-12)
    assert mu.status == "solved"
    assert float(mu.error_bound) <= 1e-12
    assert mu.message == ""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_random_chains_against_numpy_s_null_space(method: str) -> None:
    rng = np.random.default_rng(0)
    p = np.stack([random_chain(rng, 11) for _ in range(30)])
    found = chains(p, method=method, tol=1e-10)
    assert (found.code == Outcome.SOLVED).all()
    true = np.stack([truth(x) for x in p])
    assert (np.abs(found.mass - true).sum(1) <= found.error_bound + 1e-13).all()
    np.testing.assert_allclose(found.total, 1.0, atol=1e-14)
    assert (found.smallest >= 0.0).all()
    own = np.abs(np.einsum("bi,bij->bj", found.mass, p) - found.mass).sum(1)
    np.testing.assert_allclose(found.residual, own, atol=1e-15)


@pytest.mark.slow
def test_elimination_is_accurate_in_every_entry_down_to_1e_200() -> None:
    # Birth and death: each step up has odds 1e-5, so that the top of 41 states holds 1e-200.
    n, up, down = 41, 5e-6, 0.5
    p = np.diag(np.full(n - 1, up), 1) + np.diag(np.full(n - 1, down), -1)
    p += np.diag(1 - p.sum(1))
    odds = (up / down) ** np.arange(n)
    for method in ("gth", "auto"):
        mass = dp.stationary(p, method=method).mass
        np.testing.assert_allclose(mass, odds / odds.sum(), rtol=1e-13)
    assert float(mass[-1]) == pytest.approx(1e-200, rel=1e-4)


@pytest.mark.parametrize("coupling", [1e-8, 1e-12])
@pytest.mark.slow
def test_two_blocks_that_hardly_ever_meet(coupling: float) -> None:
    p, shares = two_blocks(coupling)
    mu = dp.stationary(p)
    np.testing.assert_allclose(mu.mass.reshape(2, 4).sum(1), shares, rtol=1e-12)
    np.testing.assert_allclose(mu.mass, exact(p), rtol=1e-13)
    assert mu.status == "solved"
    # Without elimination rounding alone moves the shares by some 1e-16 / coupling. It is admitted.
    for method in ("krylov", "arnoldi", "linear", "null", "plain"):
        other = dp.stationary(p, method=method, tol=1e-12)
        assert other.status == "inexact"
        assert "did not reach tol" in other.message
        assert np.abs(other.mass - exact(p)).sum() <= float(other.error_bound)


@pytest.mark.slow
def test_blocks_that_never_meet_are_named_and_not_averaged() -> None:
    p, _ = two_blocks(0.0)
    for method in METHODS:
        mu = dp.stationary(p, method=method)
        assert mu.status == "inexact"
        assert int(mu.code) == Outcome.SEVERAL_CLASSES
        assert np.isnan(mu.mass).all()
        assert "state=0 (index 0) and state=4 (index 4) never meet" in mu.message
        assert "pass initial=" in mu.message


@pytest.mark.slow
def test_with_several_classes_the_start_decides_their_shares() -> None:
    p, _ = two_blocks(0.0)
    start = np.array([0.1, 0.2, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0])
    mu = dp.stationary(p, initial=start)
    blocks = np.concatenate([0.3 * truth(p[:4, :4]), 0.7 * truth(p[4:, 4:])])
    np.testing.assert_allclose(mu.mass, blocks, atol=1e-9)
    assert mu.status == "inexact"
    assert float(mu.error_bound) == np.inf
    assert "long-run average from initial" in mu.message


@pytest.mark.slow
def test_absorption_shares_out_a_gambler_s_ruin() -> None:
    n = 21
    p = 0.5 * (np.eye(n, k=1) + np.eye(n, k=-1))
    p[0], p[-1] = np.eye(n)[0], np.eye(n)[-1]
    mu = dp.stationary(p, initial=np.eye(n)[5])
    ends = np.asarray(mu.mass)[[0, -1]]
    np.testing.assert_allclose(ends, [0.75, 0.25], atol=1e-9)
    one = np.array(p)
    one[-1] = np.eye(n)[-2]  # the upper end reflects: everybody is ruined
    np.testing.assert_allclose(dp.stationary(one).mass, np.eye(n)[0], atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 3, 7])
@pytest.mark.parametrize("method", QUICK)
def test_periodic_chains_are_solved_and_named(d: int, method: str) -> None:
    inner = np.random.default_rng(d).dirichlet(np.ones(4), size=4)
    p = np.kron(np.roll(np.eye(d), 1, 1), inner)
    mu = dp.stationary(p, method=method)
    np.testing.assert_allclose(mu.mass, np.tile(truth(inner), d) / d, atol=1e-9)
    assert mu.status == "solved"
    assert int(mu.period) == d
    assert mu.message.startswith(f"periodic with period {d}: the distribution is the average")


@pytest.mark.slow
def test_plain_iteration_on_a_periodic_chain_says_that_it_does_not_converge() -> None:
    p = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    mu = dp.stationary(p, method="plain")
    assert mu.status == "inexact"
    assert "period 2: plain iteration does not converge" in mu.message
    assert float(mu.error_bound) >= np.abs(np.asarray(mu.mass) - [0.25, 0.5, 0.25]).sum()
    np.testing.assert_allclose(dp.stationary(p).mass, [0.25, 0.5, 0.25], atol=1e-10)


@pytest.mark.slow
def test_a_long_cycle_without_a_matrix() -> None:
    # 400 states in a circle and 100 that lead there: Krylov spaces are of no use, the period is.
    n, ring = 500, 400
    rng = np.random.default_rng(0)
    to = np.concatenate([(np.arange(ring) + 1) % ring, rng.integers(0, ring, n - ring)])
    mu = dp.stationary(sparse.csr_array((np.ones(n), (np.arange(n), to)), shape=(n, n)))
    np.testing.assert_allclose(mu.mass, np.where(np.arange(n) < ring, 1 / ring, 0.0), atol=1e-12)
    assert mu.status == "solved"
    assert int(mu.period) == ring


@pytest.mark.slow
def test_one_state_and_markov_chains() -> None:
    assert dp.stationary(np.ones((1, 1))).mass.tolist() == [1.0]
    mu = dp.stationary(dp.rouwenhorst(7, 0.95, 0.2))
    np.testing.assert_allclose(mu.mass, np.array([1, 6, 15, 20, 15, 6, 1]) / 64, rtol=1e-13)
    assert mu.to_xarray().distribution.dims == ("state",)
    assert mu.moments("mean_state")["mean_state"] == pytest.approx(0.0, abs=1e-15)


# -- the certificate ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "krylov", "arnoldi"])
@pytest.mark.parametrize("budget", [1, 5, 40])
def test_iterates_stopped_early_are_no_farther_away_than_certified(
    method: str, budget: int
) -> None:
    rng = np.random.default_rng(budget)
    p = np.stack([random_chain(rng, 9) for _ in range(100)])
    found = chains(p, method=method, tol=1e-13, max_iter=budget)
    distance = np.abs(found.mass - np.stack([truth(x) for x in p])).sum(1)
    assert np.isfinite(found.error_bound).all()
    assert (distance <= found.error_bound + 1e-14).all()  # what NumPy itself may have lost


def test_no_guess_at_hitting_times_certifies_too_little() -> None:
    rng = np.random.default_rng(1)

    @jax.jit
    @jax.vmap
    def certify(p, mass, s, h):  # type: ignore[no-untyped-def]
        delta = certificate.slack(lambda f: p @ f, s, h)
        return certificate.distance(mass, mass @ p, s, h, delta)

    p = np.stack([random_chain(rng, 7) for _ in range(400)])
    true = np.stack([truth(x) for x in p])
    wrong = np.stack([rng.dirichlet(np.full(7, rng.choice([0.1, 1.0]))) for _ in p])
    mass = true + rng.choice([1e-9, 1e-3, 1.0], size=(400, 1)) * (wrong - true)
    s = rng.integers(0, 7, 400)
    killed = np.stack([x * (np.arange(7) != i) for x, i in zip(p, s, strict=True)])
    h = np.stack([np.linalg.solve(np.eye(7) - k, np.ones(7)) for k in killed])
    h *= np.exp(rng.choice([0.0, 0.1, 1.0], size=(400, 1)) * rng.normal(size=h.shape))
    bound = np.asarray(certify(p, mass, s, h))
    certified = np.isfinite(bound)
    assert 100 < certified.sum() < 400  # some guesses prove nothing, and say so
    distance = np.abs(mass - true).sum(1)
    assert (distance[certified] <= bound[certified] + 1e-14).all()


# -- what is no chain -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (np.eye(3) * (1 - 1e-5), "row 0 .* sums to 0.99999, not to 1"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), "negative entry -0.5"),
        (np.array([[np.nan, 1.0], [0.5, 0.5]]), "row 0 .* sums to nan"),
        (np.ones((2, 3)) / 3, r"shape \(2, 3\)"),
        (sparse.csr_array(np.eye(3) * 0.9), "row 0 .* sums to 0.9"),
        ("savings", "takes a solution"),
    ],
)
def test_what_is_no_chain_is_refused(p: object, said: str) -> None:
    with pytest.raises(dp.ModelError, match=said):
        dp.stationary(p)


@pytest.mark.slow
def test_bad_chains_of_a_batch_leave_the_others_alone() -> None:
    rng = np.random.default_rng(5)
    p = np.stack([random_chain(rng, 6) for _ in range(6)])
    good = chains(p[[0]])
    p[1] = np.nan
    p[2] *= 1 - 1e-5
    p[3, 0] = [1.5, -0.5, 0, 0, 0, 0]
    p[4] = np.eye(6)
    found = chains(p)
    refused = Outcome.NOT_PROBABILITIES
    assert found.code.tolist() == [0, refused, refused, refused, Outcome.SEVERAL_CLASSES, 0]
    assert np.isnan(found.mass[1:5]).all()
    np.testing.assert_array_equal(found.mass[0], good.mass[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "krilov"}, "Did you mean 'krylov'"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"tol": "small"}, "tol='small'"),
        ({"max_iter": 0}, "max_iter=0"),
    ],
)
def test_unusable_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(dp.UsageError, match=said):
        dp.stationary(np.eye(1), **options)


@pytest.mark.slow
def test_methods_by_their_other_names() -> None:
    p = random_chain(np.random.default_rng(2), 5)
    for name in ("accelerated", "eigenvector", "null_space"):
        np.testing.assert_allclose(dp.stationary(p, method=name).mass, truth(p), atol=1e-8)


# -- of solutions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def savings() -> dp.Solution:
    return dp.solve("savings", {"continuous": False})


def matrix_of(solution: dp.Solution) -> Matrix:
    """The transition matrix, from the stored policy and the chain alone."""
    index = np.asarray(solution.policy_index["a_next"])
    n_a, n_z = index.shape
    chain = dp.rouwenhorst(n_z, float(solution.parameters["rho"]), 0.1).transition_matrix
    p = np.zeros((n_a, n_z, n_a, n_z))
    a, z = np.meshgrid(np.arange(n_a), np.arange(n_z), indexing="ij")
    p[a, z, index] = np.asarray(chain)[z]
    return p.reshape(n_a * n_z, -1)


@pytest.mark.parametrize("method", ["auto", "plain", "krylov", "arnoldi", "linear"])
@pytest.mark.slow
def test_savings_against_the_matrix(savings: dp.Solution, method: str) -> None:
    p = matrix_of(savings)
    n = len(p)
    true = np.linalg.solve(np.eye(n) - p.T + 1 / n, np.full(n, 1 / n)).reshape(200, 7)
    mu = dp.stationary(savings, method=method, tol=1e-9)
    assert mu.status == "solved"
    assert np.abs(mu.mass - true).sum() <= float(mu.error_bound) + 1e-12
    data = mu.to_xarray()
    assert data.distribution.dims == ("a", "z")
    assert data.distribution_error == pytest.approx(float(mu.error_bound))
    np.testing.assert_allclose(data.distribution.sum("a"), np.array([1, 6, 15, 20, 15, 6, 1]) / 64)
    assert mu.moments(["mean_a"])["mean_a"] == pytest.approx(
        float((true.sum(1) * savings.grids["a"]).sum()), rel=1e-8
    )


@pytest.mark.slow
def test_acceleration_saves_most_of_the_work() -> None:
    solution = dp.solve(
        "savings",
        {"continuous": False, "n_a": 300, "n_z": 7, "beta": 0.9704, "sigma": 0.05},
        tol=1e-5,
    )
    largest = sparse.linalg.eigs(sparse.csr_array(matrix_of(solution)), 2, which="LM")[0]
    assert np.abs(largest).min() > 0.99
    plain, quick = (dp.stationary(solution, method=m) for m in ("plain", "krylov"))
    assert plain.status == quick.status == "solved"
    assert int(plain.applications) >= 10 * int(quick.applications)


@pytest.mark.slow
def test_growth_stays_where_it_is_at_three_points() -> None:
    growth = dp.solve("growth", {"continuous": False})
    index = np.asarray(growth.policy_index["k_next"])
    assert np.flatnonzero(index == np.arange(100)).tolist() == [32, 33, 34]
    mu = dp.stationary(growth)
    assert np.isnan(mu.mass).all()
    for i in (32, 33, 34):
        assert f"(index {i})" in mu.message
    below = dp.stationary(growth, initial={"k": float(growth.grids["k"][3])})
    np.testing.assert_allclose(below.mass, np.eye(100)[32], atol=1e-12)
    start = np.full(100, 0.01)
    ends = np.arange(100)
    for _ in range(200):
        ends = index[ends]
    spread = dp.stationary(growth, initial=start).mass
    np.testing.assert_allclose(spread, np.bincount(ends, minlength=100) / 100, atol=1e-10)


@pytest.mark.slow
def test_many_points_and_one_that_failed() -> None:
    betas = np.array([0.90, np.nan, 0.95, 0.96])
    many = dp.solve_many("savings", {"continuous": False, "beta": betas, "n_a": 40, "n_z": 3})
    mu = dp.stationary(many)
    assert mu.status.tolist() == ["solved", "failed", "solved", "solved"]
    assert np.isnan(mu.mass[1]).all()
    assert "NaN" in mu.message[1]
    for i in (0, 2, 3):
        one = dp.stationary(
            dp.solve("savings", {"continuous": False, "beta": betas[i], "n_a": 40, "n_z": 3})
        )
        assert np.abs(one.mass - mu.mass[i]).sum() <= one.error_bound + mu.error_bound[i]
        assert mu.moments("mean_a")["mean_a"][i] == pytest.approx(
            float(one.moments("mean_a")["mean_a"]), rel=1e-6, abs=1e-12
        )
    assert mu.to_xarray().distribution.dims == ("point", "a", "z")
    # Every point has its own several classes.
    growth = dp.stationary(
        dp.solve_many("growth", {"continuous": False, "beta": np.array([0.94, 0.95])})
    )
    assert all("never meet" in text for text in growth.message)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
def test_arrays_in_either_form(pairs: bool) -> None:
    rng = np.random.default_rng(4)
    r, p = rng.normal(size=(9, 3)), rng.dirichlet(np.ones(9), size=(9, 3))
    if pairs:
        i, a = np.meshgrid(np.arange(9), np.arange(3), indexing="ij")
        flat = sparse.csr_array(p.reshape(27, 9))
        model = dp.mdp(r.ravel(), flat, 0.9, states=i.ravel(), actions=a.ravel())
    else:
        model = dp.mdp(r, p, 0.9)
    solution = dp.solve(model)
    own = p[np.arange(9), np.asarray(solution.policy_index["action"])]
    np.testing.assert_allclose(dp.stationary(solution).mass, truth(own), atol=1e-10)


@pytest.mark.slow
def test_an_extrapolating_policy_moves_no_distribution() -> None:
    def drift(step=0.3):
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, 6, outside="extrapolate")},
            choices={"go": dp.integers(0, 1)},
            transition={"x": lambda x, go: x + step * go},
            reward=lambda x, go: -((x - 0.5) ** 2) + go,
            discount=0.5,
        )

    mu = dp.stationary(dp.solve(drift))
    assert int(mu.code) == Outcome.NOT_PROBABILITIES
    assert np.isnan(mu.mass).all()
    assert "extrapolated" in mu.message
    assert dp.path(dp.solve(drift), {"x": 0.2}, 3).status == "inexact"


def test_what_has_no_stationary_distribution_says_what_to_do() -> None:
    cake = dp.solve("cake", {"horizon": 4, "n_x": 10})
    with pytest.raises(dp.ModelError, match=r"finite horizon.*dp\.path"):
        dp.stationary(cake)

    def square(x=2.0):
        return {"y": x * x}

    with pytest.raises(dp.ModelError, match="arrays of its own"):
        dp.stationary(dp.solve(square))


# -- derivatives ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_derivatives_match_central_differences_of_an_independent_computation() -> None:
    rng = np.random.default_rng(7)
    a, b = random_chain(rng, 8), random_chain(rng, 8)
    f = rng.normal(size=8)

    def mean(t: jax.Array) -> jax.Array:
        return jnp.vdot(dp.stationary((1 - t) * a + t * b).mass, f)

    def checked(t: float) -> float:
        return float(truth((1 - t) * a + t * b) @ f)

    central = (checked(0.3 + 1e-5) - checked(0.3 - 1e-5)) / 2e-5
    assert jax.grad(mean)(0.3) == pytest.approx(central, rel=1e-7)
    assert jax.jacfwd(mean)(0.3) == pytest.approx(central, rel=1e-7)
    both = jax.jit(jax.vmap(jax.grad(mean)))(jnp.array([0.3, 0.5]))
    assert both[1] == pytest.approx(float(jax.grad(mean)(0.5)), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "sizes"), [("sigma", {"n_a": 40, "n_z": 3}), ("rho", {"n_a": 90, "n_z": 5})]
)
@pytest.mark.slow
def test_derivatives_of_a_solution_s_distribution(name: str, sizes: dict[str, int]) -> None:
    # The smaller one is solved as a matrix, the larger one by Krylov's method.
    at = {"rho": 0.9, "sigma": 0.1}[name]
    weight = jnp.asarray(np.random.default_rng(0).normal(size=tuple(sizes.values())))

    def mean(x: jax.Array) -> jax.Array:
        solution = dp.solve("savings", {"continuous": False, name: x, **sizes}, tol=1e-9)
        return jnp.vdot(dp.stationary(solution, tol=1e-12).mass, weight)

    step = 1e-5
    near = [
        dp.solve("savings", {"continuous": False, name: at + h, **sizes}) for h in (-step, step)
    ]
    policies = [solution.policy_index["a_next"] for solution in near]
    np.testing.assert_array_equal(*policies)  # else the difference would hold a jump
    central = (mean(at + step) - mean(at - step)) / (2 * step)
    assert jax.grad(mean)(at) == pytest.approx(float(central), rel=1e-6, abs=1e-8)
    assert jax.jacfwd(mean)(at) == pytest.approx(float(jax.grad(mean)(at)), rel=1e-9)


@pytest.mark.slow
def test_the_response_of_a_distribution_keeps_its_mass() -> None:
    rng = np.random.default_rng(9)
    for n in (5, 300):  # below and above the size that is solved as a matrix
        p = random_chain(rng, n)
        dp_ = rng.normal(size=(n, n))
        dp_ -= dp_.mean(1, keepdims=True)
        mass = truth(p)
        moved = respond(lambda f, p=p: jnp.asarray(p) @ f, mass, dp_.T @ mass)
        assert float(jnp.sum(moved)) == pytest.approx(0.0, abs=1e-12)
        deflated = np.eye(n) - p.T + mass[:, None]
        np.testing.assert_allclose(moved, np.linalg.solve(deflated, dp_.T @ mass), atol=1e-10)


@pytest.mark.slow
def test_many_points_inside_a_trace() -> None:
    def means(beta: jax.Array) -> jax.Array:
        many = dp.solve_many("savings", {"continuous": False, "beta": beta, "n_a": 30, "n_z": 3})
        mu = dp.stationary(many)
        return jnp.einsum("paz,a->p", mu.mass, many.grids["a"][0])

    betas = jnp.array([0.90, 0.95, 0.96])
    plain = dp.stationary(
        dp.solve_many("savings", {"continuous": False, "beta": betas, "n_a": 30, "n_z": 3})
    )
    np.testing.assert_allclose(jax.jit(means)(betas), plain.moments("mean_a")["mean_a"], rtol=1e-7)

"""The endogenous grid method: where it applies, and that it finds what a search finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.continuum.cells import Marginal
from dpsolve.solvers.continuum.egm import on_endogenous_grid
from dpsolve.solvers.continuum.euler import improved
from dpsolve.solvers.continuum.problem import ContinuousProblem
from dpsolve.solvers.inspection.choice_search import EGM, choices_found_by, endogenous_grid_fails
from dpsolve.solvers.library.growth import growth
from dpsolve.solvers.library.savings import savings

CHAIN = dp.markov([0.8, 1.2], [[0.8, 0.2], [0.2, 0.8]])


def saver(reward, *, choice=None, **more):
    return dp.Model(
        states={"a": dp.grid(0.0, 10.0, 12, curve=2), "z": CHAIN},
        choices={"b": dp.interval("a") if choice is None else choice},
        transition={"a": "b"},
        reward=reward,
        discount=0.94,
        concave=True,
        **more,
    )


def left(a, z, b):
    return 1.03 * a + z - b


def cara():
    """No power: its marginal utility is inverted by a search."""
    return saver(lambda a, z, b: -jnp.exp(-1.5 * left(a, z, b)))


def quadratic():
    return saver(lambda a, z, b: left(a, z, b) - 0.02 * left(a, z, b) ** 2)


def likes_wealth():
    return saver(lambda a, z, b: jnp.log(left(a, z, b)) + 0.1 * jnp.sqrt(a + 1.0))


def given():
    """A limit that binds between nodes; consumption and both marginal utilities are named."""
    return saver(
        lambda a, z, b: 2.0 * dp.crra(left(a, z, b), 2.0),
        choice=dp.interval("a", lo=lambda z: 0.37 * z),
        outputs={"consumption": left},
        marginal={"consumption": lambda c: 2.0 * c**-2.0},
        inverse_marginal={"consumption": lambda m: (m / 2.0) ** -0.5},
    )


def cash(gamma=2.0):
    """Consumption is the choice, and wages are shocks."""
    return dp.Model(
        states={"m": dp.grid(0.1, 20.0, 12, curve=2, outside=("error", "clip"))},
        choices={"c": dp.interval(1e-3, lambda m: m)},
        shocks={"w": dp.iid([0.2, 1.0, 1.8], [0.3, 0.4, 0.3])},
        transition={"m": lambda m, c, w: 1.03 * (m - c) + w},
        reward=lambda c: c ** (1 - gamma) / (1 - gamma),
        discount=0.95,
        concave=True,
        increasing=("m",),
    )


@pytest.mark.parametrize("model", [cara, quadratic, likes_wealth, given, cash, savings, growth])
def test_applies(model):
    assert choices_found_by(model()) == EGM
    assert EGM not in choices_found_by(model(), "pi")


def hours():
    return dp.Model(
        states={"a": dp.grid(0.0, 10.0, 12)},
        choices={"b": dp.interval("a"), "h": dp.interval(0.0, 1.0)},
        transition={"a": "b"},
        reward=lambda a, b, h: jnp.log(1.03 * a + h - b) - h,
        discount=0.94,
        concave=True,
    )


def shares():
    return dp.Model(
        states={"k": dp.grid(0.1, 10.0, 12)},
        choices={"s": dp.interval(0.0, 1.0)},
        transition={"k": lambda k, s: k * s},
        reward=lambda k, s: jnp.log(k * (1 - s) + 0.1),
        discount=0.94,
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (hours(), "2 choices (b, h)"),
        (shares(), "the next 'k' depends on 'k' beside 's'"),
        (saver(lambda a, z, b: jnp.sqrt(a + 1) * jnp.log(left(a, z, b))), "not linear in 'b'"),
        (saver(lambda a, z, b: jnp.log(30.0 + left(a, z, b) - b**2 / 10)), "not linear in 'b'"),
        (saver(lambda a, z, b: jnp.sqrt(a) + z - b - (b - a) ** 2), "not linear in 'b'"),
        (saver(lambda a, z, b: jnp.sqrt(a) + z - b), "the reward is linear in 'b'"),
    ],
)
def test_says_which_condition_fails(model, why):
    assert why in endogenous_grid_fails(model)
    assert why in choices_found_by(model)
    with pytest.raises(dp.UsageError, match="method='egm' does not apply"):
        dp.solve(model, method="egm")


def test_grid_choices_are_refused():
    with pytest.raises(dp.UsageError, match=r"'a_next' is from a list of values \(dp.interval\)"):
        dp.solve(savings, {"n_a": 5, "n_z": 2, "continuous": False}, method="egm")


@pytest.mark.slow
@pytest.mark.parametrize("model", [cara, given, cash])
def test_finds_what_a_search_finds(model):
    # Kinks included: which end holds which choice is the same, and the choice is that end.
    problem = ContinuousProblem.of(model())
    n_z, n = problem.shape
    p = 3.0 / (0.5 + problem.nodes[None]) + jnp.linspace(0.2, 0.0, n_z)[:, None, None]

    @jax.jit
    def both(p):
        after = Marginal.smooth(problem, p)
        near = jnp.full((n_z, n, 1), jnp.nan)
        return improved(problem, after, near), on_endogenous_grid(problem).improved(after)

    searched, found = both(p)
    assert found.found.all()
    np.testing.assert_allclose(found.y, searched.y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.p, searched.p, rtol=1e-8)
    np.testing.assert_array_equal(found.held, searched.held)
    assert (np.asarray(found.held) != 0).any()

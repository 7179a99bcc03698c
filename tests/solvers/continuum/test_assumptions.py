"""What bounds over a continuum rest on, piece by piece: each fact is looked at by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.continuum.barren import escapes, kept_alive
from dpsolve.solvers.continuum.between import falls_short
from dpsolve.solvers.continuum.bounds import Lines, contracts, free_disposal, shifted, units
from dpsolve.solvers.continuum.cells import lenders
from dpsolve.solvers.continuum.problem import read_problem
from dpsolve.solvers.continuum.refutation import (
    TESTS,
    Refutation,
    drawn,
    enclosed,
    halfway,
    refute_terminal,
)
from dpsolve.solvers.continuum.solve import fault
from dpsolve.solvers.outcomes import Outcome

N = 9


def cake(**fields):
    """A household whose one state is cut off above; `fields` change it."""
    own = {
        "states": {"x": dp.grid(0.1, 4.0, N, outside=("error", "clip"))},
        "choices": {"c": dp.interval(0.0, lambda x: x)},
        "transition": {"x": lambda x, c: 1.1 * (x - c) + 0.5},
        "reward": lambda c: jnp.log(c),
        "discount": 0.9,
        "concave": True,
    }
    return read_problem(dp.Model(**{**own, **fields}))


@pytest.mark.parametrize(
    ("weights", "below"),
    [
        ([[0.5, 0.4], [0.1, 0.8]], True),
        ([[0.2, 1.5], [0.1, 0.2]], True),  # an entry above one; the radius is .59
        ([[0.5, 0.5], [0.1, 0.9]], False),  # one exactly
        ([[0.2, 1.5], [0.9, 0.2]], False),
        ([[3.0, 0.0], [0.0, 0.1]], False),
        ([[0.5, -0.1], [0.1, 0.5]], False),  # no discount is negative
        ([[np.nan, 0.1], [0.1, 0.5]], False),
    ],
)
def test_discounts_contract_where_their_spectral_radius_is_below_one(weights, below):
    weights = jnp.asarray(weights)
    assert bool(contracts(weights)) is below
    charged = np.asarray(shifted(weights, jnp.ones((2, 3))))
    assert np.isfinite(charged).all() == below
    if below:
        assert (charged[:, 0] - weights @ charged[:, 0] >= 1.0).all()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, Outcome.SOLVED),
        ({"discount": 0.9999}, Outcome.SOLVED),
        ({"discount": 1.0}, Outcome.DISCOUNT),
        ({"discount": lambda: jnp.asarray(jnp.nan)}, Outcome.NOT_FINITE),
        ({"horizon": 3, "discount": lambda t: 1.5 - 0.1 * t}, Outcome.SOLVED),
        ({"horizon": 3, "discount": lambda t: 0.5 - t}, Outcome.DISCOUNT),
    ],
)
def test_a_fault_of_the_models_own_numbers_is_told_by_its_code(fields, code):
    assert int(fault(cake(**fields))) == code


def test_a_chain_that_leaks_and_a_grid_that_does_not_rise_are_told_inside_a_trace():
    @jax.jit
    def told(leak, last):
        chain = dp.markov(jnp.array([0.0, 1.0]), jnp.array([[0.5, 0.5 - leak], [0.1, 0.9]]))
        states = {"x": dp.grid(jnp.array([0.1, 1.0]).at[1].set(last)), "z": chain}
        return fault(cake(states=states))

    assert int(told(0.0, 2.0)) == Outcome.SOLVED
    assert int(told(0.1, 2.0)) == Outcome.LEAK
    assert int(told(0.0, 0.1)) == Outcome.NOT_INCREASING


def test_more_terms_are_rounded_by_more():
    draws = dp.iid(np.arange(1.0, 41.0), np.full(40, 1 / 40))
    many = cake(shocks={"w": draws}, transition={"x": lambda x, c, w: x - c + 0.1 * w})
    assert float(units(many)) > 2 * float(units(cake()))


def test_a_line_that_falls_anywhere_does_not_bound_what_is_cut_off():
    rising = jnp.linspace(2.0, 0.1, N)[None, :, None]
    level = jnp.zeros((1, N))
    assert free_disposal(cake(), Lines(level, rising, level))
    assert not free_disposal(cake(), Lines(level, rising.at[0, 3].set(-0.1), level))
    inside = cake(states={"x": dp.grid(0.1, 4.0, N)})
    assert free_disposal(inside, Lines(level, -rising, level))


def test_an_envelope_of_what_is_read_beyond_the_top_may_not_fall():
    x = np.linspace(0.1, 4.0, N)
    falls = jnp.asarray(-((x - 2.0) ** 2))[None]  # concave, and falls beyond 2
    wide = jnp.asarray(np.inf)
    inside = cake(states={"x": dp.grid(0.1, 4.0, N)})
    flat = Lines(falls, jnp.zeros((1, N, 1)), falls)
    assert float(falls_short(inside, falls, wide, flat)[0]) < 1e-12
    assert float(falls_short(cake(), falls, wide, flat)[0]) >= 3.5


def test_a_state_that_nothing_holds_on_its_grid_is_allowed_nowhere_that_it_leaves():
    states = {"x": dp.grid(0.1, 4.0, N), "b": dp.grid(0.0, 1.0, 3)}
    problem = cake(
        states=states, transition={"x": lambda x, c: x - c + 0.1, "b": lambda b: 1.2 * b}
    )
    z, c = jnp.int32(0), jnp.array([0.5])
    assert problem.allowed(jnp.array([1.0, 0.5]), c, z)
    assert not problem.allowed(jnp.array([1.0, 0.9]), c, z)
    low, _ = problem.ends(0, jnp.array([4.0, 0.5]), c, z)
    assert float(low) == pytest.approx(0.1)  # so much, that x does not leave at the top


def looked_over(problem, states=64):
    """What is found half way between random pairs, and whether a choice pays no number."""
    n_z, n = problem.shape
    x = jax.random.uniform(jax.random.key(0), (states, len(problem.states)))
    x = problem.box[0] + x * (problem.box[1] - problem.box[0])
    z = jnp.arange(states) % n_z
    y = jnp.full((n_z, n, len(problem.choices)), 0.5)
    choices, ok, strange = drawn(problem, jax.random.key(1), x, z, y)
    by, _ = halfway(problem, x, z, choices, ok)
    return [*(bool(b > 0) for b in by), bool(strange)]


INSIDE = {"states": {"x": dp.grid(0.1, 4.0, N)}}
PLANE = {"x": dp.grid(0.1, 4.0, 4), "b": dp.grid(0.1, 2.0, 3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, [False, False, False, False]),
        ({"reward": lambda x, c: jnp.log(c) + 0.1 * x**2}, [True, False, False, False]),
        ({"feasible": lambda c: (c < 1.0) | (c > 1.2)}, [False, True, False, False]),
        ({"choices": {"c": dp.interval(0.0, lambda x: 0.1 * x**2)}}, [False, True, False, False]),
        ({**INSIDE, "transition": {"x": lambda c: jnp.exp(c) - 0.9}}, [False, False, True, False]),
        (
            {"reward": lambda x, c: jnp.where((x > 3) & (c < 0.5), jnp.nan, jnp.log(c))},
            [False, True, False, True],
        ),
        ({"reward": lambda x, c: jnp.log(x - c - 1.0)}, [False, False, False, True]),
        ({"feasible": lambda x, c: x - c >= 1.0}, [False, False, False, False]),
        (
            {
                "states": PLANE,
                "transition": {"x": lambda x, c: 1.0 * x - 0.0 * c, "b": lambda b: b},
                "feasible": lambda x, b: (x + b < 2.0) | (x + b > 2.4),
            },
            [False, True, False, False],
        ),
    ],
    ids=[
        "concave",
        "convex",
        "hole",
        "convex end",
        "bent",
        "NaN",
        "NaN below",
        "set",
        "two states",
    ],
)
def test_what_is_not_convex_affine_or_a_number_is_found_half_way_between_pairs(fields, found):
    assert looked_over(cake(**fields)) == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminal", "refuted"),
    [
        (lambda x: jnp.sqrt(x), False),
        (lambda x: 3.0 - 2.0 * x, False),
        (lambda x: jnp.minimum(x, 2.0), False),
        (lambda x: 0.01 * x**2, True),
        (lambda x: 1.01 * jax.nn.relu(x - 2.05) - 1.12 * jax.nn.relu(2.05 - x), True),
        (lambda x: x + jnp.where(x > 3.9, 1.0, 0.0), True),
        (lambda x: x + jnp.exp(-(((x - 1.3) / 0.02) ** 2)), True),
    ],
    ids=["root", "line", "kink", "convex", "relu", "jump", "hump"],
)
def test_a_terminal_value_is_tested_too(terminal, refuted):
    problem = cake(horizon=3, terminal=terminal)
    x = problem.nodes[:, 0]
    value, slope = jax.vmap(jax.value_and_grad(terminal))(x)
    lines = Lines(value[None], slope[None, :, None], jnp.zeros((1, N)))
    k = len(TESTS)
    silent = Refutation(-jnp.ones(k), jnp.zeros((k, 3)), jnp.asarray(False))
    told = refute_terminal(problem, silent, value[None], lines)
    assert bool(told.refuted) is refuted


def test_a_grid_of_one_point_is_no_continuum():
    with pytest.raises(dp.ModelError, match="grid of 'x' is one point, which is no continuum"):
        cake(states={"x": dp.grid([1.0])})


def test_a_node_without_a_tangent_has_the_nearest_ones_and_none_from_the_other_end():
    line = cake(states={"x": dp.grid(0.1, 4.0, 6)})
    usable = jnp.asarray([False, False, False, True, True, False])
    assert lenders(line, usable).tolist() == [3, 3, 3, 3, 4, 4]
    assert lenders(line, usable & False).tolist() == list(range(6))


def test_a_node_that_is_worth_nothing_between_others_is_a_counterexample():
    problem = cake()
    for bad, refuted in (([0], False), ([0, 1], False), ([N - 1], False), ([4], True)):
        poor = jnp.zeros((1, N), bool).at[0, jnp.asarray(bad)].set(True)
        by, at = enclosed(problem, poor)
        assert bool(by > 0.0) == refuted
    assert float(at[1]) == float(problem.nodes[4, 0])


def test_next_states_are_moved_off_the_cells_of_dead_nodes_where_a_choice_does_that():
    problem = cake(transition={"x": lambda x, c: x - c}, states={"x": dp.grid(0.0, 4.0, N)})
    y = jnp.linspace(0.0, 4.0, N)[None, :, None]  # all is consumed, and nothing left
    dead = jnp.zeros((1, N), bool).at[0, 0].set(True)
    moved, lost = kept_alive(problem, y, jnp.zeros_like(dead), dead)
    left = problem.nodes[:, 0] - moved[0, :, 0]
    assert lost[0].tolist() == [True, True, *[False] * (N - 2)]  # at the second, 0 is consumed
    np.testing.assert_allclose(left[2:], 0.5, rtol=1e-9)
    assert (left[2:] >= 0.5).all()
    assert not bool(escapes(problem, dead))
    assert bool(escapes(problem, dead.at[0, 4].set(True)))

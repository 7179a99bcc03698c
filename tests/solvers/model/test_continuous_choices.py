"""Words for continuous choices: spacing, sides of a grid, lognormal shocks, what is declared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from continuous_models import MODELS
from dpsolve.hpc.model_definition.bellman import bellman
from dpsolve.hpc.model_definition.pairs import _Fault, _place, define
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.factory_signature import look_over
from dpsolve.solvers.operators.interpolation import locate
from dpsolve.solvers.operators.named_arrays import NamedArray


def model(**changes):
    """A small household whose saving is continuous, with something changed."""
    fields = {
        "states": {"a": dp.grid(0.0, 4.0, 9), "z": dp.markov([0.5, 1.0], [[0.8, 0.2], [0.3, 0.7]])},
        "choices": {"a_next": dp.interval("a")},
        "transition": {"a": "a_next"},
        "feasible": lambda a, z, a_next: a + z - a_next > 0,
        "reward": lambda a, z, a_next: jnp.log(a + z - a_next),
        "discount": 0.9,
        "outputs": {"consumption": lambda a, z, a_next: a + z - a_next},
    }
    return dp.Model(**fields | changes)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_continuous_choices_are_made_of_numbers_and_in_a_trace(name: str) -> None:
    made = MODELS[name]()
    assert made.concave
    assert made.continuous
    assert not made.gridded
    seen = look_over(MODELS[name], {}, lambda m: (tuple(m.choices), m.shape))
    assert seen == (tuple(made.choices), made.shape)


# -- grids ------------------------------------------------------------------------------------


def test_a_grid_spaced_by_logs_has_constant_ratios_and_exact_ends() -> None:
    g = dp.grid(0.1, 30.0, 7, spacing="log")
    assert (g.values[0], g.values[-1]) == (0.1, 30.0)
    np.testing.assert_allclose(np.diff(np.log(g.values)), np.log(300.0) / 6, rtol=1e-13)
    traced = jax.jit(lambda lo: dp.grid(lo, 30.0, 7, spacing="log").values)(0.1)
    np.testing.assert_allclose(traced, g.values, rtol=1e-14)


def test_a_grid_s_closed_form_gives_finer_points_that_contain_its_own() -> None:
    for g in (dp.grid(0.0, 9.0, 7, curve=2.5), dp.grid(0.1, 9.0, 7, spacing="log")):
        finer = g.span.points(13)
        np.testing.assert_allclose(finer[::2], g.values, rtol=1e-14)
        assert (finer[0], finer[-1]) == (g.values[0], g.values[-1])


@pytest.mark.parametrize("ends", [(1e-3, 50.0), (1.0, 1.0 + 1e-9), (1e-100, 1e100)])
def test_values_are_found_among_logs_where_a_search_finds_them(ends: tuple[float, float]) -> None:
    g = dp.grid(*ends, 301, spacing="log")
    rng = np.random.default_rng(0)
    near = g.values[:, None] * (1.0 + np.array([-1, 0, 1]) * 2.0**-52)
    beyond = [-1.0, 0.0, ends[1] * 1.5, ends[0] * 0.5]
    x = np.concatenate([near.ravel(), np.exp(rng.uniform(*np.log(ends), 500)), beyond])
    found = jax.jit(lambda x: locate(g, NamedArray(x, ("i",))).index.array)(x)
    searched = np.clip(np.searchsorted(g.values, x, side="right") - 1, 0, 299)
    # A value that is the next point but for rounding may be read in the segment that begins there.
    following = g.values[np.minimum(searched + 1, 299)]
    rounded = (found == searched + 1) & (np.abs(x / following - 1.0) < 1e-15)
    assert ((found == searched) | rounded).all()


SIDES = {
    "error": (True, True),
    "clip": (False, False),
    ("error", "clip"): (True, False),
    ("clip", "error"): (False, True),
}


@pytest.mark.parametrize("outside", SIDES, ids=str)
def test_each_side_of_a_grid_is_an_error_or_clipped(outside) -> None:
    g = dp.grid(0.0, 4.0, 5, outside=outside)
    at = locate(g, NamedArray(jnp.array([-0.5, 1.25, 4.5]), ("i",)))
    gap = np.asarray(at.gap.array)
    assert (gap[0] > 0, gap[2] > 0) == SIDES[outside]
    assert gap[1] == 0.0
    position = np.asarray(at.index.array) + np.asarray(at.weight.array)
    np.testing.assert_array_equal(position, [0.0, 1.25, 4.0])


@pytest.mark.parametrize("outside", SIDES, ids=str)
def test_verification_reads_the_sides_of_a_grid_by_itself(outside) -> None:
    g = dp.grid(0.0, 4.0, 5, outside=outside)
    for x, wrong in zip((-0.5, 4.5), SIDES[outside], strict=True):
        fault = _Fault("the next state a", {}, np.ones((1, 1), bool))
        if wrong:
            with pytest.raises(dp.DpsolveError, match="leaves its grid"):
                _place(g, np.full((1, 1), x), fault)
        else:
            (low, down), (high, up) = _place(g, np.full((1, 1), x), fault)
            assert (low * down + high * up).item() == np.clip(x, 0.0, 4.0)


def test_a_pair_of_equals_is_the_word_itself() -> None:
    assert dp.grid(0.0, 1.0, 3, outside=("clip", "clip")).outside == "clip"
    assert dp.grid([0.0, 1.0], outside=["clip", "error"]).sides == ("clip", "error")


def test_a_solve_clips_at_the_top_what_it_forbids_at_the_bottom() -> None:
    # Wealth grows by one up to the top, which pays; a fall below the bottom is an error.
    def walk(step, outside):
        return dp.Model(
            states={"a": dp.grid(0.0, 3.0, 4, outside=outside)},
            choices={"c": [0.0]},
            transition={"a": lambda a, c: a + step + c},
            reward=lambda a: a,
            discount=0.5,
        )

    solved = dp.solve(walk(1.0, ("error", "clip")), tol=1e-9)
    np.testing.assert_allclose(solved.value, [1.75, 3.5, 5.0, 6.0])
    with pytest.raises(dp.DpsolveError, match="off its grid"):
        dp.solve(walk(-1.0, ("error", "clip")))
    np.testing.assert_allclose(dp.solve(walk(-1.0, ("clip", "error"))).value[0], 0.0)


# -- shocks -----------------------------------------------------------------------------------


def test_a_lognormal_shock_has_the_moments_of_its_logarithm() -> None:
    shock = dp.lognormal(-0.02, 0.3, 5)
    logs = np.log(shock.values)
    assert (np.diff(shock.values) > 0).all()
    assert shock.probs.sum() == pytest.approx(1.0, abs=1e-15)
    for power, moment in enumerate([1.0, 0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0]):
        assert shock.probs @ ((logs + 0.02) / 0.3) ** power == pytest.approx(moment, abs=1e-11)
    assert shock.probs @ shock.values == pytest.approx(np.exp(-0.02 + 0.045), rel=1e-7)


@pytest.mark.parametrize("n", [1, 4, 25])
def test_equal_masses_keep_the_mean_of_a_lognormal(n: int) -> None:
    shock = dp.lognormal(0.1, 0.8, n, rule="equal_mass")
    assert (np.diff(shock.values) > 0).all()
    np.testing.assert_allclose(shock.probs, 1.0 / n)
    assert shock.values.mean() == pytest.approx(np.exp(0.1 + 0.32), rel=1e-13)


@pytest.mark.parametrize("rule", ["gauss", "equal_mass"])
def test_a_lognormal_s_parameters_may_be_traced(rule: str) -> None:
    traced = jax.jit(lambda mu, sigma: dp.lognormal(mu, sigma, 5, rule=rule).values)
    np.testing.assert_allclose(traced(0.1, 0.2), dp.lognormal(0.1, 0.2, n=5, rule=rule).values)
    slope = jax.grad(lambda mu: dp.lognormal(mu, 0.2, 5, rule=rule).values[0])(0.1)
    assert slope == pytest.approx(float(traced(0.1, 0.2)[0]))  # of exp(mu + ...)


# -- what is declared ---------------------------------------------------------------------------


def test_conditions_are_joined_and_stay_apart() -> None:
    def positive(a, z, a_next):
        return a + z - a_next > 0

    def below(a_next, most=3.0):  # of no state; `most` keeps its default
        return a_next <= most

    made = model(feasible=[positive, below])
    assert made.conditions == (positive, below)
    assert arguments(made.feasible, made.arguments) == ("a", "z", "a_next")
    assert made.on_grids().conditions == (positive, below)
    assert bool(made.feasible(a=5.0, z=1.0, a_next=2.5) & jnp.asarray(True))
    assert not made.feasible(a=5.0, z=1.0, a_next=3.5)
    assert model(feasible=positive).conditions == (positive,)
    assert model(feasible=[positive]).feasible is positive
    assert model(feasible=[]).feasible is model(feasible=None).feasible is None


def test_a_list_of_conditions_solves_as_their_conjunction() -> None:
    grids = {"choices": {"a_next": "a"}}
    joined = lambda a, z, a_next: (a + z - a_next > 0) & (a_next <= 2.0)  # noqa: E731
    apart = [lambda a, z, a_next: a + z - a_next > 0, lambda a_next: a_next <= 2.0]
    one = dp.solve(model(**grids, feasible=joined))
    several = dp.solve(model(**grids, feasible=apart))
    np.testing.assert_array_equal(one.value, several.value)
    assert several.policy["a_next"].max() == 2.0
    nothing = model(**grids, feasible=[*apart, lambda a_next: a_next < 0])
    with pytest.raises(dp.ModelError, match="has no feasible choice"):
        dp.check(nothing)


def test_the_definition_in_numpy_reads_the_same_words() -> None:
    """Risky income, a grid in logs whose top is clipped, and two conditions."""
    income = dp.lognormal(-0.02, 0.2, 3)
    saver = dp.Model(
        states={"m": dp.grid(income.values[0], 2.5, 9, spacing="log", outside=("error", "clip"))},
        choices={"s": np.linspace(0.0, 2.4, 7)},
        shocks={"y": income},
        transition={"m": lambda s, y: 1.02 * s + y},
        feasible=[lambda m, s: s < m, lambda s: s <= 2.0],
        reward=lambda m, s: jnp.log(jnp.maximum(m - s, 1e-9)),
        discount=0.9,
    )
    solved = dp.solve(saver, tol=1e-10)
    once = bellman(define(saver), [np.asarray(solved.value)]).value[0]
    np.testing.assert_allclose(once, solved.value, atol=1e-9)


def test_what_is_declared_is_kept() -> None:
    made = model(
        increasing=("a",),
        marginal={"consumption": lambda c: 1.0 / c},
        inverse_marginal={"consumption": lambda u, z: z / u},
    )
    assert made.increasing == ("a",)
    assert model(increasing="a").increasing == ("a",)
    assert made.marginal["consumption"](2.0) == 0.5
    assert made.inverse_marginal["consumption"](2.0, z=1.0) == 0.5
    assert model().increasing == ()
    assert model().marginal == {}


def test_a_grid_beside_nothing_continuous_may_be_declared_concave() -> None:
    assert model(choices={"a_next": "a"}, concave=True).concave


def extrapolated():
    return {"a": dp.grid(0.0, 4.0, 9, outside="extrapolate"), "z": dp.rouwenhorst(2, 0.5, 0.1)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"increasing": ("m",)}, ["increasing", "'m'", "no continuous state", "Those are: a"]),
        ({"increasing": ("z",)}, ["increasing", "'z'", "no continuous state"]),
        ({"increasing": (3,)}, ["increasing", "3"]),
        ({"marginal": {"consumptio": lambda c: c}},
         ["marginal", "'consumptio'", "no output", "Did you mean 'consumption'"]),
        ({"marginal": lambda c: c}, ["marginal", "dict"]),
        ({"marginal": {"consumption": 2.0}}, ["marginal of 'consumption'", "function", "2.0"]),
        ({"marginal": {"consumption": lambda: 2.0}}, ["marginal of 'consumption'", "no number"]),
        ({"inverse_marginal": {"consumption": lambda c, y: c}},
         ["inverse_marginal of 'consumption'", "'y'", "z"]),
        ({"marginal": {"consumption": lambda c: jnp.float32(1) * jnp.asarray(c, jnp.float32)}},
         ["marginal of 'consumption'", "float32"]),
        ({"feasible": [lambda a_next: a_next > 0, lambda b: b > 0]}, ["feasible 2", "'b'"]),
        ({"feasible": [lambda a: a, lambda a: a > 0]}, ["feasible 1", "returns a number"]),
        ({"feasible": [3, lambda a: a > 0]}, ["feasible 1", "3"]),
        ({"concave": "yes"}, ["concave='yes'", "True"]),
        ({"concave": True, "choices": {"a_next": dp.interval("a"), "work": [0.0, 1.0]}},
         ["concave=True", "discrete choice 'work'", "'a_next'"]),
        ({"concave": True, "choices": {"n": dp.integers(0, 2), "a_next": dp.interval("a")}},
         ["concave=True", "discrete choice 'n'"]),
        ({"choices": {"a_next": dp.interval("a"), "lower_a_next": dp.interval(0.0, 1.0)}},
         ["'lower_a_next'", "policy_lower_a_next", "rename"]),
        ({"choices": {"a_next": dp.interval("z")}}, ["'z'", "no continuous state", "are: a"]),
        ({"choices": {"a_next": dp.interval("aa")}}, ["'aa'", "Did you mean 'a'"]),
        ({"choices": {"a_next": dp.interval("a", hi=lambda a, b: a), "b": dp.interval(0.0, 1.0)}},
         ["upper end of choice 'a_next'", "'b'", "a, z"]),
        ({"choices": {"a_next": dp.interval("a", lo=lambda a, t: a)}}, ["lower end", "'t'"]),
        ({"choices": {"a_next": dp.interval("a", lo=lambda a: jnp.float32(0.5))}},
         ["lower end of choice 'a_next'", "float32"]),
        ({"states": extrapolated()}, ["'a'", "extrapolate", "'a_next'", "('error', 'clip')"]),
    ],
)  # fmt: skip
def test_wrong_declarations_are_named(changes: dict, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        model(**changes)
    for word in words:
        assert word in str(caught.value)


def test_ends_look_up_positions_as_other_functions_do() -> None:
    limits = np.asarray([0.0, 1.5])
    end = dp.interval("a", lo=lambda a, z_index: jnp.asarray(limits)[z_index] + 0 * a)
    low = model(choices={"a_next": end}).continuous["a_next"].lo
    assert arguments(low, ("a", "z")) == ("a", "z")
    assert [float(low(a=0.0, z=z)) for z in (0.5, 1.0)] == [0.0, 1.5]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp.grid(0.0, 1.0, 5, spacing="log"), ["lo=0.0", "logarithm", "curve=2"]),
        (lambda: dp.grid(-1.0, 1.0, 5, spacing="log"), ["lo=-1.0"]),
        (lambda: dp.grid(1.0, 2.0, 5, 2.0, spacing="log"), ["curve=2.0", "spacing='log'"]),
        (lambda: dp.grid(1.0, 2.0, 5, spacing="geometric"), ["'geometric'", "'log'"]),
        (lambda: dp.grid([1.0, 2.0], spacing="log"), ["beside an array"]),
        (lambda: dp.grid(0.0, 1.0, 5, outside=("clip", "extrapolate")), ["extrapolate", "pair"]),
        (lambda: dp.grid(0.0, 1.0, 5, outside=("clip",)), ["('clip',)", "pair"]),
        (lambda: dp.grid(0.0, 1.0, 5, outside=("clip", 3)), ["('clip', 3)", "pair"]),
        (lambda: dp.interval(), ["dp.interval('a')", "two ends"]),
        (lambda: dp.interval(0.0), ["two ends"]),
        (lambda: dp.interval(1.0, 0.0), ["lo=1.0 exceeds hi=0.0"]),
        (lambda: dp.interval("a", 3.0), ["'a'", "3.0", "hi=..."]),
        (lambda: dp.interval(0.0, 1.0, hi=2.0), ["twice"]),
        (lambda: dp.interval(0.0, [1.0, 2.0]), ["hi=[1.0, 2.0]"]),
        (lambda: dp.lognormal(0.0, -0.1, 5), ["sigma=-0.1", "negative"]),
        (lambda: dp.lognormal(0.0, 0.1, 0), ["n=0", "positive integer"]),
        (lambda: dp.lognormal(0.0, 0.1, 2.5), ["n=2.5"]),
        (lambda: dp.lognormal("a", 0.1, 5), ["mu='a'"]),
        (lambda: dp.lognormal(0.0, 0.1, 5, rule="simpson"), ["'simpson'", "equal_mass"]),
    ],
)
def test_specifications_refuse_nonsense(make, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)

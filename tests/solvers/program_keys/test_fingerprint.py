"""A program answers for what its factory reads now; what cannot be followed is refused by name."""

import functools
import itertools
import logging
import operator
import random
import sys
import types
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from jax import lax

import dpsolve as dp
from dpsolve.solvers.program_keys.fingerprint import KeyedFactory, fingerprint, keyed
from dpsolve.solvers.solve.one_device import one_point

TAX = 0.0
RATES = [0.0]
TABLE = {"low": {"tax": 0.0}}
HELD = np.zeros(3)
LARGE = np.zeros(1000)
ON_DEVICE = jnp.zeros(3)
MEMO: dict[str, float] = {}
COUNTER = itertools.count()
DRAWS = np.random.default_rng(0)


class Duties:
    tax = 0.0

    def due(self, x):
        return x * self.tax


@dataclass
class Rules:
    tax: float = 0.0


LAW = Duties()
RULES = Rules()


def keeps():
    return 1 - TAX


@jax.jit
def jitted(x):
    return x * (1 - TAX)


def added(c, x):
    return c + x * (1 - TAX), None


def paying(tax, **fields):
    """Return a model whose value is the reward of a year over 1 - beta."""
    return dp.Model(
        states={"k": dp.grid(0.0, 1.0, 3)},
        choices={"c": [0.0]},
        transition={"k": "k"},
        reward=lambda k: 1.0 - tax(),
        **fields,
    )


def of_global(beta=0.5):
    return paying(lambda: TAX, discount=beta)


def of_helper(beta=0.5):
    return paying(lambda: 1 - keeps(), discount=beta)


def of_list(beta=0.5):
    return paying(lambda: RATES[0], discount=beta)


def of_dict(beta=0.5):
    return paying(lambda: TABLE["low"]["tax"], discount=beta)


def of_array(beta=0.5):
    return paying(lambda: jnp.asarray(HELD)[1], discount=beta)


def of_large_array(beta=0.5):
    return paying(lambda: jnp.asarray(LARGE)[500], discount=beta)


def of_jax_array(beta=0.5):
    return paying(lambda: ON_DEVICE[1], discount=beta)


def of_class(beta=0.5):
    return paying(lambda: LAW.due(1.0), discount=beta)


def of_instance(beta=0.5):
    return paying(lambda: RULES.tax, discount=beta)


def of_jitted(beta=0.5):
    return paying(lambda: 1 - jitted(1.0), discount=beta)


def of_scan(beta=0.5):
    return paying(lambda: 1 - lax.scan(added, 0.0, jnp.ones(1))[0], discount=beta)


HERE = sys.modules[__name__]


def put(name, value):
    """Return what sets a global of this module."""
    return lambda: setattr(HERE, name, value)


CHANGES = {
    "a global": (of_global, put("TAX", 0.5)),
    "a global of a function that is called": (of_helper, put("TAX", 0.5)),
    "a list in place": (of_list, lambda: RATES.__setitem__(0, 0.5)),
    "a dict in a dict": (of_dict, lambda: TABLE["low"].update(tax=0.5)),
    "an array in place": (of_array, lambda: HELD.__setitem__(1, 0.5)),
    "a large array in place": (of_large_array, lambda: LARGE.__setitem__(500, 0.5)),
    "an array of JAX": (of_jax_array, put("ON_DEVICE", jnp.full(3, 0.5))),
    "an attribute of a class": (of_class, lambda: setattr(Duties, "tax", 0.5)),
    "an attribute of an object": (of_instance, lambda: setattr(RULES, "tax", 0.5)),
    "what the user's own jit holds": (of_jitted, put("TAX", 0.5)),
    "what a scan of JAX holds": (of_scan, put("TAX", 0.5)),
}


@pytest.fixture(autouse=True)
def put_back(monkeypatch):
    for name in ("TAX", "ON_DEVICE", "DRAWS"):
        monkeypatch.setattr(HERE, name, getattr(HERE, name))
    monkeypatch.setattr(Duties, "tax", 0.0)
    yield
    RATES[0] = TABLE["low"]["tax"] = RULES.tax = HELD[1] = LARGE[500] = 0.0
    MEMO.clear()


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_two_calls_makes_another_key(change: str) -> None:
    factory, happen = CHANGES[change]
    before = keyed(factory)
    assert before == keyed(factory)
    happen()
    assert before != keyed(factory)


@pytest.mark.parametrize("change", ["a global", "an array in place", "what a scan of JAX holds",
                                    "what the user's own jit holds"])  # fmt: skip
def test_what_changes_between_two_calls_changes_the_answer(change: str) -> None:
    factory, happen = CHANGES[change]
    assert dp.solve(factory).value[0] == pytest.approx(2.0)
    happen()
    assert dp.solve(factory).value[0] == pytest.approx(1.0)


def test_it_changes_the_answer_of_many_points_and_of_several_devices() -> None:
    def values():
        many = dp.solve_many(of_global, {"beta": [0.5, 0.5]})
        return many.value[1, 0], dp.solve(of_global, mesh="states=3").value[0]

    assert values() == pytest.approx((2.0, 2.0))
    HERE.TAX = 0.5
    assert values() == pytest.approx((1.0, 1.0))


def test_a_variable_of_an_enclosing_function_a_default_and_the_code_count() -> None:
    tax = 0.0

    def closing(beta=0.5):
        return paying(lambda: tax, discount=beta)

    def kept(beta=0.5, *, tax=0.0):
        return paying(lambda: tax, discount=beta)

    def other(beta=0.5, *, tax=0.0):
        return paying(lambda: tax + 0.25, discount=beta)

    first = keyed(closing)
    tax = 0.5
    assert first != keyed(closing)
    assert dp.solve(kept).value[0] == pytest.approx(2.0)
    kept.__kwdefaults__["tax"] = 0.5
    assert dp.solve(kept).value[0] == pytest.approx(1.0)
    kept.__code__ = other.__code__
    assert dp.solve(kept).value[0] == pytest.approx(0.5)


def test_an_attribute_of_the_users_own_module_counts(tmp_path, monkeypatch) -> None:
    (tmp_path / "_own_rates.py").write_text("tax = 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import _own_rates

    def through_module(beta=0.5):
        return paying(lambda: _own_rates.tax, discount=beta)

    def imports_it_itself(beta=0.5):
        import _own_rates as rates

        return paying(lambda: rates.tax, discount=beta)

    def imports_a_name(beta=0.5):
        from _own_rates import tax

        return paying(lambda: tax, discount=beta)

    factories = through_module, imports_it_itself, imports_a_name
    before = [keyed(factory) for factory in factories]
    assert before == [keyed(factory) for factory in factories]
    _own_rates.tax = 0.5
    for old, factory in zip(before, factories, strict=True):
        assert old != keyed(factory)


def test_where_nothing_changes_nothing_is_compiled_again() -> None:
    def plain(beta=0.5, *, n=3):
        return paying(lambda: TAX * keeps() + RATES[0] + HELD[0], discount=beta)

    dp.solve(plain)
    before = one_point.cache_info().misses
    dp.solve(plain, {"beta": 0.6})
    HELD[0] = 1.0
    HELD[0] = 0.0
    dp.solve(plain)
    assert one_point.cache_info().misses == before


def test_numbers_that_compare_equal_and_are_not_the_same_are_told_apart() -> None:
    def reading(value):
        return lambda beta=0.5: (beta, value)

    for a, b in ((1, 1.0), (1, True), (0.0, -0.0), ("1", 1), ([1], (1,)), (Fraction(1), 1)):
        assert fingerprint(reading(a))[0] != fingerprint(reading(b))[0]
    nan = float("nan")
    assert fingerprint(reading(nan))[0] == fingerprint(reading(float("nan")))[0]
    near, far = np.zeros(100), np.zeros(100)
    far[99] = 1e-300
    assert fingerprint(reading(near))[0] != fingerprint(reading(far))[0]
    assert fingerprint(reading(near))[0] != fingerprint(reading(near.reshape(10, 10)))[0]
    loop: list = []
    loop.append(loop)
    assert fingerprint(reading(loop))


def test_functions_of_installed_packages_cost_nothing_and_are_no_obstacle() -> None:
    from jax.numpy import add, exp, linspace, maximum
    from numpy import sum as total
    from scipy.interpolate import CubicSpline
    from scipy.special import erf

    spline = CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 4.0])

    def reading(beta=0.5):
        return add, exp, linspace, maximum, total, erf, spline, functools.partial(erf), dp, jnp

    first = keyed(reading)
    assert first == keyed(reading)
    spline.c[0, 0] += 1.0
    assert first != keyed(reading)
    assert fingerprint(keyed(dp.solvers.library.growth)) == ()


@dataclass(slots=True)
class Slotted:
    tax: float = 0.0

    @functools.cached_property
    def unused(self):
        return 1.0


def test_what_is_no_plain_data_is_compared_all_the_same() -> None:
    table = xr.Dataset({"tax": ("year", [0.1, 0.2])})
    frame = pd.DataFrame({"tax": [0.1, 0.2]})
    slotted, key = Slotted(), jax.random.key(1)
    mesh, log = jax.make_mesh((1,), ("x",)), logging.getLogger("mine")

    def reading(beta=0.5):
        return table, frame, slotted, key, mesh, log, jax.devices, operator.itemgetter(1)

    first = keyed(reading)
    assert first == keyed(reading)
    frame["tax"].sum()
    assert first == keyed(reading)
    slotted.tax = 0.5
    second = keyed(reading)
    assert second != first
    frame.loc[1, "tax"] = 0.3
    third = keyed(reading)
    assert third != second
    table["tax"][1] = 0.3
    fourth = keyed(reading)
    assert fourth != third
    key = jax.random.key(2)
    assert keyed(reading) != fourth


def test_a_ready_model_is_traced_anew_with_all_that_it_calls() -> None:
    ready = of_scan()
    assert dp.solve(ready).value[0] == pytest.approx(2.0)
    HERE.TAX = 0.5
    assert dp.solve(ready).value[0] == pytest.approx(1.0)


def test_a_solution_whose_model_is_gone_says_so() -> None:
    solution = dp.solve(of_global)
    HERE.TAX = 0.5
    with pytest.raises(dp.ModelError, match=r"'TAX', which of_global reads, changed since"):
        dp.stationary(solution)
    dp.stationary(dp.solve(of_global))


def test_a_factory_may_fill_a_table_of_its_own() -> None:
    def remembering(beta=0.5):
        MEMO.setdefault("tax", 0.25)
        return paying(lambda: MEMO["tax"], discount=beta)

    assert dp.solve(remembering).value[0] == pytest.approx(1.5)
    assert dp.solve(remembering).value[0] == pytest.approx(1.5)
    MEMO["tax"] = 0.5
    assert dp.solve(remembering).value[0] == pytest.approx(1.0)


def counted(beta=0.5):
    return paying(lambda: float(next(COUNTER)), discount=beta)


def from_generator(beta=0.5):
    return paying(lambda: float(DRAWS.normal()), discount=beta)


@pytest.mark.parametrize("ask", [dp.solve, dp.check, dp.describe,
                                 lambda f: dp.solve_many(f, {"beta": [0.5]})])  # fmt: skip
def test_what_cannot_be_compared_is_refused_by_name(ask) -> None:
    with pytest.raises(dp.ModelError, match=r"counted reads 'COUNTER'.*count.*a parameter"):
        ask(counted)


def numpy_reward():
    return paying(lambda: np.random.normal(), discount=0.5)


def draws_in_factory(beta=0.5):
    level = np.random.uniform(size=3)[0]
    return paying(lambda: level, discount=beta)


def unseeded(beta=0.5):
    from numpy.random import default_rng

    level = default_rng().normal()
    return paying(lambda: level, discount=beta)


def of_python(beta=0.5):
    return paying(lambda: random.random(), discount=beta)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (draws_in_factory, "draws_in_factory draws random numbers from numpy.random.uniform"),
        (unseeded, "unseeded draws random numbers from default_rng.. without a seed"),
        (of_python, "of_python draws random numbers from random.random"),
        (from_generator, "from_generator draws random numbers from 'DRAWS' .Generator."),
    ],
)
@pytest.mark.parametrize("ask", [dp.solve, dp.check, dp.describe])
def test_random_numbers_of_no_seed_are_refused(ask, factory, words: str) -> None:
    with pytest.raises(dp.ModelError, match=words):
        ask(factory)


def test_random_numbers_are_refused_in_a_ready_model_and_allowed_with_a_seed() -> None:
    with pytest.raises(dp.ModelError, match=r"reward draws random numbers from numpy.random.norm"):
        numpy_reward()

    def seeded(beta=0.5, *, seed=1):
        level = np.random.default_rng(seed).normal() + jax.random.normal(jax.random.key(seed))
        return paying(lambda: level, discount=beta)

    assert dp.solve(seeded).status == "solved"


def test_a_keyed_factory_reads_like_its_function() -> None:
    made = keyed(of_global)
    assert isinstance(made, KeyedFactory)
    assert keyed(made) is made
    assert made.__name__ == "of_global"
    assert isinstance(dp.solve(of_global).problem.factory, KeyedFactory)
    assert isinstance(made.parts, tuple)
    assert repr(made) == repr(of_global)
    assert types.FunctionType is type(made.__wrapped__)

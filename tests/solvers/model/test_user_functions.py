"""What users write by mistake is told in words that name the thing, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import dpsolve as dp

PRICES = [0.0, 1.0, 4.0, 9.0]
TABLE = np.array(PRICES)


def factory(**changes: Any) -> Callable[..., Any]:
    def shop(beta: float = 0.9, taxed: float = 1.0, *, n: int = 4) -> dp.Model:
        given: dict[str, Any] = {
            "states": {"x": dp.integers(0, n - 1)},
            "choices": {"u": dp.integers(0, 1)},
            "transition": {"x": "x"},
            "reward": lambda x, u: 1.0 * x - u,
            "discount": beta,
        }
        return dp.Model(**given | changes)

    return shop


def rewarded(reward: Any) -> Callable[..., Any]:
    return factory(reward=reward)


def returning(made: Any) -> Callable[..., Any]:
    def made_of(beta: float = 0.9) -> Any:
        return made

    return made_of


def shocked(probs: Any) -> Callable[..., Any]:
    shocks = {"w": dp.iid([0, 1], probs)}
    return factory(shocks=shocks, reward=lambda x, w: 1.0 * x + w)


def under_if(beta: float = 0.9, taxed: float = 1.0) -> Any:
    """Nothing is wrong at any one value of `taxed`; but it is swept, and so traced."""
    return rewarded(lambda x: 0.9 * x if taxed else 1.0 * x)()


def leaking(beta: float = 0.9) -> Any:
    shocks = {"rain": dp.iid([0, 1], [0.5, 0.4])}
    return factory(shocks=shocks)()


def leaking_chain(beta: float = 0.9) -> Any:
    weather = dp.markov([0, 1], [[0.5, 0.4], [0.5, 0.5]])
    return factory(states={"x": dp.integers(0, 3), "sky": weather})()


MODELS: dict[str, tuple[Any, list[str]]] = {
    "chain": (leaking_chain, ["row 0 of the transition matrix sums to 0.9", "weather = dp.markov"]),
    "text": (rewarded(lambda x: "abc"), ["reward returns the text 'abc'"]),
    "None": (rewarded(lambda x: None), ["reward returns None", "`return`"]),
    "dict": (rewarded(lambda x: {"a": 1}), ["reward returns {'a': 1}"]),
    "ragged": (rewarded(lambda x: [[1.0], [1.0, 2.0]]), ["reward returns [[1.0]"]),
    "no reward": (rewarded([]), ["reward is an empty list"]),
    "output": (factory(outputs={"o": lambda x: None}), ["output 'o' returns None"]),
    "moment": (factory(moments={"m": lambda x: None}), ["moment 'm' returns None"]),
    "next": (factory(transition={"x": lambda x: "x"}), ["transition of 'x' returns the text"]),
    "feasible": (factory(feasible=lambda x: None), ["feasible returns None"]),
    "terminal": (factory(horizon=2, terminal=lambda x: None), ["terminal returns None"]),
    "discount text": (factory(discount="0.9"), ["discount is the text '0.9'"]),
    "discount None": (factory(discount=None), ["discount is None"]),
    "discount of x": (factory(discount=lambda x: "a"), ["discount returns the text"]),
    "horizon": (factory(horizon=2**63), ["horizon=9223372036854775808", "at most 2,147,483,647"]),
    "no dict": (factory(outputs=[abs]), ["outputs is [", "outputs={'x': ...}"]),
    "three of two": (
        shocked(lambda x: jnp.array([0.2, 0.3, 0.5])),
        ["shock 'w' returns an array of shape (3,)", "the shock has 2 values"],
    ),
    "list": (rewarded(lambda x: PRICES[x] * 1.0), ["'x' as a Python integer", "jnp.asarray(p"]),
    "NumPy": (rewarded(lambda x: TABLE[x] * 1.0), ["'x' to NumPy", "jnp.asarray(table)[x]"]),
    "dict of x": (rewarded(lambda x: {0: 1.0}[x]), ["in a dict", "jnp.asarray(table)[x]"]),
    "if": (rewarded(lambda x: 1.0 if x > 2 else 0.0), ["Python's `if`", "'x'", "jnp.where"]),
    "math": (rewarded(lambda x: math.sqrt(x)), ["plain number of 'x'", "jnp.exp(x)"]),
    "power": (
        factory(states={"x": dp.integers(1, 4)}, reward=lambda x: x**-2),
        ["reward raises a whole number to a negative power", "(1.0 * x) ** -2"],
    ),
    "parameter": (under_if, ["reward uses Python's `if`", "the parameter 'taxed'", "'*'"]),
    "shock": (leaking, ["sums to 0.9", '"rain": dp.iid']),
    "class": (returning(dp.Model), ["returns type", "a factory returns dp.Model"]),
    "empty": (returning({}), ["a dict without arrays"]),
    "dict in dict": (returning({"a": {"b": 1}}), ["the array 'a' is {'b': 1}"]),
    "text in dict": (returning({"a": "x"}), ["the array 'a' is the text 'x'"]),
    "bound": (returning({"a": 1.0, "error_bound": "x"}), ["'error_bound' is the text"]),
    "condition": (returning({"a": 1.0, "require": {"b": None}}), ["condition of 'b' is None"]),
    "dims": (returning({"a": ((1,), jnp.ones(3))}), ["dimensions of the array 'a' are (1,)"]),
    "two lengths": (
        returning({"a": (("t",), jnp.ones(3)), "b": (("t",), jnp.ones(4))}),
        ["dimension 't' has 3 entries in the array 'a' and 4 in 'b'"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_at_fault_is_told_in_words(name: str) -> None:
    made, words = MODELS[name]
    with pytest.raises(dp.ModelError) as told:
        dp.check(made)
    for word in words:
        assert word in str(told.value)


def test_an_error_of_another_kind_is_the_users_own() -> None:
    with pytest.raises(ZeroDivisionError):
        dp.check(rewarded(lambda x: 1 / 0))


R, P = np.zeros((3, 2)), [sp.eye(3).tocsr()] * 2
CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: dp.Model(), r"needs states and choices and reward and discount"),  # type: ignore[call-arg]
    "misspelt": (lambda: factory(rewards=abs)(), r"takes no 'rewards'. Did you mean 'reward'\?"),
    "no name": (lambda: dp.Model({}), r"takes names"),  # type: ignore[misc, call-arg]
    "sparse list": (lambda: dp.mdp(R, P, 0.9), r"list of 2 sparse matrices.*vstack"),  # type: ignore[arg-type]
    "no states": (lambda: dp.mdp(np.zeros((0, 0)), np.zeros((0, 0, 0)), 0.9), r"at least 1 state"),
    "P": (lambda: dp.mdp(R, "P", 0.9), r"P is 'P', which is no array"),
    "beta": (lambda: dp.mdp(R, np.zeros((3, 2, 3)), "a"), r"mdp: beta='a'"),  # type: ignore[arg-type]
    "many points": (lambda: dp.grid(0.0, 1.0, 10**11), r"n=100,000,000,000"),
    "many values": (lambda: dp.rouwenhorst(10**11, 0.9, 0.1), r"have a matrix of"),
    "end": (lambda: dp.grid("a", "b", 3), r"grid: lo='a'; it is one number"),  # type: ignore[call-overload]
    "rho": (lambda: dp.rouwenhorst(3, "a", 0.1), r"rouwenhorst: rho='a'"),  # type: ignore[arg-type]
    "range": (lambda: dp.integers(0, float("inf")), r"hi=inf"),  # type: ignore[arg-type]
    "chain": (lambda: dp.markov([0, 1], "a"), r"transition matrix is 'a'"),
    "parameter": (lambda: dp.check("growth", {"beta": "abc"}), r"parameter 'beta' is 'abc'"),
    "size": (lambda: dp.check("growth", {"n_k": 99999999999}), r"n=99,999,999,999"),
    "sizes": (lambda: dp.solve_many("growth", {"n_k": [20, 30]}), r"size 'n_k' is \[20, 30\].*one"),
    "no parameters": (lambda: dp.check("growth", ["beta"]), r"parameters are a dict"),  # type: ignore[arg-type]
    "periods": (lambda: dp.SolveOptions(periods=2**63), r"periods=9223372036854775808.*at most"),
    "path": (lambda: dp.path("x", {}, periods=2), r"path of distributions is of a solution"),  # type: ignore[arg-type]
    "open": (lambda: dp.open("x" * 256), r"no such store: .* has 256 bytes"),
    "step": (lambda: dp.fixed_point(lambda x: "x", 1.0), r"step returns what is no array"),
    "long range": (lambda: dp.integers(0, 10**30), r"whole numbers have 64 bits"),
    "seed": (lambda: dp.verify("no.zarr", seed=-1), r"seed=-1"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_at_fault_is_told_in_words(name: str) -> None:
    call, words = CALLS[name]
    with pytest.raises(dp.DpsolveError, match=words):
        call()


def test_a_list_of_sparse_matrices_is_stacked_as_it_is_told() -> None:
    rng = np.random.default_rng(0)
    n, m = 5, 3
    dense = rng.uniform(size=(m, n, n))
    dense /= dense.sum(-1, keepdims=True)
    reward = rng.uniform(size=(n, m))
    stacked = dp.mdp(
        reward.T.ravel(),
        sp.vstack([sp.csr_matrix(p) for p in dense]),
        0.9,
        states=np.tile(np.arange(n), m),
        actions=np.repeat(np.arange(m), n),
    )
    product = dp.mdp(reward, dense.transpose(1, 0, 2), 0.9)
    np.testing.assert_allclose(dp.solve(stacked).value, dp.solve(product).value, atol=2e-6)


def test_a_solution_names_the_arrays_that_it_has() -> None:
    solution = dp.solve(factory())
    assert "value" in solution
    assert "typo" not in solution
    with pytest.raises(dp.UsageError, match=r"has no array 'valu'\. Did you mean 'value'"):
        solution["valu"]
    with pytest.raises(dp.ModelError, match="looks at one point"):
        dp.check(factory(), {"beta": [0.9, 0.95]})
    with pytest.raises(dp.UsageError, match="has no array 3"):
        solution[3]  # type: ignore[index]

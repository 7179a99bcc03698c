"""The signatures decide what a sweep costs."""

import jax
import jax.numpy as jnp
import numpy as np

import dpsolve as dp
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.expectation import Rule, plan


def test_the_next_state_that_is_a_choice_is_looked_up_once_per_choice_and_chain_state() -> None:
    sizes = {"a": 100, "a'": 100, "z": 5, "*": 100}
    (step,) = plan([Rule("a", frozenset({"*"}))], ["z"], {}, sizes)
    assert step.dims == {"*", "z"}


def test_what_shocks_move_is_contracted_before_the_choice_is_looked_at() -> None:
    sizes = {"x": 50, "x'": 50, "y": 10, "y'": 10, "w": 30, "*": 20}
    rules = [Rule("x", frozenset({"x", "w"})), Rule("y", frozenset({"*"}))]
    first, second = plan(rules, [], {"w": frozenset()}, sizes)
    assert first.states == ("x",)
    assert first.shocks == ("w",)
    assert not first.needs_choice
    assert second.states == ("y",)


def test_rules_that_would_blow_up_are_looked_up_together() -> None:
    sizes = {"x": 50, "x'": 50, "y": 50, "y'": 50, "*": 20}
    every = frozenset({"x", "y", "*"})
    (step,) = plan([Rule("x", every), Rule("y", every)], [], {}, sizes)
    assert set(step.states) == {"x", "y"}


def _is_jaxpr(x) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def _largest_array(f, *args) -> int:
    sizes = []

    def walk(jaxpr) -> None:
        for equation in jaxpr.eqns:
            sizes.extend(v.aval.size for v in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    walk(getattr(inner, "jaxpr", inner))

    walk(jax.make_jaxpr(f)(*args).jaxpr)
    return max(sizes)


def test_a_sweep_never_builds_states_times_choices_times_shocks() -> None:
    n, m, w = 40, 30, 25
    model = dp.Model(
        states={"x": dp.grid(0.0, 1.0, n), "y": dp.integers(0, m - 1)},
        choices={"c": "y"},
        shocks={"w": dp.iid(np.linspace(-0.1, 0.1, w), np.full(w, 1 / w))},
        transition={"x": lambda x, w: jnp.clip(x + w, 0, 1), "y": "c"},
        reward=[lambda x, w: x * jnp.exp(w), lambda y, c: -((y - c) ** 2) * 0.01],
        discount=0.9,
    )
    assert (
        _largest_array(lambda v: GridOperator(model).greedy(v)[0], jnp.zeros((n, m))) <= n * m * 32
    )


def test_streaming_keeps_memory_at_states_times_block() -> None:
    n, block = 300, 4
    model = dp.Model(
        states={"x": dp.grid(0.0, 1.0, n)},
        choices={"y": "x"},
        transition={"x": "y"},
        feasible=lambda x, y: y <= x,
        reward=lambda x, y: jnp.sqrt(x - y),
        discount=0.9,
    )
    assert (
        _largest_array(lambda v: GridOperator(model, block=block).greedy(v), jnp.zeros(n))
        <= n * block
    )

"""Intervals beside choices from a list: steps between nodes, and tables, confirmed or refuted.

What is "stored" is made by hand, in NumPy: to save and to work, or to retire, over two periods.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.verify.stored_point import Stored, examine

BETA, WAGE, PERIODS = 0.9, 3.0, 2
NODES = 0.5 + 9.5 * np.linspace(0.0, 1.0, 21) ** 2
MODEL = dp.Model(
    states={"m": dp.grid(NODES, outside="clip"), "worker": dp.integers(0, 1)},
    choices={"work": dp.integers(0, 1), "a": dp.interval(0.0, lambda m: 0.9 * m)},
    transition={"m": lambda a, work: 1.02 * a + WAGE * work, "worker": "work"},
    feasible=[lambda worker, work: work <= worker, lambda m, a: m - a > 0],
    reward=lambda m, a, work: jnp.log(m - a) - work,
    outputs={"consumption": lambda m, a: m - a},
    discount=BETA,
    horizon=PERIODS,
    increasing=("m",),
)


def best(after: Any, pays: Any) -> tuple[Any, Any, Any]:
    """Return the best of pairs of work and amount (m, worker), and which they are."""
    value = np.full((NODES.size, 2), -np.inf)
    worked, saved = np.zeros(value.shape, int), np.zeros(value.shape)
    for i, m in enumerate(NODES):
        for worker in (0, 1):
            for work in range(worker + 1):
                amount, received = pays(m, work)
                q = np.log(m - amount) - work + BETA * after[work](received)
                k = int(np.argmax(q))
                if q[k] > value[i, worker]:
                    value[i, worker], worked[i, worker] = q[k], work
                    saved[i, worker] = amount[k]
    return value, worked, saved


def backwards(pays: Any, read: Any) -> dict[str, Any]:
    """Solve; `pays` gives amounts and next wealth, `read` makes a function of values at nodes."""
    value, rows = np.zeros((NODES.size, 2)), []
    for _ in range(PERIODS):
        value, work, amount = best([read(value[:, w]) for w in (0, 1)], pays)
        rows.insert(0, (value, work, amount))
    keys = ("value", "policy_work", "policy_a")
    found = {k: np.stack(x) for k, x in zip(keys, zip(*rows, strict=True), strict=True)}
    found["policy_index_work"] = found["policy_work"]
    found["output_consumption"] = NODES[:, None] - found["policy_a"]
    return found


def at_nodes(m: float, work: int) -> tuple[Any, Any]:
    """To lead to a node exactly, and below the first one by nothing saved."""
    amount = np.concatenate([[0.0], (NODES - WAGE * work) / 1.02])
    node = np.concatenate([[max(WAGE * work, NODES[0])], NODES])
    fine = (amount >= 0.0) & (amount <= 0.9 * m)
    return amount[fine], node[fine]


def above(m: float, work: int) -> tuple[Any, Any]:
    """To pay for a node, and receive the next one."""
    paid = np.concatenate([[NODES[0]], NODES[:-1]])
    amount = np.maximum((paid - WAGE * work) / 1.02, 0.0)
    amount[0] = 0.0
    least = max(WAGE * work, NODES[0])
    fine = (amount <= 0.9 * m) & (least <= NODES)
    return amount[fine], NODES[fine]


def floored(values: Any) -> Any:
    return lambda x: values[np.searchsorted(NODES, x + 1e-12, side="right") - 1]


def ceiled(values: Any) -> Any:
    return lambda x: values[np.searchsorted(NODES, x - 1e-12)]


def shares(m: float, work: int) -> tuple[Any, Any]:
    """To save one of 401 shares."""
    amount = np.linspace(0.0, 1.0, 401) * 0.9 * m
    return amount, np.clip(1.02 * amount + WAGE * work, NODES[0], NODES[-1])


def point(code: int) -> tuple[dict[str, Any], float]:
    if code == 3:
        found = backwards(shares, lambda v: lambda x: np.interp(x, NODES, v))
        found |= {"lower": found["value"] - 1e-9, "upper": found["value"] + 1e-9}
        error = 1e-9
    else:
        found = backwards(at_nodes, floored)
        found |= {"lower": found["value"], "upper": backwards(above, ceiled)["value"]}
        found["value"] = (found["lower"] + found["upper"]) / 2
        middle, high, low = found["value"], found["upper"], found["lower"]
        error = max(
            (high[:, 1:] - np.minimum(middle[:, 1:], middle[:, :-1])).max(),
            (np.maximum(middle[:, 1:], middle[:, :-1]) - low[:, :-1]).max(),
        )
    return found | {"certifies": np.int8(code), "concavity": np.int8(0)}, float(error)


@pytest.mark.slow
@pytest.mark.parametrize("code", [1, 3])
def test_what_is_stored_is_confirmed_and_what_was_altered_is_refuted(code):
    arrays, error = point(code)
    assert examine(MODEL, Stored(arrays, error)).faults == []
    at = (1, 12, 1)
    for name, change, word in (
        ("lower", 1e-4, "lower at"),
        ("upper", -1.0, "upper at"),
        ("policy_a", 0.1, "output_consumption"),
        ("policy_a", -9.0, "outside of its interval"),
    ):
        array = np.array(arrays[name])
        array[at] += change
        faults = examine(MODEL, Stored({**arrays, name: array}, error)).faults
        assert any(word in text for text in faults), (name, faults)


def test_the_error_of_steps_is_that_between_the_nodes():
    arrays, error = point(1)
    (fault,) = examine(MODEL, Stored(arrays, 0.9 * error)).faults
    assert "leave an error of" in fault

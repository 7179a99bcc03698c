"""Whoever waits is told: what is compiled and how long, and how far a long call is."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers import compile_forecast, notices
from dpsolve.solvers.notices import Countdown, in_words, tell, told_to


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hear of every program, however small."""
    monkeypatch.setattr(compile_forecast, "LONG", 0.0)
    found: list[str] = []
    monkeypatch.setattr(notices, "_listeners", [found.append])
    return found


@pytest.fixture
def counted() -> tuple[Callable[..., Any], list[Any]]:
    """Make a factory that no other test has compiled, and counts how often it is called."""
    calls: list[Any] = []
    log = logging.Logger("calls")  # which is no part of what the factory depends on
    log.addFilter(lambda record: bool(calls.append(record.args)))  # type: ignore[func-returns-value]

    def toy(beta: float = 0.9, *, n: int = 3) -> dp.Model:
        log.warning("called")
        return dp.Model(
            states={"x": dp.integers(0, n - 1)},
            choices={"y": "x"},
            transition={"x": "y"},
            reward=lambda x, y: x - 0.5 * y,
            discount=beta,
        )

    return toy, calls


def test_a_solve_says_once_that_it_compiles(heard: list[str], counted: Any) -> None:
    toy, calls = counted
    solution = dp.solve(toy)
    assert len(heard) == 1
    assert re.fullmatch(r"compiling toy, some \d+ s the first time", heard[0])
    once = len(calls)
    dp.solve(toy, {"beta": 0.8})
    assert len(heard) == 1
    # Once to see how it is solved; and what is traced for the forecast is not traced again.
    assert len(calls) == once == 2
    dp.solve(toy, {"n": 4})
    dp.stationary(solution)
    dp.stationary(dp.solve(toy, {"beta": 0.7}))
    assert [text.partition(",")[0] for text in heard[1:]] == [
        "compiling toy", "compiling a distribution of toy",
    ]  # fmt: skip


def test_many_points_say_once_that_they_compile(heard: list[str], counted: Any) -> None:
    toy, _ = counted
    for _ in range(2):
        dp.solve_many(toy, {"beta": np.linspace(0.5, 0.9, 5)})
    assert [text.partition(",")[0] for text in heard] == ["compiling toy"]


def test_nothing_is_told_inside_somebody_elses_trace(heard: list[str], counted: Any) -> None:
    toy, _ = counted
    jax.jit(lambda beta: dp.solve(toy, {"beta": beta}).value)(0.9)
    assert heard == []


def test_the_forecast_follows_the_size_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_forecast, "_pace", [1.0])
    found: list[str] = []
    monkeypatch.setattr(notices, "_listeners", [found.append])

    def nested(x: Any) -> Any:
        return jax.lax.while_loop(lambda x: x < 9.0, lambda x: x * 2.0 + 1.0, x)

    traced = jax.jit(nested).trace(1.0)
    assert compile_forecast.tell_compiling("it", traced) == 4.0  # the loop, and three inside
    assert found == ["compiling it, some 4 s the first time"]
    compile_forecast.learn(4.0, 16.0)
    assert compile_forecast.tell_compiling("it", traced) == 8.0  # half of the way, in logarithms
    compile_forecast.learn(8.0, 0.01)  # from a cache
    assert compile_forecast.tell_compiling("it", traced) == 8.0
    assert compile_forecast.tell_compiling("x", jax.jit(lambda x: x + jnp.sin(x)).trace(1.0)) == 4.0


def test_a_long_call_is_told_now_and_again() -> None:
    now = [0.0]
    heard: list[str] = []
    count = Countdown("savings", 1000, lambda: now[0])
    with told_to(heard.append):
        for second, done in ((1, 10), (4.9, 100), (6, 120), (8, 300), (17, 500), (40, 1000)):
            now[0] = second
            count(done)
    assert heard == [
        "savings: 120 of 1,000 points, about 44 s left",
        "savings: 500 of 1,000 points, about 17 s left",
    ]


def test_solve_many_counts_its_points(heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "FIRST", 0.0)
    monkeypatch.setattr(notices, "EVERY", 0.0)
    dp.solve_many("cake", {"beta": np.linspace(0.5, 0.9, 200), "n_x": 60})
    counts = [text for text in heard if text.startswith("cake: ")]
    assert counts
    assert all(text.split(" of ")[1].startswith("200 points, about") for text in counts)


def test_it_goes_to_standard_error_unless_it_is_silenced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("dpsolve.waiting")
    before = log.level
    try:
        log.setLevel("NOTSET")  # as it is outside of tests
        tell("compiling it")
        assert capsys.readouterr().err == "dpsolve: compiling it\n"
        log.setLevel("WARNING")
        tell("compiling it")
        assert capsys.readouterr().err == ""
    finally:
        log.setLevel(before)


def test_durations_are_as_rough_as_they_are_known() -> None:
    assert [in_words(x) for x in (0.2, 8.4, 150, 9000)] == ["1 s", "8 s", "2 min", "2.5 h"]

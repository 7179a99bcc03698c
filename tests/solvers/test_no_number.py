"""One NaN or +inf anywhere that matters fails the point and is named, whatever solves it.

The fuzzer's random numbers are parameters of one factory, so that a size and a method compile once.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches import program
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.options import SolveOptions

METHODS = ["auto", "vi", "pi", "opi"]
PLACES = ["reward", "next", "post", "discount", "chances", "output", "terminal"]
CLEAN = -1


def shop(
    beta: float = 0.9,
    place: float = CLEAN,
    worth: float = 0.0,
    at: float = 3.0,
    on: float = 1.0,
    *,
    n: int = 12,
    horizon: int | None = None,
    outside: str = "error",
) -> dp.Model:
    """A stock with two shocks; at one pair of (x, u), in one place, stands `worth` / 0."""
    broken = jnp.divide(worth, 0.0)  # a parameter itself would be refused as one

    def here(which: str, x: Any, u: Any, good: Any) -> Any:
        wanted = (place == PLACES.index(which)) & (x == at) & (u == on)
        return jnp.where(wanted, broken, good)

    def next_stock(p: Any, w: Any) -> Any:
        return jnp.clip(p - w, 0.0, n - 1.0)

    def spoiled(x: Any, u: Any, w: Any) -> Any:
        return jnp.where(w == 1, here("next", x, u, 0.0), 0.0) + jnp.clip(x + u - w, 0.0, n - 1.0)

    def chances(x: Any, u: Any) -> Any:
        first = here("chances", x, u, 0.3)
        return jnp.stack([first, 1.0 - first])

    more: dict[str, Any] = {}
    if horizon is not None:
        bad = place == PLACES.index("terminal")
        terminal = lambda x: jnp.where(bad & (x == at), broken, 0.1 * x)  # noqa: E731  (bound here)
        more = {"horizon": horizon, "terminal": terminal}
    return dp.Model(
        states={
            "x": dp.grid(0.0, n - 1.0, n, outside=outside),
            "y": dp.grid(0.0, n - 1.0, n),
        },
        choices={"u": dp.integers(0, 2)},
        shocks={"w": dp.iid([0, 1], chances)},
        post={"p": (dp.grid(0.0, n + 1.0, n + 2), lambda x, u: here("post", x, u, x + u))},
        transition={"x": spoiled, "y": next_stock},
        reward=[
            lambda x, u, w: here("reward", x, u, jnp.sqrt(x) - 0.4 * u) * jnp.where(w == 1, 1, 0.5),
            lambda p, y: 0.01 * p - 0.001 * (y - p) ** 2,
        ],
        discount=lambda x, u: here("discount", x, u, beta),
        outputs={"sold": lambda x, u, w: here("output", x, u, jnp.minimum(x + u, w))},
        **more,
    )


def message(factory: Any, parameters: dict[str, Any], **options: Any) -> tuple[str, str]:
    try:
        found = dp.solve(factory, parameters, **options)
    except dp.ModelError as error:
        return "failed", str(error)
    return str(found.status), found.message


def optimum(n: int) -> tuple[float, float]:
    """A pair that is chosen: the best of the middle state."""
    solution = dp.solve(shop, {"n": n})
    x = n // 2
    return float(x), float(np.asarray(solution.policy["u"])[x, 0])


@pytest.mark.parametrize(
    ("place", "worth"),
    [
        *((p, 0.0) for p in PLACES[:-2]),
        *((p, 1.0) for p in PLACES[:2]),
        pytest.param("output", 0.0, marks=pytest.mark.slow),
    ],
)
def test_it_fails_and_is_named_by_solve_batch_and_check(place: str, worth: float) -> None:
    at, on = optimum(12) if place == "output" else (3.0, 1.0)
    bad = {"place": PLACES.index(place), "worth": worth, "at": at, "on": on}
    with pytest.raises(dp.ModelError) as refused:
        dp.check(shop, bad)
    named = str(refused.value)
    assert f"x={at:g}" in named, named
    assert f"u={on:g}" in named, named
    if place in ("reward", "next", "output"):
        assert "w=" in named, named
    status, text = message(shop, bad)
    assert (status, text) == ("failed", named)
    places = [CLEAN, bad["place"], CLEAN]
    batch = dp.solve_many(shop, {**bad, "place": np.array(places, float)})
    assert list(batch.status) == ["solved", "failed", "solved"]
    assert batch.message[1] == named
    assert np.isnan(np.asarray(batch.value)[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_it_fails_over_a_horizon(place: str) -> None:
    at, on = 3.0, 1.0
    if place == "output":
        at, on = 6.0, float(np.asarray(dp.solve(shop, {"horizon": 3}).policy["u"])[0, 6, 0])
    bad = {"place": PLACES.index(place), "at": at, "on": on, "horizon": 3}
    with pytest.raises(dp.ModelError) as refused:
        dp.check(shop, bad)
    assert f"x={at:g}" in str(refused.value)
    assert message(shop, bad) == ("failed", str(refused.value))


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["clip", "extrapolate"])
@pytest.mark.parametrize("worth", [0.0, 1.0], ids=["NaN", "inf"])
def test_a_next_state_that_is_no_number_is_beyond_every_grid(outside: str, worth: float) -> None:
    bad = {"place": PLACES.index("next"), "worth": worth, "outside": outside}
    status, text = message(shop, bad)
    assert status == "failed"
    assert "next state of 'x' is NaN or infinite" in text
    assert "x=3, u=1, w=1" in text


OPTIONS: list[dict[str, Any]] = [
    *({"method": method} for method in METHODS),
    {"block": 1},
    {"memory": 2**14},
    {"precision": "mixed"},
    {"criterion": "average"},
]


def savings(
    beta: float = 0.9, bad: float = -1.0, worth: float = 0.0, at: float = 0.0, *, n: int = 50
) -> dp.Model:
    """One pair (a, b) of a household's pays `worth` / 0; it is feasible."""

    def reward(a: Any, b: Any) -> Any:
        rank, to = jnp.round(a * (n - 1)), jnp.round(b * (n - 1))
        return jnp.where((rank == bad) & (to == at), jnp.divide(worth, 0.0), jnp.sqrt(a + 0.1 - b))

    return dp.Model(
        states={"a": dp.grid(0.0, 1.0, n), "z": dp.markov([0.0, 1.0], [[0.5, 0.5], [0.4, 0.6]])},
        choices={"b": "a"},
        transition={"a": "b"},
        feasible=lambda a, z, b: b <= a + 0.05 * z,
        reward=reward,
        discount=beta,
        monotone={"b": "a"},
    )


@pytest.mark.parametrize(
    ("options", "n"),
    [(OPTIONS[0], 46),
     *(pytest.param(o, 46, marks=pytest.mark.slow) for o in OPTIONS[1:]),
     *(pytest.param(o, 300, marks=pytest.mark.slow) for o in (OPTIONS[0], OPTIONS[4]))],
    ids=str,
)  # fmt: skip
def test_whatever_solves_it(options: dict[str, Any], n: int) -> None:
    """2 n² pairs: on both sides of 4,096, and where the search along a state is used."""
    beta = 1.0 if options.get("criterion") == "average" else 0.9
    good = {"beta": beta, "n": n}
    assert dp.solve(savings, good, **options).status != "failed"
    for bad, at in ((n - 1, 0), (n // 3, 1)):
        status, text = message(savings, good | {"bad": float(bad), "at": float(at)}, **options)
        assert status == "failed"
        assert f"the reward is NaN or +inf at a={bad / (n - 1):.6g}" in text
        assert f"b={at / (n - 1):.6g}" in text


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 65])
def test_every_point_of_a_batch_with_one_nan_each_fails_by_itself(n: int) -> None:
    rng = np.random.default_rng(n)
    bad = np.where(np.arange(30) % 3 == 0, -1.0, rng.integers(n // 2, n, 30))
    found = dp.solve_many(savings, {"bad": bad, "at": rng.integers(0, n // 3, 30) * 1.0, "n": n})
    assert list(found.status) == list(np.where(bad < 0, "solved", "failed"))
    assert (np.isnan(np.asarray(found.value)).all((1, 2)) == (bad >= 0)).all()
    assert all("the reward is NaN" in m for m in found.message[bad >= 0])


@pytest.mark.slow
def test_over_states_on_several_devices() -> None:
    for place in ("next", "reward", "output"):
        at, on = optimum(12) if place == "output" else (3.0, 1.0)
        values = {"place": [CLEAN, PLACES.index(place)], "at": [at] * 2, "on": [on] * 2}
        columns = {"beta": [0.9] * 2, "worth": [0.0] * 2, **values}
        compiled = program.program_for(shop, {}, SolveOptions(), 2, MeshShape(states=2))
        batch = compiled.run({k: np.asarray(x, float) for k, x in columns.items()})
        assert list(batch.status) == ["solved", "failed"]
        assert f"x={at:g}" in batch.message[1]


@pytest.mark.parametrize(
    ("method", "n"),
    [("auto", 5), *(pytest.param(m, 70, marks=pytest.mark.slow) for m in METHODS)],
)
def test_a_model_of_arrays(method: str, n: int) -> None:
    rng = np.random.default_rng(n)
    P = rng.uniform(size=(n, n, n))
    P /= P.sum(-1, keepdims=True)
    R = rng.uniform(size=(n, n))
    R[0, 1:] = -np.inf
    for worth in (np.nan, np.inf):
        bad = R.copy()
        bad[n - 2, 1] = worth
        solution = dp.solve(dp.mdp(bad, P, 0.9), method=method)
        assert solution.status == "failed"
        assert f"state {n - 2}, action 1" in solution.message
    R[1] = -np.inf
    with pytest.raises(dp.ModelError, match="state 1"):
        dp.solve(dp.mdp(R, P, 0.9), method=method)


def cake(beta: float = 0.95, first: float = 0.0, *, n: int = 51) -> dp.Model:
    return dp.Model(
        states={"k": dp.grid(first, 1.0, n)},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k_next <= k,
        reward=lambda k, k_next: jnp.log(k - 0.99 * k_next),
        discount=beta,
    )


@pytest.mark.parametrize(
    ("options", "n"),
    [({}, 51), *(pytest.param(o, 100, marks=pytest.mark.slow)
                 for o in ({}, {"block": 1}, {"precision": "mixed"}))],
)  # fmt: skip
def test_a_state_all_of_whose_choices_pay_minus_infinity_is_named(
    options: dict[str, Any], n: int
) -> None:
    assert dp.solve(cake, {"first": 0.1, "n": n}, **options).status == "solved"
    for name in (lambda: dp.check(cake, {"n": n}), lambda: dp.solve(cake, {"n": n}, **options)):
        with pytest.raises(dp.ModelError, match="the reward is -inf at k=0, k_next=0"):
            name()


def islands(beta: float = 1.0, worse: float = 0.5, *, n: int = 30) -> dp.Model:
    """Two closed parts, of which the first pays less: no single gain."""
    return dp.Model(
        states={"x": dp.integers(0, n - 1)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": lambda x, u: jnp.where(x < n // 2, (x + u) % (n // 2), x)},
        reward=lambda x, u: jnp.where(x < n // 2, worse, 1.0) - 0.1 * u,
        discount=beta,
    )


@pytest.mark.slow
def test_points_of_a_batch_with_multichain_average_rewards_do_not_fail_for_nothing() -> None:
    worse = np.linspace(0.1, 0.9, 200)
    found = dp.solve_many(islands, {"worse": worse}, criterion="average")
    assert set(found.status) == {"inexact"}
    assert all("differ between states" in m for m in found.message)


# -- the fuzzer -----------------------------------------------------------------------------------


def random_model(
    beta: float = 0.9,
    seed: float = 0.0,
    kind: float = CLEAN,
    at: float = 0.0,
    on: float = 0.0,
    worth: float = 0.0,
    *,
    n: int = 20,
    number: str = "",
) -> dp.Model:
    """Random rewards and moves; at one feasible pair something is wrong.

    With `number`, a dtype, `feasible` has a number of it there, `worth`, in place of true or false.
    """

    def noise(x: Any, u: Any, salt: float) -> Any:
        wave = jnp.sin(12.9898 * x + 78.233 * u + 3.7 * salt + 0.618 * seed) * 43758.5453
        return wave - jnp.floor(wave)

    def here(which: str, x: Any, u: Any, bad: Any, good: Any) -> Any:
        wanted = (kind == FAULTS.index(which)) & (x == at) & (u == on)
        return jnp.where(wanted, bad, good)

    def reward(x: Any, u: Any) -> Any:
        r = here("nan reward", x, u, jnp.nan, jnp.log(0.1 + noise(x, u, 1.0)))
        return here("inf reward", x, u, jnp.inf, r)

    def move(x: Any, u: Any, w: Any) -> Any:
        to = jnp.minimum(jnp.floor(noise(x, u, 2.0) * n) + w * (x < n / 2), n - 1.0)
        off = here("off grid", x, u, 0.25, 0.0) + here("nan next", x, u, jnp.nan, 0.0)
        return to + jnp.where(w == 1, off, 0.0)

    def chances(x: Any, u: Any) -> Any:
        p = here("nan chance", x, u, jnp.nan, 0.2 + 0.5 * noise(x, u, 3.0))
        return jnp.stack([p, 1.0 - p + here("leak", x, u, 1e-6, 0.0)])

    def feasible(x: Any, u: Any) -> Any:
        ok = (u == on) | (noise(x, u, 4.0) < 0.7)
        if not number:
            return ok
        return jnp.where((x == at) & (u == on), jnp.asarray(worth).astype(number), ok)

    return dp.Model(
        states={"x": dp.integers(0, n - 1)},
        choices={"u": dp.integers(0, n - 1)},
        shocks={"w": dp.iid([0, 1], chances)},
        transition={"x": move},
        feasible=feasible,
        reward=reward,
        discount=lambda x, u: here("nan discount", x, u, jnp.nan, beta),
        outputs={"o": lambda x, u: here("nan output", x, u, jnp.nan, 1.0 * u)},
    )


FAULTS = ["nan reward", "inf reward", "off grid", "nan next", "nan chance", "leak", "nan discount"]
FAULTS += ["nan output"]  # counts where it is chosen, and is put there


def fuzz(n: int, seeds: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Break each model at one place; naming all would take minutes, and a few are as good."""
    named: list[str] = []

    def explain(*args: Any, **keywords: Any) -> str:
        named.append(real(*args, **keywords) if len(named) < MOST_NAMED else "")
        return named[-1]

    real = program.explain
    monkeypatch.setattr(program, "explain", explain)
    rng = np.random.default_rng([n, seeds])
    columns: dict[str, Any] = {
        "seed": np.arange(seeds) * 1.0,
        "kind": rng.integers(len(FAULTS), size=seeds) * 1.0,
        "at": rng.integers(n, size=seeds) * 1.0,
        "on": rng.integers(n, size=seeds) * 1.0,
        "n": n,
    }
    good = {**columns, "kind": np.full(seeds, CLEAN)}

    def optimal(on: Any) -> Any:
        clean = dp.solve_many(random_model, {**good, "on": on}, **options)
        assert set(clean.status) == {"solved"}
        return np.asarray(clean.policy["u"])[np.arange(seeds), columns["at"].astype(int)]

    of_output = columns["kind"] == FAULTS.index("nan output")
    # Where `on` is made another choice than it was, that of the optimum may become one, too.
    columns["on"] = np.where(of_output, optimal(columns["on"]), columns["on"])
    chosen = optimal(columns["on"])
    found = dp.solve_many(random_model, columns, **options)
    told = 0
    for i in np.flatnonzero(~of_output | (chosen == columns["on"])):
        what = FAULTS[int(columns["kind"][i])]
        assert found.status[i] == "failed", (what, i)
        assert np.isnan(found.value[i]).all()
        if found.message[i]:
            told += 1
            assert f"x={columns['at'][i]:g}" in found.message[i], (what, found.message[i])
            assert f"u={columns['on'][i]:g}" in found.message[i], (what, found.message[i])
    assert told >= min(seeds, MOST_NAMED)


MOST_NAMED = 8


@pytest.mark.slow
def test_one_fault_at_a_random_place_of_a_random_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(20, 40, {}, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "n"),
    [({}, 63), *(({"method": m}, 65) for m in METHODS), ({"block": 16}, 65)],
    ids=str,
)
def test_one_fault_at_a_random_place_of_many_random_models(
    n: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 seeds for every method, on both sides of 4,096 pairs."""
    fuzz(n, 300, options, monkeypatch)


@pytest.mark.parametrize(
    ("options", "number"),
    [*(({}, number) for number in ("float64", "float32", "int64", "int32", "uint8")),
     *(({"method": method}, "float64") for method in METHODS), ({"block": 16}, "int32")],
    ids=str,
)  # fmt: skip
def test_a_number_in_place_of_a_boolean_at_a_random_place(
    options: dict[str, Any], number: str
) -> None:
    """Every number but 0 would count as true, and 0 and 1 would look right."""
    n, seeds = 20, 30
    rng = np.random.default_rng([n, len(number)])
    columns: dict[str, Any] = {
        "seed": np.arange(seeds) * 1.0,
        "at": rng.integers(n, size=seeds) * 1.0,
        "on": rng.integers(n, size=seeds) * 1.0,
        "worth": rng.integers(0, 3, size=seeds) * 1.0,
        "n": n,
        "number": number,
    }
    named = rf"feasible returns a number \({number}\)"
    with pytest.raises(dp.ModelError, match=named):
        dp.solve_many(random_model, columns, **options)
    one = {k: float(v[-1]) if isinstance(v, np.ndarray) else v for k, v in columns.items()}
    with pytest.raises(dp.ModelError, match=named):
        dp.solve(random_model, one, **options)
    with pytest.raises(dp.ModelError, match=named):
        dp.check(random_model, one)

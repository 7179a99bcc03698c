"""What is proved of a model is true of it: random models, at random pairs of states and choices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.curvature.proof import Proof, prove

from .economies import thrown_away
from .test_rules import PARAMETERS, grown, value

SPAN = (0.0, 3.0)
PARTS = ("lo", "hi", "condition", "reward", "next")


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Draw the functions of a model: simple ones, so that some are proved."""
    trees = {part: grown(rng, int(rng.integers(1, 3))) for part in PARTS}
    trees["lo"] = _without(trees["lo"], "y")
    trees["hi"] = ("add", _without(trees["hi"], "y"), ("number", 2.0))
    if rng.random() < 0.5:
        trees["condition"] = ("number", 1.0)
    if rng.random() < 0.6:
        scale = ("number", float(rng.uniform(-1, 1)))
        trees["next"] = ("add", ("mul", scale, ("x", 0.0)), ("y", 0.0))
    return trees | {"clip": bool(rng.random() < 0.5)}


def _without(tree: Any, name: str) -> Any:
    if not isinstance(tree, tuple):
        return tree
    return ("x", 0.0) if tree[0] == name else (tree[0], *(_without(t, name) for t in tree[1:]))


def factory(m: dict[str, Any]) -> Any:
    def model(p: float = 0.3, q: float = 1.0) -> dp.Model:
        def of(part: str, **at: Any) -> Any:
            return jnp.asarray(value(m[part], {"p": p, "q": q, **at}, jnp), float)

        grid = dp.grid(*SPAN, 4)
        return dp.Model(
            states={"x": thrown_away(grid) if m["clip"] else grid},
            choices={"y": dp.interval(lambda x: of("lo", x=x), lambda x: of("hi", x=x))},
            transition={"x": lambda x, y: of("next", x=x, y=y)},
            feasible=lambda x, y: of("condition", x=x, y=y) > 0,
            reward=lambda x, y: of("reward", x=x, y=y),
            discount=0.9,
        )

    return model


def check(m: dict[str, Any], proof: Proof, rng: np.random.Generator) -> None:
    """Try to break what was proved."""
    n = 4000
    fixed = {name: rng.uniform(*ends, n) for name, ends in PARAMETERS.items()}

    def of(part: str, at: dict[str, Any]) -> Any:
        found = np.asarray(value(m[part], fixed | at, np), float)
        return np.broadcast_to(found, (n,))

    def look(at: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Feasible, reward, and what is kept of the next state."""
        then = of("next", at)
        fine = (of("lo", at) <= at["y"]) & (at["y"] <= of("hi", at)) & (of("condition", at) > 0)
        fine &= (then >= SPAN[0]) & (m["clip"] | (then <= SPAN[1]))
        reward = of("reward", at)
        return fine & (reward > -np.inf), reward, np.minimum(then, SPAN[1])

    a, b = ({"x": rng.uniform(*SPAN, n), "y": rng.uniform(-4, 6, n)} for _ in range(2))
    for point in (a, b):  # most within the interval
        lo, hi = np.nan_to_num(of("lo", point)), np.nan_to_num(of("hi", point))
        within = lo + (hi - lo) * rng.random(n)
        point["y"] = np.where(rng.random(n) < 0.9, within, point["y"])
    (ok_a, ra, fa), (ok_b, rb, fb) = look(a), look(b)
    ok_m, rm, fm = look({v: (a[v] + b[v]) / 2 for v in a})
    both = ok_a & ok_b
    size = 1e-9 * (1 + np.abs(ra) + np.abs(rb))
    assert not (both & ~ok_m & ~_near(m, a, b, look)).any(), ("convex set", m)
    assert not (both & ok_m & (rm < (ra + rb) / 2 - size)).any(), ("concave", m)
    assert not (both & ok_m & (fm < (fa + fb) / 2 - 1e-9)).any(), ("next", m)
    if "x" in proof.rising:
        more = {"x": a["x"] + (SPAN[1] - a["x"]) * rng.random(n), "y": a["y"]}
        ok, r, f = look(more)
        assert not (ok_a & ~ok & (more["x"] > a["x"] + 1e-9)).any(), ("set that grows", m)
        assert not (ok_a & ok & (r < ra - 1e-9 * (1 + np.abs(ra)))).any(), ("rising", m)
        assert not (ok_a & ok & (f < fa - 1e-9)).any(), ("next rises", m)


def _near(m: Any, a: Any, b: Any, look: Any) -> Any:
    """Whether rounding decides about a midpoint: it is feasible a little to either side."""
    found = False
    for share in (0.5 - 1e-6, 0.5 + 1e-6):
        found = found | look({v: share * a[v] + (1 - share) * b[v] for v in a})[0]
    return found


def attack(seeds: range) -> int:
    count = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        m = drawn(rng)
        proof = prove(factory(m), {}, PARAMETERS)
        count += proof.concave
        if proof.concave:
            with np.errstate(all="ignore"):
                check(m, proof, rng)
    return count


@pytest.mark.parametrize("part", range(2))
def test_what_is_proved_of_random_models_holds_at_random_pairs(part: int) -> None:
    assert attack(range(40 * part, 40 * part + 40)) >= 3

"""What the rules prove of a function is true of it: random expressions, at random pairs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpsolve.solvers.curvature import ranges
from dpsolve.solvers.curvature.interpreter import Evaluation
from dpsolve.solvers.curvature.pieces import parameter
from dpsolve.solvers.curvature.rules import Rules
from dpsolve.solvers.curvature.signs import DOWN, UP
from dpsolve.solvers.curvature.values import Value

Tree = tuple[Any, ...]
UNARY = ("log", "exp", "sqrt", "square", "reciprocal", "abs", "tanh", "log1p", "cbrt", "expm1")
POWERS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, -0.5, -1.0, -2.0, "p", "1-p", "p-1", "-p", "1/p")
BOX = {"x": (0.0, 3.0), "y": (-1.0, 2.0)}
PARAMETERS = {"p": (0.25, 0.6), "q": (-1.0, 2.0)}


def grown(rng: np.random.Generator, depth: int) -> Tree:
    """Return a random expression."""
    if depth == 0 or rng.random() < 0.12:
        return (
            str(rng.choice(["x", "y", "x", "y", "p", "q", "number"])),
            float(rng.uniform(-2, 2)),
        )
    kind = rng.random()
    if kind < 0.25:
        return ("add", grown(rng, depth - 1), grown(rng, depth - 1))
    if kind < 0.35:
        return ("sub", grown(rng, depth - 1), grown(rng, depth - 1))
    if kind < 0.45:
        scale = float(rng.uniform(-2, 2))
        return ("mul", ("number", scale), grown(rng, depth - 1))
    if kind < 0.55:
        return ("mul", grown(rng, depth - 1), grown(rng, depth - 1))
    if kind < 0.62:
        return ("div", grown(rng, depth - 1), grown(rng, depth - 1))
    if kind < 0.70:
        return (str(rng.choice(["min", "max"])), grown(rng, depth - 1), grown(rng, depth - 1))
    if kind < 0.85:
        return ("pow", grown(rng, depth - 1), POWERS[int(rng.integers(len(POWERS)))])
    if kind < 0.87:  # a quadratic form
        x, y = ("x", 0.0), grown(rng, 0)
        pairs = (("mul", x, x), ("mul", x, y), ("mul", y, y))
        a, b, c = (("mul", ("number", float(rng.uniform(-1, 1))), pair) for pair in pairs)
        return ("add", ("add", a, b), c)
    if kind < 0.9:  # a product of powers of variables, as production functions are
        a, b = (POWERS[int(rng.integers(len(POWERS)))] for _ in range(2))
        return ("mul", ("pow", ("x", 0.0), a), ("pow", ("add", ("y", 0.0), ("number", 1.0)), b))
    return (str(rng.choice(UNARY)), grown(rng, depth - 1))


def exponent(e: Any, env: dict[str, Any]) -> Any:
    p = env["p"]
    named = {"p": p, "1-p": 1.0 - p, "p-1": p - 1.0, "-p": -p, "1/p": 1.0 / p}
    return named[e] if isinstance(e, str) else e


def value(tree: Tree, env: dict[str, Any], xp: Any) -> Any:
    """Evaluate an expression in NumPy or JAX."""
    op, *parts = tree
    if op == "number":
        return xp.asarray(parts[0], float)
    if op in env:
        return env[op]
    if op == "pow":
        return value(parts[0], env, xp) ** exponent(parts[1], env)
    a, *rest = (value(part, env, xp) for part in parts)
    if rest:
        b = rest[0]
        if op in ("min", "max"):
            return (xp.minimum if op == "min" else xp.maximum)(a, b)
        return {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b,
                "div": lambda: a / b}[op]()  # fmt: skip
    return {"reciprocal": lambda: 1.0 / a}.get(op, lambda: getattr(xp, op)(a))()


def read(tree: Tree, condition: Tree | None = None) -> tuple[Value, Value | None]:
    """Return what is known of an expression, where a condition's is positive."""
    names = ["p", "q", "x", "y"]

    def f(*at: Any) -> list[Any]:
        env = dict(zip(names, at, strict=True))
        both = [condition, tree] if condition is not None else [tree]
        return [jnp.asarray(value(t, env, jnp), float) for t in both]

    closed = jax.make_jaxpr(f)(*[jax.ShapeDtypeStruct((), np.float64)] * 4)
    rules = Rules()
    body = Evaluation(rules, closed.jaxpr, closed.consts)
    for i, name in enumerate(names):
        if name in PARAMETERS:
            body.give(i, parameter(rules, name, ranges.between(*PARAMETERS[name])))
        else:
            body.give(i, rules.variable(name, ranges.between(*BOX[name])))
    with np.errstate(all="ignore"):
        if condition is None:
            return body.output(0), None
        first = body.output(0)
        if first.concave:
            rules.learn(first, strict=True)
        return body.output(1), first


def check(tree: Tree, known: Value, rng: np.random.Generator, condition: Tree | None) -> None:
    """Try to break what is claimed of an expression."""
    if known.fault:
        return
    n = 3000
    env = {name: rng.uniform(*ends, n) for name, ends in PARAMETERS.items()}
    corners = rng.random(n) < 0.2  # ends of the box, too
    a, b = ({v: rng.uniform(*ends, n) for v, ends in BOX.items()} for _ in range(2))
    for point in (a, b):
        for v, ends in BOX.items():
            point[v] = np.where(
                corners & (rng.random(n) < 0.5), ends[int(rng.integers(2))], point[v]
            )
    near = rng.random(n) < 0.4
    b = {v: np.where(near, a[v] + 0.1 * (b[v] - a[v]), b[v]) for v in b}
    one = rng.random(n) < 0.3
    b["y"] = np.where(one, a["y"], b["y"])
    middle = {v: (a[v] + b[v]) / 2 for v in a}

    def at(point: dict[str, Any]) -> Any:
        found = np.broadcast_to(np.asarray(value(tree, env | point, np), float), (n,)).copy()
        if condition is not None:
            holds = np.broadcast_to(value(condition, env | point, np), (n,)) > 0
            found = np.where(holds, found, np.nan)
        return found

    with np.errstate(all="ignore"):
        fa, fb, fm = at(a), at(b), at(middle)
        fine = np.isfinite(fa) & np.isfinite(fb)
        size = 1e-9 * (1 + np.abs(fa) + np.abs(fb))
        least, most = known.range.bottom - size, known.range.top + size
        assert not (fine & ((fa < least) | (fa > most))).any(), ("range", tree)
        low, high = fm < (fa + fb) / 2 - size, fm > (fa + fb) / 2 + size
        bent = fine & (np.abs(fm) < 1e12) | (fine & np.isnan(fm))
        if known.concave:
            assert not (bent & (low | np.isnan(fm))).any(), ("concave", tree)
        if known.convex:
            assert not (bent & (high | np.isnan(fm))).any(), ("convex", tree)
        for v in BOX:
            moved = at(a | {v: b[v]})
            rise = np.where(b[v] > a[v], moved - fa, fa - moved)
            fine = np.isfinite(moved) & np.isfinite(fa) & (np.abs(b[v] - a[v]) > 0)
            slack = 1e-9 * (1 + np.abs(fa) + np.abs(moved))
            if known.slope(v) & UP:
                assert not (fine & (rise < -slack)).any(), ("rising", v, tree)
            if known.slope(v) & DOWN:
                assert not (fine & (rise > slack)).any(), ("falling", v, tree)
        terms = fa, at(b), at(a | {"x": b["x"]}), at(a | {"y": b["y"]})
        cross = np.sign((b["x"] - a["x"]) * (b["y"] - a["y"])) * (
            terms[0] + terms[1] - terms[2] - terms[3]
        )
        slack = 1e-9 * (1 + sum(np.abs(t) for t in terms))
        if known.cross(("x", "y")) & UP:
            assert not (np.isfinite(cross) & (cross < -slack)).any(), ("cross up", tree)
        if known.cross(("x", "y")) & DOWN:
            assert not (np.isfinite(cross) & (cross > slack)).any(), ("cross down", tree)


def attack(seeds: range) -> int:
    proved = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tree = grown(rng, int(rng.integers(1, 5)))
        condition = grown(rng, 2) if seed % 3 == 0 else None
        known, first = read(tree, condition)
        if condition is not None and (first is None or not first.concave):
            condition = None
            known, _ = read(tree)
        proved += known.varies and (known.concave or known.convex)
        check(tree, known, rng, condition)
    return proved


@pytest.mark.parametrize("part", range(2))
def test_what_is_proved_of_random_expressions_holds_at_random_pairs(part: int) -> None:
    assert attack(range(200 * part, 200 * part + 200)) > 40


def kinked(rng: np.random.Generator, depth: int) -> Tree:
    """Return an expression with kinks at multiples of a half."""
    if depth == 0:
        op, x = grown(rng, 0)
        return (op, round(2 * x) / 2)
    kind = rng.random()
    if kind < 0.5:
        return (str(rng.choice(["min", "max"])), kinked(rng, depth - 1), kinked(rng, depth - 1))
    if kind < 0.75:
        return (str(rng.choice(["add", "sub"])), kinked(rng, depth - 1), kinked(rng, depth - 1))
    if kind < 0.9:
        return ("mul", ("number", float(rng.uniform(-2, 2))), kinked(rng, depth - 1))
    return (str(rng.choice(["abs", "exp", "square", "log1p"])), kinked(rng, depth - 1))


def test_slopes_at_kinks_of_what_is_proved_are_tangents() -> None:
    axes = (np.arange(lo, hi + 0.1, 0.5) for lo, hi in BOX.values())
    places = np.stack([x.ravel() for x in np.meshgrid(*axes)], 1)
    seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        tree = kinked(rng, int(rng.integers(2, 5)))
        known, _ = read(tree)
        if known.affine or not (known.concave or known.convex):
            continue

        def f(at: Any, tree: Tree = tree) -> Any:
            env = {"x": at[0], "y": at[1], "p": 0.5, "q": 0.5}
            return jnp.asarray(value(tree, env, jnp), float)

        values, slopes = map(np.asarray, jax.vmap(jax.value_and_grad(f))(places))
        fine = np.isfinite(values) & np.isfinite(slopes).all(1)
        values, slopes, at = values[fine], slopes[fine], places[fine]
        steps = at[None] - at[:, None]
        above = values[None, :] - values[:, None] - np.einsum("id,ijd->ij", slopes, steps)
        seen += 1
        assert not known.concave or above.max(initial=0) < 1e-9, tree
        assert not known.convex or above.min(initial=0) > -1e-9, tree
    assert seen > 8

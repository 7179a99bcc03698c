"""Places and counterexamples of a problem with continuous choices, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.outcomes import LEFT_OUT, Certifies, Outcome, sentence

from .problem import ContinuousProblem, listed, read_problem
from .refutation import TESTS, Refutation
from .solve import solve_and_test


def name_node(problem: ContinuousProblem, bad: Any) -> str:
    """Name the first node of a bool array (z, n)."""
    z, i = np.unravel_index(int(np.argmax(np.asarray(bad))), np.shape(bad))
    return name_state(problem, int(z), np.asarray(problem.nodes[i]))


def name_state(problem: ContinuousProblem, z: int, x: Numpy) -> str:
    """Name a state: its continuous parts and its member of the chain."""
    parts = {n: float(x[i]) for i, n in enumerate(problem.states)}
    parts |= {n: float(v[z]) for n, v in problem.members.items()}
    return ", ".join(f"{n}={value:.6g}" for n, value in parts.items())


def left_out(model: Model, arrays: Mapping[str, Any]) -> str:
    """Name the first state whose cells an error bound leaves out; '' where it leaves out none.

    Parameters
    ----------
    model : Model
    arrays : mapping
        The results of a point.
    """
    if int(arrays.get("certifies", Certifies.NONE)) != Certifies.CONTINUUM:
        return ""
    dead = np.isneginf(np.asarray(arrays["lower"]))
    if not dead.any():
        return ""
    poor = np.isneginf(np.asarray(arrays["value"]))
    names = list(model.states) if model.horizon is None else ["t", *model.states]
    at = np.unravel_index(int(np.argmax(poor if poor.any() else dead)), dead.shape)
    each = zip(names, at, strict=True)
    where = ", ".join(f"{n}={i if n == 't' else _shown(model, n, int(i))}" for n, i in each)
    kinds = [
        (int(poor.sum()), "are worth -inf"),
        (int((dead & ~poor).sum()), "have no lower bound"),
    ]
    counts = " and ".join(f"{n:,} {what}" for n, what in kinds if n)
    return f"of {dead.size:,} states {counts}, {where} the first, and {LEFT_OUT}"


def _shown(model: Model, name: str, i: int) -> str:
    return f"{float(np.asarray(model.states[name].values)[i]):.6g}"


def find_counterexample(model: Model) -> str:
    """Solve a model at one parameter point once more, and say where it is not concave."""
    problem = read_problem(model, known=True)
    return counterexample(problem, jax.jit(lambda: solve_and_test(problem)[1])())


def counterexample(problem: ContinuousProblem, told: Refutation) -> str:
    """Return the sentence of a counterexample to concavity."""
    for what, violation, at in zip(TESTS, told.by, told.at, strict=True):
        if not violation <= 0.0:
            d = len(problem.states)
            z, x, y = int(at[0]), np.asarray(at[1 : 1 + d]), np.asarray(at[1 + d :])
            named = zip(problem.choices, y, strict=True)
            chosen = (f"{n}={float(c):.6g}" for n, c in named if not math.isnan(c))
            where = ", ".join([name_state(problem, z, x), *chosen])
            far = what.format(far=f"{float(violation):.3g}")
            names = listed((*problem.states, *problem.choices))
            return (
                f"the reward is declared concave in {names}, and is not: at {where} {far}; so "
                "nothing is certified of a continuous choice"
            )
    return sentence(Outcome.NOT_CONCAVE)

"""Models with continuous choices that are not concave, as a user writes them."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np

import dpsolve as dp
from dpsolve.solvers.nonconcave.solve import solve_nonconcave
from dpsolve.solvers.options import SolveOptions


def rising(*states, **more):
    """A model whose value is declared to rise in some states."""
    known = {f.name for f in fields(dp.Model)}
    if "increasing" in known:
        return dp.Model(**more, increasing=states)
    model = dp.Model(**more)
    object.__setattr__(model, "increasing", states)
    return model


def solved(factory, *, options=None, **parameters):
    """What a model's solve returns; numbers with a fraction are parameters, and traced."""
    options = options or SolveOptions()
    traced = {n: x for n, x in parameters.items() if isinstance(x, float)}
    sizes = {n: x for n, x in parameters.items() if n not in traced}

    def solve(values):
        return solve_nonconcave(factory(**values, **sizes), options)

    return {n: np.asarray(x) for n, x in jax.jit(solve)(traced).items()}


def retirement(beta=0.98, interest=1.0, wage=20.0, disutility=1.0, *, n=500, horizon=5):
    """Work or retire for good, and save, over a few periods.

    Bail-out at the bottom and free disposal at the top of the grid matter to nobody in between.
    """
    curved = 0.02 + 519.98 * np.linspace(0.0, 1.0, n) ** 2
    return rising(
        "M",
        states={
            "M": dp.grid(np.union1d(curved, [1.0, 20.0, 400.0]), outside="clip"),
            "worker": dp.integers(0, 1),
        },
        choices={"work": dp.integers(0, 1), "A": dp.interval(0.0, lambda M: M)},
        transition={"M": lambda A, work: interest * A + wage * work, "worker": "work"},
        feasible=lambda worker, work: work <= worker,
        reward=lambda M, A, work: jnp.log(M - A) - disutility * work,
        outputs={"consumption": lambda M, A: M - A},
        discount=beta,
        horizon=horizon,
    )

"""Job search (McCall 1970): a model file, as a user writes it."""

import jax.numpy as jnp
from jax import Array

import dpsolve as dp


def job_search(
    beta: float = 0.96, benefit: float = 0.5, separation: float = 0.02, spread: float = 0.5,
    *, n_w: int = 101,
) -> dp.Model:  # fmt: skip
    """Take a wage offer, or wait for another one.

    Out of work with offer w in hand:  V(w) = max { benefit + beta E V(w'),  W(w) },
    at work at wage w:                 W(w) = w + beta [(1 - separation) W(w) + separation E V(w')],
    with w' uniform on n_w points of [1 - spread, 1 + spread]. A worker out of work draws an offer
    each period, and takes what is above the reservation wage; a job that is taken starts at once,
    and one that is lost brings an offer in the next period.
    """
    wages = jnp.linspace(1 - spread, 1 + spread, n_w)

    # Whoever holds a job (employed = 1) is at work; an offer is taken by choosing work = 1.
    def at_work(employed: Array, work: Array) -> Array:
        return jnp.maximum(employed, work)

    return dp.Model(
        states={"w": dp.grid(1 - spread, 1 + spread, n_w), "employed": dp.integers(0, 1)},
        choices={"work": dp.integers(0, 1)},
        shocks={
            "offer": dp.iid(wages, jnp.full(n_w, 1 / n_w)),
            "lost": dp.iid(jnp.array([0, 1]), jnp.array([1 - separation, separation])),
        },
        transition={
            "w": lambda w, employed, work, offer, lost: jnp.where(
                (at_work(employed, work) == 1) & (lost == 0), w, offer
            ),
            "employed": lambda employed, work, lost: jnp.where(
                (at_work(employed, work) == 1) & (lost == 0), 1, 0
            ),
        },
        reward=lambda w, employed, work: jnp.where(at_work(employed, work) == 1, w, benefit),
        discount=beta,
    )

"""Which state is a cycle, and what a model is at one of its phases.

A state whose rule names nothing but itself goes its own way, whatever is chosen: a weekday, a
season, an age. So does a Markov chain whose rows have a single one. If all its members end in one
and the same *turn*, the model can be solved at one phase of it (:mod:`.cyclic`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.markov import Markov
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.model.post_decision import Post
from dpsolve.solvers.numerics.tracing import is_concrete

from .named_arrays import Named, mapped

Array = Any


@dataclass(frozen=True)
class Cycle:
    """A state that moves by itself in one cycle.

    Attributes
    ----------
    state : str
        Its name.
    turn : tuple of int
        Positions of the members of the cycle, in the order of time.
    before : tuple of (int, int)
        Positions of all other members and of what follows each: first those that follow nobody's
        but the turn's.
    """

    state: str
    turn: tuple[int, ...]
    before: tuple[tuple[int, int], ...]


def cycle_of(model: Model) -> Cycle | None:
    """Return the longest state that is a cycle and can be taken out of the model, if any.

    Extrapolation takes away the order of values, which the bounds of the other phases rest on. A
    maximum that is sought along a state (``monotone``) knows nothing of phases.
    """
    if len(model.states) < 2 or model.monotone or model.horizon is not None:
        return None
    specs = (*model.states.values(), *(p.spec for p in model.post.values()))
    if any(isinstance(spec, Grid) and spec.outside == "extrapolate" for spec in specs):
        return None
    taken = {*model.transition.values(), *model.choices.values()}
    taken |= {p.rule for p in model.post.values()}  # what names it as a whole needs its grid
    found = [_cycle(name, _successors(model, name)) for name in model.states if name not in taken]
    cycles = [c for c in found if c is not None]
    return max(cycles, key=lambda c: model.size_of(c.state), default=None)


def _successors(model: Model, name: str) -> np.ndarray[Any, Any] | None:
    """Return the position that follows each of a state's, if that hangs on nothing else."""
    spec = model.states[name]
    if isinstance(spec, Markov):
        if not is_concrete(spec.transition_matrix):
            return None
        p = np.asarray(spec.transition_matrix)
        return p.argmax(1) if ((p == 0.0) | (p == 1.0)).all() and (p.sum(1) == 1.0).all() else None
    rule = model.transition[name]
    if not isinstance(spec, Integers) or not callable(rule):
        return None
    if arguments(rule, (*model.arguments, *model.post)) != (name,):
        return None
    # JAX would trace even what depends on nothing that is traced.
    with jax.ensure_compile_time_eval():
        values = jnp.asarray(spec.values)
        to = mapped(rule, {name: Named(values, (name,))}, (name,), f"the transition of '{name}'")
    if not is_concrete(to.array):
        return None
    position = np.asarray(to.array, np.float64) - spec.lo
    inside = (position == np.round(position)) & (position >= 0) & (position < spec.size)
    return position.astype(np.int64) if inside.all() else None


def _cycle(name: str, successor: np.ndarray[Any, Any] | None) -> Cycle | None:
    """Follow every position to the one turn that all of them end in, if it is one."""
    if successor is None or successor.size < 2:
        return None
    at = 0
    for _ in range(successor.size):
        at = int(successor[at])
    turn = [at]
    while (at := int(successor[at])) != turn[0]:
        turn.append(at)
    known, before = set(turn), []
    while True:
        next_ones = [i for i in range(successor.size) if i not in known and successor[i] in known]
        if not next_ones:
            break
        before += [(i, int(successor[i])) for i in next_ones]
        known |= set(next_ones)
    return Cycle(name, tuple(turn), tuple(before)) if len(known) == successor.size else None


def model_at(model: Model, state: str, value: Array) -> Model:
    """Return the model without a state, its functions taken at one value of it.

    Outputs and moments are left out.
    """

    def at(f: Any) -> Any:
        if not callable(f) or state not in arguments(f, (state,)):
            return f
        return partial(f, **{state: value})

    discount: Any = model.discount
    if callable(discount):
        alone = arguments(discount, model.arguments) in ((), (state,))
        discount = at(discount)() if alone else at(discount)
    return replace(
        model,
        states={n: s for n, s in model.states.items() if n != state},
        reward=tuple(at(f) for f in model.reward),
        discount=discount,
        transition={n: at(rule) for n, rule in model.transition.items() if n != state},
        feasible=at(model.feasible),
        shocks={n: replace(w, probs=at(w.probs)) for n, w in model.shocks.items()},
        post={n: Post(p.spec, at(p.rule)) for n, p in model.post.items()},
        outputs={},
        moments={},
    )

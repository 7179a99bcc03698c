"""Models that are declared concave and are not, and what each is truly worth.

Thirteen rewards that are not concave and one that is; a kink whose slope by automatic
differentiation is no supergradient (``relu``) and the same kink written so that it is one; and an
infinite slope at a node. All have one continuous state x whose next value is the one choice y.

>>> case = CASES["hump 0.2"]
>>> dp.solve(case.factory, case.params)
>>> case.truth().below(x)            # below the true value, by at most `slack` or so

The models of one factory differ in a traced number alone, so that little is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import dpsolve as dp

LO, HI, BETA = 0.05, 4.0, 0.9


def income(x):
    return 1.2 * x**0.4 + 0.5 * x + 1.0


def base(x, y):
    """The concave reward that most of the others add to."""
    return jnp.log(jnp.maximum(income(x) - y, 1e-9))


def household(reward, n, concave, **more):
    """A model of one state whose upper end of the choice is concave, by its reward."""
    return dp.Model(
        states={"x": dp.grid(LO, HI, n, curve=1.3)},
        choices={"y": dp.interval("x", hi=lambda x: income(x) - 1e-6)},
        transition={"x": "y"},
        reward=reward,
        discount=BETA,
        concave=concave,
        **more,
    )


# -- rewards that are not concave, each by how much -----------------------------------------------


def hump_reward(eps):
    return lambda x, y: base(x, y) + eps * jnp.exp(-(((y - 3.2) / 0.15) ** 2))


def corner_reward(eps):
    return lambda x, y: base(x, y) + eps * jnp.maximum(x - 3.0, 0.0) ** 2


def complements_reward(eps):
    return lambda x, y: base(x, y) + eps * x * y


def power_reward(eps):
    return lambda x, y: jnp.maximum(income(x) - y, 1e-9) ** (1.0 + eps)


def adjustment_reward(eps):
    return lambda x, y: base(x, y) - eps * (1.0 - jnp.exp(-(((y - x) / 0.2) ** 2)))


def s_shape_reward(eps):
    return lambda x, y: base(x, y) + eps / (1.0 + jnp.exp(-8.0 * (y - 2.0)))


def technology_reward(eps):
    def reward(x, y):
        return jnp.log(jnp.maximum(0.4 + eps * x**3 / (1.0 + x**3) + 0.3 * x + 1.0 - y, 1e-9))

    return reward


def ripple_reward(eps):
    return lambda x, y: base(x, y) + eps * jnp.sin(20.0 * x)


# dpsolve compiles a factory once, by its signature: hence one function each.


def hump(eps=0.2, *, n=60, concave=True):
    """A hump in the choice, away from where the policy is."""
    return household(hump_reward(eps), n, concave)


def corner(eps=0.1, *, n=60, concave=True):
    """Convex beyond x = 3."""
    return household(corner_reward(eps), n, concave)


def complements(eps=0.2, *, n=60, concave=True):
    """State and choice are complements."""
    return household(complements_reward(eps), n, concave)


def power(eps=0.3, *, n=60, concave=True):
    """A convex utility of consumption."""
    return household(power_reward(eps), n, concave)


def adjustment(eps=0.15, *, n=60, concave=True):
    """A fixed cost of adjusting, smoothed."""
    return household(adjustment_reward(eps), n, concave)


def s_shape(eps=0.6, *, n=60, concave=True):
    """A logistic return to the choice."""
    return household(s_shape_reward(eps), n, concave)


def technology(eps=2.5, *, n=60, concave=True):
    """A production that is convex at first and concave later."""
    return household(technology_reward(eps), n, concave)


def ripple(eps=1e-3, *, n=60, concave=True):
    """A tiny ripple in the state."""
    return household(ripple_reward(eps), n, concave)


# -- kinks, and an infinite slope -----------------------------------------------------------------

SAVING, BORROWING = 1.01, 1.12
POSITIONS = {  # resources of assets x, lent at one rate and borrowed at another
    "relu": lambda x: SAVING * jax.nn.relu(x) - BORROWING * jax.nn.relu(-x),
    "where": lambda x: jnp.where(x > 0.0, SAVING, BORROWING) * x,
    "maximum": lambda x: SAVING * jnp.maximum(x, 0.0) + BORROWING * jnp.minimum(x, 0.0),
    "minimum": lambda x: jnp.minimum(SAVING * x, BORROWING * x),
}
WAGES, CHANCES = np.array([0.6, 1.4]), np.array([[0.7, 0.3], [0.3, 0.7]])


def lender(gamma=2.0, *, position="relu", n=80, concave=True):
    """A borrower who pays more than a lender gets; a node lies at the kink x = 0.

    The slope of ``relu`` at 0 is 0 by automatic differentiation, where the supergradients lie
    between the two rates: declared concave, which it is, it misleads whoever trusts that slope.
    """
    nodes = np.unique(np.append(-1.2 + 11.2 * np.linspace(0.0, 1.0, n - 1) ** 2, 0.0))
    resources = POSITIONS[position]
    return dp.Model(
        states={"x": dp.grid(nodes), "w": dp.markov(WAGES, CHANCES)},
        choices={"y": dp.interval("x")},
        transition={"x": "y"},
        feasible=lambda x, w, y: resources(x) + w - y > 0.0,
        reward=lambda x, w, y: (resources(x) + w - y) ** (1.0 - gamma) / (1.0 - gamma),
        discount=0.93,
        concave=concave,
    )


STEEP_WAGES, STEEP_CHANCES = np.array([0.3, 0.6]), np.array([[0.8, 0.2], [0.2, 0.8]])


def steep(alpha=0.4, *, n=100, concave=True):
    """A concave reward whose slope in the state is infinite at the first node, x = 0."""

    def consumption(x, w, y):
        return x**alpha + 0.6 * x + w - y

    return dp.Model(
        states={"x": dp.grid(0.0, 6.0, n, curve=2), "w": dp.markov(STEEP_WAGES, STEEP_CHANCES)},
        choices={"y": dp.interval("x")},
        transition={"x": "y"},
        feasible=lambda x, w, y: consumption(x, w, y) > 0.0,
        reward=lambda x, w, y: jnp.log(consumption(x, w, y)),
        discount=0.95,
        concave=concave,
    )


# -- what they are worth --------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """A value of choices among many points: below the true one, and nearly that.

    Attributes
    ----------
    x : array (n,)
    value : array (z, n)
    slack : float
        Four times as much as the last doubling of the points raised the value anywhere.
    """

    x: np.ndarray
    value: np.ndarray
    slack: float

    def below(self, x):
        """The value (z, m) at points x (m,): to be read at nodes, which are among its points."""
        return np.stack([np.interp(x, self.x, row) for row in self.value])


@dataclass(frozen=True)
class Case:
    """A model of this module.

    Attributes
    ----------
    factory : function
    params : dict
        What to pass it; sizes are among it.
    is_concave : bool
        Whether what it declares is true.
    """

    factory: Callable
    params: dict = field(default_factory=dict)
    is_concave: bool = False

    def model(self, **more):
        """The model itself."""
        return self.factory(**{**self.params, **more})

    def truth(self, points=1_600):
        """What it is worth at the nodes of 60 points (or what it has by default), and between."""
        numbers = tuple(sorted(self.params.items()))
        return _truth(self.factory, numbers, points)


CASES = {
    "hump 0.01": Case(hump, {"eps": 0.01}),
    "hump 0.05": Case(hump, {"eps": 0.05}),
    "hump 0.2": Case(hump, {"eps": 0.2}),
    "hump 1": Case(hump, {"eps": 1.0}),
    "corner 0.01": Case(corner, {"eps": 0.01}),
    "corner 0.1": Case(corner, {"eps": 0.1}),
    "complements 0.02": Case(complements, {"eps": 0.02}),
    "complements 0.2": Case(complements, {"eps": 0.2}),
    "power 1.3": Case(power, {"eps": 0.3}),
    "adjustment": Case(adjustment, {"eps": 0.15}),
    "s-shape": Case(s_shape, {"eps": 0.6}),
    "technology": Case(technology, {"eps": 2.5}),
    "ripple": Case(ripple, {"eps": 1e-3}),
}
"""The thirteen rewards that are declared concave, and are not."""

CONTROL = Case(hump, {"eps": 0.0}, is_concave=True)
"""The same reward without what is not concave of it."""

KINKS = {name: Case(lender, {"position": name}, is_concave=True) for name in POSITIONS}
STEEP = Case(steep, {}, is_concave=True)


@cache
def _truth(factory, numbers, points):
    model = factory(**dict(numbers))
    coarse, fine = (_on_points(model, k) for k in (points // 2, points))
    at = np.asarray(model.states["x"].values)
    below = [np.stack([np.interp(at, x, row) for row in v]) for x, v in (coarse, fine)]
    return Truth(*fine, 4.0 * float(np.abs(below[1] - below[0]).max()))


def _on_points(model, points):
    """Policy iteration over points to which the model's own nodes belong, in NumPy."""
    nodes = np.asarray(model.states["x"].values)
    x = np.unique(np.concatenate([np.linspace(nodes[0], nodes[-1], points), nodes]))
    chain = model.states.get("w")
    wages = np.zeros(1) if chain is None else np.asarray(chain.values)
    chances = np.ones((1, 1)) if chain is None else np.asarray(chain.transition_matrix)
    interval, n, k = model.choices["y"], len(x), len(wages)
    (reward,) = model.reward

    def named(f, own):
        return f(**{name: own[name] for name in f.__code__.co_varnames[: f.__code__.co_argcount]})

    own = {"x": x[None, :, None], "y": x[None, None, :], "w": wages[:, None, None]}
    fine = np.ones((k, n, n), bool)
    if interval.hi is not None:
        fine &= own["y"] <= np.asarray(named(interval.hi, own))
    if model.feasible is not None:
        fine &= np.asarray(named(model.feasible, own))
    pays = np.where(fine, np.asarray(named(reward, own)), -np.inf)
    beta, value = float(model.discount), np.zeros((k, n))
    for _ in range(100):
        policy = (pays + beta * (chances @ value)[:, None, :]).argmax(-1)
        earned = np.take_along_axis(pays, policy[..., None], -1)[..., 0]
        found = value
        for _ in range(2_000):  # of one policy: to the last bit, nearly
            then = np.take_along_axis(chances @ found, policy, 1)
            new = earned + beta * then
            done = np.abs(new - found).max() < 1e-13
            found = new
            if done:
                break
        if np.abs(found - value).max() < 1e-11:
            break
        value = found
    return x, found

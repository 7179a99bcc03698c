"""Commands ``init`` and ``completion``: a first model and its sweep; what a shell completes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from dpsolve.solvers.errors import RefusedError, UsageError

from .options import PATH, examples

MODEL = '''\
# A household that saves against risky income: a model to begin with, and to change.
#     dpsolve check model.py        looks for faults; nothing is solved
#     dpsolve solve model.py        solves it once, at the values below
#     dpsolve sweep sweep.toml      solves it at all points of the sweep, into household.zarr

import dpsolve as dp
import jax.numpy as jnp


# Before the star: parameters of the economics. Each can be swept. After it: sizes of grids.
def household(beta=0.96, gamma=2.0, r=0.03, rho=0.9, sigma=0.1, *, n_a=200, n_z=7):
    """Save against risky income, without borrowing (Aiyagari 1994).

    v(a, z) = max u(c) + beta E v(a_next, z'), with a_next + c = (1 + r) a + exp(z).
    """

    # A function is of plain numbers, and takes states and choices by their names.
    def consumption(a, z, a_next):
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={
            # Assets from 0 to 50, the points closer together where they are low. The top
            # is part of the model: `dpsolve status` says if households come near it.
            "a": dp.grid(0.0, 50.0, n_a, curve=2),
            # Log income is an AR(1): a Markov chain of n_z values, which moves by itself.
            "z": dp.rouwenhorst(n_z, rho, sigma),
        },
        # Any number in the range of a; with "a" alone it would be one of its points.
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
        concave=True,  # the reward, in a and a_next: bounds between points rest on it
        outputs={"consumption": consumption},  # evaluated at the optimum
        # Optional. With both, the numerical error is told as a share of consumption, too.
        marginal={"consumption": lambda c: c**-gamma},
        inverse_marginal={"consumption": lambda m: m ** (-1 / gamma)},
        # What pictures, reports and the store call them; units stand in parentheses.
        labels={
            "a": "assets (annual income)",
            "z": "log income",
            "consumption": "consumption (annual income)",
            "r": "interest rate",
            "gamma": "relative risk aversion",
        },
    )
'''

SWEEP = """\
# The supply of assets at eight interest rates, of patient and of cautious households.
#     dpsolve sweep sweep.toml       the same command again goes on where it was broken off
#     dpsolve status household.zarr
#     dpsolve plot household.zarr --var moment_mean_a
model = "model.py:household"

[fixed]                     # other values than the model's own; what is not named stays as it is
n_a = 200

[grid]                      # every combination is a point; each name becomes a dimension
r = { from = 0.0, to = 0.035, points = 8 }      # beta (1 + r) stays below 1
gamma = [2.0, 3.0]

[solve]
# tol = 1e-3                # certified distance from the true value; without it: what n_a allows
# refine = "n_a"            # with a tol: more points until it holds

[store]
path = "household.zarr"
keep = [
    "value", "lower", "upper",                  # the value, and bounds on the true one
    "policy", "policy_lower", "policy_upper",   # the choice, and between what the best one lies
    "consumption",                              # an output of the model
    "distribution",                             # in the long run, with its certified error
    "moment_mean_a", "moment_gini_a", "moment_sd_consumption",
]
"""

FILES = {"model.py": MODEL, "sweep.toml": SWEEP}


@click.command(epilog=examples("dpsolve init", "dpsolve init my_paper"))
@click.argument("folder", default=".", type=PATH)
def init(folder: str) -> None:
    """Write a first model and its sweep, to run and to change.

    Into FOLDER (by default this one): model.py, a household that saves, and sweep.toml, which
    solves it at sixteen points. Both run as they stand. Nothing is overwritten.
    """
    place = Path(folder).expanduser()
    if there := [name for name in FILES if (place / name).exists() or (place / name).is_symlink()]:
        raise RefusedError(
            f"{place / there[0]} exists, and nothing was written. Choose another folder: "
            f"dpsolve init {shlex.quote(str(place / 'first'))}"
        )
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place} is no folder; name one, or one that is to be made.")
    place.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        with (place / name).open("x", encoding="utf-8") as file:
            file.write(text)
        click.echo(f"wrote {place / name}")
    go = "" if place == Path() else f"cd {shlex.quote(str(place))}; "
    click.echo(f"next  {go}dpsolve sweep sweep.toml")


@click.command(
    epilog=examples(
        'eval "$(dpsolve completion bash)"       # in ~/.bashrc',
        'eval "$(dpsolve completion zsh)"        # in ~/.zshrc',
        "dpsolve completion fish > ~/.config/fish/completions/dpsolve.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what lets a shell complete commands, options and files."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # the three are click's own
    click.echo(made(ctx.find_root().command, {}, "dpsolve", "_DPSOLVE_COMPLETE").source())

"""Commands ``models``, ``describe``, ``check``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .options import PATH, assignments, examples, read_target, set_option

KINDS = {
    "continuum": "Continuous choices, with bounds on the true value over a whole continuum",
    "lists": "Choices from lists of values, with bounds on the value",
    "arrays": "Arrays of a factory's own: any computation of its parameters",
}


@click.command(epilog=examples("dpsolve models", "dpsolve describe savings"))
def models() -> None:
    """List the built-in models, by what is chosen in them."""
    from dpsolve.solvers.library import BUILTIN
    from dpsolve.solvers.model.factory_signature import signature

    width = max(map(len, BUILTIN)) + 2
    kinds = {name: _kind(factory) for name, factory in BUILTIN.items()}
    for kind, words in KINDS.items():
        click.secho(words, bold=True)
        for name in (name for name in BUILTIN if kinds[name] == kind):
            click.echo(f"  {name:<{width}}{signature(BUILTIN[name]).doc.splitlines()[0]}")
        click.echo()
    click.echo("Parameters and sizes of one: dpsolve describe savings")
    click.echo(
        "Your own: file.py:function or package.module:function; dpsolve init writes a first."
    )


def _kind(factory: Callable[..., Any]) -> str:
    """Return what kind of model a factory makes at its defaults; nothing is computed."""
    import jax

    from dpsolve.solvers.model.factory_signature import build, signature
    from dpsolve.solvers.solve.result_dims import ModelShape, shape_of

    own, seen = signature(factory), list[ModelShape]()
    values = {name: value for name, value in own.parameters.items() if value is not None}
    jax.eval_shape(lambda values: seen.append(shape_of(build(factory, values, own.sizes))), values)
    if seen[0].own is not None:
        return "arrays"
    return "continuum" if seen[0].continuous else "lists"


@click.command(
    epilog=examples(
        "dpsolve describe growth",
        "dpsolve describe savings --set n_a=2000",
        "dpsolve describe examples/job_search.py:job_search",
    )
)
@click.argument("model", type=PATH)
@set_option
def describe(model: str, fixed: tuple[str, ...]) -> None:
    """Show a model's parameters, sizes, dimensions and memory."""
    from dpsolve.hpc.sweep_file.model_source import resolve
    from dpsolve.solvers.inspection.describe import describe as describe_model

    factory = resolve(model).load()
    click.echo(str(describe_model(factory, assignments(fixed, factory))))


@click.command(
    epilog=examples(
        "dpsolve check growth --set beta=0.99",
        "dpsolve check my_model.py:my_model",
        "dpsolve check growth.toml          # the file, and the model at its first and last point",
    )
)
@click.argument("target", type=PATH, metavar="MODEL|SWEEP.toml")
@set_option
def check(target: str, fixed: tuple[str, ...]) -> None:
    """Look for faults in a model or a sweep file.

    Nothing is solved. The first fault of a model is named with the state and choice where it
    shows: an unknown argument, a NaN reward, a state without a feasible choice, probabilities that
    do not sum to one, a next state off its grid, a discount that is too large.
    """
    from dpsolve.hpc.sweep_file.model_source import resolve
    from dpsolve.solvers.inspection.check import check as check_model

    if Path(target).suffix == ".toml":
        _check_sweep(target, fixed)
        return
    factory = resolve(target).load()
    click.echo(check_model(factory, assignments(fixed, factory)))


def _check_sweep(target: str, fixed: tuple[str, ...]) -> None:
    import numpy as np

    from dpsolve.hpc.plan.check_names import check_names
    from dpsolve.hpc.plan.design import make_design
    from dpsolve.solvers.inspection.check import check as check_model

    reading = read_target(target, fixed=fixed)
    check_names(reading)
    factory = reading.source.load()
    design = make_design(reading.sweep, reading.signature)
    for bucket in design.buckets:
        ends = bucket.points(np.array([0, bucket.size - 1]))
        for i in (0, 1):
            check_model(factory, {k: v[i] for k, v in ends.items()} | bucket.sizes)
    click.echo(
        f"{target}: {design.size} points, no fault found; the model was looked at in the first "
        "and the last of them."
    )

"""Commands ``models``, ``describe``, ``check``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import assignments, examples, read_target, set_option


@click.command(epilog=examples("dpsolve models", "dpsolve describe savings"))
def models() -> None:
    """List the built-in models with their parameters."""
    from dpsolve.solvers.library import BUILTIN
    from dpsolve.solvers.model.factory_signature import signature

    width = max(len(name) for name in BUILTIN) + 2
    for name, factory in BUILTIN.items():
        sig = signature(factory)
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}{sig.doc.splitlines()[0]}")
        given = ", ".join(
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in sig.parameters.items()
            if v is not None
        )
        sizes = ", ".join(f"{k}={v}" for k, v in sig.sizes.items())
        click.echo(f"{'':<{width}}{given}" + f"; sizes {sizes}" * bool(sizes))
    click.echo("\nYour own: file.py:function or package.module:function.")


@click.command(
    epilog=examples(
        "dpsolve describe growth",
        "dpsolve describe savings --set n_a=2000",
        "dpsolve describe examples/job_search.py:job_search",
    )
)
@click.argument("model")
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
@click.argument("target", metavar="MODEL|SWEEP.toml")
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

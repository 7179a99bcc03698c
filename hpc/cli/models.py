"""Commands about one model: ``models``, ``describe``, ``check``, ``solve``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsolve.solvers.errors import UsageError

from .options import assignments, examples, read_target, set_option
from .solve import asks_for_store, solve_stored, store_options

if TYPE_CHECKING:
    from dpsolve.solvers.solution import Solution


@click.command(epilog=examples("dpsolve models", "dpsolve describe savings"))
def models() -> None:
    """List the built-in models with their parameters."""
    from dpsolve.solvers.library import BUILTIN
    from dpsolve.solvers.model.factory import signature

    width = max(len(name) for name in BUILTIN) + 2
    for name, factory in BUILTIN.items():
        sig = signature(factory)
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}{sig.doc.splitlines()[0]}")
        given = ", ".join(f"{k}={v:g}" for k, v in sig.parameters.items() if v is not None)
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

    params = assignments(fixed)
    click.echo(str(describe_model(resolve(model).load(), params)))


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
    from dpsolve.solvers.model.factory import signature

    if Path(target).suffix == ".toml":
        _check_sweep(target, fixed)
        return
    factory, params = resolve(target).load(), assignments(fixed)
    check_model(factory, params)
    given = signature(factory).parameters | signature(factory).sizes | params
    click.echo(f"{signature(factory).name}: no fault found at {listed(given)}.")


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
            check_model(factory, {k: float(v[i]) for k, v in ends.items()} | bucket.sizes)
    click.echo(
        f"{target}: {design.size} points, no fault found; the model was looked at in the first "
        "and the last of them."
    )


@click.command(
    epilog=examples(
        "dpsolve solve growth --set beta=0.97 --tol 1e-8",
        "dpsolve solve savings --set n_a=2000 --save savings.zarr",
        "dpsolve solve my_model.py --method pi",
        "dpsolve solve savings --set n_a=20000 --mesh states=4 --store savings.zarr",
        "srun dpsolve solve savings --set n_a=200000 --distributed --store savings.zarr",
    )
)
@click.argument("model")
@set_option
@click.option("--tol", type=float, default=1e-6, show_default=True,
              help="Certified error of the value to reach.")  # fmt: skip
@click.option("--method", default="auto", show_default=True, help="auto, vi, pi or opi.")
@click.option(
    "--criterion",
    default="discounted",
    show_default=True,
    help="What to maximise: discounted, or average, the average reward per period.",
)
@click.option("--save", metavar="PATH", help="Save the solution: PATH.zarr or PATH.nc.")
@click.option("--mesh", metavar="states=N", help="Devices that share the model's states.")
@store_options
@click.pass_context
def solve(
    ctx: click.Context,
    /,
    model: str,
    fixed: tuple[str, ...],
    tol: float,
    method: str,
    criterion: str,
    save: str | None,
    mesh: str | None,
    **placing: Any,
) -> None:
    """Solve one model at one parameter point.

    With --store, the solve writes checkpoints beside its results, and the same command resumes it.
    With --distributed, several processes, on one host or many, share the model's states.
    """
    from dpsolve.hpc.sweep_file.model_source import resolve
    from dpsolve.sharding.solve import solve as solve_model
    from dpsolve.solvers.solve.compile_clock import compile_clock

    if asks_for_store(placing):
        if save is not None:
            raise UsageError("--save and --store: dp.open reads the store; leave --save out")
        solve_stored(
            ctx,
            model,
            fixed=fixed,
            tol=tol,
            method=method,
            mesh=mesh,
            criterion=criterion,
            **placing,
        )
        return
    target = _place_to_save(save)
    factory, params = resolve(model).load(), assignments(fixed)
    began = time.perf_counter()
    with compile_clock() as compiling:
        solution = solve_model(
            factory, params, tol=tol, method=method, mesh=mesh, criterion=criterion
        )
    seconds = time.perf_counter() - began - compiling.seconds
    for line in _solution_lines(solution, seconds, compiling.seconds):
        click.echo(line)
    if target is not None:
        _save(solution, target)
        click.echo(f"  saved       {target}")
    ctx.exit(0 if solution.status == "solved" else 1)


def _solution_lines(solution: Solution, seconds: float, compiling: float) -> Iterator[str]:
    import numpy as np

    from dpsolve.hpc.progress import span

    status = str(solution.status)
    colour = {"solved": "green", "inexact": "yellow"}.get(status, "red")
    tol = solution.problem.options.tol
    yield f"{solution.problem.name}: {click.style(status, fg=colour, bold=True)}"
    if status != "solved" and solution.message:
        yield f"  because     {solution.message}"
    yield f"  parameters  {listed({k: float(v) for k, v in solution.parameters.items()})}"
    if solution.problem.sizes:
        yield f"  sizes       {listed(dict(solution.problem.sizes))}"
    bound = float(solution.error_bound)
    if not np.isnan(bound):
        if "gain" in solution.arrays:
            yield f"  gain        {float(solution.gain):.10g} on average per period"
        whose = "certified error" if "value" in dict(solution.problem.dims) else "error at most"
        yield f"  accuracy    {whose} {bound:.3g} (tol {tol:g})"
        yield f"  iterations  {int(solution.iterations)}"
    if status != "failed":
        yield from _arrays(solution)
    yield f"  time        {span(seconds)}, and {span(compiling)} to compile"


def _arrays(solution: Solution) -> Iterator[str]:
    """Yield the extent of the value and the outputs, or of a factory's own arrays."""
    dims = dict(solution.problem.dims)
    outputs = [name for name in dims if name.startswith("output_")]
    errors = {f"{name}_se" for name in dims}  # shown beside what they are of
    own = [name for name in dims if name not in errors and not name.startswith("grid_")]
    names = ["value", *outputs] if "value" in dims else own
    width = max(11, *(len(name.removeprefix("output_")) for name in names))
    for name in names:
        over = " x ".join(
            f"{d} ({n})" for d, n in zip(dims[name], solution[name].shape, strict=True)
        )
        yield (
            f"  {name.removeprefix('output_'):<{width}} {_extent(solution[name])}"
            + f" over {over}" * bool(over)
            + _standard_error(solution, name)
        )


def _standard_error(solution: Solution, name: str) -> str:
    if f"{name}_se" not in solution.arrays:
        return ""
    return f", standard error {solution[f'{name}_se'].max():.2g}"


def _extent(array: Any) -> str:
    import numpy as np

    if array.size == 1:
        return f"{array.item():.10g}"
    return f"{np.nanmin(array):.6g} to {np.nanmax(array):.6g}"


def listed(values: Mapping[str, Any]) -> str:
    """Return names and values in one line: ``beta=0.96, n_a=200``."""
    each = (f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
    return ", ".join(each)


def _place_to_save(save: str | None) -> Path | None:
    """Refuse a place that cannot be saved to before anything is solved."""
    if save is None:
        return None
    path = Path(save).expanduser()
    if path.suffix not in {".zarr", ".nc"}:
        raise UsageError(f"--save {save}: the ending tells the format; it is .zarr or .nc.")
    if path.exists():
        raise UsageError(f"--save {save}: it exists already; choose another name or remove it.")
    if not path.parent.is_dir():
        raise UsageError(f"--save {save}: there is no folder {path.parent}.")
    return path


def _save(solution: Solution, path: Path) -> None:
    dataset = solution.to_xarray()
    if path.suffix == ".zarr":
        dataset.to_zarr(path, zarr_format=3, consolidated=False)
        return
    for name in ("status", "message"):  # NetCDF 3 knows text of a fixed width only
        dataset[name] = dataset[name].astype(str)
    dataset.to_netcdf(path, engine="scipy")

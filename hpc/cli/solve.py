"""Command ``solve``: what it prints and saves; with ``--store``, resumable."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dpsolve.solvers.errors import AgreedError, DpsolveError, PeerError, UsageError
from dpsolve.solvers.outcomes import accuracy, listed

from .options import PATH, assignments, command_line, examples, read_target, set_option

if TYPE_CHECKING:
    from dpsolve.hpc.distributed_solve.stored_solve import SolveReport
    from dpsolve.hpc.sweep_file.reader import Reading
    from dpsolve.sharding.processes.group import ProcessGroup
    from dpsolve.solvers.solution import Solution


GRACE = 5.0  # seconds for an error to turn out as another process's end

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--store", metavar="PATH", help="Solve into a store; the same command resumes."),
    click.option("--keep", multiple=True, metavar="NAMES",
                 help="With --store, variables to store: --keep value,policy."),
    click.option("--with", "other", multiple=True, metavar="KEY=VALUE",
                 help="With --store, any other field of a sweep file: --with solve.max_iter=9999."),
    click.option("--checkpoint", type=click.FloatRange(min=0), default=300.0, show_default=True,
                 metavar="SECONDS", help="With --store, time between checkpoints; 0 for none."),
    click.option("--distributed", is_flag=True,
                 help="One of several processes: under srun, or with the next three options."),
    click.option("--coordinator", metavar="HOST:PORT", help="Where process 0 can be reached."),
    click.option("--processes", type=click.IntRange(min=1), metavar="N"),
    click.option("--process-id", "process", type=click.IntRange(min=0), metavar="I",
                 help="Which of them this is, from 0."),
    click.option("--wait", type=click.FloatRange(min=1), default=300.0, show_default=True,
                 metavar="SECONDS", help="How long to wait for the other processes."),
)  # fmt: skip


def store_options(command: F) -> F:
    """Add the options that say where a solve goes, and who takes part in it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def asks_for_store(given: Mapping[str, Any]) -> bool:
    """Tell whether a solve goes into a store; refuse options that make no sense without.

    Raises
    ------
    UsageError
        If there are some.
    """
    address = {
        "--coordinator": "coordinator",
        "--processes": "processes",
        "--process-id": "process",
    }
    if not given["distributed"]:
        for option, name in address.items():
            if given[name] is not None:
                raise UsageError(f"{option} says who takes part; it needs --distributed")
    if given["store"] is not None:
        return True
    for option, asked in (
        ("--distributed", given["distributed"]),
        ("--keep", given["keep"]),
        ("--with", given["other"]),
    ):
        if asked:
            raise UsageError(f"{option} needs a store to write to: --store PATH.zarr")
    return False


def solve_stored(
    ctx: click.Context,
    model: str,
    *,
    mesh: str | None,
    distributed: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    wait: float,
    checkpoint: float,
    **sweep: Any,
) -> None:
    """Solve one model into a store, and tell how it ended; see `_OPTIONS`."""
    from dpsolve.hpc.distributed_solve.agreement import together
    from dpsolve.hpc.distributed_solve.meeting_secret import meeting_secret
    from dpsolve.hpc.distributed_solve.srun_address import find_address
    from dpsolve.hpc.distributed_solve.stored_solve import solve_into_store
    from dpsolve.hpc.progress import Silent, progress_for
    from dpsolve.sharding.devices.mesh import MeshShape
    from dpsolve.sharding.processes.rendezvous import alone, end, start

    shape = MeshShape.read(mesh)
    if shape is None and mesh is None and not distributed:
        shape = MeshShape()
    group = alone()
    if distributed:
        secret = meeting_secret(Path(sweep["store"]).expanduser())
        address = replace(find_address(coordinator, processes, process), secret=secret)
        group = start(address, wait, lambda text: _lost(text, sweep["store"]))
    try:
        reading = together(group, lambda: _read(model, sweep))
        ending = solve_into_store(
            reading.sweep, reading.source, mesh=shape, group=group, every=checkpoint,
            progress=progress_for() if group.first else Silent(), command=command_line(),
        )  # fmt: skip
        end(group)
    except AgreedError as error:
        end(group)
        if error.ours:
            raise
        ctx.exit(error.exit_code)
    except BaseException as error:
        if group.alone:
            raise
        _abandon(group, error)
    if group.first:
        for line in _summary(reading, ending, group):
            click.echo(line)
    ctx.exit(ending.exit_code)


def _read(model: str, given: Mapping[str, Any]) -> Reading:
    if model.endswith(".toml"):
        raise UsageError(f"{model} is a sweep, and solve takes one model; write: dpsolve sweep")
    other = (*given["other"], "one_point=true")
    return read_target(model, **{**given, "other": other})


def _lost(text: str, store: str) -> NoReturn:
    """End this process, whatever its main thread hangs in: a collective waits for ever.

    At once, and by nothing that could wait: JAX is about to abort, in words of its own.
    """
    text = (
        f"error: {text}. The processes that are left end as well. Nothing that was committed or "
        f"checkpointed is lost: the same command goes on from the last checkpoint in {store}.\n"
    )
    os.write(2, text.encode())
    os._exit(PeerError.exit_code)


def _abandon(group: ProcessGroup, error: BaseException) -> NoReturn:
    """End after an error that the other processes do not share."""
    if group.await_loss(GRACE):
        time.sleep(GRACE)  # `_lost` says so meanwhile and ends this process; be quiet
    code = error.exit_code if isinstance(error, DpsolveError) else 1
    if isinstance(error, KeyboardInterrupt):
        code = 130
    text = str(error) or type(error).__name__
    if isinstance(error, DpsolveError | KeyboardInterrupt):
        _say(text)
    else:
        traceback.print_exception(error)
    group.leave(text.splitlines()[0])
    sys.stdout.flush()
    os._exit(code)  # JAX would wait at its end for processes that are gone


def _say(text: str) -> None:
    sys.stdout.flush()
    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)
    sys.stderr.flush()


def _summary(reading: Reading, ending: SolveReport, group: ProcessGroup) -> Iterator[str]:
    from dpsolve.hpc.progress import span

    colour = {"solved": "green", "inexact": "yellow", "pending": "cyan"}.get(ending.status, "red")
    yield f"{reading.source.name}: {click.style(ending.status, fg=colour, bold=True)}"
    if ending.message:
        yield f"  {'note   ' if ending.status == 'solved' else 'because'}     {ending.message}"
    if ending.status in ("solved", "inexact") or not math.isnan(ending.error_bound):
        what = "certified error"
        yield f"  accuracy    {accuracy(ending.error_bound, ending.tol, what, ending.of_what)}"
        taken_up = f", taken up after {ending.resumed}" if ending.resumed is not None else ""
        yield f"  iterations  {ending.iterations}{taken_up}"
    hosts = len({member.host for member in group.members})
    where = f", {len(group.members)} processes on {hosts} hosts" if not group.alone else ""
    yield f"  mesh        {ending.mesh}{where}"
    yield f"  store       {ending.path}"
    if ending.before:
        yield "  time        none: it was committed before"
    else:
        solving = ending.seconds - ending.compile_seconds
        yield (
            f"  time        {span(ending.seconds)}: {span(ending.compile_seconds)} to compile, "
            f"{span(solving)} to plan, solve and write"
        )
    path = shlex.quote(str(ending.path))
    if ending.interrupted:
        yield "  next        the same command goes on from the checkpoint"
    else:
        yield f"  next        dpsolve verify {path}"


@click.command(
    epilog=examples(
        "dpsolve solve growth --set beta=0.97 --set n_k=400",
        "dpsolve solve savings --set n_a=2000 --save savings.zarr",
        "dpsolve solve my_model.py --method pi",
        "dpsolve solve my_model.py --set n_a=20000 --mesh states=4 --store mine.zarr",
        "srun dpsolve solve my_model.py --set n_a=200000 --distributed --store mine.zarr",
    )
)
@click.argument("model", type=PATH)
@set_option
@click.option("--tol", type=float, show_default="1e-6; for continuous choices what the grid allows",
              help="Certified error of the value to reach.")  # fmt: skip
@click.option("--method", default="auto", show_default=True, help="auto, vi, pi, opi or egm.")
@click.option(
    "--criterion",
    default="discounted",
    show_default=True,
    help="What to maximise: discounted, or average, the average reward per period.",
)
@click.option("--refine", metavar="NAMES",
              help="Sizes that are taken from n to 2n - 1 points until tol holds.")  # fmt: skip
@click.option("--save", metavar="PATH", help="Save the solution: PATH.zarr or PATH.nc.")
@click.option("--mesh", metavar="states=N", help="Devices that share the model's states.")
@store_options
@click.pass_context
def solve(
    ctx: click.Context,
    /,
    model: str,
    fixed: tuple[str, ...],
    tol: float | None,
    method: str,
    criterion: str,
    refine: str | None,
    save: str | None,
    mesh: str | None,
    **placing: Any,
) -> None:
    """Solve one model at one parameter point.

    With --store, the solve writes checkpoints beside its results, and the same command resumes it.
    With --distributed, several processes, on one host or many, share the model's states.
    """
    from dpsolve.hpc.run.interrupts import interruptible
    from dpsolve.hpc.sweep_file.model_source import resolve
    from dpsolve.sharding.solve import solve as solve_model
    from dpsolve.solvers.solve.compile_clock import compile_clock

    if asks_for_store(placing):
        if save is not None:
            raise UsageError("--save and --store: dp.open reads the store; leave --save out")
        if refine is not None:  # refused there, like one of --with
            placing["other"] = (*placing["other"], f"solve.refine={refine}")
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
    factory = resolve(model).load()
    params = assignments(fixed, factory)
    began = time.perf_counter()

    def solved() -> tuple[Solution, float]:
        with compile_clock() as compiling:  # which counts in its own thread
            found = solve_model(
                factory, params, tol=tol, method=method, mesh=mesh, criterion=criterion,
                refine=refine or (),
            )  # fmt: skip
        return found, compiling.seconds

    solution, compiling = interruptible(solved)
    seconds = time.perf_counter() - began - compiling
    for line in _solution_lines(solution, seconds, compiling):
        click.echo(line)
    if target is not None:
        _save(solution, target)
        click.echo(f"  saved       {target}")
    ctx.exit(0 if solution.status == "solved" else 1)


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


def _solution_lines(solution: Solution, seconds: float, compiling: float) -> Iterator[str]:
    import numpy as np

    from dpsolve.hpc.progress import span

    status = str(solution.status)
    colour = {"solved": "green", "inexact": "yellow"}.get(status, "red")
    tol = solution.tol
    yield f"{solution.problem.name}: {click.style(status, fg=colour, bold=True)}"
    if solution.message:
        yield f"  {'note   ' if status == 'solved' else 'because'}     {solution.message}"
    yield f"  parameters  {listed({k: np.asarray(v) for k, v in solution.parameters.items()})}"
    if solution.problem.sizes:
        yield f"  sizes       {listed(dict(solution.problem.sizes))}"
    bound = float(solution.error_bound)
    if status != "failed" or not np.isnan(bound):
        if "gain" in solution.arrays:
            yield f"  gain        {float(solution.gain):.10g} on average per period"
        whose = "certified error" if "value" in dict(solution.problem.dims) else "error at most"
        of_what = solution.of_what if "value" in dict(solution.problem.dims) else ""
        yield f"  accuracy    {accuracy(bound, tol, whose, of_what)}"
        if solution.concavity != "none":
            yield f"  certifies   the {solution.certifies}, concavity {solution.concavity}"
    if not np.isnan(bound):
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

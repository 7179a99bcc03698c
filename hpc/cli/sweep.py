"""Commands ``sweep``, ``plan``, ``resume``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import RefusedError
from dpsolve.solvers.numerics.memory import shown_bytes
from dpsolve.solvers.outcomes import accuracy

from .options import (
    PATH,
    command_line,
    examples,
    executor_options,
    mesh_option,
    read_target,
    sweep_options,
    trust_option,
    word_for,
)

if TYPE_CHECKING:
    from dpsolve.hpc.executor_choice import ExecutorChoice
    from dpsolve.hpc.plan.plan import BucketPlan, Plan
    from dpsolve.hpc.run.sweep import SweepReport
    from dpsolve.hpc.verify.after_sweep import FinalCheck
    from dpsolve.sharding.devices.mesh import MeshShape


_TARGET = "SWEEP.toml|MODEL"


@click.command(
    epilog=examples(
        "dpsolve sweep growth.toml",
        "dpsolve sweep growth.toml --grid beta=0.95:0.99:20 --store fine.zarr",
        "dpsolve sweep growth --grid beta=0.90:0.98:40 --grid alpha=0.3,0.35,0.4 --set n_k=300",
        "dpsolve sweep my_model.py:my_model --grid gamma=1:5:100 --tol 1e-8 --keep value,policy",
        "dpsolve sweep growth.toml --on slurm --profile gpu --detach",
    )
)
@click.argument("target", type=PATH, metavar=_TARGET)
@sweep_options
@executor_options
@click.option(
    "--overwrite", is_flag=True,
    help="Begin anew: delete the store that lies there, whatever sweep it holds.",
)  # fmt: skip
@click.pass_context
def sweep(
    ctx: click.Context, /, target: str, on: str, profile: str | None, scheduler: str | None,
    mesh: str, retry_failed: bool, detach: bool, no_verify: bool, overwrite: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Solve a model at many points, into one store.

    A sweep is a file, or a model's name with options; options replace what the file says. The
    same command again resumes: what is committed is not computed again. A model file travels
    with the sweep, and so does what it imports from its folder: a later edit changes nothing.
    At the end a few points are compared with the model's definition ([solve] verify = 4); exit
    code 1 if one differs.
    """
    from dpsolve.hpc.executor_choice import ExecutorChoice
    from dpsolve.hpc.plan.check_names import wrong_names_at_once
    from dpsolve.hpc.progress import progress_for
    from dpsolve.hpc.run.detach import detach as go_on
    from dpsolve.hpc.run.sweep import create_store, run_sweep

    choice = ExecutorChoice.of(on, profile, scheduler, mesh)
    reading = read_target(target, **options)
    choice.check(reading.sweep.store.path)
    with wrong_names_at_once(reading):
        if detach:
            made = create_store(
                reading.sweep, reading.source, command_line(), choice.worker_count, overwrite
            )
            click.echo(go_on(made, _again(choice, no_verify), retry_failed=retry_failed))
            return
        progress = progress_for()
        outcome = run_sweep(
            reading.sweep, reading.source, progress=progress, command=command_line(),
            executor=choice.executor(progress.jobs), retry_failed=retry_failed,
            overwrite=overwrite,
        )  # fmt: skip
    _finish(ctx, outcome, verified=0 if no_verify else reading.sweep.verified)


@click.command(
    epilog=examples(
        "dpsolve resume growth.zarr",
        "dpsolve resume growth.zarr --on slurm --profile gpu",
        "dpsolve resume growth.zarr --retry-failed",
        "dpsolve resume growth.zarr --repair",
    )
)
@click.argument("store", type=PATH)
@executor_options
@click.option("--repair", is_flag=True,
              help="Compare all that is committed with its checksums, and compute tasks whose "
              "data are missing or damaged once more.")  # fmt: skip
@trust_option
@click.option("--trusted", metavar="CHECKSUM", hidden=True,
              help="Of the store that another process of this user trusts.")  # fmt: skip
@click.pass_context
def resume(
    ctx: click.Context, store: str, on: str, profile: str | None, scheduler: str | None,
    mesh: str, retry_failed: bool, detach: bool, no_verify: bool, repair: bool, trust: bool,
    trusted: str | None,
) -> None:  # fmt: skip
    """Go on with an interrupted sweep.

    The store holds all that is needed: parameters, options and the model's source. Where it goes
    on is free: what a SLURM job began, this process may finish. A failed point is committed like
    any other; --retry-failed computes its task once more. A store that somebody else made runs
    what it keeps only with --trust.
    """
    from dpsolve.hpc.executor_choice import ExecutorChoice
    from dpsolve.hpc.progress import progress_for
    from dpsolve.hpc.run.detach import detach as go_on
    from dpsolve.hpc.run.sweep import resume as resume_sweep
    from dpsolve.hpc.store.store import check_format, open_store
    from dpsolve.hpc.store.trust import trusted as to_be_trusted

    choice = ExecutorChoice.of(on, profile, scheduler, mesh)
    why = trusted or word_for(trust)
    choice.check(store)
    if detach:
        check_format(held := open_store(store))
        held = to_be_trusted(held, why, writing=True)
        again = [*_again(choice, no_verify), *(["--repair"] if repair else [])]
        click.echo(go_on(held, again, retry_failed=retry_failed))
        return
    progress = progress_for()
    executor = choice.executor(progress.jobs)
    outcome = resume_sweep(
        store, progress=progress, executor=executor, retry_failed=retry_failed, repair=repair,
        trust=why,
    )  # fmt: skip
    _finish(ctx, outcome, verified=0 if no_verify else None)


@click.command(
    epilog=examples(
        "dpsolve plan growth.toml",
        "dpsolve plan growth.toml --set n_k=2000 --no-probe",
        "dpsolve plan savings --grid gamma=1:5:1000:log --grid n_a=200,400",
        "dpsolve plan savings --grid beta=0.9:0.96:100 --set n_a=20000 --mesh points=8",
    )
)
@click.argument("target", type=PATH, metavar=_TARGET)
@sweep_options
@mesh_option
@click.option("--probe/--no-probe", default=True, show_default=True,
              help="Solve a few points to estimate the time.")  # fmt: skip
def plan(target: str, mesh: str, probe: bool, **options: Any) -> None:
    """Show what a sweep would take.

    Points, tasks, bytes, files, memory, and the time on this machine. Nothing is written. The
    memory of a device is forecast for any mesh; the compiler's own account of it stands beside
    where there are the devices to compile for.
    """
    from dpsolve.hpc.plan.check_names import wrong_names_at_once
    from dpsolve.hpc.plan.plan import make_plan
    from dpsolve.hpc.run.disk_space import check_disk
    from dpsolve.hpc.run.interrupts import interruptible
    from dpsolve.sharding.devices.mesh import MeshShape

    shape = MeshShape.read(mesh)
    reading = read_target(target, **options)
    with wrong_names_at_once(reading):
        made = interruptible(lambda: make_plan(reading.sweep, reading.source))
    for line in page(made):
        click.echo(printable(line))
    check_disk(made)
    if probe:
        click.echo(interruptible(lambda: _time(made)))
    click.echo(interruptible(lambda: _on_a_device(made, shape, probe)))
    click.echo(f"  run it      dpsolve sweep {_arguments()}")


def page(plan: Plan) -> Iterator[str]:
    """Yield the lines that say what a sweep would take."""
    yield f"{plan.points:,} points of {plan.source.reference} into {plan.path}"
    yield from _stands(plan)
    for part in plan.buckets:
        if part.bucket.group:
            yield f"  {part.bucket.group}: {part.points:,} points, {len(part.tasks):,} tasks"
    first = plan.buckets[0]
    for name, (dims, values) in first.bucket.parameters.items():
        along = "" if dims == (name,) else f" along {dims[0]}"
        yield f"  {name:<11} {_values(values)}{along}"
    most = max(task.size for task in plan.tasks)
    yield f"  tasks       {len(plan.tasks):,}, at most {most:,} points each"
    yield f"  keeps       {', '.join(first.variables)}"
    yield f"  bytes       {shown_bytes(plan.bytes)} before compression, in {plan.files:,} files"
    lanes = _lanes(plan.buckets)
    yield f"  memory      {shown_bytes(plan.memory_per_task)} per task, {lanes} side by side"
    yield from _sweeps(plan)


def _stands(plan: Plan) -> Iterator[str]:
    from dpsolve.hpc.store.provenance import differences
    from dpsolve.hpc.store.store import check_format, is_store, open_store

    if plan.path.is_dir() and is_store(plan.path):
        store = open_store(plan.path)
        try:
            check_format(store)
        except RefusedError as error:
            yield f"  refused     {error}"
            return
        if lines := differences(store, plan):
            yield f"  refused     {plan.path} holds another sweep; give this one a store of its own"
            yield from (f"              {line}" for line in lines)
        else:
            committed = len(store.receipts())
            yield f"  exists      {committed:,} of {len(store.tasks):,} tasks are committed already"


def _sweeps(plan: Plan) -> Iterator[str]:
    """Yield how sweeps find their maxima and where points start, for each bucket."""
    import numpy as np

    from dpsolve.sharding.batches.solving_order import START, STRAND

    for part in plan.buckets:
        group = f"{part.bucket.group}: " if part.bucket.group else ""
        shape = part.program.outline.shape
        every = part.bucket.points(np.arange(part.points)) if shape.promise else {}
        if promise := shape.promise and part.program.promise(every):
            yield f"  certifies:  {group}{promise}"
        if shape.continuous:
            if refined := part.program.options.refine:
                sizes = part.program.refinement.finer(0)
                told = ", ".join(f"{n} from {sizes[n]:,}" for n in refined)
                yield (
                    f"  refines     {group}{told} to 2n - 1 points, as often as tol takes and "
                    "memory allows; the nodes of the first are kept"
                )
            yield f"  starts      {group}cold: each point with a continuous choice by itself"
        if (found := part.program.outlook) is not None:
            yield f"  rewards     {group}{found.rewards}"
            yield f"  maxima      {group}{found.maxima}"
            if found.warning:
                yield f"  certified   {group}{found.warning}"
            if found.remedy:
                yield f"              {found.remedy} (in [solve], or"
                yield "              --with solve.certificate=sampled)"
        if START in part.variables:
            yield f"  starts      {group}warm, from the point before; one in {STRAND} cold"


def _lanes(parts: tuple[BucketPlan, ...]) -> str:
    lanes = sorted({part.program.forecast().lanes for part in parts})
    return " or ".join(str(n) for n in lanes) + (" point" if lanes == [1] else " points")


def _values(values: Any) -> str:
    if values.ndim > 1:
        return f"{len(values):,} arrays {values.shape[1:]}"
    if len(values) <= 6:
        return ", ".join(f"{v:.6g}" for v in values)
    return f"{len(values):,} values from {values.min():.6g} to {values.max():.6g}"


def _time(plan: Plan) -> str:
    from dpsolve.hpc.plan.cost_estimate import estimate, long_by_count
    from dpsolve.hpc.progress import span

    if text := long_by_count(plan):
        return f"  time        {text}"
    found = estimate(plan)
    some = (
        ""
        if not found.failed
        else (
            f"\n  failed      {found.failed:,} of the {found.probed:,} probed points: "
            f"{printable(found.why)}"
        )
    )
    return (
        f"  time        about {span(found.seconds)}: {span(found.compile_seconds)} to compile, "
        f"{span(found.begin_seconds)} to begin, {span(found.write_seconds)} to write, "
        f"{span(found.solve_seconds)} to solve (from {found.probed:,} probed points)" + some
    )


def _on_a_device(plan: Plan, shape: MeshShape | None, compiling: bool) -> str:
    """Return the memory of a batch on a device: forecast, and by the compiler's own account."""
    from dpsolve.sharding.batches.program import program
    from dpsolve.sharding.devices.fit import check_fits
    from dpsolve.sharding.devices.mesh import ONE_DEVICE, enough_devices

    largest = max(plan.buckets, key=lambda part: part.program.footprint.bytes).program
    on = program(largest.factory, largest.sizes, largest.options, shape or ONE_DEVICE)
    check_fits(on.footprint, on.shape, on.outline.shape.states)
    forecast = on.forecast()
    text = f"  a device    {shown_bytes(forecast.bytes)} forecast for a batch of {forecast.lanes}"
    if shape is not None:
        text += f" on the mesh {shape}"
    if compiling and enough_devices(on.shape):
        text += f", {shown_bytes(on.compiled_bytes)} by the compiler's account"
    return text


def _arguments() -> str:
    """Return the arguments of this command that a sweep takes as well."""
    words = shlex.split(command_line())
    rest = words[words.index("plan") + 1 :] if "plan" in words else []
    return shlex.join(w for w in rest if w not in {"--probe", "--no-probe"})


def _again(choice: ExecutorChoice, no_verify: bool) -> list[str]:
    """Return the options of a `dpsolve resume` that goes on as this call would."""
    return [*choice.options(), *(["--no-verify"] if no_verify else [])]


def _finish(ctx: click.Context, outcome: SweepReport, verified: int | None) -> None:
    """Verify some points (None: as many as the sweep says), tell how it went, and end."""
    check = None
    if not (outcome.pending or outcome.interrupted):
        check = _checked(outcome, verified)
    for line in _summary(outcome, check):
        click.echo(line)
    ctx.exit(outcome.exit_code or int(check is not None and not check.ok))


def _checked(outcome: SweepReport, points: int | None) -> FinalCheck | None:
    if points is None:
        from dpsolve.hpc.store.store import open_store
        from dpsolve.hpc.sweep_file.fields import sweep_from

        points = sweep_from(json.loads(open_store(outcome.path).attributes["sweep"])).verified
    if not points or not outcome.solved + outcome.inexact:
        return None
    from dpsolve.hpc.verify.after_sweep import check_sweep

    return check_sweep(outcome.path, points, source=outcome.source)


def _summary(outcome: SweepReport, check: FinalCheck | None) -> Iterator[str]:
    from dpsolve.hpc.progress import span
    from dpsolve.hpc.store.status import read_status

    counts = [
        click.style(f"{number:,} {word}", fg=colour)
        for word, number, colour in (
            ("solved", outcome.solved, "green"),
            ("inexact", outcome.inexact, "yellow"),
            ("failed", outcome.failed, "red"),
            ("pending", outcome.pending, "cyan"),
        )
        if number or word == "solved"
    ]
    yield f"{outcome.points:,} points: {', '.join(counts)}"
    if outcome.inexact or outcome.failed:
        for failure in read_status(outcome.path).failures:
            yield printable(f"  {failure}")
    if outcome.solved or outcome.inexact:
        what = "worst certified error"
        bound = accuracy(outcome.error_bound, outcome.tol, what, outcome.of_what)
        yield f"  accuracy    {bound}"
    yield from (f"  certifies   {text}" for text in outcome.certifies)
    yield f"  store       {outcome.path}"
    if outcome.computed:
        solving = outcome.seconds - outcome.compile_seconds
        yield (
            f"  time        {span(outcome.seconds)}: {span(outcome.compile_seconds)} to compile, "
            f"{span(solving)} to plan, solve and write {outcome.computed:,} points"
        )
    elif not outcome.pending:
        yield "  time        none: every point was committed before"
    if check is not None:
        yield from map(printable, check.lines())
    path = shlex.quote(str(outcome.path))
    if outcome.pending:
        yield f"  next        dpsolve resume {path}"
    elif check is not None and not check.ok:
        yield f"  next        dpsolve verify {path}"
    else:
        yield f"  next        dpsolve plot {path}"

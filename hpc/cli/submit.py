"""Commands ``submit`` (with its preview), ``profiles``, ``logs``, ``cancel``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsolve.hpc.terminal_text import printable

from .options import PATH, command_line, examples, read_target, sweep_options
from .sweep import page

if TYPE_CHECKING:
    from dpsolve.hpc.plan.plan import Plan
    from dpsolve.hpc.slurm.profiles import Profile, ProfileFile


@click.command(epilog=examples("dpsolve profiles", "dpsolve profiles gpu"))
@click.argument("name", required=False)
def profiles(name: str | None) -> None:
    """List the profiles of SLURM jobs, or show one.

    Shipped ones are to be copied into the user's folder and fitted to the site.
    """
    from dpsolve.hpc.slurm.profiles import ProfileFile, find_profile, list_profiles, user_folder

    if name is not None:
        found = find_profile(name)
        click.echo(f"# {found.path}\n{found.path.read_text(encoding='utf-8').rstrip()}")
        return
    for entry in list_profiles():
        if isinstance(entry, ProfileFile):
            shown, path, text = entry.name, entry.path, _in_short(entry.profile)
        else:
            shown, path, error = entry
            text = click.style(str(error), fg="red")
        click.echo(f"{click.style(f'{shown:<16}', bold=True)}{text}\n{'':<16}{path}")
    click.echo(f"\nYour own belong into {user_folder()}; a path works too: --profile ./site.toml.")


def _in_short(profile: Profile) -> str:
    gpus = f", {profile.gpus} GPU{'s' * (profile.gpus > 1)}" if profile.gpus else ""
    return (
        f"{profile.description}\n{'':<16}at most {profile.max_jobs} jobs: {profile.cpus} "
        f"CPU{'s' * (profile.cpus > 1)}{gpus}, {profile.memory}, walltime {profile.walltime}"
    )


@click.command(
    epilog=examples(
        "dpsolve submit growth.toml --profile gpu --dry-run",
        "dpsolve submit growth.toml --profile gpu",
        "dpsolve submit growth --grid beta=0.90:0.98:40 --store growth.zarr --profile cpu",
    )
)
@click.argument("target", type=PATH, metavar="SWEEP.toml|MODEL")
@sweep_options
@click.option("--profile", required=True, metavar="NAME|FILE",
              help="What jobs ask for; see dpsolve profiles.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the job scripts and what the sweep takes.")
@click.option("--probe", is_flag=True,
              help="With --dry-run: solve a few points here to estimate the time.")  # fmt: skip
def submit(target: str, profile: str, dry_run: bool, probe: bool, **options: Any) -> None:
    """Let a SLURM job drive a sweep.

    That job submits the workers' jobs. For sites that end processes on login nodes, and for
    sweeps longer than an ssh session. On sites that let them live: dpsolve sweep --on slurm
    --detach.
    """
    from dpsolve.hpc.plan.check_names import wrong_names_at_once
    from dpsolve.hpc.plan.plan import make_plan
    from dpsolve.hpc.run.sweep import create_store
    from dpsolve.hpc.slurm.commands import check_slurm, kept_back
    from dpsolve.hpc.slurm.directives import check_store_path
    from dpsolve.hpc.slurm.driver_job import check_driver, submit_driver
    from dpsolve.hpc.slurm.profiles import find_profile

    found = find_profile(profile)
    reading = read_target(target, **options)
    check_driver(found.profile)
    check_store_path(Path(reading.sweep.store.path))
    with wrong_names_at_once(reading):
        if dry_run:
            for line in _preview(
                make_plan(reading.sweep, reading.source, found.profile.worker_count), found, probe
            ):
                click.echo(line)
            return
        check_slurm()
        store = create_store(
            reading.sweep, reading.source, command_line(), found.profile.worker_count
        )
    if len(store.receipts()) == len(store.tasks):
        click.echo(f"{store.path} is complete; nothing was submitted.")
        return
    if told := kept_back():
        click.echo(told)
    job = submit_driver(store, found)
    path = shlex.quote(str(store.path))
    click.echo(f"the driver is job {job}")
    click.echo(f"  follow it   dpsolve status {path}")
    click.echo(f"  its log     dpsolve logs {path}")
    click.echo(f"  end it      dpsolve cancel {path}")


def _preview(plan: Plan, found: ProfileFile, probe: bool) -> Iterator[str]:
    from dpsolve.hpc.run.job_paths import jobs_folder
    from dpsolve.hpc.slurm.driver_job import driver_script
    from dpsolve.hpc.slurm.worker_job import job_script

    profile = found.profile
    yield from page(plan)
    jobs = min(profile.max_jobs, -(-len(plan.tasks) // profile.workers_per_job))
    hours = jobs * profile.walltime_seconds / 3600
    yield f"  jobs        at most {jobs} at a time, each {profile.walltime}"
    unit, each = ("GPU", profile.gpus) if profile.gpus else ("CPU", profile.cpus)
    yield f"  {unit}-hours   at most {hours * each:,.4g} for each walltime that passes"
    if probe:
        from dpsolve.hpc.plan.cost_estimate import estimate
        from dpsolve.hpc.progress import span

        time = estimate(plan)
        taken = time.solve_seconds / 3600 * each
        yield (
            f"  time        {span(time.solve_seconds)} of solving as fast as this machine, "
            f"{taken:,.3g} {unit}-hours; {span(time.solve_seconds / jobs)} with {jobs} jobs"
        )
    kept = jobs_folder(plan.path) / "profile.toml"
    yield "\n# --- the driver's job ---------------------------------------------------------\n"
    yield driver_script(profile, kept, plan.path)
    yield "# --- each worker's job: the address is the driver's, once it runs ---------------\n"
    keys = jobs_folder(plan.path) / "keys-OF-THE-RUN"
    yield job_script(profile, plan.path, "tls://DRIVER:PORT", keys)


@click.command(
    epilog=examples(
        "dpsolve logs growth.zarr", "dpsolve logs growth.zarr --failed",
        "dpsolve logs growth.zarr --task 17 --lines 40",
    )
)  # fmt: skip
@click.argument("store", type=PATH)
@click.option("--failed", is_flag=True, help="Every attempt that went wrong, with its log.")
@click.option("--task", type=click.IntRange(min=0), help="Every attempt at one task.")
@click.option("--lines", type=click.IntRange(min=0), default=10, show_default=True,
              help="How much of each log's end to show.")  # fmt: skip
def logs(store: str, failed: bool, task: int | None, lines: int) -> None:
    """Find and show the logs of a sweep's jobs.

    Without options: all of them, the latest last, with the end of the latest.
    """
    from dpsolve.hpc.run.job_logs import attempts, excerpt, log_files, tail
    from dpsolve.hpc.store.store import open_store

    opened = open_store(store)
    if failed or task is not None:
        wanted = [
            a for a in attempts(opened) if (a.failed or not failed) and task in (None, a.task)
        ]
        if not wanted:
            click.echo("there is no such attempt in the store's event log.")
        for attempt in wanted:
            click.echo(str(attempt))
            if attempt.log is not None:
                shown = excerpt(attempt.log, attempt.task, lines)
                click.echo("\n".join(f"      {line}" for line in shown))
        return
    found = log_files(opened)
    if not found:
        click.echo(f"{store} has no logs: no job has worked on it.")
        return
    for path in found:
        click.echo(f"{printable(str(path))}  ({path.stat().st_size:,} bytes)")
    click.echo(f"\nthe end of {printable(found[-1].name)}:")
    click.echo("\n".join(f"    {line}" for line in tail(found[-1], lines)))


@click.command(epilog=examples("dpsolve cancel growth.zarr"))
@click.argument("store", type=PATH)
def cancel(store: str) -> None:
    """End a sweep's driver and its jobs.

    What is committed stays, and the sweep can be resumed.
    """
    from dpsolve.hpc.slurm.cancel_jobs import cancel_all
    from dpsolve.hpc.store.store import open_store

    for line in cancel_all(open_store(store)):
        click.echo(printable(line))

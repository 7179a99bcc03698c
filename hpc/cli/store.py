"""Commands ``status``, ``verify``, ``doctor``."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsolve.hpc.terminal_text import printable

from .options import PATH, examples, trust_option, word_for

if TYPE_CHECKING:
    from dpsolve.hpc.store.event_log import Event
    from dpsolve.hpc.store.status import StoreStatus


@click.command(
    epilog=examples(
        "dpsolve status growth.zarr", "dpsolve status growth.zarr --json",
        "dpsolve status growth.zarr --events",
    )
)  # fmt: skip
@click.argument("store", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--events", is_flag=True, help="What happened to tasks and jobs, in order of time.")
def status(store: str, as_json: bool, events: bool) -> None:
    """Show how a sweep stands.

    Points by status, accuracy, and the first failures; who drives the sweep, and its SLURM jobs.
    The sweep may be running meanwhile, anywhere.
    """
    from dpsolve.hpc.slurm.cancel_jobs import read_activity
    from dpsolve.hpc.store.event_log import read_events
    from dpsolve.hpc.store.status import read_status
    from dpsolve.hpc.store.store import open_store

    if events:
        found_events = read_events(open_store(store))
        table = [{"time": e.time, "writer": e.writer, "what": e.what} | e.facts
                 for e in found_events]  # fmt: skip
        click.echo(json.dumps(table) if as_json else "\n".join(map(_shown, found_events)))
        return
    found, activity = read_status(store), read_activity(open_store(store))
    if as_json:
        plain = _plain(found) | {"activity": dataclasses.asdict(activity)}
        click.echo(json.dumps(plain, indent=2))
    else:
        text = "\n".join(filter(None, (found.in_words(goes_on=activity.alive), str(activity))))
        click.echo(printable(text, lines=True))


def _shown(event: Event) -> str:
    return printable(str(event))


def _plain(found: StoreStatus) -> dict[str, Any]:
    sums = ("points", "solved", "inexact", "failed", "pending", "tasks", "committed", "error_bound")
    table = {name: getattr(found, name) for name in sums} | dataclasses.asdict(found)
    for part, group in zip(table["groups"], found.groups, strict=True):
        part["pending"] = group.pending
    plain = _without_nan(table)
    assert isinstance(plain, dict)
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return str(value) if isinstance(value, Path) else value


@click.command(
    epilog=examples(
        "dpsolve verify growth.zarr",
        "dpsolve verify growth.zarr --sample 200 --seed 1",
        "dpsolve verify growth.zarr --all",
    )
)
@click.argument("store", type=PATH)
@click.option("--all", "all_points", is_flag=True, help="Check every point, and all its states.")
@click.option("--sample", type=click.IntRange(min=0), default=32, show_default=True,
              help="Number of points to check against the model's definition.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw of the sample.")
@trust_option
@click.pass_context
def verify(
    ctx: click.Context, store: str, all_points: bool, sample: int, seed: int, trust: bool
) -> None:
    """Check a store without using the solver.

    A sample of points is compared with the model's definition, evaluated in NumPy. The checksums
    and records of all points are checked in any case. Exit code 1 if any claim of the store is
    not confirmed; 3 if it would run a model that is neither built in nor of a store that you
    made, and --trust is not given.
    """
    from dpsolve.hpc.progress import progress_for
    from dpsolve.hpc.verify.verification import verify as verify_store

    found = verify_store(
        store, sample=sample, seed=seed, all_points=all_points, progress=progress_for(),
        trust=word_for(trust),
    )  # fmt: skip
    click.echo(str(found))
    ctx.exit(0 if found.ok else 1)


@click.command(epilog=examples("dpsolve doctor", "dpsolve doctor growth.zarr --fix"))
@click.argument("store", type=PATH, required=False)
@click.option(
    "--fix", is_flag=True,
    help="Remove what killed processes left behind, and take back commits whose data are "
    "damaged. Not while a sweep writes here.",
)  # fmt: skip
@trust_option
@click.pass_context
def doctor(ctx: click.Context, store: str | None, fix: bool, trust: bool) -> None:
    """Check the installation, and a store.

    In a store: leftovers of killed processes, missing tasks, damaged files. Exit code 1 if
    something is wrong; 3 if the last check would run a model that is neither built in nor of a
    store that you made, and --trust is not given.
    """
    from dpsolve.hpc.doctor import examine

    faults = 0
    path = Path(store).expanduser() if store else None
    for finding in examine(path, fix=fix, trust=word_for(trust)):
        mark, colour = {"ok": ("ok  ", "green"), "note": ("note", "yellow")}.get(
            finding.level, ("WRONG", "red")
        )
        faults += finding.level == "fault"
        text = printable(finding.text, lines=True)
        click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.subject:<12} {text}")
    ctx.exit(1 if faults else 0)

"""Commands ``status``, ``verify``, ``plot``, ``doctor``."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import UsageError, did_you_mean

from .options import PATH, examples, trust_option, word_for

if TYPE_CHECKING:
    import xarray as xr

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


@click.command(
    epilog=examples(
        "dpsolve plot growth.zarr",
        "dpsolve plot growth.zarr --select alpha=0.35 --output alpha.png",
        "dpsolve plot growth.zarr --var error_bound",
        "dpsolve plot sizes.zarr --group n_k=400 --output sizes.pdf",
    )
)
@click.argument("store", type=PATH)
@click.option("--var", help="What to draw; by default the value and the first policy.")
@click.option("--select", multiple=True, metavar="NAME=VALUE",
              help="Hold a parameter or state fixed, at the nearest value.")  # fmt: skip
@click.option("--group", help="Which sizes, if the sweep has several.")
@click.option("--output", "-o", metavar="FILE", help="The picture; by default STORE.png here.")
def plot(
    store: str, var: str | None, select: tuple[str, ...], group: str | None, output: str | None
) -> None:
    """Draw a store.

    Solutions at a few points spread over the sweep, and a summary over all of them.
    """
    from dpsolve.hpc.store.damage import as_zarr_decodes
    from dpsolve.hpc.sweep_file.overrides import parse_assignment

    chosen: dict[str, str] = {}
    for text in select:
        name, value = parse_assignment(text)
        if not name:
            raise UsageError(f"--select {text}: write --select NAME=VALUE, as in beta=0.95.")
        chosen[name] = value
    try:
        from dpsolve.hpc.plots import picture
    except ModuleNotFoundError as error:
        raise UsageError(_no_matplotlib(error)) from None
    data = _dataset(_opened(store), group)
    target = Path(output or f"{Path(store.rstrip('/')).stem}.png").expanduser()
    try:
        with as_zarr_decodes(Path(store)):
            drawn = picture(data, var, chosen)
        drawn.savefig(target, dpi=130)
    except ModuleNotFoundError as error:
        raise UsageError(_no_matplotlib(error)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {target}: {error}") from error
    click.echo(f"drew {target}")


def _opened(store: str) -> xr.Dataset | xr.DataTree:
    """Open a store, or what ``dpsolve solve --save`` wrote."""
    import xarray as xr

    from dpsolve.hpc.store.open import open as open_results
    from dpsolve.hpc.store.store import is_store
    from dpsolve.hpc.zarr_format import METADATA

    path = Path(store).expanduser()
    if path.is_file() and path.suffix == ".nc":
        solution: xr.Dataset = xr.open_dataset(path, engine="scipy")
        return solution
    if (path / METADATA).is_file() and not is_store(path):
        solution = xr.open_zarr(path, consolidated=False)
        if "model" in solution.attrs:
            return solution
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = open_results(path)
    for each in told:
        click.echo(f"warning: {printable(str(each.message))}", err=True)
    return opened


def _no_matplotlib(error: ModuleNotFoundError) -> str:
    return f"drawing needs {error.name}: pip install 'dpsolve[plot]'"


def _dataset(opened: xr.Dataset | xr.DataTree, group: str | None) -> xr.Dataset:
    """Return the data of one group."""
    import xarray as xr

    if isinstance(opened, xr.Dataset):
        if group is not None:
            raise UsageError(f"--group {group}: the store has one set of sizes, and no groups.")
        return opened
    groups = list(opened.children)
    if group is None:
        group = groups[0]
        others = " | ".join(map(shlex.quote, groups[1:]))
        click.echo(printable(f"drawing {group}; other sizes: --group {others}"))
    if group not in groups:
        raise UsageError(
            f"there is no group '{group}'.{did_you_mean(group, groups)} The store has: "
            f"{', '.join(groups)}."
        )
    return opened[group].to_dataset().assign_attrs(opened.attrs)


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

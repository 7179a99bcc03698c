"""Commands ``plot``, ``report``, ``export``: results as pictures, a page, or another file."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import UsageError, did_you_mean

from .new_file import check_place, new_file, overwrite_option
from .options import PATH, examples

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

group_option = click.option("--group", help="Which sizes, if the sweep has several.")


@click.command(
    epilog=examples(
        "dpsolve plot growth.zarr",
        "dpsolve plot growth.zarr --select alpha=0.35 --output alpha.png",
        "dpsolve plot growth.zarr --var error_bound",
        "dpsolve plot growth.zarr --kind sweep -o sweep.png",
        "dpsolve plot sizes.zarr --group n_k=400 --output sizes.pdf",
    )
)
@click.argument("store", type=PATH)
@click.option("--kind", type=click.Choice(["results", "sweep", "jobs"]), default="results",
              show_default=True, help="Results; a map of status, error and time of all points; or "
              "who solved what when, of a sweep on several workers.")  # fmt: skip
@click.option("--var", help="What to draw; by default the value and the first policy.")
@click.option("--select", multiple=True, metavar="NAME=VALUE",
              help="Hold a parameter or state fixed, at the nearest value.")  # fmt: skip
@group_option
@click.option("--output", "-o", metavar="FILE", type=PATH,
              help="The picture; by default STORE.png here.")  # fmt: skip
@overwrite_option
def plot(
    store: str,
    kind: str,
    var: str | None,
    select: tuple[str, ...],
    group: str | None,
    output: str | None,
    overwrite: bool,
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
    if kind != "results" and (var or chosen):
        raise UsageError(f"--kind {kind} draws no variable and no selection: leave these out.")
    target = Path(output or f"{Path(store.rstrip('/')).stem}.png").expanduser()
    check_place(target, overwrite)
    try:
        with as_zarr_decodes(Path(store)):
            drawn = _drawn(store, kind, var, chosen, group)
        with new_file(target, overwrite) as draft:
            drawn.savefig(draft, dpi=130)
    except ModuleNotFoundError as error:
        raise UsageError(f"drawing needs {error.name}: pip install 'dpsolve[plot]'") from None
    except ValueError as error:  # a suffix that Matplotlib does not know
        raise UsageError(f"cannot write {target}: {error}") from error
    click.echo(f"drew {target}")


@click.command(
    epilog=examples(
        "dpsolve report growth.zarr",
        "dpsolve report growth.zarr -o paper/appendix.html --overwrite",
    )
)
@click.argument("store", type=PATH)
@click.option("--output", "-o", metavar="FILE", type=PATH,
              help="The page; by default STORE.html here.")  # fmt: skip
@overwrite_option
def report(store: str, output: str | None, overwrite: bool) -> None:
    """Write a page about a store.

    One HTML file with its pictures in it, for a browser, a phone or a mail; it needs no network.
    The sweep may be unfinished. The model's source is shown, and never run.
    """
    target = Path(output or f"{Path(store.rstrip('/')).stem}.html").expanduser()
    if target.suffix not in (".html", ".htm"):
        raise UsageError(f"{target}: a report is a page of HTML; name it FILE.html.")
    check_place(target, overwrite)
    from dpsolve.hpc.report.page import report as write

    page = write(Path(store).expanduser())
    with new_file(target, overwrite) as draft:
        draft.write_text(page, encoding="utf-8")
    click.echo(f"wrote {target}")


@click.command(
    epilog=examples(
        "dpsolve export growth.zarr growth.nc            # all of it, with its labels",
        "dpsolve export growth.zarr moments.csv          # a row per point",
        "dpsolve export growth.zarr value.npz --var value",
    )
)
@click.argument("store", type=PATH)
@click.argument("file", type=PATH)
@click.option("--var", multiple=True, metavar="NAME", help="What to write; by default all.")
@group_option
@overwrite_option
def export(store: str, file: str, var: tuple[str, ...], group: str | None, overwrite: bool) -> None:
    """Write a store as one file.

    The suffix says what: .nc is NetCDF, all arrays with their names and units; .npz is NumPy's;
    .csv and .parquet are tables with a row per point, of parameters, moments and status.
    """
    from dpsolve.hpc.export import check_suffix
    from dpsolve.hpc.export import export as write
    from dpsolve.hpc.store.damage import as_zarr_decodes

    target = Path(file).expanduser()
    check_suffix(target.suffix)
    check_place(target, overwrite)
    groups = _groups(_opened(store), group)
    groups = {name: _chosen(data, var) for name, data in groups.items()}
    pending = sum(int((data["status"] == "pending").sum()) for data in groups.values())
    points = sum(data["status"].size for data in groups.values())
    if pending == points:
        raise UsageError(
            f"{store}: no point is computed yet. To go on: dpsolve resume {shlex.quote(store)}"
        )
    with as_zarr_decodes(Path(store)), new_file(target, overwrite) as draft:
        write(groups, draft, target.suffix)
    if pending:
        click.echo(f"note: {pending:,} of {points:,} points are pending, and NaN there", err=True)
    click.echo(f"wrote {target}")


def _groups(opened: xr.Dataset | xr.DataTree, group: str | None) -> dict[str, xr.Dataset]:
    """Return the data of all groups, or of the one that is asked for."""
    import xarray as xr

    if group is not None or isinstance(opened, xr.Dataset):
        return {group or "": _dataset(opened, group)}
    nodes = {str(name): opened[name] for name in opened.children}
    return {n: x.to_dataset().assign_attrs(opened.attrs | x.attrs) for n, x in nodes.items()}


def _chosen(data: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return the variables that are asked for, and the status, which says what numbers are worth.

    Raises
    ------
    UsageError
        If one is not there.
    """
    known = [str(n) for n in data.data_vars]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the store has no variable '{name}'.{did_you_mean(name, known)} It holds: "
                f"{', '.join(known)}."
            )
    return data[[*names, *({"status"} - {*names})]] if names else data


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


def _drawn(
    store: str, kind: str, var: str | None, chosen: dict[str, str], group: str | None
) -> Figure:
    """Return the picture that is asked for."""
    import dask.threaded
    import matplotlib.figure  # noqa: F401  # before a store is opened: it may be missing

    from dpsolve.hpc.pictures.picture import overview, picture, timeline

    if kind == "jobs":
        return timeline(store)
    data = _dataset(_opened(store), group)
    with dask.config.set(scheduler=dask.threaded.get):  # else it looks for a cluster
        return overview(data) if kind == "sweep" else picture(data, var, chosen)


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

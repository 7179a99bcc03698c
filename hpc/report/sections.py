"""The sections of ``dpsolve report``: each says one thing about a store, in words and tables."""

from __future__ import annotations

import base64
import io
import json
import shlex
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.progress import span
from dpsolve.hpc.store.event_log import read_events
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.outcomes import accuracy

from .markup import Markup, facts, join, number, table, tag

if TYPE_CHECKING:
    import xarray as xr

    from dpsolve.hpc.store.status import StoreStatus
    from dpsolve.hpc.store.store import Store

Groups = Mapping[str, "xr.Dataset"]

STATUSES = ("solved", "inexact", "failed", "pending")
MOST_PICTURES = 4
MOST_ROWS = 40
VERSIONS = ("python", "dpsolve", "jax", "jaxlib", "numpy")
WORST = 8
BOUNDS = {"error_bound": "error bound", "policy_loss": "loss of the policy, at most",
          "consumption_equivalent": "the same, as a share of consumption"}  # fmt: skip
KINDS = {
    "continuum": "The bounds are of the problem itself: they hold at every state between the ends "
    "of the grids, and against every choice of the continuum. They rest on the model being "
    "concave, or on what is declared in its place; the table says whether that was proved.",
    "grid": "The bounds are of the problem whose choices are those of the list. Of a problem with "
    "a continuous choice they say nothing.",
    "exact": "The bounds are of the problem as it is written: nothing in it is continuous.",
}


def groups_of(opened: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the results of each set of sizes, by its name."""
    import xarray as xr

    if isinstance(opened, xr.Dataset):
        return {"": opened}
    nodes = {str(name): opened[name] for name in opened.children}
    return {n: x.to_dataset().assign_attrs(opened.attrs | x.attrs) for n, x in nodes.items()}


def label(data: xr.Dataset, name: str) -> str:
    """Return what a variable is called in words, with its units."""
    attributes = data[name].attrs
    units = attributes.get("units", "")
    return f"{attributes.get('long_name', name)}" + (f" ({units})" if units else "")


def counts(found: StoreStatus) -> Markup:
    """Count the points of each status."""
    shown = [word for word in STATUSES if getattr(found, word) or word == "solved"]
    items = (tag("li", tag("b", f"{getattr(found, w):,}"), w, class_=w) for w in shown)
    return tag("ul", *items, class_="counts", aria_label="Points by status")


def what(store: Store, groups: Groups) -> Markup:
    """Name model, parameters and states."""
    data = next(iter(groups.values()))
    said = {kind: _said(data, kind) for kind in ("fixed", "sizes")}
    swept = [
        (name, label(data, name), int(np.unique(x := np.asarray(c.values)).size),
         float(np.min(x)), float(np.max(x)))
        for name, c in data.dpsolve.parameters.items()
    ]  # fmt: skip
    dims = data["status"].dims
    states = [
        (str(n), label(data, str(n)), data.sizes[n], *_ends(data, str(n)))
        for n in data.sizes if n not in dims and n in data.coords
    ]  # fmt: skip
    each = ", ".join(f"{k} = {v}" for k, v in said["fixed"].items())
    sizes = ", ".join(f"{k} = {v}" for k, v in said["sizes"].items())
    lines = facts([
        ("Model", store.source.reference),
        ("Held fixed", each),
        ("Sizes", ", ".join(groups) if len(groups) > 1 else sizes),
    ])  # fmt: skip
    head = ("name", "what", "values", "from", "to")
    tables = [lines]
    if swept:
        tables.append(table("Parameters that vary", head, swept))
    if states:
        tables.append(table("States", ("name", "what", "points", "from", "to"), states))
    return join(tables)


def _ends(data: xr.Dataset, name: str) -> tuple[Any, Any]:
    values = np.asarray(data[name].values)
    return (values.min().item(), values.max().item()) if values.dtype.kind in "iuf" else ("", "")


def _said(data: xr.Dataset, kind: str) -> dict[str, Any]:
    try:
        found = json.loads(str(data.attrs.get(kind, "{}")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def how_well(found: StoreStatus, groups: Groups) -> Markup:
    """Tell what is certified, of what, and where the bounds are widest."""
    worst = accuracy(found.error_bound, found.tol, "worst certified error", found.of_what)
    kinds = {str(data["error_bound"].attrs.get("certifies", "")) for data in groups.values()}
    parts = [
        facts([("Accuracy", worst), *(("Certified", text) for text in found.certifies)]),
        *(tag("p", words) for kind, words in KINDS.items() if kind in kinds),
    ]
    rows = [row for name, data in groups.items() for row in _quantiles(name, data)]
    if rows:
        parts.append(table("Bounds over all points", ("", "median", "90 %", "worst"), rows))
    for name, data in groups.items():
        parts.append(_worst_points(f"Widest bounds{f', {name}' if name else ''}", data))
    return join(parts)


def _quantiles(group: str, data: xr.Dataset) -> Iterator[tuple[Any, ...]]:
    for name, words in BOUNDS.items():
        if name not in data:
            continue
        values = np.asarray(data[name].values, float)
        values = values[np.isfinite(values)]
        if values.size:
            found = (float(x) for x in np.quantile(values, (0.5, 0.9, 1.0)))
            yield f"{words}{f', {group}' if group else ''}", *found


def _worst_points(caption: str, data: xr.Dataset) -> Markup:
    worst = data.dpsolve.worst(WORST)
    names = [str(c) for c in data.dpsolve.parameters]
    shown = [n for n in ("status", "error_bound", "policy_loss", "seconds") if n in worst]
    columns = [np.asarray(worst[n].values).tolist() for n in (*names, *shown)]
    rows = zip(range(1, worst.sizes["worst"] + 1), *columns, strict=True)
    return table(caption, ("", *names, *(n.replace("_", " ") for n in shown)), rows)


def failures(found: StoreStatus, groups: Groups, notes: Sequence[str]) -> Markup:
    """List reasons, each with its first point; what is pending, and what else is wrong."""
    lines: list[Any] = []
    if found.pending:
        again = f"dpsolve resume {shlex.quote(str(found.path))}"
        words = f"{found.pending:,} points are not computed yet. To go on: "
        lines.append(join((words, tag("code", again))))
    lines += [*map(str, found.failures), *found.top_mass, *notes]
    if not lines:
        return tag("p", "Nothing: every point is solved.")
    return tag("ul", *(tag("li", line) for line in lines))


def pictures(groups: Groups) -> Markup:
    """Draw what ``dpsolve plot`` does, for the first few sets of sizes."""
    try:
        from dpsolve.hpc.pictures.picture import picture

        shown = [_figure(picture(data), name, data)
                 for name, data in list(groups.items())[:MOST_PICTURES]
                 if (np.asarray(data["status"].values) != "pending").any()]  # fmt: skip
    except ModuleNotFoundError as error:
        return tag("p", f"Pictures need {error.name}: pip install 'dpsolve[plot]'")
    except UsageError as error:
        return tag("p", error)
    more = len(groups) - MOST_PICTURES
    if more > 0:
        shown.append(tag("p", f"{more} more sets of sizes: dpsolve plot STORE --group NAME"))
    return join(shown)


def _figure(drawn: Any, group: str, data: xr.Dataset) -> Markup:
    raw = io.BytesIO()
    drawn.savefig(raw, format="png", dpi=110)
    titles = [f"{axis.get_ylabel()} over {axis.get_xlabel()}: {axis.get_title()}"
              for axis in drawn.axes if axis.get_xlabel()]  # fmt: skip
    words = "; ".join(" ".join(title.split()) for title in titles)
    source = Markup("data:image/png;base64," + base64.b64encode(raw.getvalue()).decode())
    caption = [tag("figcaption", group)] if group else []
    return tag("figure", tag("img", src=source, alt=f"Plots. {words}"), *caption)


def moments(groups: Groups) -> Markup:
    """Make a table of moments, of as many points as one reads."""
    parts = []
    for group, data in groups.items():
        names = [str(n) for n, a in data.data_vars.items()
                 if str(n).startswith("moment_") and a.dims == data["status"].dims]  # fmt: skip
        if not names:
            continue
        parameters = data.dpsolve.parameters
        status = data["status"]
        columns = [
            np.asarray(data[n].broadcast_like(status).transpose(*status.dims).values).ravel()
            for n in (*parameters, *names)
        ]
        rows = zip(range(1, min(status.size, MOST_ROWS) + 1), *(c.tolist() for c in columns),
                   strict=False)  # fmt: skip
        head = ("", *parameters, *(label(data, n) for n in names))
        parts.append(table(f"Moments{f', {group}' if group else ''}", head, rows))
        if status.size > MOST_ROWS:
            parts.append(tag("p", f"The first {MOST_ROWS} of {status.size:,} points. All of them: "
                             "dpsolve export STORE moments.csv"))  # fmt: skip
    return join(parts)


def cost(store: Store, found: StoreStatus, groups: Groups) -> Markup:
    """Tell time, tasks, jobs and retries."""
    seconds = np.concatenate([np.ravel(data["seconds"].values) for data in groups.values()])
    seconds = seconds[np.isfinite(seconds)]
    events = read_events(store)
    often = {what: sum(e.what == what for e in events) for what in ("retried", "lost", "stop")}
    jobs = {str(e.facts.get("job")) for e in events if e.what == "submitted"}
    told = [f"{n} {word}" for word, n in often.items() if n]
    pairs: list[tuple[str, Any]] = [("Tasks", f"{found.committed:,} of {found.tasks:,} committed")]
    if seconds.size:
        each = (
            f"median {number(float(np.median(seconds)))} s, most {number(float(seconds.max()))} s"
        )
        pairs += [("Time to solve", f"{span(float(seconds.sum()))} in all points together"),
                  ("Per point", each)]  # fmt: skip
    if found.last_commit is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(found.last_commit))
        pairs.append(("Last task", at))
    pairs += [("Device", found.device), ("Jobs", f"{len(jobs)} submitted" if jobs else ""),
              ("Tasks that were lost, stopped or tried again", ", ".join(told))]  # fmt: skip
    return facts(pairs)


def loading(store: Store, groups: Groups) -> Markup:
    """Write the few lines that open the store, here and where dpsolve is not."""
    name = repr(store.path.name)
    first = next(iter(groups))
    data = groups[first]
    one = {n: float(np.ravel(c.values)[0]) for n, c in data.dpsolve.parameters.items()}
    at = ", ".join(f"{k}={v!r}" for k, v in one.items())
    node = f"[{first!r}].dataset" if first else ""
    code = f"""\
        import dpsolve as dp
        ds = dp.open({name}){node}               # lazy: read when used
        one = ds.dpsolve.at({at})
        ds.dpsolve.worst()

        import xarray as xr                      # without dpsolve
        ds = xr.open_{"datatree" if first else "zarr"}({name}){node}
        """
    shell = f"dpsolve export {shlex.quote(store.path.name)} moments.csv      # a row per point"
    lines = textwrap.dedent(code).rstrip()
    return join((tag("pre", tag("code", lines)), tag("pre", tag("code", shell))))


def arrays(groups: Groups) -> Markup:
    """Describe every array: what it is, its units and dimensions."""
    data = next(iter(groups.values()))
    rows = [
        (str(name), label(data, str(name)), a.attrs.get("description", ""),
         " × ".join(f"{d} {n}" for d, n in a.sizes.items()))
        for name, a in data.data_vars.items()
    ]  # fmt: skip
    return table("Arrays", ("name", "called", "what it is", "dimensions"), rows)


def provenance(store: Store) -> Markup:
    """Tell where, when, by what and from which source it was computed."""
    said = store.attributes
    names = [
        "created", "host", "platform", *(f"{package}_version" for package in VERSIONS),
        "git_commit", "model_sha256", "command",
    ]  # fmt: skip
    pairs = [(n.replace("_", " ").capitalize(), said.get(n, "")) for n in names]
    source = tag("details", tag("summary", "The model's source, as it was solved"),
                 tag("pre", tag("code", store.source.source)))  # fmt: skip
    asked = tag("details", tag("summary", "The sweep, as it was asked for"),
                tag("pre", tag("code", _indented(said.get("sweep", "")))))  # fmt: skip
    return join((facts(pairs), source, asked))


def _indented(content: Any) -> str:
    try:
        return json.dumps(json.loads(str(content)), indent=2)
    except ValueError:
        return str(content)

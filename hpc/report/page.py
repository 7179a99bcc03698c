"""The page of ``dpsolve report``: its head, its style, and the order of its sections.

One file, with no script and nothing from elsewhere: it can be mailed, and reads the same in ten
years. A policy in its head forbids scripts, so that not even a hole in the escaping could run any.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from dpsolve._version import __version__
from dpsolve.hpc.store.damage import as_zarr_decodes
from dpsolve.hpc.store.open import open as open_results
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import open_store

from . import sections
from .markup import Markup, join, tag

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --link: #8ab8f0; } }
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; }
dl { display: grid; grid-template-columns: minmax(7rem, auto) 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left;
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.counts { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; list-style: none; }
.counts li { border: 1px solid var(--line); border-left-width: .5rem; border-radius: .3rem;
  padding: .3rem .8rem; background: var(--soft); }
.counts b { font-size: 1.3rem; margin-right: .3rem; }
.counts .solved { border-left-color: #0072b2; } .counts .inexact { border-left-color: #e69f00; }
.counts .failed { border-left-color: #d55e00; } .counts .pending { border-left-color: #999; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .3rem;
  font-size: .85rem; }
figure { margin: 1rem 0; overflow-x: auto; }
img { max-width: 100%; min-width: 40rem; height: auto; background: #fff; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .85rem; }
@media print { nav { display: none; } body { max-width: none; } }
"""


def report(path: Path | str) -> str:
    """Return the page of a store, finished or not; the model's source is shown, and never run.

    Raises
    ------
    StoreError
        If there is no store at `path`, or it is damaged.
    """
    store, found = open_store(path), read_status(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = open_results(path)
    notes = [str(each.message) for each in told]
    with as_zarr_decodes(Path(path)):
        groups = sections.groups_of(opened)
        parts = {
            "What was solved": sections.what(store, groups),
            "How well": sections.how_well(found, groups),
            "What failed, and why": sections.failures(found, groups, notes),
            "Pictures": sections.pictures(groups),
            "Moments": sections.moments(groups),
            "Cost": sections.cost(store, found, groups),
            "How to load it": sections.loading(store, groups),
            "What is stored": sections.arrays(groups),
            "Provenance": sections.provenance(store),
        }
    return _page(
        f"{found.points:,} points of the model {store.source.name}",
        sections.counts(found),
        {title: content for title, content in parts.items() if content},
    )


def _page(title: str, summary: Markup, parts: dict[str, Markup]) -> str:
    names = {part: f"part{i}" for i, part in enumerate(parts)}
    links = (tag("li", tag("a", part, href=f"#{name}")) for part, name in names.items())
    bodies = (
        tag("section", tag("h2", part, id=names[part]), content, aria_labelledby=names[part])
        for part, content in parts.items()
    )
    made = f"Written by dpsolve {__version__}, {time.strftime('%Y-%m-%d %H:%M %z')}."
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), summary,
            tag("nav", tag("ul", *links), aria_label="Parts of this page")),
        tag("main", *bodies),
        tag("footer", tag("p", made)),
    )  # fmt: skip
    page = tag("html", tag("head", join(head, "\n")), body, lang="en")
    return f"<!doctype html>\n{page}\n"

"""``dpsolve report``: one page, whole, escaped, and laid out by a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.report.markup import Markup, tag, text
from dpsolve.hpc.report.page import report

from .conftest import HOSTILE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Elements of a page, with what they hold; refuses tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(stock_store: Path) -> str:
    return report(stock_store)


def run(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*map(str, arguments)], prog_name="dpsolve")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def test_it_says_what_was_solved_how_well_and_how_to_load_it(page: str) -> None:
    found = Page(page)
    said = " ".join(" ".join(found.words).split())
    for words in (
        "6 points of the model stock", "discount factor", "worth of the firm (dollars)",
        "Nothing: every point is solved.", "worst certified error", "mean of profit (dollars)",
        "dp.open('stock.zarr')", "ds.dpsolve.at(beta=0.8, cost=0.1)", "Keep or grow a stock",
        "jax version", "1 of 1 committed", HOSTILE,
    ):  # fmt: skip
        assert words in said or words.capitalize() in said, words
    headings = [e for e, _ in found.elements if re.fullmatch("h[1-6]", e)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    names = {a["id"] for _, a in found.elements if "id" in a}
    assert {a["href"] for e, a in found.elements if e == "a"} == {f"#{name}" for name in names}


def test_nothing_of_a_store_counts_as_markup_and_nothing_comes_from_elsewhere(page: str) -> None:
    elements = Page(page).elements
    assert not {e for e, _ in elements} & {"script", "iframe", "link", "object", "form"}
    assert not [name for _, given in elements for name in given if name.startswith("on")]
    sources = [given["src"] for _, given in elements if "src" in given]
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert tag("p", '<b a="1">&\x1b[31m') == "<p>&lt;b a=&quot;1&quot;&gt;&amp;</p>"
    assert text(Markup("<b>")) == "<b>"
    assert tag("img", alt='"><script>') == '<img alt="&quot;&gt;&lt;script&gt;">'


HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const page = PAGE, widths = [390, 1280], found = [];
function look(width) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => setTimeout(() => {
    const page = frame.contentDocument, images = [...page.images];
    found.push({width, scroll: page.documentElement.scrollWidth,
      client: page.documentElement.clientWidth, title: page.title,
      drawn: images.every(i => i.naturalWidth > 300 && i.alt.length > 20), images: images.length,
      headings: page.querySelectorAll("h2").length,
      small: [...page.querySelectorAll("p, td, dd, li")].filter(
        e => parseFloat(getComputedStyle(e).fontSize) < 12).length});
    const last = found.length == widths.length;
    if (last) document.body.innerHTML = "<pre></pre>";
    if (last) document.querySelector("pre").textContent =
      "FOUND" + JSON.stringify({found, hacked: window.hacked || 0}) + "DONE";
  }, 300);
  frame.srcdoc = page;
  document.body.append(frame);
}
widths.forEach(look);
</script>"""


def browser() -> str:
    """A browser; without one the test fails in CI, and is skipped elsewhere."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        assert "CI" not in os.environ, "no browser, and CI wants the report looked at in one"
        pytest.skip("no Chromium on this machine")
    return found


def test_a_browser_lays_it_out_on_a_phone_and_on_a_desk(page: str, tmp_path: Path) -> None:
    """No sideways scrolling of the page, all pictures drawn, and no script of a store's has run."""
    file = tmp_path / "look.html"
    file.write_text(HARNESS.replace("PAGE", json.dumps(page).replace("</", "<\\/")))
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
        file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    told = re.search("FOUND(.*)DONE", done.stdout)
    assert told is not None, (done.stdout[-2000:], done.stderr[-2000:])
    seen = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["hacked"] == 0
    assert sorted(look["width"] for look in seen["found"]) == [390, 1280]
    for look in seen["found"]:
        assert look["scroll"] <= look["client"] <= look["width"], look
        assert look["title"] == "6 points of the model stock"
        assert (look["images"], look["drawn"], look["headings"], look["small"]) == (1, True, 9, 0)


def test_unfinished_damaged_and_foreign_stores(
    stock_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stock_store, "pending.zarr")
    for commit in Path("pending.zarr/status").glob("c.*"):
        commit.unlink()
    assert run("report", "pending.zarr")[0] == 0
    said = " ".join(Page(Path("pending.html").read_text()).words)
    assert "6 points are not computed yet. To go on:" in said
    shutil.copytree(stock_store, "damaged.zarr")
    for file in Path("damaged.zarr/value").glob("c.*"):
        file.write_bytes(file.read_bytes()[:-40])
    Path("other").mkdir()
    before = {*tmp_path.iterdir()}
    for arguments, code, expected in (
        (("damaged.zarr",), 1, "What is damaged: dpsolve doctor"),
        (("other",), 1, "other is not a store of dpsolve"),
        (("nowhere.zarr",), 1, "nowhere.zarr"),
        (("pending.zarr",), 3, "pending.html exists already, and was left as it is"),
        ((stock_store, "-o", "a.pdf"), 2, "a report is a page of HTML"),
        ((stock_store, "-o", "no/a.html"), 2, "there is no folder no"),
    ):
        told = run("report", *arguments)
        assert (told[0], expected in told[1]) == (code, True), (arguments, told)
        assert {*tmp_path.iterdir()} == before

"""Side by side with the peers, in one run: ``scripts/bench peers [--write] [SECTION ...]``.

Prints Markdown rows, or with ``--write`` puts them in their places in docs/performance.md, each
section between its two comments (and draws docs/pictures/cost.png). Some ten minutes for all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from peers import cost, epidemic, growth, mdpax_problems, savings
from peers.machine import machine
from peers.report import replace_section, table, write_section
from peers.timing import Row

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "savings": savings.rows,
    "cost": cost.rows,
    "mdpax": mdpax_problems.rows,
    "epidemic": epidemic.rows,
    "growth": growth.rows,
}


def main() -> None:
    """Run the sections named, or all."""
    parser = argparse.ArgumentParser(prog="scripts/bench peers", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}, section-wise")
    asked = parser.parse_args()
    unknown = [name for name in asked.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section '{unknown[0]}'; there are: {', '.join(SECTIONS)}")
    print(machine(), flush=True)
    if asked.write:  # now, and not after the first ten minutes
        for name in asked.sections or SECTIONS:
            replace_section(DOCUMENT.read_text(encoding="utf-8"), f"peers {name}", "")
    for name in asked.sections or SECTIONS:
        began = time.perf_counter()
        found = table(SECTIONS[name]())
        print(f"\n{name}, in {time.perf_counter() - began:.0f} s\n\n{found}", flush=True)
        if asked.write:
            write_section(
                DOCUMENT,
                f"peers {name}",
                f"`scripts/bench peers {name}` on {machine()}.\n\n{found}",
            )


if __name__ == "__main__":
    main()

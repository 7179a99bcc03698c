"""The doctor finds what is wrong with a store, and removes only what nobody needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.doctor import Finding, examine

from .conftest import files, run


@pytest.fixture
def store(toy_sweep: Callable[..., Any], tmp_path: Path) -> Path:
    run(toy_sweep())
    return tmp_path / "toy.zarr"


def found(path: Path | None, *, fix: bool = False) -> dict[str, Finding]:
    """The worst finding of each subject."""
    rank = ["ok", "note", "fault"]
    worst: dict[str, Finding] = {}
    for finding in sorted(examine(path, fix=fix), key=lambda f: rank.index(f.level)):
        worst[finding.subject] = finding
    return worst


def test_a_sound_installation_and_a_sound_store(store: Path) -> None:
    assert {finding.level for finding in examine()} == {"ok"}
    findings = found(store)
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["numbers"].text == "float64"
    assert findings["devices"].text == "8 x cpu (cpu)"
    assert findings["tasks"].text == "all 3 are committed"


def test_leftovers_are_shown_and_removed_on_request(store: Path) -> None:
    before = files(store)
    (store / "price" / "c.0.123abc.partial").write_bytes(b"half")
    finding = found(store)["leftovers"]
    assert finding.level == "note"
    assert "price/c.0.123abc.partial" in finding.text
    assert files(store) != before
    assert "removed 1 files" in found(store, fix=True)["leftovers"].text
    assert files(store) == before


def test_a_store_half_made_is_removed_unless_its_maker_lives(store: Path) -> None:
    start = store.parent / f".{store.name}.{platform.node()}-"
    dead, alive = Path(f"{start}999999999.draft"), Path(f"{start}{os.getppid()}.draft")
    for draft in (dead, alive):
        draft.mkdir()
    assert "--fix removes it" in found(store)["draft"].text
    list(examine(store, fix=True))
    assert not dead.exists()
    assert alive.exists()


def test_missing_tasks_are_counted(store: Path) -> None:
    (store / "status" / "c.1").unlink()
    finding = found(store)["tasks"]
    assert (finding.level, finding.text) == (
        "note",
        f"1 of 3 are not committed; go on: dpsolve resume {store}",
    )


def test_a_damaged_number_is_a_fault(store: Path) -> None:
    path = store / "price" / "c.1"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert found(store)["contents"].level == "fault"


def test_a_damaged_status_is_a_fault(store: Path) -> None:
    (store / "status" / "c.1").write_bytes(b"not a chunk")
    assert "1 have a damaged status" in found(store)["tasks"].text


def test_what_is_no_store_is_a_fault(tmp_path: Path) -> None:
    assert found(tmp_path)["store"].level == "fault"
    assert "no store" in found(tmp_path / "nix.zarr")["store"].text


def test_the_command_ends_with_1_if_something_is_wrong(store: Path, tmp_path: Path) -> None:
    def doctor(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["doctor", *arguments])
        return done.exit_code, done.output

    code, text = doctor(str(store))
    assert code == 0
    assert "ok    jax" in text
    code, text = doctor(str(tmp_path))
    assert code == 1
    assert "WRONG store" in text


def test_commands_can_be_typed_and_other_stores_keep_their_drafts(
    store: Path, tmp_path: Path
) -> None:
    odd = store.rename(tmp_path / "a* b.zarr")
    other = tmp_path / ".abc b.zarr.elsewhere-1.draft"
    other.mkdir()
    (odd / "status" / "c.1").unlink()
    findings = found(odd, fix=True)
    assert "draft" not in findings
    assert other.is_dir()
    assert findings["tasks"].text.endswith(f"dpsolve resume '{odd}'")

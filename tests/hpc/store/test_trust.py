"""A store is data: what it keeps runs only for whoever made it, or with the user's word."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.cluster.messages import RunInfo
from dpsolve.hpc.cluster.worker import TaskRunner
from dpsolve.hpc.doctor import examine
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import resume
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.trust import digest, handed_on, key_file, seal, trusted
from dpsolve.hpc.sweep_file import model_source
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.zarr_format import METADATA
from dpsolve.solvers.errors import DamagedError, RefusedError, StoreError

from ..conftest import files, reseal, run

HOSTILE = """
import os, pathlib
import jax.numpy as jnp

pathlib.Path(os.environ["MARKER"]).touch()

def toy(a=1.0, b=2.0, *, n=3):
    return {"price": a * b, "path": (("t",), a + b * jnp.arange(n))}
"""


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def edit(store: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the document that describes a store."""
    file = store / METADATA
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return store


def attribute(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["attributes"].__setitem__(name, value)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there once the model has run."""
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    return tmp_path / "marker"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "toy.py").write_text(HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKER", str(folder / "marker"))
        run(sweep_from({
            "model": f"{folder / 'toy.py'}:toy",
            "grid": {"a": [1.0, 2.0, 3.0]},
            "store": {"points_per_task": 1, "path": str(folder / "toy.zarr")},
        }))  # fmt: skip
    (folder / "toy.zarr" / "status" / "c.1").unlink()
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path, marker: Path) -> Path:
    """A store that this user made, with one of its three tasks to be done."""
    model_source._execute.cache_clear()
    shutil.copy(made / "toy.py", tmp_path)
    return Path(shutil.copytree(made / "toy.zarr", tmp_path / "toy.zarr"))


@pytest.fixture
def foreign(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same store, as another user sees it who unpacked it from an archive."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    return Path(shutil.copytree(own, tmp_path / "unpacked.zarr"))


# -- who may run what ------------------------------------------------------------------------------

COMMANDS = [("verify",), ("doctor",), ("resume",), ("resume", "--detach")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_stranger_s_store_is_refused_naming_what_would_run(
    foreign: Path, marker: Path, words: tuple[str, ...]
) -> None:
    before = files(foreign)
    done = command(words[0], foreign, *words[1:])
    assert done.exit_code == 3, done.output
    for part in ("toy.py:toy", "9 lines", "was made by somebody else", "--trust"):
        assert part in done.output
    assert not marker.exists()
    assert files(foreign) == before


def test_from_python_too(foreign: Path, marker: Path) -> None:
    for call in (
        lambda: dp.load(foreign, a=1.0),
        lambda: dp.verify(foreign),
        lambda: resume(foreign, progress=Silent()),
    ):
        with pytest.raises(RefusedError, match="trust=True"):
            call()
    with pytest.raises(RefusedError, match="is not trusted, and was not run"):
        open_store(foreign).source.load()
    assert not marker.exists()


def test_with_the_user_s_word_it_runs(foreign: Path, marker: Path) -> None:
    assert command("verify", foreign, "--trust").exit_code == 0
    assert marker.exists()
    assert dp.verify(foreign, trust=True).ok
    assert float(dp.load(foreign, trust=True, a=1.0)["price"]) == 2.0
    assert command("doctor", foreign, "--trust").exit_code == 0
    assert command("resume", foreign, "--trust").exit_code == 0
    assert dp.verify(foreign, trust=True).points_pending == 0


def test_somebody_at_a_terminal_is_asked(foreign: Path, marker: Path) -> None:
    asked: list[str] = []

    def answer(question: str, *, yes: bool) -> bool:
        asked.append(question)
        return yes

    with pytest.raises(RefusedError):
        dp.verify(foreign, trust=lambda text: answer(text, yes=False))
    assert not marker.exists()
    assert dp.verify(foreign, trust=lambda text: answer(text, yes=True)).ok
    assert all("This would run the model" in text for text in asked)
    assert len(asked) == 2


def test_one_s_own_store_runs_unasked_wherever_it_went(own: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(own, tmp_path / "moved.zarr"))
    assert command("verify", moved).exit_code == 0
    assert command("doctor", moved).exit_code == 0
    assert float(dp.load(moved, a=3.0)["price"]) == 6.0
    assert command("resume", moved).exit_code == 0


def test_a_built_in_runs_unasked(
    cake: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cake())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    assert dp.verify(tmp_path / "cake.zarr", sample=1).ok
    assert command("resume", tmp_path / "cake.zarr").exit_code == 0


def test_the_file_at_hand_runs_in_place_of_the_stored_one(
    foreign: Path, own: Path, marker: Path
) -> None:
    target = f"{own.parent / 'toy.py'}:toy"
    swept = ["sweep", target, "--grid", "a=1,2,3", "--store", foreign,
             "--with", "store.points_per_task=1"]  # fmt: skip
    done = command(*swept)
    assert done.exit_code == 0, done.output
    assert "verified" in done.output


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("builtin", "evil:toy"), ("module", "evil:toy"), ("module", "cake"), ("script", "toy")],
)
def test_no_kind_of_model_slips_through(
    foreign: Path, marker: Path, kind: str, reference: str, tmp_path: Path
) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(HOSTILE)
    for name, value in (
        ("kind", kind), ("reference", reference), ("folder", str(tmp_path / "evil"))
    ):  # fmt: skip
        edit(foreign, attribute(f"model_{name}", value))
    edit(foreign, lambda d: [d["attributes"].pop(k) for k in ("checksum", "signature")])
    for words in COMMANDS:
        assert command(words[0], foreign, *words[1:]).exit_code in (1, 3)
    with pytest.raises((RefusedError, StoreError)):
        dp.load(foreign, a=1.0)
    assert not marker.exists()


def test_a_sweep_of_one_s_own_file_runs_no_module_that_a_store_names_in_its_place(
    foreign: Path, own: Path, marker: Path, tmp_path: Path
) -> None:
    edit(foreign, attribute("model_kind", "module"))
    edit(foreign, attribute("model_reference", "evil:toy"))
    reseal(foreign)
    done = command("sweep", f"{own.parent / 'toy.py'}:toy", "--grid", "a=1,2,3", "--store", foreign)
    assert done.exit_code == 3
    assert "evil:toy (module)" in done.output


def test_nothing_is_imported_from_a_folder_that_a_store_names(
    own: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is the user's own, and the folder that stands beside it is not."""
    for folder, text in (("evil", HOSTILE), ("installed", "")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a_module_of_both.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    model = HOSTILE.replace('pathlib.Path(os.environ["MARKER"]).touch()', "import a_module_of_both")
    (tmp_path / "toy.py").write_text(model)
    edit(own, attribute("model_source", model))
    edit(own, attribute("model_sha256", hashlib.sha256(model.encode()).hexdigest()))
    edit(own, attribute("model_folder", str(tmp_path / "evil")))
    edit(own, lambda document: document["attributes"].pop("signature"))
    edit(own, attribute("checksum", digest(open_store(own))))
    assert command("resume", own, "--trusted", digest(open_store(own))).exit_code == 0
    (own / "status" / "c.1").unlink()
    done = command("sweep", f"{tmp_path / 'toy.py'}:toy", "--grid", "a=1,2,3", "--store", own)
    assert done.exit_code == 0, done.output
    assert not marker.exists()


def test_a_background_process_imports_a_module_from_where_this_one_does(
    own: Path, tmp_path: Path
) -> None:
    store = trusted(open_store(own))
    assert handed_on(store) == digest(store)
    module = dataclasses.replace(store.source, kind="module", folder=str(tmp_path / "here"))
    with pytest.raises(RefusedError, match="in the foreground"):
        handed_on(dataclasses.replace(store, source=module))


def test_reading_runs_nothing(foreign: Path, marker: Path, tmp_path: Path) -> None:
    assert command("status", foreign).exit_code == 0
    assert command("status", foreign, "--events").exit_code == 0
    assert command("logs", foreign).exit_code == 0
    assert dp.open(foreign).price.values.tolist()[0] == 2.0
    picture = tmp_path / "toy.png"
    assert command("plot", foreign, "--var", "price", "--output", picture).exit_code == 0
    assert not marker.exists()


# -- what was altered ------------------------------------------------------------------------------


def altered(document: dict[str, Any], name: str, old: str, new: str) -> None:
    text = document["attributes"][name]
    assert old in text
    document["attributes"][name] = text.replace(old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model_source", "a * b", "a + b"),
        ("fixed", "2.0", "2.5"),
        ("solve", "268435456", "268435457"),
        ("sweep", "3.0", "4.0"),
    ],
)
def test_nothing_runs_of_a_store_whose_attributes_were_altered(
    own: Path, marker: Path, name: str, old: str, new: str
) -> None:
    trusts = digest(open_store(own))
    edit(own, lambda document: altered(document, name, old, new))
    before = files(own)
    for word in (["resume"], ["resume", "--trust"]):
        done = command(word[0], own, *word[1:])
        assert (done.exit_code, "altered" in done.output) == (3, True)
    with pytest.raises(RefusedError, match="altered"):
        TaskRunner(RunInfo(store=str(own), topic="", trusted=trusts))
    assert not dp.verify(own, trust=True).ok
    assert any(finding.level == "fault" for finding in examine(own))
    assert not marker.exists()
    assert {k: v for k, v in files(own).items() if "ledger" not in k} == before


def test_a_solve_into_an_altered_store_is_refused(tmp_path: Path) -> None:
    given = ["solve", "cake", "--set", "n_x=9", "--store", tmp_path / "one.zarr"]
    assert command(*given).exit_code == 0
    edit(tmp_path / "one.zarr", attribute("dpsolve_version", "0.0.1"))
    done = command(*given)
    assert (done.exit_code, "altered" in done.output) == (3, True)


def test_nor_if_parameters_or_arrays_were(own: Path) -> None:
    coordinate = own / "a" / "c.0"
    held = coordinate.read_bytes()
    values = gzip.decompress(held[:-4])
    coordinate.write_bytes(gzip.compress(values[8:] + values[:8]) + held[-4:])
    assert command("resume", own).exit_code == 3
    coordinate.write_bytes(held)
    for file in (own / METADATA, own / "price" / METADATA):
        file.write_text(file.read_text().replace('"long_name": "price"', '"scale_factor": 2.0'))
    done = command("verify", own)
    assert dp.open(own).price[0] == 4.0  # what xarray makes of it
    assert (done.exit_code, "were altered" in done.output) == (1, True)
    for file in (own / METADATA, own / "price" / METADATA):
        file.write_text(file.read_text().replace('"scale_factor": 2.0', '"long_name": "price"'))
    file = own / "price" / METADATA
    file.write_text(file.read_text().replace('"float64"', '"float32"'))
    done = command("resume", own)
    assert (done.exit_code, "metadata of price differ" in done.output) == (1, True)
    file.write_text("")
    assert "price are damaged: zarr.json is empty" in command("resume", own).output


def test_a_new_checksum_does_not_make_it_one_s_own(own: Path, marker: Path) -> None:
    edit(own, lambda document: altered(document, "model_source", "a * b", "a + b"))
    edit(own, attribute("checksum", digest(open_store(own))))
    done = command("resume", own, "--trust")
    assert (done.exit_code, "after you made it" in done.output) == (3, True)
    edit(own, lambda document: document["attributes"].pop("signature"))
    done = command("resume", own)
    assert (done.exit_code, "does not say who made it" in done.output) == (3, True)
    assert not marker.exists()


def test_a_store_without_a_checksum_is_resumed_with_the_user_s_word(
    cake: Callable[..., Any], tmp_path: Path
) -> None:
    run(cake())
    store = edit(
        tmp_path / "cake.zarr",
        lambda d: [d["attributes"].pop(k) for k in ("checksum", "signature")],
    )
    assert command("resume", store).exit_code == 3
    assert command("resume", store, "--trust").exit_code == 0
    assert dp.verify(store, sample=1).ok


def test_a_worker_trusts_what_its_driver_trusts_and_no_more(foreign: Path, marker: Path) -> None:
    with pytest.raises(RefusedError, match="another store"):
        TaskRunner(RunInfo(store=str(foreign), topic="", trusted="0" * 64))
    with pytest.raises(RefusedError):
        TaskRunner(RunInfo(store=str(foreign), topic=""))
    assert not marker.exists()
    runner = TaskRunner(RunInfo(store=str(foreign), topic="", trusted=digest(open_store(foreign))))
    runner.store.source.load()
    assert marker.exists()


# -- the key ---------------------------------------------------------------------------------------


def test_the_key_is_the_user_s_alone(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    reseal(own)
    file = tmp_path / "config" / "dpsolve" / "store.key"
    assert key_file() == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert command("verify", own).exit_code == 0
    file.chmod(0o644)  # others may have read it, and signed
    done = command("verify", own)
    assert (done.exit_code, "others can read" in done.output) == (3, True)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_file() == tmp_path / ".config" / "dpsolve" / "store.key"


def test_without_a_place_for_a_key_stores_are_made_unsigned(
    toy_sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert run(toy_sweep()).exit_code == 0
    attributes = open_store(tmp_path / "toy.zarr").attributes
    assert "checksum" in attributes
    assert "signature" not in attributes


# -- what leads out of the store, or never ends ----------------------------------------------------


@pytest.mark.parametrize("group", ["../outside", "/tmp", "a/b", "..", ""])
def test_groups_do_not_lead_out_of_the_store(
    toy_sweep: Callable[..., Any], tmp_path: Path, group: str
) -> None:
    run(toy_sweep(grid={"a": [1.0], "n": [3, 4]}))
    store = tmp_path / "toy.zarr"
    shutil.copytree(store / "n=3", tmp_path / "outside")

    def lead_out(document: dict[str, Any]) -> None:
        nodes = document["consolidated_metadata"]["metadata"]
        for name in [name for name in nodes if name.partition("/")[0] == "n=3"]:
            nodes[name.replace("n=3", group)] = nodes.pop(name)
        document["attributes"]["groups"] = json.dumps([group, "n=4"])

    edit(store, lead_out)
    for word in ("status", "resume", "verify", "doctor"):
        done = command(word, store)
        assert done.exit_code == 1, done.output
        assert "leads out of the store" in done.output
    with pytest.raises(DamagedError):
        dp.open(store)


@pytest.mark.parametrize("name", ["../helper.py", "/tmp/helper.py", "a//b.py"])
def test_a_model_s_files_do_not_either(own: Path, name: str) -> None:
    edit(own, attribute("model_files", json.dumps({name: "x = 1"})))
    done = command("resume", own, "--trust")
    assert (done.exit_code, "leads out of the store" in done.output) == (1, True)


def test_no_file_is_read_that_attributes_name(tmp_path: Path) -> None:
    """Of the tables of a sweep the store has the values; a pipe would be read for ever."""
    store = tmp_path / "cake.zarr"
    run(sweep_from({
        "model": "cake",
        "fixed": {"n_x": 9},
        "table": {"file": "p.csv", "columns": {"beta": "beta"}, "values": {"beta": [0.5, 0.6]}},
        "store": {"path": str(store), "points_per_task": 1},
    }))  # fmt: skip
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    edit(store, lambda document: altered(document, "sweep", '"p.csv"', json.dumps(pipe)))
    edit(store, lambda document: altered(document, "sweep", '"cake"', json.dumps(f"{pipe}.py:f")))
    edit(store, attribute("model_folder", pipe))
    reseal(store)
    (store / "status" / "c.1").unlink()
    assert command("status", store).exit_code == 0
    assert command("resume", store).exit_code == 0
    assert dp.verify(store, sample=1).ok
    assert dp.load(store, beta=0.6).status == "solved"


def test_links_and_endless_files_are_refused(own: Path, tmp_path: Path) -> None:
    shutil.move(own / "price", tmp_path / "price")
    (own / "price").symlink_to(tmp_path / "price")
    assert "is a link" in command("resume", own).output
    (own / "price").unlink()
    shutil.move(tmp_path / "price", own / "price")
    (own / "status" / "c.0").unlink()
    (own / "status" / "c.0").symlink_to("/dev/zero")
    os.mkfifo(own / "status" / "c.1")
    assert "1 of 3 committed" in command("status", own).output
    for name in ("status/c.2", METADATA):
        os.truncate(own / name, 2**40)  # a hole, which takes no space
    assert "has 1,099,511,627,776 bytes" in command("status", own).output
    (own / METADATA).unlink()
    os.mkfifo(own / METADATA)
    for word in ("status", "resume", "doctor", "verify"):
        assert "zarr.json is no file" in command(word, own).output


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(own: Path) -> None:
    bomb = gzip.compress(bytes(2**26), 9) + b"1234"
    assert len(bomb) < 2**17
    (own / "status" / "c.0").write_bytes(bomb)
    assert "1 of 3 committed" in command("status", own).output
    assert not dp.verify(own).ok
    (own / "a" / "c.0").write_bytes(bomb)
    done = command("status", own)
    assert (done.exit_code, "unpack to more than 24" in done.output) == (1, True)


def test_chunks_that_unpack_to_gigabytes_are_refused(
    cake: Callable[..., Any], tmp_path: Path
) -> None:
    run(cake())
    store = tmp_path / "cake.zarr"
    shard = store / "value" / "c.0.0"
    content = bytearray(shard.read_bytes())
    content[4:8] = (2**31 - 1).to_bytes(4, "little")  # what Blosc says that a chunk unpacks to
    shard.write_bytes(content)
    assert any("2,147,483,647 bytes in place of" in claim for claim in dp.verify(store).claims)
    with pytest.raises(StoreError, match=r"value of the point beta=0\.5 cannot be read"):
        dp.load(store, beta=0.5)
    assert float(dp.load(store, beta=0.9).error_bound) < 1e-6


def test_more_tasks_or_points_than_files_can_tell_are_refused(own: Path) -> None:
    def grow(document: dict[str, Any], shape: int) -> None:
        for node in document["consolidated_metadata"]["metadata"].values():
            node["shape"][0] = shape

    edit(own, lambda document: grow(document, 10**9))
    assert "1,000,000,000 tasks" in command("status", own).output

    def widen(document: dict[str, Any]) -> None:
        for node in document["consolidated_metadata"]["metadata"].values():
            node["chunk_grid"]["configuration"]["chunk_shape"][0] = 10**9

    edit(own, widen)
    assert "unpack to 8,000,000,000 bytes" in command("status", own).output


def test_a_terminal_obeys_nothing_that_a_store_says(own: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31mred\nok   all is well\u202e"
    for name in ("model_reference", "created", "host", "device", "command"):
        edit(own, attribute(name, evil))
    ledger = own / "status" / "ledger"
    ledger.mkdir(exist_ok=True)
    (ledger / "driver-h-1-2.jsonl").write_text(json.dumps({"t": 1.0, "what": evil, "x": evil}))
    for words in (["status"], ["status", "--events"], ["verify"], ["doctor"], ["resume"]):
        done = CliRunner().invoke(cli, [words[0], str(own), *words[1:]], color=False)
        for bad in ("\x1b", "\x9b", "\u202e", "\x07", "\nok   all", "owned", "[2J"):
            assert bad not in done.output, (words, bad)


def test_the_store_that_was_trusted_is_the_one_that_runs(own: Path, foreign: Path) -> None:
    store = trusted(open_store(own), digest(open_store(own)))
    assert store.source.load() is not None
    seal(open_store(foreign))  # by the other user: theirs, now
    assert trusted(open_store(foreign)).source.load() is not None

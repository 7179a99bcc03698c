"""One driver for a store: the second is refused, a dead one's place is taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.process_alive import process_age
from dpsolve.hpc.run import single_driver
from dpsolve.hpc.run.single_driver import DriverRecord, driver_record, driving
from dpsolve.hpc.slurm.cancel_jobs import cancel_all
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.solvers.errors import RefusedError

from ..conftest import files, run


@pytest.fixture
def store(toy_sweep: Callable[..., Sweep]) -> Store:
    return open_store(run(toy_sweep()).path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT", 0.1), ("STALE", 1.0), ("SETTLE", 0.2)):
        monkeypatch.setattr(single_driver, name, seconds)


def record(store: Store) -> Path:
    return store.path / "status" / "driver.json"


def leave_record(store: Store, silent: float = 0.0, **facts: object) -> None:
    """As a driver that was killed leaves it."""
    given = {
        "id": "x", "host": "elsewhere", "process": 1, "process_start": 1, "job": "",
        "executor": "slurm", "began": 0.0,
    } | facts  # fmt: skip
    record(store).write_text(json.dumps(given))
    now = time.time()
    os.utime(record(store), (now - silent, now - silent))


def drive(store: Store, stop: Callable[[], None] = lambda: None, note: list[str] | None = None):  # type: ignore[no-untyped-def] # a context manager
    notes = note if note is not None else []
    return driving(store, executor="local", stop=stop, note=notes.append)


def test_a_driver_leaves_nothing_behind(store: Store) -> None:
    before = files(store.path)
    with drive(store) as own:
        found = driver_record(store)
        assert found is not None
        assert (found.id, found.process, found.alive) == (own.id, os.getpid(), True)
    assert driver_record(store) is None
    assert files(store.path) == before


def test_the_second_driver_is_refused_and_told_who_the_first_is(store: Store) -> None:
    words = f"process {os.getpid()} on"
    with drive(store), pytest.raises(RefusedError, match=words) as raised, drive(store):
        pytest.fail("two drivers")
    assert raised.value.exit_code == 3
    assert "dpsolve cancel" in str(raised.value)
    with drive(store):
        pass


def test_a_record_dated_ahead_does_not_block(store: Store) -> None:
    leave_record(store, silent=-86400.0)
    found = driver_record(store)
    assert found is not None
    assert not found.alive
    notes: list[str] = []
    with drive(store, note=notes):
        pass
    assert "dated ahead" in notes[0]


def test_a_record_dated_ahead_that_is_renewed_is_a_driver_s(store: Store) -> None:
    leave_record(store, silent=-86400.0)
    renewing = threading.Timer(0.05, leave_record, (store, -86500.0))
    renewing.start()
    with pytest.raises(RefusedError, match="has a driver"), drive(store):
        pytest.fail("two drivers")
    renewing.join()


def test_of_many_that_begin_at_once_one_drives(store: Store) -> None:
    began, refused = [], []
    ready = threading.Barrier(8)

    def rival() -> None:
        ready.wait()
        try:
            with drive(store):
                began.append(1)
                time.sleep(0.5)
        except RefusedError:
            refused.append(1)

    rivals = [threading.Thread(target=rival) for _ in range(8)]
    for thread in rivals:
        thread.start()
    for thread in rivals:
        thread.join()
    assert (len(began), len(refused)) == (1, 7)


def test_a_killed_driver_of_this_machine_is_replaced_at_once(store: Store) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as process:
        age = process_age(process.pid)
        leave_record(store, host=os.uname().nodename, process=process.pid, process_start=age)
        with pytest.raises(RefusedError), drive(store):
            pass
        process.kill()
    with drive(store) as own:
        assert driver_record(store) == own


def test_a_number_that_came_round_again_is_another_process(store: Store) -> None:
    leave_record(store, host=os.uname().nodename, process=os.getpid(), process_start=1)
    found = driver_record(store)
    assert found is not None
    assert not found.alive
    with drive(store):
        pass


def test_a_driver_elsewhere_counts_while_it_gives_signs(store: Store) -> None:
    leave_record(store)
    with pytest.raises(RefusedError, match="Its last sign came"), drive(store):
        pass


def test_a_silent_driver_elsewhere_is_waited_for_and_then_replaced(store: Store) -> None:
    leave_record(store, silent=0.5)
    notes: list[str] = []
    began = time.monotonic()
    with drive(store, note=notes) as own:
        found = driver_record(store)
        assert found is not None
        assert found.id == own.id
    assert time.monotonic() - began > 0.3
    assert "has been silent" in notes[0]


def test_a_driver_that_was_replaced_stops(store: Store) -> None:
    stopped = threading.Event()
    notes: list[str] = []
    with drive(store, stop=stopped.set, note=notes):
        leave_record(store, id="another")
        assert stopped.wait(5)
    assert "another driver has taken over" in notes[0]
    found = driver_record(store)
    assert found is not None
    assert found.id == "another"  # and its record is left alone


def test_a_damaged_record_is_nobodys(store: Store) -> None:
    record(store).write_text("{")
    assert driver_record(store) is None
    with drive(store):
        assert driver_record(store) is not None


def test_a_file_system_without_links_will_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    with drive(store), pytest.raises(RefusedError), drive(store):
        pass


def test_looking_changes_nothing(store: Store) -> None:
    leave_record(store, silent=5.0)
    before = files(store.path)
    found = driver_record(store)
    assert isinstance(found, DriverRecord)
    assert found.silence == pytest.approx(5.0, abs=2.0)
    assert files(store.path) == before


def test_a_sweep_under_way_is_refused(toy_sweep: Callable[..., Sweep]) -> None:
    from dpsolve.hpc.run.sweep import create_store
    from dpsolve.hpc.sweep_file.model_source import resolve

    sweep = toy_sweep("busy.zarr")
    store = create_store(sweep, resolve(sweep.model))
    with drive(store), pytest.raises(RefusedError, match="has a driver already"):
        run(sweep)
    assert run(sweep).solved == 3


def test_cancel_ends_this_stores_driver_and_no_other_process(
    store: Store, toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    """A store may come from anywhere, with the record of any process in it."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from dpsolve.hpc.run.single_driver import driving\n"
        "from dpsolve.hpc.store.store import open_store\n"
        "with driving(open_store(Path(sys.argv[1])), executor='local', stop=print, note=print):\n"
        "    print('drives', flush=True); time.sleep(60)"
    )
    other = open_store(run(toy_sweep("other.zarr")).path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(other.path)], stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        for forged in (
            record(other).read_text(),  # of another store's driver
            json.dumps(json.loads(record(other).read_text()) | {"process": os.getpid(),
                       "process_start": process_age(os.getpid())}),
        ):  # fmt: skip
            record(store).write_text(forged)
            (said,) = cancel_all(store)
            assert "does not show that it is: no signal was sent" in said
        for everybody in (-1, 0, "self", None):
            leave_record(store, host=os.uname().nodename, process=everybody, process_start=0)
            assert driver_record(store) is None
            assert list(cancel_all(store)) == ["nothing works on this store."]
        assert driver.poll() is None
        (said,) = cancel_all(other)
        assert said.endswith("has ended.")
        assert driver.wait(10) == -signal.SIGTERM


def test_a_terminal_obeys_nothing_that_a_record_says(store: Store) -> None:
    leave_record(store, host="\x1b]0;rm\x07elsewhere", executor="\x9b2J")
    told = CliRunner().invoke(cli, ["cancel", str(store.path)]).output
    assert "elsewhere" in told
    assert not {"\x1b", "\x07", "\x9b"} & set(told)

"""The ledger: events of many writers in order, whatever was torn."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from dpsolve.hpc.run.job_logs import attempts, excerpt, log_files, mark, tail
from dpsolve.hpc.run.job_paths import logs_folder
from dpsolve.hpc.store.event_log import Event, EventLog, folder_of, read_events
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.hpc.sweep_file.fields import Sweep

from ..conftest import done_twice, run


@pytest.fixture
def store(toy_sweep: Callable[..., Sweep]) -> Store:
    return open_store(run(toy_sweep()).path)


def test_a_sweep_in_one_process_keeps_no_ledger(store: Store) -> None:
    assert read_events(store) == []
    assert not folder_of(store).exists()


def test_events_of_several_writers_come_in_the_order_of_time(store: Store) -> None:
    one, other = EventLog(store, "driver"), EventLog(store, "worker")
    one.write("begun", tasks=3)
    other.write("started", task=0)
    one.write("lost", task=0, cause="job", message="its job\nended")
    events = read_events(store)
    assert [event.what for event in events] == ["begun", "started", "lost"]
    assert [event.task for event in events] == [None, 0, 0]
    assert events[1].writer == other.writer
    assert "message its job ended" in str(events[2])
    assert [event.what for event in read_events(store, "worker")] == ["started"]


def test_a_torn_line_is_skipped_and_hides_nothing(store: Store) -> None:
    event_log = EventLog(store, "worker")
    event_log.write("started", task=0)
    event_log.close()
    with event_log.path.open("ab") as file:
        file.write(b'{"t": 1.0, "what": "comm')
    other = EventLog(store, "driver")
    other.write("lost", task=0)
    assert [event.what for event in read_events(store)] == ["started", "lost"]


def test_threads_do_not_mix_their_lines(store: Store) -> None:
    event_log = EventLog(store, "worker")
    words = "x" * 3000
    threads = [
        threading.Thread(target=lambda: [event_log.write("said", words=words) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.facts["words"] for event in read_events(store)] == [words] * 200


def test_readers_of_zarr_do_not_see_it(store: Store) -> None:
    EventLog(store, "worker").write("started", task=0)
    group = zarr.open_group(store.path, mode="r", use_consolidated=False)
    assert "status" in dict(group.members(max_depth=None))  # a warning would be an error here
    assert len(store.receipts()) == len(store.tasks)


def test_work_done_twice_is_found() -> None:
    def told(*events: tuple[str, int]) -> list[Event]:
        return [Event(float(i), "w", what, {"task": t}) for i, (what, t) in enumerate(events)]

    honest = told(("started", 0), ("started", 0), ("committed", 0), ("started", 1))
    assert done_twice(honest) == []
    twice = told(("started", 0), ("committed", 0), ("started", 0), ("committed", 0))
    assert [event.time for event in done_twice(twice)] == [2.0]


def test_every_attempt_is_found_with_its_log(store: Store) -> None:
    worker, driver = EventLog(store, "worker"), EventLog(store, "driver")
    worker.write("joined", job="17")
    for end in ("error", "committed"):
        worker.write("started", task=2)
        worker.write(end, task=2, **({"message": "no root"} if end == "error" else {}))
    worker.write("started", task=1)
    driver.write("lost", task=1, worker=worker.writer, message="scancel")
    log = logs_folder(store.path) / "job-17.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"noise\n{mark(2)}\nTraceback\nno root\n\nmore noise\n")
    found = list(attempts(store))
    assert [(a.task, a.ended, a.failed) for a in found] == [
        (2, "error: no root", True), (2, "committed", False), (1, "lost: scancel", True),
    ]  # fmt: skip
    assert {a.log for a in found} == {log}
    assert excerpt(log, 2, 10) == ["Traceback", "no root"]
    assert excerpt(log, 1, 1) == ["more noise"]


def test_a_store_on_a_disk_that_refuses_is_told(store: Store, tmp_path: Path) -> None:
    from dpsolve.solvers.errors import StoreError

    folder_of(store).write_text("a file stands where the folder belongs")
    with pytest.raises(StoreError):
        EventLog(store, "worker").write("started", task=0)


def test_logs_are_shown_as_a_terminal_may_show_them(store: Store) -> None:
    folder = logs_folder(store.path)
    folder.mkdir(parents=True)
    title, log = "\x1b]0;rm\x07", folder / "job-17.log"
    log.write_text(f"one\n{mark(2)}\nred {title}\x1b[31mink\r\nend\n")
    os.mkfifo(folder / "zz.log")
    assert log_files(store) == [log]
    assert tail(log, 2) == ["red ink", "end"]
    assert tail(log, 0) == []
    assert excerpt(log, 2, 10) == ["red ink", "end"]
    writer = EventLog(store, "worker")
    writer.write("started", task=2)
    writer.write("error", task=2, message=f"{title}no\nroot")
    (attempt,) = attempts(store)
    assert str(attempt).splitlines()[0] == "task 2: error: no root"

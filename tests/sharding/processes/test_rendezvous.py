"""Processes that meet, watch each other and agree; a solve that is left and taken up again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.sharding.processes import group as roll_module
from dpsolve.sharding.processes.group import ProcessGroup
from dpsolve.sharding.processes.rendezvous import ProcessAddress, alone, check_devices, join
from dpsolve.sharding.processes.stepwise import Stepwise, stepwise
from dpsolve.solvers.errors import PeerError, UsageError
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.factory_signature import split
from dpsolve.solvers.options import SolveOptions


class Table:
    """Threads that stand for processes around one coordinator."""

    def __init__(self, processes: int, **given: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"127.0.0.1:{server.getsockname()[1]}"
        self.processes, self.given = processes, given
        self.told: dict[int, str] = {}
        self.rolls: dict[int, ProcessGroup] = {}

    def process_address(self, number: int, **other: Any) -> ProcessAddress:
        return ProcessAddress(self.address, self.processes, number, **(self.given | other))

    def all(self, work: Callable[[int], Any], *which: int) -> dict[int, Any]:
        """Do something in each thread; return what came of it, an error included."""
        found: dict[int, Any] = {}

        def run(number: int) -> None:
            try:
                found[number] = work(number)
            except (PeerError, UsageError) as error:
                found[number] = error

        threads = [threading.Thread(target=run, args=(i,)) for i in which or range(self.processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return found

    def join(self, wait: float = 10.0) -> dict[int, ProcessGroup]:
        self.rolls = self.all(
            lambda i: join(self.process_address(i), wait, lambda text: self.tell(i, text))
        )
        return self.rolls

    def close(self) -> None:
        for group in self.rolls.values():
            group._ended.set()
        for group in self.rolls.values():
            for line in group._lines.values():
                line.close()

    def tell(self, number: int, text: str) -> None:
        self.told[number] = text

    def wait_until_told(self, *who: int, seconds: float = 5.0) -> float:
        began = time.monotonic()
        while not set(who) <= self.told.keys() and time.monotonic() < began + seconds:
            time.sleep(0.01)
        assert set(who) <= self.told.keys(), self.told
        return time.monotonic() - began


@pytest.fixture
def seats() -> Iterator[Callable[..., Table]]:
    made: list[Table] = []

    def make(processes: int, **given: Any) -> Table:
        made.append(Table(processes, **given))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_every_process_hears_what_each_said_in_their_order(seats: Callable[..., Table]):
    table = seats(3)
    rolls = table.join()
    said = table.all(lambda i: [rolls[i].gather([i, turn]) for turn in range(5)])
    assert all(said[i] == [[[0, t], [1, t], [2, t]] for t in range(5)] for i in range(3))
    table.all(lambda i: rolls[i].leave())
    time.sleep(0.2)
    assert not table.told


def test_who_did_not_come_is_named_with_its_host_by_all_who_did(seats: Callable[..., Table]):
    table = seats(3, hosts=("n1", "n2", "n3"))
    found = table.all(lambda i: join(table.process_address(i), 1.0, print), 0, 1)
    for error in found.values():
        assert isinstance(error, PeerError)
        text = str(error)
        assert "process 2 (expected on n3) did not come" in text
        assert table.address in text
        assert "within 1 s" in text
        assert "2 of 3 processes are there" in text
        assert "firewall" in text
        assert "srun" in text


def test_a_coordinator_that_never_comes_is_named(seats: Callable[..., Table]):
    table = seats(2, hosts=("n1", "n2"))
    found = table.all(lambda i: join(table.process_address(i), 1.0, print), 1)
    assert "process 0 (expected on n1) did not come: for 1 s" in str(found[1])
    assert table.address in str(found[1])


def test_two_processes_of_one_number_are_told(seats: Callable[..., Table]):
    table = seats(3)
    numbers = {0: 0, 1: 1, 2: 1}
    found = table.all(lambda i: join(table.process_address(numbers[i]), 5.0, print))
    assert all("two processes have the number 1" in str(error) for error in found.values())


def test_a_process_of_another_job_is_sent_away(seats: Callable[..., Table]):
    table = seats(2)
    found = table.all(lambda i: join(table.process_address(i, run=f"7.{i}"), 1.5, print))
    assert "belongs to another solve (7.1, not 7.0)" in str(found[1])
    assert "process 1 did not come" in str(found[0])
    assert "belongs to another solve" in str(found[0])


def test_who_does_not_know_the_secret_is_not_let_in_and_hears_nothing(
    seats: Callable[..., Table],
) -> None:
    table = seats(2)
    given = {0: b"ours", 1: b"theirs"}
    found = table.all(lambda i: join(table.process_address(i, secret=given[i]), 1.5, print))
    assert "does not know this solve's secret" in str(found[0])
    assert "process 1 did not come" in str(found[0])
    assert "does not know this solve's secret" in str(found[1])


def test_what_was_overheard_opens_nothing(seats: Callable[..., Table]) -> None:
    """Each side draws a number of its own, which the other has to sign."""
    table = seats(2, secret=b"ours")
    heard: list[bytes] = []
    host, _, port = table.address.rpartition(":")

    def listen() -> None:
        with socket.create_server((host, int(port))) as server:
            server.settimeout(10)
            connection, _ = server.accept()
            with connection:
                connection.sendall(b'{"nonce": "0"}\n')
                heard.append(connection.recv(4096))
                connection.sendall(heard[0])  # its own words, as an answer

    thread = threading.Thread(target=listen)
    thread.start()
    found = table.all(lambda i: join(table.process_address(i), 1.0, print), 1)
    thread.join()
    assert "does not know this solve's secret, so it is not process 0" in str(found[1])
    assert b"ours" not in heard[0]
    rolls: dict[int, Any] = {}
    hosting = threading.Thread(target=lambda: rolls.update(table.all(_joining(table), 0)))
    hosting.start()
    with _patiently(host, int(port)) as again:
        again.recv(4096)  # another number this time
        again.sendall(heard[0])
        assert again.recv(4096) == b""
    hosting.join()
    assert "does not know this solve's secret" in str(rolls[0])


def _joining(table: Table) -> Callable[[int], Any]:
    return lambda i: join(table.process_address(i), 1.5, print)


def _patiently(host: str, port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection((host, port), timeout=5)
        except ConnectionRefusedError:
            time.sleep(0.02)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_no_coordinator_listens_on_every_interface(host: str) -> None:
    with pytest.raises(UsageError, match="names every interface"):
        ProcessAddress(f"{host}:29500", 2, 0)


def test_a_secret_is_not_shown_with_its_process() -> None:
    assert "ours" not in repr(ProcessAddress("n1:29500", 2, 0, secret=b"ours"))


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        process_address = ProcessAddress(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(PeerError, match=r"cannot listen at .* a free port"):
            join(process_address, 1.0, print)


@pytest.mark.parametrize("dead", [0, 2])
def test_a_process_that_dies_is_named_to_all_others_within_a_second(
    dead: int, seats: Callable[..., Table]
):
    table = seats(3)
    rolls = table.join()
    rolls[dead]._ended.set()  # its threads stay silent, as a dead process's
    for line in rolls[dead]._lines.values():
        line.close()
    others = {0, 1, 2} - {dead}
    assert table.wait_until_told(*others) < 1.0
    for number in others:
        assert table.told[number].startswith(f"process {dead} on ")
        assert "its connection closed" in table.told[number]
    with pytest.raises(PeerError, match=f"process {dead}"):
        rolls[1].gather()


def test_a_silent_process_counts_as_lost(
    monkeypatch: pytest.MonkeyPatch, seats: Callable[..., Table]
):
    monkeypatch.setattr(roll_module, "SILENCE", 1.0)
    monkeypatch.setattr(roll_module, "BEAT", 0.2)
    table = seats(2)
    rolls = table.join()
    rolls[1]._ended.set()  # it beats no more; its connection stays
    assert table.wait_until_told(0) < 3.0
    assert "no sign of life for 1 s" in table.told[0]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_the_others_with_its_words(
    failing: int, seats: Callable[..., Table]
):
    table = seats(3)
    rolls = table.join()
    rolls[failing].leave("the disk is full")
    table.wait_until_told(*({0, 1, 2} - {failing}))
    for text in table.told.values():
        assert text.startswith(f"process {failing} on ")
        assert "the disk is full" in text


def test_a_round_that_takes_too_long_ends_all(
    monkeypatch: pytest.MonkeyPatch, seats: Callable[..., Table]
):
    monkeypatch.setattr(roll_module, "BEAT", 0.1)
    table = seats(2)
    rolls = table.join()
    with rolls[1].within(0.3, "a round of 7 sweeps"):
        table.wait_until_told(0, 1)
    assert "a round of 7 sweeps took longer than 0 s: a collective hangs" in table.told[0]


@pytest.mark.parametrize(
    ("process_address", "named"),
    [(("n1:1", 2, 2), "process 2 of 2"), (("n1", 2, 0), "HOST:PORT"), (("n1:x", 2, 0), "'n1:x'")],
)
def test_a_seat_that_cannot_be_is_refused(process_address: Any, named: str):
    with pytest.raises(UsageError, match=named):
        ProcessAddress(*process_address)


def test_too_few_devices_are_told_with_what_decides():
    n = jax.device_count()
    with pytest.raises(UsageError) as caught:
        check_devices(alone(), MeshShape(states=n + 1))
    assert f"takes {n + 1} devices, and there are {n}" in str(caught.value)
    assert "XLA_FLAGS='" in str(caught.value)
    assert f"--mesh states={n}" in str(caught.value)
    assert check_devices(alone(), None) == MeshShape(states=n)
    assert check_devices(alone(), MeshShape(states=2)) == MeshShape(states=2)


@pytest.fixture(scope="module")
def four() -> Stepwise:
    """A solve on four devices, compiled."""
    factory = as_factory("savings")
    values, sizes = split(factory, {"continuous": False, "n_a": 37, "n_z": 3, "beta": 0.98})
    options = SolveOptions(tol=1e-7, method="vi")
    found = stepwise(factory, sizes, options, values, MeshShape(states=4))
    assert isinstance(found, Stepwise)
    return found


def to_the_end(found: Stepwise) -> dict[str, Any]:
    while found.running:
        found.advance(1000)
    return {name: np.asarray(x) for name, x in found.results().items()}


@pytest.mark.slow
def test_a_solve_that_is_taken_up_on_its_mesh_ends_with_the_same_bits(four: Stepwise):
    four.begin()
    undisturbed = to_the_end(four)
    four.begin()
    four.advance(50)
    parts = list(four.parts())
    four.begin()
    assert four.sweeps == 0
    four.restore(parts)
    assert four.sweeps == 50
    found = to_the_end(four)
    assert found.keys() == undisturbed.keys()
    for name, x in undisturbed.items():
        assert np.array_equal(found[name], x, equal_nan=True), name
    assert found["iterations"] > 50


@pytest.mark.slow
def test_no_part_is_the_whole_and_copies_are_told_from_members(four: Stepwise):
    four.begin()
    parts = list(four.parts())
    assert [part.box.number for part in parts] == [0, 1, 2, 3]
    assert [part.box.members for part in parts] == [10, 10, 10, 7]
    assert all(part.arrays["v"].shape == (10, 3) for part in parts)
    assert all(part.numbers == parts[0].numbers for part in parts)


def test_points_cannot_be_cut_where_there_is_one():
    factory = as_factory("savings")
    with pytest.raises(UsageError, match=r"one model is one point.*states=4"):
        stepwise(factory, {"continuous": False}, SolveOptions(), {}, MeshShape(points=2, states=2))

"""The processes of one solve: agreement, signs of life, a lost one named.

Process 0 listens at the coordinator's address; the others connect to it and stay connected. Over
these connections

- they meet: who has not come in time is named, with the host where it was expected; - they agree:
:meth:`ProcessGroup.gather` gives every process what each of them said, which is a barrier
  too, and how all of them come to the same decision at the same place;
- each knows that the others live. A process that dies closes its connection, which the others see
  within a second; one that is silent for `SILENCE` seconds (its host lost power or network, or it
  was stopped) counts as lost. Process 0 tells the rest who was lost, and all of them end.

JAX has a heartbeat of its own, but it says little of who was lost, late, in an abort; and a
collective waits for a lost process for as long as the network lets it. So the watching is done by
threads of our own, which need nothing from a main thread that hangs.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from dpsolve.solvers.errors import PeerError

BEAT = 2.0
SILENCE = 20.0
"""Seconds without a sign of life after which a process counts as lost."""

Message = dict[str, Any]
Lost = Callable[[str], None]


@dataclass(frozen=True)
class Member:
    """One of the processes."""

    number: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.number} on {self.host} (pid {self.pid})"

    @classmethod
    def me(cls, number: int) -> Member:
        """Return this process."""
        return cls(number, platform.node(), os.getpid())


class Connection:
    """A connection that carries one JSON message a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def patience(self, seconds: float) -> None:
        """Set how long to wait for a message."""
        self._socket.settimeout(max(seconds, 0.01))

    def send(self, message: Message) -> None:
        """Send a message; raises OSError."""
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """Return the next message, None when the other end is closed; raises TimeoutError."""
        try:
            line = self._file.readline(2**24)
            found = json.loads(line) if line.endswith(b"\n") else None
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._file.close()
            self._socket.close()


class ProcessGroup:
    """The processes of one solve; :func:`.rendezvous.join` makes it.

    Parameters
    ----------
    number : int
        This process.
    members : tuple of Member
        All of them, in order.
    lines : dict of int to Connection
        On process 0, to every other; elsewhere, to process 0.
    lost : callable
        Is told who was lost, in words, from a thread of the group; it should end this process, for
        the main thread may hang in a collective.
    port : int
        A free port on the coordinator's host, for JAX.
    """

    def __init__(
        self,
        number: int,
        members: tuple[Member, ...],
        lines: Mapping[int, Connection],
        lost: Lost,
        port: int = 0,
    ) -> None:
        self.number, self.members, self.port = number, members, port
        self._lines, self._lost = dict(lines), lost
        self._change = threading.Condition()
        self._said: dict[int, dict[int, Any]] = {}
        self._answers: dict[int, list[Any]] = {}
        self._turn = 0
        self._ended = threading.Event()
        self._limit: tuple[float, str] | None = None
        self.loss = ""
        for other, line in self._lines.items():
            line.patience(SILENCE)
            self._start(self._listen, other, line)
        self._start(self._beat)

    @property
    def me(self) -> Member:
        """The member that this process is."""
        return self.members[self.number]

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return len(self.members) == 1

    def gather(self, value: Any = None, *, last: bool = False) -> list[Any]:
        """Return what every process says here, in their order; all wait for the last to come.

        Parameters
        ----------
        value : JSON value
            What this process says.
        last : bool
            Whether nothing more will be said, so that connections may close.

        Raises
        ------
        PeerError
            If a process was lost, where `lost` did not end this one.
        """
        turn, self._turn = self._turn, self._turn + 1
        if self.first:
            self._hear(turn, 0, value, last)
        else:
            try:
                self._lines[0].send({"turn": turn, "value": value, "last": last})
            except OSError:
                self._lose(0, "its connection is broken")
        with self._change:
            self._change.wait_for(lambda: turn in self._answers or self.loss)
            if turn not in self._answers:
                raise PeerError(self.loss)
            return self._answers.pop(turn)

    @contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """End the solve if the block takes longer: a collective that hangs raises nothing."""
        self._limit = (time.monotonic() + seconds, f"{what} took longer than {seconds:.0f} s")
        try:
            yield
        finally:
            self._limit = None

    def leave(self, error: str = "") -> None:
        """Say goodbye; with an `error`, to processes that did not expect it, which end as well."""
        if error and not self._ended.is_set():
            text = f"{self.me} ended with an error: {error}"
            self._tell_all({"lost": text} if self.first else {"error": text})
        elif not self.loss:
            self.gather(last=True)
        self._ended.set()
        for line in self._lines.values():
            line.close()

    def await_loss(self, seconds: float) -> bool:
        """Give a loss time to be noticed: an error here may be but its first consequence.

        Returns
        -------
        bool
            Whether a process was lost, so that a thread of the group is about to end this one.
        """
        with self._change:
            return bool(self._change.wait_for(lambda: self.loss, timeout=seconds))

    # -- in threads -----------------------------------------------------------------------------

    def _start(self, work: Callable[..., None], *given: Any) -> None:
        threading.Thread(target=work, args=given, daemon=True, name="dpsolve-group").start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._tell_all({"beat": True})
            limit = self._limit
            if limit is not None and time.monotonic() > limit[0]:
                text = f"{limit[1]}: a collective hangs, or a device does (seen by {self.me})"
                self._tell_all({"lost" if self.first else "error": text})
                self._end(text)

    def _listen(self, other: int, line: Connection) -> None:
        while True:
            try:
                message = line.receive()
            except TimeoutError:
                return self._lose(other, f"it gave no sign of life for {SILENCE:.0f} s")
            if message is None:
                return self._lose(other, "its connection closed; it was killed, or it crashed")
            if "turn" in message:
                self._hear(message["turn"], other, message["value"], message["last"])
            elif "answer" in message:
                self._answer(message["answer"], message["values"], message["last"])
            elif "error" in message:
                self._tell_all({"lost": message["error"]}, but=other)
                return self._end(message["error"])
            elif "lost" in message:
                return self._end(message["lost"])

    def _hear(self, turn: int, number: int, value: Any, last: bool) -> None:
        with self._change:
            said = self._said.setdefault(turn, {})
            said[number] = value
            if len(said) < len(self.members):
                return
            values = [self._said[turn][i] for i in range(len(self.members))]
            del self._said[turn]
        if last:
            self._ended.set()  # connections may close from now on
        self._tell_all({"answer": turn, "values": values, "last": last})
        self._answer(turn, values, last)

    def _answer(self, turn: int, values: list[Any], last: bool) -> None:
        if last:
            self._ended.set()
        with self._change:
            self._answers[turn] = values
            self._change.notify_all()

    def _lose(self, number: int, how: str) -> None:
        if self._ended.is_set():
            return
        text = f"{self.members[number]} was lost: {how}"
        if self.first:
            self._tell_all({"lost": text}, but=number)
        self._end(text)

    def _end(self, text: str) -> None:
        with self._change:
            if self.loss or self._ended.is_set():
                return
            self.loss = text
            self._change.notify_all()
        self._lost(text)

    def _tell_all(self, message: Message, but: int = -1) -> None:
        for number, line in self._lines.items():
            if number != but:
                with suppress(OSError):  # whoever listens on this line notices
                    line.send(message)


def as_message(members: tuple[Member, ...]) -> list[dict[str, Any]]:
    """Return members as they are sent; :class:`Member` takes each back."""
    return [asdict(member) for member in members]

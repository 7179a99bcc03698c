"""How the processes of one solve find each other and start JAX; which never came.

Process 0 listens at the coordinator's address, and tells the others, once all have come, on which
port of its host JAX's own service is: that port is one that the kernel says is free, so that two
solves on one host do not meet. On a CPU the processes' collectives go through Gloo.

Both sides prove that they know the solve's secret before either believes a word of the other: by a
keyed hash (HMAC) over what they say and a number that the other side has just drawn, so that what
was overheard is of no use. What follows on the connection is neither signed nor encrypted; it is
data, and nothing of it is run. JAX's own service asks nobody for anything: it listens at the
coordinator's address alone, and who reaches that can disturb the solve, or read its arrays.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import jax

from dpsolve.sharding.devices.mesh import MeshShape, devices_seen
from dpsolve.solvers.errors import PeerError, UsageError

from .group import Connection, Lost, Member, Message, ProcessGroup, as_message

HELLO = 5.0  # seconds for a connection to say who it is
CHECK = (
    "Check that every process was started (srun's --ntasks, its log), that they run the same "
    "command, that the coordinator's host is reachable from the others under this name, that no "
    "firewall stands before the port, and that the port is free: --coordinator HOST:PORT names "
    "another."
)


@dataclass(frozen=True)
class ProcessAddress:
    """Which of the processes this is, and where they meet.

    Attributes
    ----------
    coordinator : str
        ``HOST:PORT`` where process 0 listens.
    processes : int
    process : int
        From 0 on.
    hosts : tuple of str
        Where each process is expected, for messages; may be empty.
    run : str
        What this solve is called, so that two do not mix; a SLURM job and step.
    local_devices : tuple of int or None
        Which of its host's GPUs the process takes; None for all that it sees.
    secret : bytes
        What all processes of this solve know, and nobody else.
    """

    coordinator: str
    processes: int
    process: int
    hosts: tuple[str, ...] = ()
    run: str = ""
    local_devices: tuple[int, ...] | None = None
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.processes:
            raise UsageError(
                f"process {self.process} of {self.processes}: the processes are numbered from 0 "
                f"to {self.processes - 1}, each with its own --process-id"
            )
        host, colon, port = self.coordinator.rpartition(":")
        if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(
                f"coordinator '{self.coordinator}': write HOST:PORT, the host of process 0 and a "
                "free port there, for example --coordinator node1:29500"
            )
        if _is_everywhere(self.endpoint[0]):
            raise UsageError(
                f"coordinator '{self.coordinator}' names every interface of a host, and JAX asks "
                "nobody who connects: name one address of process 0's host, which the others reach"
            )

    @property
    def endpoint(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def named(self, number: int) -> str:
        """Return a process by its number and, where that is known, its host."""
        where = f" (expected on {self.hosts[number]})" if number < len(self.hosts) else ""
        return f"process {number}{where}"


def alone() -> ProcessGroup:
    """Return the group of a solve by one process."""
    return ProcessGroup(0, (Member.me(0),), {}, lambda text: None)


def join(address: ProcessAddress, wait: float, lost: Lost) -> ProcessGroup:
    """Wait until all processes have come.

    Parameters
    ----------
    address : ProcessAddress
    wait : float
        Seconds at most.
    lost : callable
        As for :class:`.ProcessGroup`.

    Raises
    ------
    PeerError
        If a process did not come; it is named.
    """
    if address.processes == 1:
        return alone()
    return _host(address, wait, lost) if address.process == 0 else _visit(address, wait, lost)


def _host(address: ProcessAddress, wait: float, lost: Lost) -> ProcessGroup:
    deadline = time.monotonic() + wait
    me = Member.me(0)
    came: dict[int, tuple[Member, _Line]] = {}
    strays: list[str] = []
    try:
        server = socket.create_server(address.endpoint, backlog=address.processes)
    except OSError as error:
        raise PeerError(
            f"{me} cannot listen at the coordinator's address {address.coordinator}: {error}. It "
            "must be an address of this host, where process 0 runs, and a free port: --coordinator "
            "HOST:PORT."
        ) from None
    with server:
        while len(came) < address.processes - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _refuse(came, _who_is_missing(address, came, strays, wait))
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            _admit(address, Connection(connection), came, strays)
    members = (me, *(came[i][0] for i in range(1, address.processes)))
    port = _free_port(address.endpoint[0])
    for _, line in came.values():
        line.answer({"members": as_message(members), "port": port})
    lines = {i: line.connection for i, (_, line) in came.items()}
    return ProcessGroup(0, members, lines, lost, port)


@dataclass(frozen=True)
class _Line:
    """A connection to who says to be of this solve; `nonce` is what the other side has drawn."""

    connection: Connection
    secret: bytes
    nonce: str = ""

    def answer(self, content: Message) -> None:
        """Send what process 0 has to say, with the proof that it is process 0."""
        self.connection.send(_signed(self.secret, "host", self.nonce, content))


def _signed(secret: bytes, role: str, nonce: str, content: Message) -> Message:
    text = json.dumps(content)
    proof = hmac.new(secret, f"{role}\n{nonce}\n{text}".encode(), hashlib.sha256)
    return {"signed": text, "proof": proof.hexdigest()}


def _opened(secret: bytes, role: str, nonce: str, message: Message) -> Message | None:
    """Return what was signed; None if it was not by who knows the secret."""
    text, proof = str(message.get("signed")), str(message.get("proof"))
    meant = hmac.new(secret, f"{role}\n{nonce}\n{text}".encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(meant.encode(), proof.encode()):
        return None
    found: Any = json.loads(text)
    return found if isinstance(found, dict) else None


def _admit(
    address: ProcessAddress,
    connection: Connection,
    came: dict[int, tuple[Member, _Line]],
    strays: list[str],
) -> None:
    """Read who has connected; take it in, or send it away."""
    connection.patience(HELLO)
    try:
        drawn = secrets.token_hex(16)
        connection.send({"nonce": drawn})
        message = connection.receive() or {}
        hello = _opened(address.secret, "visitor", drawn, message)
        if hello is None:
            connection.close()
            strays.append(
                "a process that does not know this solve's secret"
                if "proof" in message
                else "a connection that is none of dpsolve's"
            )
            return
        who = Member(**hello["member"])
        run, processes = str(hello["run"]), int(hello["processes"])
        line = _Line(connection, address.secret, str(hello["nonce"]))
    except (OSError, KeyError, TypeError, ValueError):
        connection.close()
        strays.append("a connection that is none of dpsolve's")
        return
    refusal = ""
    if run != address.run:
        refusal = (
            f"{who} belongs to another solve ({run or 'no job'}, not {address.run or 'no job'})"
        )
    elif processes != address.processes:
        refusal = f"{who} expects {processes} processes, process 0 expects {address.processes}"
    if refusal:
        strays.append(refusal)
        line.answer({"refused": f"{refusal}; the coordinator is {address.coordinator}"})
        connection.close()
    elif who.number in came:
        other = came[who.number][0]
        text = f"two processes have the number {who.number}: {other} and {who}. Each needs its own "
        line.answer({"refused": text + "--process-id."})
        connection.close()
        raise _refuse(came, text + "--process-id.")
    else:
        came[who.number] = who, line


def _refuse(came: dict[int, tuple[Member, _Line]], text: str) -> PeerError:
    for _, line in came.values():
        line.answer({"refused": text})
        line.connection.close()
    return PeerError(text)


def _who_is_missing(
    address: ProcessAddress,
    came: dict[int, tuple[Member, _Line]],
    strays: list[str],
    wait: float,
) -> str:
    missing = ", ".join(address.named(i) for i in range(1, address.processes) if i not in came)
    there = ", ".join(str(who) for who, _ in came.values())
    others = f" Besides, there came: {'; '.join(dict.fromkeys(strays))}." if strays else ""
    return (
        f"{missing} did not come to {address.coordinator} within {wait:.0f} s; "
        f"{len(came) + 1} of {address.processes} processes are there: {Member.me(0)}"
        + (f", {there}" if there else "")
        + f".{others} {CHECK}"
    )


def _visit(address: ProcessAddress, wait: float, lost: Lost) -> ProcessGroup:
    me = Member.me(address.process)
    deadline = time.monotonic() + wait
    line = _connect(address, me, deadline, wait)
    drawn = secrets.token_hex(16)
    # Process 0 counts from its own start, which may be later: it tells who is missing, not this.
    line.patience(deadline - time.monotonic() + wait + HELLO)
    said: Message | None
    try:
        said = line.receive()
        nonce = str((said or {})["nonce"])
        hello: Message = {"member": as_message((me,))[0], "run": address.run, "nonce": drawn}
        hello["processes"] = address.processes
        line.send(_signed(address.secret, "visitor", nonce, hello))
        said = line.receive()
    except (OSError, KeyError):
        said = None
    answer = _opened(address.secret, "host", drawn, said) if said is not None else None
    if answer is None or "refused" in answer:
        line.close()
    if said is None:
        raise PeerError(
            f"{address.named(0)} at {address.coordinator} closed the connection to {me}, or does "
            f"not answer: it failed, or does not know this solve's secret, and its own output says "
            f"so; or another program listens there. {CHECK}"
        )
    if answer is None:
        raise PeerError(
            f"who listens at {address.coordinator} does not know this solve's secret, so it is "
            f"not {address.named(0)}: another solve or another user has that port. {CHECK}"
        )
    if "refused" in answer:
        raise PeerError(str(answer["refused"]))
    members = tuple(Member(**each) for each in answer["members"])
    return ProcessGroup(address.process, members, {0: line}, lost, int(answer["port"]))


def _connect(address: ProcessAddress, me: Member, deadline: float, wait: float) -> Connection:
    while True:
        try:
            return Connection(socket.create_connection(address.endpoint, timeout=2.0))
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerError(
                    f"{address.named(0)} did not come: for {wait:.0f} s {me} found nobody at the "
                    f"coordinator's address {address.coordinator} ({error}). {CHECK}"
                ) from None
            time.sleep(0.2)


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False  # a name


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def start(address: ProcessAddress, wait: float, lost: Lost) -> ProcessGroup:
    """Meet the other processes, and start JAX with them; before JAX has made any array.

    Raises
    ------
    PeerError
        If a process did not come; it is named.
    """
    group = join(address, wait, lost)
    if group.alone:
        return group
    # JAX would take SIGTERM for itself, and a job that is told to end would go on.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    host = address.coordinator.rpartition(":")[0]
    jax.distributed.initialize(
        coordinator_address=f"{host}:{group.port}",
        coordinator_bind_address=f"{host}:{group.port}",  # by default it would listen everywhere
        num_processes=address.processes,
        process_id=address.process,
        local_device_ids=address.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(10, int(wait)),
        heartbeat_timeout_seconds=100,  # the group is quicker, and says who
        shutdown_timeout_seconds=30,
    )
    return group


def end(group: ProcessGroup) -> None:
    """Leave together: no process is missed by one that is not done."""
    group.leave()
    if not group.alone:
        jax.distributed.shutdown()


def check_devices(group: ProcessGroup, mesh: MeshShape | None) -> MeshShape:
    """Compare the devices of all processes with the mesh; by default, all of them cut the states.

    Raises
    ------
    UsageError
        If there are fewer or more than the mesh takes: with what each process sees, and why.
    """
    seen = group.gather([jax.local_device_count(), devices_seen()])
    counts = [count for count, _ in seen]
    mesh = mesh or MeshShape(states=sum(counts))
    if sum(counts) == mesh.size or (group.alone and counts[0] > mesh.size):
        return mesh
    share, rest = divmod(mesh.size, len(counts))
    odd = next((i for i, n in enumerate(counts) if rest or n != share), 0)
    lines = [f"  {who}: {n}" for who, n in zip(group.members, counts, strict=True)]
    remedy = f"Each process must see {share}"
    if rest:
        remedy = f"{mesh.size} is no multiple of the {len(counts)} processes"
    if jax.default_backend() == "cpu" and not rest:
        remedy += f": on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={share}"
    raise UsageError(
        f"the mesh {mesh} takes {mesh.size} devices, and there are {sum(counts)}:\n"
        + "\n".join(lines)
        + f"\nOn {group.members[odd].host}: {seen[odd][1]}.\n{remedy}; or --mesh "
        f"states={sum(counts)}."
    )

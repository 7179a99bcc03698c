"""How the processes of one solve find each other and start JAX; which never came.

Process 0 listens at the coordinator's address, and tells the others, once all have come, on which
port of its host JAX's own service is: that port is one that the kernel says is free, so that two
solves on one host do not meet. On a CPU the processes' collectives go through Gloo.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import jax

from dpsolve.sharding.devices.mesh import MeshShape, devices_seen
from dpsolve.solvers.errors import PeerError, UsageError

from .group import Line, Lost, Member, Roll, as_message

HELLO = 5.0  # seconds for a connection to say who it is
CHECK = (
    "Check that every process was started (srun's --ntasks, its log), that they run the same "
    "command, that the coordinator's host is reachable from the others under this name, that no "
    "firewall stands before the port, and that the port is free: --coordinator HOST:PORT names "
    "another."
)


@dataclass(frozen=True)
class Seat:
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
    """

    coordinator: str
    processes: int
    process: int
    hosts: tuple[str, ...] = ()
    run: str = ""
    local_devices: tuple[int, ...] | None = None

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

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def named(self, number: int) -> str:
        """Return a process by its number and, where that is known, its host."""
        where = f" (expected on {self.hosts[number]})" if number < len(self.hosts) else ""
        return f"process {number}{where}"


def alone() -> Roll:
    """Return the roll of a solve by one process."""
    return Roll(0, (Member.me(0),), {}, lambda text: None)


def join(seat: Seat, wait: float, lost: Lost) -> Roll:
    """Wait until all processes have come.

    Parameters
    ----------
    seat : Seat
    wait : float
        Seconds at most.
    lost : callable
        As for :class:`.Roll`.

    Raises
    ------
    PeerError
        If a process did not come; it is named.
    """
    if seat.processes == 1:
        return alone()
    return _host(seat, wait, lost) if seat.process == 0 else _visit(seat, wait, lost)


def _host(seat: Seat, wait: float, lost: Lost) -> Roll:
    deadline = time.monotonic() + wait
    me = Member.me(0)
    came: dict[int, tuple[Member, Line]] = {}
    strays: list[str] = []
    try:
        server = socket.create_server(seat.address, backlog=seat.processes)
    except OSError as error:
        raise PeerError(
            f"{me} cannot listen at the coordinator's address {seat.coordinator}: {error}. It must "
            "be an address of this host, where process 0 runs, and a free port: --coordinator "
            "HOST:PORT."
        ) from None
    with server:
        while len(came) < seat.processes - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _refuse(came, _who_is_missing(seat, came, strays, wait))
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            line = Line(connection)
            _admit(seat, line, came, strays)
    members = (me, *(came[i][0] for i in range(1, seat.processes)))
    port = _free_port(seat.address[0])
    for _, line in came.values():
        line.send({"members": as_message(members), "port": port})
    return Roll(0, members, {i: line for i, (_, line) in came.items()}, lost, port)


def _admit(seat: Seat, line: Line, came: dict[int, tuple[Member, Line]], strays: list[str]) -> None:
    """Read who has connected; take it in, or send it away."""
    line.patience(HELLO)
    try:
        hello = line.receive() or {}
        who = Member(**hello["member"])
        run, processes = str(hello["run"]), int(hello["processes"])
    except (TimeoutError, KeyError, TypeError, ValueError):
        line.close()
        strays.append("a connection that is none of dpsolve's")
        return
    refusal = ""
    if run != seat.run:
        refusal = f"{who} belongs to another solve ({run or 'no job'}, not {seat.run or 'no job'})"
    elif processes != seat.processes:
        refusal = f"{who} expects {processes} processes, process 0 expects {seat.processes}"
    if refusal:
        strays.append(refusal)
        line.send({"refused": f"{refusal}; the coordinator is {seat.coordinator}"})
        line.close()
    elif who.number in came:
        other = came[who.number][0]
        text = f"two processes have the number {who.number}: {other} and {who}. Each needs its own "
        line.send({"refused": text + "--process-id."})
        line.close()
        raise _refuse(came, text + "--process-id.")
    else:
        came[who.number] = who, line


def _refuse(came: dict[int, tuple[Member, Line]], text: str) -> PeerError:
    for _, line in came.values():
        line.send({"refused": text})
        line.close()
    return PeerError(text)


def _who_is_missing(
    seat: Seat, came: dict[int, tuple[Member, Line]], strays: list[str], wait: float
) -> str:
    missing = ", ".join(seat.named(i) for i in range(1, seat.processes) if i not in came)
    there = ", ".join(str(who) for who, _ in came.values())
    others = f" Besides, there came: {'; '.join(dict.fromkeys(strays))}." if strays else ""
    return (
        f"{missing} did not come to {seat.coordinator} within {wait:.0f} s; "
        f"{len(came) + 1} of {seat.processes} processes are there: {Member.me(0)}"
        + (f", {there}" if there else "")
        + f".{others} {CHECK}"
    )


def _visit(seat: Seat, wait: float, lost: Lost) -> Roll:
    me = Member.me(seat.process)
    deadline = time.monotonic() + wait
    line = _connect(seat, me, deadline, wait)
    line.send({"member": as_message((me,))[0], "run": seat.run, "processes": seat.processes})
    # Process 0 counts from its own start, which may be later: it tells who is missing, not this.
    line.patience(deadline - time.monotonic() + wait + HELLO)
    try:
        answer = line.receive()
    except TimeoutError:
        answer = None
    if answer is None or "refused" in answer:
        line.close()
    if answer is None:
        raise PeerError(
            f"{seat.named(0)} at {seat.coordinator} closed the connection to {me}, or does not "
            f"answer: it failed, and its own output says why; or another program listens there. "
            f"{CHECK}"
        )
    if "refused" in answer:
        raise PeerError(str(answer["refused"]))
    members = tuple(Member(**each) for each in answer["members"])
    return Roll(seat.process, members, {0: line}, lost, int(answer["port"]))


def _connect(seat: Seat, me: Member, deadline: float, wait: float) -> Line:
    while True:
        try:
            return Line(socket.create_connection(seat.address, timeout=2.0))
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerError(
                    f"{seat.named(0)} did not come: for {wait:.0f} s {me} found nobody at the "
                    f"coordinator's address {seat.coordinator} ({error}). {CHECK}"
                ) from None
            time.sleep(0.2)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def start(seat: Seat, wait: float, lost: Lost) -> Roll:
    """Meet the other processes, and start JAX with them; before JAX has made any array.

    Raises
    ------
    PeerError
        If a process did not come; it is named.
    """
    roll = join(seat, wait, lost)
    if roll.alone:
        return roll
    # JAX would take SIGTERM for itself, and a job that is told to end would go on.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    host = seat.coordinator.rpartition(":")[0]
    jax.distributed.initialize(
        coordinator_address=f"{host}:{roll.port}",
        coordinator_bind_address=f"{host}:{roll.port}",  # by default it would listen everywhere
        num_processes=seat.processes,
        process_id=seat.process,
        local_device_ids=seat.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(10, int(wait)),
        heartbeat_timeout_seconds=100,  # the roll is quicker, and says who
        shutdown_timeout_seconds=30,
    )
    return roll


def end(roll: Roll) -> None:
    """Leave together: no process is missed by one that is not done."""
    roll.leave()
    if not roll.alone:
        jax.distributed.shutdown()


def check_devices(roll: Roll, mesh: MeshShape | None) -> MeshShape:
    """Compare the devices of all processes with the mesh; by default, all of them cut the states.

    Raises
    ------
    UsageError
        If there are fewer or more than the mesh takes: with what each process sees, and why.
    """
    seen = roll.gather([jax.local_device_count(), devices_seen()])
    counts = [count for count, _ in seen]
    mesh = mesh or MeshShape(states=sum(counts))
    if sum(counts) == mesh.size or (roll.alone and counts[0] > mesh.size):
        return mesh
    share, rest = divmod(mesh.size, len(counts))
    odd = next((i for i, n in enumerate(counts) if rest or n != share), 0)
    lines = [f"  {who}: {n}" for who, n in zip(roll.members, counts, strict=True)]
    remedy = f"Each process must see {share}"
    if rest:
        remedy = f"{mesh.size} is no multiple of the {len(counts)} processes"
    if jax.default_backend() == "cpu" and not rest:
        remedy += f": on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={share}"
    raise UsageError(
        f"the mesh {mesh} takes {mesh.size} devices, and there are {sum(counts)}:\n"
        + "\n".join(lines)
        + f"\nOn {roll.members[odd].host}: {seen[odd][1]}.\n{remedy}; or --mesh "
        f"states={sum(counts)}."
    )

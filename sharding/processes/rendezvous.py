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

from .group import Connection, Lost, Member, ProcessGroup, as_message

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
    came: dict[int, tuple[Member, Connection]] = {}
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
            line = Connection(connection)
            _admit(address, line, came, strays)
    members = (me, *(came[i][0] for i in range(1, address.processes)))
    port = _free_port(address.endpoint[0])
    for _, line in came.values():
        line.send({"members": as_message(members), "port": port})
    return ProcessGroup(0, members, {i: line for i, (_, line) in came.items()}, lost, port)


def _admit(
    address: ProcessAddress,
    line: Connection,
    came: dict[int, tuple[Member, Connection]],
    strays: list[str],
) -> None:
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
    if run != address.run:
        refusal = (
            f"{who} belongs to another solve ({run or 'no job'}, not {address.run or 'no job'})"
        )
    elif processes != address.processes:
        refusal = f"{who} expects {processes} processes, process 0 expects {address.processes}"
    if refusal:
        strays.append(refusal)
        line.send({"refused": f"{refusal}; the coordinator is {address.coordinator}"})
        line.close()
    elif who.number in came:
        other = came[who.number][0]
        text = f"two processes have the number {who.number}: {other} and {who}. Each needs its own "
        line.send({"refused": text + "--process-id."})
        line.close()
        raise _refuse(came, text + "--process-id.")
    else:
        came[who.number] = who, line


def _refuse(came: dict[int, tuple[Member, Connection]], text: str) -> PeerError:
    for _, line in came.values():
        line.send({"refused": text})
        line.close()
    return PeerError(text)


def _who_is_missing(
    address: ProcessAddress,
    came: dict[int, tuple[Member, Connection]],
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
    line.send({"member": as_message((me,))[0], "run": address.run, "processes": address.processes})
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
            f"{address.named(0)} at {address.coordinator} closed the connection to {me}, or does "
            f"not answer: it failed, and its own output says why; or another program listens "
            f"there. {CHECK}"
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

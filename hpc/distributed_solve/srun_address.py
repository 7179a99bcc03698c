"""Rank, hosts and meeting port of a process, from srun or the command line.

``srun`` tells each process its number, and all of them the nodes of the step. Process 0 is on the
first of these, and meets the others there on a port that follows from the job's and the step's
numbers, so that steps do not meet each other's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    from dpsolve.sharding.processes.rendezvous import ProcessAddress


FIRST_PORT, PORTS = 20000, 12000  # below what kernels hand out by themselves (32768 and above)


def find_address(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ProcessAddress:
    """Return the place of this process; what is given wins over what SLURM says.

    Raises
    ------
    UsageError
        If something is neither given nor to be found.
    """
    from dpsolve.sharding.processes.rendezvous import ProcessAddress

    step = _Step(environment)
    if step.found:
        coordinator = coordinator or f"{step.nodes[0]}:{step.port}"
        processes = step.tasks if processes is None else processes
        process = step.task if process is None else process
    options = {"--coordinator": coordinator, "--processes": processes, "--process-id": process}
    if missing := [name for name, value in options.items() if value is None]:
        inside = (
            f" This is inside SLURM job {step.job}, but not in a step of it: write srun before "
            "dpsolve."
            if step.job
            else ""
        )
        raise UsageError(
            f"--distributed: {', '.join(missing)} not given, and srun did not start this "
            f"process.{inside} Start one process per node or per GPU with srun dpsolve solve ... "
            "--distributed; or each by hand, with --coordinator HOST:PORT --processes N "
            "--process-id I."
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    return ProcessAddress(
        coordinator=coordinator,
        processes=processes,
        process=process,
        hosts=step.hosts(processes),
        run=step.name,
        local_devices=step.local_devices(),
    )


class _Step:
    """The SLURM step of this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._of = environment
        self.job = environment.get("SLURM_JOB_ID", "")
        nodes = environment.get("SLURM_STEP_NODELIST", "")
        self.found = bool(self.job and nodes and "SLURM_PROCID" in environment)
        self.nodes = list(nodes_of(nodes)) if self.found else []
        self.name = f"{self.job}.{environment.get('SLURM_STEP_ID', '0')}" if self.found else ""

    def _number(self, *names: str, default: int = 0) -> int:
        return next((int(self._of[n]) for n in names if self._of.get(n, "").isdigit()), default)

    @property
    def task(self) -> int:
        return self._number("SLURM_PROCID")

    @property
    def tasks(self) -> int:
        return self._number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)

    @property
    def port(self) -> int:
        job, step = self._number("SLURM_JOB_ID"), self._number("SLURM_STEP_ID")
        return FIRST_PORT + (61 * job + step) % PORTS

    def hosts(self, processes: int) -> tuple[str, ...]:
        """Return where each process is expected; nothing if srun spreads them in rarer ways."""
        counts = _counts(self._of.get("SLURM_STEP_TASKS_PER_NODE", ""))
        each = list(zip(self.nodes, counts, strict=False))
        found = [node for node, n in each for _ in range(n)]  # node after node
        way = self._of.get("SLURM_DISTRIBUTION", "block").partition(":")[0]
        if way == "cyclic":
            found = [node for turn in range(max(counts, default=0)) for node, n in each if turn < n]
        return tuple(found) if len(found) == processes and way in ("block", "cyclic") else ()

    def local_devices(self) -> tuple[int, ...] | None:
        """Return this process's share of its node's GPUs, where several processes see them all."""
        visible = [x for x in self._of.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()]
        counts = _counts(self._of.get("SLURM_STEP_TASKS_PER_NODE", ""))
        node = self._number("SLURM_NODEID")
        here = counts[node] if node < len(counts) else 1
        if not self.found or here == 1 or len(visible) < here:
            return None  # a process has the node to itself, or was given GPUs of its own
        share = len(visible) // here
        first = self._number("SLURM_LOCALID") * share
        return tuple(range(first, first + share))


def nodes_of(text: str) -> Iterator[str]:
    """Yield the hosts of a SLURM list: ``n[1-3,07],gpu-a`` are n1, n2, n3, n07 and gpu-a."""
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        yield from _expanded(item)


def _expanded(item: str) -> Iterator[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        yield item
        return
    inside, _, tail = rest.partition("]")
    for part in inside.split(","):
        first, dash, last = part.partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        for number in numbers:
            for end in _expanded(tail):
                yield f"{head}{number:0{len(first)}d}{end}"


def _counts(text: str) -> list[int]:
    """Return the tasks on each node: ``2(x3),1`` are 2, 2, 2 and 1."""
    found: list[int] = []
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        found += [int(number)] * int(times or 1)
    return found

"""How many worker jobs are submitted, when, and what became of them.

dask-jobqueue submits and cancels; when and how many is decided here. Its own `adapt` counts a job
that is gone among its workers until long after, knows nothing of jobs that pend for ever, and
submits all at once. One squeue per `poll` seconds (sooner when a worker was lost) tells how all
jobs stand, by their numbers: a site may rename them.

A job that ends is replaced while there is work, and no cause is endless: after `STILLBORN` jobs in
a row that ended by themselves before their worker was ready, or `IN_VAIN` times `max_jobs` in a row
that ended for whatever cause (cancelled, preempted, a node's failure, forgotten) and between which
no task was committed, the sweep ends with the cause. Each of them is told.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.cluster.worker import MARGIN, SPARE
from dpsolve.hpc.run.job_paths import job_name, logs_folder
from dpsolve.solvers.errors import ClusterError

from . import commands
from .commands import Job
from .worker_process import CANNOT_START

if TYPE_CHECKING:
    from dpsolve.hpc.cluster.coordinator import Loss
    from dpsolve.hpc.cluster.messages import TaskOrder
    from dpsolve.hpc.cluster.retries import Cause
    from dpsolve.hpc.cluster.task_queue import TaskQueue, WorkerState
    from dpsolve.hpc.store.event_log import EventLog
    from dpsolve.hpc.store.store import Store

    from .profiles import Profile
    from .worker_job import Cluster


REFUSED = "0"  # as in worker_job.py, which imports dask

STILLBORN = 3
IN_VAIN = 5
LONGEST_PAUSE = 60.0
IDLE = 10.0
PATIENCE = 5.0
PAUSE = 60.0
SHOWN = 0.5
OWN_FAULT = frozenset({"COMPLETED", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE"})
USUAL = frozenset({"COMPLETED", "TIMEOUT"})
"""How a job ends that did its part."""

Note = Callable[[str], None]


@dataclass
class _Member:
    """A job of ours: its dask name, its number once SLURM gave one, and what is known of it."""

    name: str
    since: float
    id: str = ""
    state: str = "SUBMITTED"
    reason: str = ""
    joined: int = 0
    missed: int = 0
    told: str = ""


class JobPool:
    """Keeps the jobs of one run.

    Parameters
    ----------
    cluster : Cluster
    profile : Profile
    store : Store
    event_log : EventLog
        The driver's.
    note, watch : callable
        Are told what a user should know, and how many jobs there are.
    """

    def __init__(
        self,
        cluster: Cluster,
        profile: Profile,
        store: Store,
        event_log: EventLog,
        note: Note,
        watch: Note,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._profile = profile
        self._store = store
        self._event_log = event_log
        self._note = note
        self._watch = watch
        self._clock = clock
        self._name = job_name(store.path)
        self._members: dict[str, _Member] = {}
        self._dead: dict[str, _Member] = {}  # by number
        self._ended: Counter[str] = Counter()
        self._stillborn = 0
        self._in_vain = 0
        self._least_left = math.inf
        self._polled = self._submitted = -math.inf
        self._not_before = -math.inf
        self._accepted = False
        self._urgent = False
        self._unnumbered: dict[str, _Member] = {}  # submitted, and SLURM has given no number yet
        self._shown = -math.inf

    # -- what the coordinator calls --------------------------------------------------------------

    def tick(self, queue: TaskQueue) -> list[str]:
        """Do what is due; return the workers that are no longer needed."""
        self._learn_numbers()
        self._poll()
        if (left := queue.waiting + queue.sent) < self._least_left:
            self._least_left, self._in_vain = left, 0
        wanted = self._wanted(queue)
        now = self._clock()
        if len(self._members) < wanted:
            if now >= max(self._submitted + self._profile.submit_pause, self._not_before):
                self._submit()
        elif len(self._members) > wanted:
            self._cancel_pending(len(self._members) - wanted)
        self._show()
        return list(self._idle(queue, wanted))

    def joined(self, worker_state: WorkerState, report: dict[str, Any]) -> None:
        """Note that a worker of one of the jobs is at work."""
        member = self._by_id(worker_state.job)
        if member is not None:
            member.joined += 1
            member.state, member.reason = "RUNNING", ""
            self._stillborn = 0

    def unfit(self, report: dict[str, Any]) -> None:
        """Note that a worker of one of the jobs cannot work; the coordinator counts these."""
        member = self._by_id(report["job"])
        if member is not None:
            member.joined += 1

    def returned(self, loss: Loss, report: dict[str, Any]) -> tuple[Cause, str]:
        """Say why a worker was lost, now that its nanny has started another one."""
        before = loss.worker_state.oom_kills
        if report["oom_kills"] > before:
            return "memory", f"the kernel killed it: its job has {self._profile.memory} of memory"
        return "process", f"its process died; job {loss.worker_state.job} lives on"

    def cause(self, loss: Loss) -> tuple[Cause, str] | None:
        """Say why a worker was lost, as SLURM has it; None while it is not decided."""
        member, age = self._by_id(loss.worker_state.job), self._clock() - loss.at
        self._urgent = True
        if member is None:
            return "job", f"its job {loss.worker_state.job} is gone"
        match member.state:
            case "OUT_OF_MEMORY":
                return "memory", f"job {member.id} was out of memory ({self._profile.memory})"
            case "TIMEOUT":
                if loss.lasted > 0.8 * self._profile.walltime_seconds:
                    raise ClusterError(self._too_long(loss.order, loss.lasted, at_least=True))
                return "job", f"job {member.id} came to the end of its walltime"
            case "PENDING":
                return "job", f"job {member.id} was requeued"
            case state if state in commands.ENDED:
                return "job", f"job {member.id} ended: {state.lower()}"
        if age < PATIENCE:
            return None
        if member.state == "COMPLETING":  # how it ended will be known when it has
            return "job", f"job {member.id} is ending"
        return "process", f"its process died; job {member.id} is {member.state.lower()}"

    def late(self, order: TaskOrder, whole: float, message: str) -> None:
        """See to a task that did not fit into the rest of a job."""
        if whole * MARGIN + SPARE > self._profile.walltime_seconds:
            raise ClusterError(self._too_long(order, whole))

    def close(self, patience: float) -> None:
        """See that all jobs end: by themselves, within some seconds, or cancelled."""
        end = self._clock() + patience
        try:
            numbers = [member.id for member in self._members.values() if member.id]
            while self._clock() < end and any(
                job.busy for job in (commands.queue_of(numbers) if numbers else ())
            ):
                time.sleep(0.3)
            # By name, too: a job that SLURM took when nobody heard its number.
            commands.cancel(self._name, numbers=numbers)
        except ClusterError as error:
            self._note(
                f"{error} The jobs end by themselves within {self._profile.death_timeout:.0f} s."
            )

    # -- jobs --------------------------------------------------------------------------------------

    def _wanted(self, queue: TaskQueue) -> int:
        tasks = queue.waiting + queue.sent
        needed = math.ceil(tasks / self._profile.workers_per_job)
        return min(self._profile.max_jobs, max(self._profile.min_jobs, needed, 1))

    def _submit(self) -> None:
        self._submitted = self._clock()
        before = set(self._cluster.worker_spec)
        self._cluster.open_jobs(len(before) + 1)
        for name in set(self._cluster.worker_spec) - before:
            self._members[name] = self._unnumbered[name] = _Member(name, self._clock())

    def _learn_numbers(self) -> None:
        refusals: list[ClusterError] = self._cluster.shared.refusals
        for name, member in list(self._unnumbered.items()):
            number = getattr(self._cluster.workers.get(name), "job_id", None)
            if number:
                del self._unnumbered[name]
            if number == REFUSED:
                self._forget(member)
            elif number:
                member.id, member.state = number, "PENDING"
                self._accepted = True
                self._event_log.write("submitted", job=member.id)
        if refusals:
            error = refusals.pop()
            refusals.clear()
            self._event_log.write("rejected", message=str(error))
            if not self._accepted:
                raise error
            self._not_before = self._clock() + PAUSE
            self._note(f"{error}\nGoing on with {len(self._members)} jobs.")

    def _poll(self) -> None:
        now = self._clock()
        pause = min(1.0, self._profile.poll) if self._urgent else self._profile.poll
        numbers = [member.id for member in self._members.values() if member.id]
        if now < self._polled + pause or not numbers:
            return
        self._polled, self._urgent = now, False
        try:
            found = {job.id: job for job in commands.queue_of(numbers)}
        except ClusterError as error:
            self._note(f"{error} Going on with the jobs there are.")
            self._polled = now + PAUSE  # no hurry with a controller that is busy
            return
        for member in [m for m in self._members.values() if m.id]:
            self._update(member, found.get(member.id))

    def _update(self, member: _Member, job: Job | None) -> None:
        if job is None:
            # A job just submitted may not be listed yet; one that a restarted controller has
            # forgotten never will.
            member.missed += 1
            if member.missed < 3:
                return
            job = Job(member.id, "", "GONE", "", "", "")
        else:
            member.missed = 0
        if job.state != member.state:
            self._event_log.write("job", job=member.id, state=job.state, reason=job.reason,
                               nodes=job.nodes)  # fmt: skip
        member.state, member.reason = job.state, job.reason
        if job.state == "PENDING" and job.reason != member.told and _never(job.reason):
            member.told = job.reason
            self._note(f"{job}: SLURM will not start it as it is; see the profile")
        if job.ended:
            self._bury(member)

    def _bury(self, member: _Member) -> None:
        self._ended[member.state] += 1
        self._in_vain += 1
        if not member.joined and member.state in OWN_FAULT:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise ClusterError(self._explained(member))
            self._replace_later(member, self._stillborn, STILLBORN, pause=2.0**self._stillborn)
        elif self._in_vain >= (most := IN_VAIN * self._profile.max_jobs):
            raise ClusterError(self._given_up(member))
        elif not (member.joined and member.state in USUAL):
            # One loss of each job that there may be at a time is a site's daily business.
            again = self._in_vain - self._profile.max_jobs
            pause = 2.0 ** max(again, 0) if not member.joined or again > 0 else 0.0
            self._replace_later(member, self._in_vain, most, pause=pause)
        self._dead[member.id] = member
        self._forget(member)

    def _replace_later(self, member: _Member, count: int, most: int, *, pause: float) -> None:
        self._not_before = max(self._not_before, self._clock() + min(pause, LONGEST_PAUSE))
        before = "" if member.joined else " before its worker was ready"
        self._note(
            f"job {member.id} ended{before}: {_ending(member)}; it is replaced while there is work "
            f"({count} in a row, at most {most})"
        )

    def _forget(self, member: _Member) -> None:
        self._members.pop(member.name, None)
        self._unnumbered.pop(member.name, None)
        self._cluster.worker_spec.pop(member.name, None)
        self._cluster.open_jobs(len(self._cluster.worker_spec))  # closes what has none

    def _cancel_pending(self, count: int) -> None:
        """Give up jobs that have not begun and are no longer needed."""
        for member in [m for m in self._members.values() if m.id and m.state == "PENDING"][:count]:
            self._event_log.write("cancelled", job=member.id, why="no longer needed")
            self._ended["CANCELLED"] += 1
            self._forget(member)

    def _idle(self, queue: TaskQueue, wanted: int) -> Iterator[str]:
        """Yield the workers of jobs that have had nothing to do for a while."""
        spare = len(self._members) - wanted
        if spare <= 0:
            return
        by_job: dict[str, list[WorkerState]] = {}
        for worker_state in queue.worker_states.values():
            by_job.setdefault(worker_state.job, []).append(worker_state)
        before = self._clock() - IDLE
        for worker_states in by_job.values():
            if spare <= 0:
                return
            if all(not h.orders and not h.leaving and h.idle_since < before for h in worker_states):
                spare -= 1
                yield from (worker_state.address for worker_state in worker_states)

    def _by_id(self, job: str) -> _Member | None:
        alive = (member for member in self._members.values() if member.id == job)
        return next(alive, None) or self._dead.get(job)

    # -- words -------------------------------------------------------------------------------------

    def _show(self) -> None:
        if self._clock() < self._shown + SHOWN:
            return
        self._shown = self._clock()
        states = [member.state for member in self._members.values()]
        running = sum(state in ("RUNNING", "COMPLETING") for state in states)
        pending = [m for m in self._members.values() if m.state in ("PENDING", "SUBMITTED")]
        reasons = {m.reason for m in pending} - {"", "None"}
        why = f" ({', '.join(sorted(reasons))})" if reasons else ""
        ended = sum(self._ended.values())
        self._watch(f"jobs: {running} running, {len(pending)} pending{why}, {ended} ended")

    def _too_long(self, order: TaskOrder, seconds: float, *, at_least: bool = False) -> str:
        size = self._store.tasks[order.task].size
        fits = max(1, int(size * 0.5 * self._profile.walltime_seconds / seconds))
        smaller = (
            f"sweep into a new store with points_per_task = {fits} or less in [store]"
            if fits < size
            else "its single points take that long, so only a longer walltime helps"
        )
        return (
            f"task {order.task} ({size} points) takes {'at least' if at_least else 'about'} "
            f"{seconds:.0f} s, and a job lives {self._profile.walltime_seconds:.0f} s (walltime = "
            f"{self._profile.walltime} in the profile): it would never be done. Raise walltime, or "
            f"{smaller}."
        )

    def _given_up(self, member: _Member) -> str:
        return (
            f"{self._in_vain} jobs in a row ended, and no task was committed between them; the "
            f"last one is job {member.id}: {_ending(member)}. `scontrol show job {member.id}` and "
            "the site's admins may know why; a job that is gone, which SLURM does not know any "
            "more, may have been sent to another cluster. The same command goes on."
        )

    def _explained(self, member: _Member) -> str:
        log = logs_folder(self._store.path) / f"job-{member.id}.log"
        begin = (
            f"{self._stillborn} jobs in a row ended before their worker was ready; the last one is "
            f"job {member.id} ({member.state.lower()})"
        )
        if reason := _reason(log):
            return f"{begin}. It says: {reason}\nIts log is {log}."
        said = "\n".join(f"    {line}" for line in _tail(log))
        return (
            f"{begin}. The end of its log, {log}:\n"
            f"{said or '    (there is no log: did the job see this folder?)'}\n"
            "Often the job does not find Python or dpsolve (python and prologue in the profile), "
            "or does not reach this machine (interface)."
        )


def _never(reason: str) -> bool:
    """Whether a job that pends for this reason will pend for ever."""
    return any(word in reason for word in ("Limit", "Invalid", "Never", "BadConstraints", "Held"))


def _ending(member: _Member) -> str:
    why = f" ({member.reason})" if member.reason not in ("", "None") else ""
    return f"{member.state.lower()}{why}"


def _reason(log: Path) -> str:
    """Return why a worker could not start, where its log has it in a line; its tail hides that."""
    found = [line for line in _tail(log, lines=1000) if line.startswith(CANNOT_START)]
    return found[-1].removeprefix(CANNOT_START).strip() if found else ""


def _tail(path: Path, lines: int = 12) -> Iterable[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ()

"""What dask is given when, and who is to blame for a loss."""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpsolve.hpc.cluster import task_queue
from dpsolve.hpc.cluster.messages import TaskOrder
from dpsolve.hpc.cluster.retries import Retries
from dpsolve.hpc.cluster.task_queue import TaskQueue, WorkerState
from dpsolve.hpc.plan.tasks import Task


@dataclass
class Run:
    """A queue, and what it gave to dask."""

    count: int
    workers: int = 2
    buckets: int = 1
    now: float = 0.0
    retries: Retries = field(default_factory=Retries)
    given: dict[int, TaskOrder] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        made = [Task(i, i % self.buckets, i, i + 1, (i,), (1,)) for i in range(self.count)]
        self.queue = TaskQueue(made, self.retries, lambda: self.now)
        for name in "abcdefgh"[: self.workers]:
            self.queue.joined(WorkerState(name))

    def submit(self) -> list[int]:
        found = []
        for order, _ in self.queue.due(self.calls):
            found.append(order)
            self.calls.add(order.id)
        self.given |= {order.task: order for order in found}
        return [order.task for order in found]

    def begin(self, worker: str, task: int) -> str:
        self.queue.begun(worker, self.given[task].id)
        return self.given[task].id

    def finish(self, task: int, seconds: float | None = 1.0) -> None:
        assert self.queue.done(self.given[task].id, seconds) is not None
        self.calls.discard(self.given[task].id)


def test_a_programs_first_task_goes_alone() -> None:
    run = Run(10, workers=3)
    assert run.submit() == [0]
    run.queue.compiled(0)
    assert run.submit() == [1, 2]


def test_others_begin_with_another_program_meanwhile() -> None:
    run = Run(6, workers=3, buckets=2)
    assert run.submit() == [0, 1]
    run.queue.compiled(1)
    assert run.submit() == [3]


def test_if_the_first_one_ends_without_a_program_another_one_compiles() -> None:
    run = Run(4)
    assert run.submit() == [0]
    run.finish(0, seconds=None)
    run.queue.put_back(0)
    assert run.submit() == [0]


def test_nothing_is_given_before_a_worker_is_there() -> None:
    run = Run(4, workers=0)
    assert run.submit() == []
    run.queue.joined(WorkerState("a"))
    assert run.submit() == [0]


def test_few_tasks_go_one_for_each_free_worker_and_many_by_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until dask counts more than two for each thread, and so keeps them in its queue."""
    monkeypatch.setattr(task_queue, "WINDOW", 10)
    run = Run(100, workers=2)
    run.queue.compiled(0)
    assert run.submit() == [0, 1]
    for task in (0, 1):
        run.queue.done(run.given[task].id, 1.0)
        assert run.submit() == []  # dask does not know yet that its worker is free
        run.calls.discard(run.given[task].id)
        assert run.submit() == [task + 2]
    run.finish(2)
    assert run.submit() == [*range(4, 13)]  # the fifth, and from there on
    assert run.queue.sent == 10
    assert run.queue.waiting == 87


def test_a_worker_that_leaves_counts_for_nothing_more() -> None:
    run = Run(4)
    run.queue.compiled(0)
    run.queue.leaving("a")
    run.queue.leaving("a")
    assert run.submit() == [0]
    run.queue.lost("a")
    assert run.submit() == []


def test_only_the_task_in_work_is_blamed_for_a_loss() -> None:
    run = Run(20)
    run.queue.compiled(0)
    run.submit()
    first = run.begin("a", 0)
    run.now = 7.0
    losses, others = run.queue.lost("a", [first, run.given[1].id, "somebody else's"])
    assert [(loss.order.task, loss.lasted) for loss in losses] == [(0, 7.0)]
    assert [order.task for order in others] == [1]
    assert run.queue.has(first)  # dask may be about to run it again


def test_whoever_dies_without_a_word_may_have_died_of_any_task() -> None:
    """Or a task that kills its process at once would be tried for ever."""
    run = Run(20)
    run.submit()
    held = [run.given[0].id]
    assert [len(found) for found in run.queue.lost("a", held)] == [1, 0]
    assert [len(found) for found in run.queue.lost("a", held)] == [0, 1]  # it never came
    run.queue.leaving("b")
    assert [len(found) for found in run.queue.lost("b", held)] == [0, 1]


def test_a_report_of_a_worker_held_for_dead_is_no_surprise() -> None:
    run = Run(3)
    run.submit()
    key = run.begin("a", 0)
    run.queue.lost("a", [key])
    assert run.queue.done(key, 1.0) is not None
    assert run.queue.done(key, 1.0) is None


def test_a_task_is_expected_to_take_as_long_as_the_longest_of_the_last() -> None:
    run = Run(10, workers=1)
    for task, seconds in enumerate((9.0, 12.0, 10.0)):
        run.submit()
        run.finish(task, seconds)
    assert run.queue.expected(0) == 12.0
    run.submit()
    assert run.given[3].seconds == 12.0
    run.begin("a", 3)
    run.now += 5.0
    assert run.queue.in_work() == [7.0]


def test_what_was_given_before_a_batch_was_found_too_large_is_taken_back() -> None:
    run = Run(8, workers=2)
    run.queue.compiled(0)
    run.submit()
    run.begin("a", 0)
    run.retries.judge(0, "memory", "too large")
    run.retries.worked(0, 1)
    (key,) = run.queue.recall(0)
    assert key == run.given[1].id
    run.calls.discard(key)
    assert run.submit() == [1]
    assert [run.given[n].halvings for n in (0, 1)] == [0, 1]
    assert run.queue.sent == 2


def test_counts_are_right_after_any_course_of_events() -> None:
    """What is kept up to date event by event equals what a look at everything would find."""
    rng = random.Random(0)
    run = Run(60, workers=0, buckets=3)
    queue = run.queue
    done: set[int] = set()
    for step in range(4_000):
        run.now += 0.1
        out = [task for task, order in run.given.items() if queue.has(order.id)]
        workers = list(queue.worker_states)
        match rng.randrange(8):
            case 0 if len(workers) < 8:
                queue.joined(WorkerState(f"w{step}"))
            case 1 if workers and rng.random() < 0.3:
                held = [run.given[task].id for task in out if rng.random() < 0.2]
                losses, others = queue.lost(rng.choice(workers), held)
                for order in [*(loss.order for loss in losses), *others]:
                    queue.done(order.id)
                    run.calls.discard(order.id)
                    queue.put_back(order.task)
            case 2 if workers and rng.random() < 0.1:
                queue.leaving(rng.choice(workers))
            case 3 if out and rng.random() < 0.1:
                for key in queue.recall(rng.choice(out)):
                    run.calls.discard(key)
            case 4 if out and workers:
                run.begin(rng.choice(workers), rng.choice(out))
            case 5 | 6 if out:
                task = rng.choice(out)
                run.finish(task, rng.choice((0.1, 60.0, None)))
                done.add(task)
            case _:
                assert not {*run.submit()} & {*out}
        out = [task for task, order in run.given.items() if queue.has(order.id)]
        assert queue.sent == len(out)
        assert queue.waiting == 60 - len(out) - len(done)
        assert queue._usable == len([w for w in queue.worker_states.values() if not w.leaving])
        assert queue._threads == len(queue.worker_states)
    assert len(done) == 60
    assert all(not w.orders for w in queue.worker_states.values())


def test_dask_decides_who_gets_what() -> None:
    """No submit names a worker, asks for resources, or uses what is private to dask."""
    package = Path(task_queue.__file__).parents[1]
    calls = [
        {keyword.arg for keyword in node.keywords}
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "submit"
    ]
    assert {"key", "priority", "pure"} in calls
    assert all(given <= {"key", "priority", "pure"} for given in calls)

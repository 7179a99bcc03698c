"""Who gets which task, and what becomes of a task that did not end well."""

from __future__ import annotations

import random

import pytest

from dpsolve.hpc.cluster.retries import BUDGET, HOPELESS, Cause, Retries
from dpsolve.hpc.cluster.task_queue import TaskQueue, WorkerState
from dpsolve.hpc.plan.tasks import Task


def tasks(count: int, buckets: int = 1) -> list[Task]:
    return [Task(i, i % buckets, i, i + 1, (i,), (1,)) for i in range(count)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def queue(count: int, clock: Clock, workers: int = 2, buckets: int = 1) -> TaskQueue:
    made = TaskQueue(tasks(count, buckets), Retries(), clock)
    for name in "abcdefgh"[:workers]:
        made.joined(WorkerState(name))
    return made


def sent(made: TaskQueue) -> dict[str, list[int]]:
    """Hand out; return the tasks by worker."""
    for _ in made.orders():
        pass
    return {
        name: [o.task for o, _ in worker_state.orders.values()]
        for name, worker_state in made.worker_states.items()
    }


def finish(made: TaskQueue, worker: str, seconds: float = 1.0) -> int:
    key = next(iter(made.worker_states[worker].orders))
    order = made.done(worker, key, seconds)
    assert order is not None
    return order.task


# -- causes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["error", "process", "memory"])
def test_a_task_is_given_up_when_the_budget_of_its_own_cause_is_spent(cause: Cause) -> None:
    retries = Retries()
    retries.solved()
    verdicts = [retries.judge(7, cause, "no root") for _ in range(BUDGET[cause])]
    assert [v.action for v in verdicts] == ["retry"] * (BUDGET[cause] - 1) + ["give up"]
    assert verdicts[-1].message == f"no root ({BUDGET[cause]} times)"


def test_losses_of_jobs_are_not_the_tasks_fault() -> None:
    retries = Retries()
    for _ in range(BUDGET["job"] - 1):
        assert retries.judge(7, "job", "scancel").action == "retry"
    assert retries.judge(7, "error", "no root").action == "retry"  # counted apart
    assert retries.judge(7, "job", "scancel").action == "stop"


def test_too_little_memory_halves_the_batch_until_it_is_one_point() -> None:
    retries = Retries()
    assert [retries.judge(7, "memory", "too large", tried=n).halvings for n in range(3)] == [
        1,
        2,
        3,
    ]
    assert retries.halvings(7) == 3
    assert retries.halvings(8) == 0
    last = retries.judge(7, "memory", "too large", smallest=True)
    assert last.action == "give up"


def test_a_process_that_dies_without_a_word_keeps_its_batch_and_so_its_bits() -> None:
    retries = Retries()
    assert [retries.judge(7, "process", "died").halvings for _ in range(4)] == [0, 0, 0, 0]


def test_what_was_found_to_fit_is_where_later_tasks_of_the_bucket_begin() -> None:
    retries = Retries()
    for tried in (0, 1):
        retries.judge(7, "memory", "too large", tried=tried)
    assert retries.halvings(8, bucket=0) == 0  # not known to be enough
    retries.worked(0, 2)
    assert (retries.halvings(8, bucket=0), retries.halvings(9, bucket=1)) == (2, 0)
    retries.judge(8, "memory", "still too large", tried=2)
    assert retries.halvings(8, bucket=0) == 3
    retries.judge(10, "memory", "sent before that was known", tried=0)
    assert retries.halvings(10, bucket=0) == 2


def test_a_sweep_in_which_nothing_succeeds_ends() -> None:
    retries = Retries()
    actions = [
        [retries.judge(task, "error", "no module named growth") for _ in range(3)][-1]
        for task in range(HOPELESS)
    ]
    assert [v.action for v in actions] == ["give up"] * (HOPELESS - 1) + ["stop"]
    assert "none succeeded" in actions[-1].message


# -- who gets what -------------------------------------------------------------------------------


def test_a_program_is_compiled_by_one_worker_first(clock: Clock) -> None:
    made = queue(10, clock, workers=3)
    assert sent(made) == {"a": [0], "b": [], "c": []}
    made.compiled(0)
    assert sent(made) == {"a": [0], "b": [1], "c": [2]}


def test_others_begin_with_another_program_meanwhile(clock: Clock) -> None:
    made = queue(6, clock, workers=3, buckets=2)
    assert sent(made) == {"a": [0], "b": [1], "c": []}
    made.compiled(1)
    assert sent(made)["c"] == [3]


def test_if_the_one_that_compiles_is_lost_another_one_compiles(clock: Clock) -> None:
    made = queue(4, clock)
    sent(made)
    ((order, _),) = made.lost("a")
    assert order.task == 0
    assert sent(made) == {"b": [1]}


def test_a_second_task_waits_with_the_worker_only_while_tasks_are_short(clock: Clock) -> None:
    made = queue(20, clock)
    sent(made)
    finish(made, "a", seconds=0.1)
    assert {name: len(found) for name, found in sent(made).items()} == {"a": 2, "b": 2}
    slow = queue(20, clock)
    sent(slow)
    finish(slow, "a", seconds=60.0)
    assert {name: len(found) for name, found in sent(slow).items()} == {"a": 1, "b": 1}


def test_only_the_task_in_work_is_blamed_for_a_loss(clock: Clock) -> None:
    made = queue(20, clock)
    sent(made)
    finish(made, "a", seconds=0.1)
    first, second = sent(made)["a"]
    lost = made.lost("a")
    assert [order.task for order, _ in lost] == [first, second]
    sent(made)
    finish(made, "b", seconds=0.1)
    finish(made, "b", seconds=0.1)
    assert sent(made)["b"][0] == second  # at once, before all others; the first one is judged
    made.put_back(first)
    finish(made, "b", seconds=0.1)
    assert first in sent(made)["b"]


def test_a_worker_that_leaves_gets_nothing_more(clock: Clock) -> None:
    made = queue(4, clock)
    made.compiled(0)
    made.leaving("a")
    assert sent(made) == {"a": [], "b": [0]}


def test_a_task_is_expected_to_take_as_long_as_the_longest_of_the_last(clock: Clock) -> None:
    made = queue(10, clock, workers=1)
    for seconds in (9.0, 12.0, 10.0):
        sent(made)
        finish(made, "a", seconds)
    assert made.expected(0) == 12.0
    (_, order), *_ = made.orders()
    assert order.seconds == 12.0


def test_a_report_of_a_worker_held_for_dead_is_no_surprise(clock: Clock) -> None:
    made = queue(3, clock)
    sent(made)
    key = next(iter(made.worker_states["a"].orders))
    made.lost("a")
    assert made.done("a", key, 1.0) is None


def test_orders_carry_the_halvings_that_worked(clock: Clock) -> None:
    retries = Retries()
    made = TaskQueue(tasks(6, buckets=2), retries, clock)
    made.joined(WorkerState("a"))
    retries.judge(0, "memory", "too large")
    (_, first), *_ = made.orders()
    assert (first.task, first.halvings) == (0, 1)
    made.done("a", first.id, 60.0)
    found = {}
    while ordered := list(made.orders()):
        ((_, order),) = ordered
        found[order.task] = order.halvings
        made.done("a", order.id, 60.0)
    assert found == {1: 0, 2: 1, 3: 0, 4: 1, 5: 0}


def test_counts_and_idle_workers_are_right_after_any_course_of_events(clock: Clock) -> None:
    """What is kept up to date event by event equals what a look at everything would find."""
    rng = random.Random(0)
    made = queue(60, clock, workers=0, buckets=3)
    done: set[int] = set()
    judged: list[int] = []
    for step in range(3_000):
        clock.now += 0.1
        match rng.randrange(8):
            case 0 if len(made.worker_states) < 8:
                made.joined(WorkerState(f"w{step}"))
            case 1 if made.worker_states and rng.random() < 0.3:
                lost = made.lost(rng.choice(list(made.worker_states)))
                judged += [order.task for order, _ in lost[:1]]
            case 2 if judged:
                made.put_back(judged.pop())
            case 3 if made.worker_states and rng.random() < 0.1:
                made.leaving(rng.choice(list(made.worker_states)))
            case 4 | 5 | 6:
                busy = [
                    name for name, worker_state in made.worker_states.items() if worker_state.orders
                ]
                if busy:
                    done.add(finish(made, rng.choice(busy), seconds=rng.choice((0.1, 60.0))))
            case _:
                sent(made)
                idle = [h for h in made.worker_states.values() if not h.orders and not h.leaving]
                assert not idle or not made.waiting or made._warming
        held = [
            o.task
            for worker_state in made.worker_states.values()
            for o, _ in worker_state.orders.values()
        ]
        assert made.sent == len(held) == len({*held} - done)
        assert made.waiting == 60 - len(held) - len(done) - len(judged)
    assert len(done) == 60

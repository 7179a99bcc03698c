"""What becomes of a task that did not end well, and how many tries each cause has."""

from __future__ import annotations

import pytest

from dpsolve.hpc.cluster.retries import BUDGET, HOPELESS, Cause, Retries


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
    assert retries.worked(0, 2)
    assert not retries.worked(0, 1)  # no news
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

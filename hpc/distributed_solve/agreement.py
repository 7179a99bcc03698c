"""An error that one process finds is raised by all, and told by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dpsolve.solvers.errors import AgreedError, DpsolveError

if TYPE_CHECKING:
    from dpsolve.sharding.processes.group import ProcessGroup


T = TypeVar("T")


def together(group: ProcessGroup, work: Callable[[], T]) -> T:
    """Do something in every process, and go on when all have done it.

    Raises
    ------
    AgreedError
        In every process, if the work failed in one of them: with the error of the first.
    """
    if group.alone:
        return work()
    found: list[T] = []
    failure = None
    try:
        found.append(work())
    except DpsolveError as error:
        failure = [str(error), error.exit_code]
    for number, each in enumerate(group.gather(failure)):
        if each is not None:
            raise AgreedError(each[0], each[1], number == group.number)
    return found[0]

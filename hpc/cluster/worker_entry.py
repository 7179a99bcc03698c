"""What a worker does for a sweep: present itself, then carry out orders, one task at a time.

These functions run in the worker's process, called by dask. They answer by *reports*, small dicts
that dask carries to the driver as events of the sweep's topic: a report is sent at the moment it
is made, nothing has to be fetched, and a worker that dies takes no answer with it. The functions
themselves return nothing. So no array ever passes the scheduler.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_logs import mark
from dpsolve.solvers.errors import DpsolveError

from .messages import Order, Post
from .mishaps import Unprepared, cause_of, in_short, is_of_environment
from .shutdown import on_leave
from .worker import Desk, Late, Report, Told

if TYPE_CHECKING:
    from distributed import Worker


def introduce(post: Post) -> None:
    """Prepare this process for a sweep, and report who it is or why it cannot work."""
    from distributed import get_worker

    me = get_worker()
    found: Report = {"what": "hello", "worker": me.address, "name": str(me.name)}
    try:
        desk = _desk(post)
        found |= desk.describe()
        desk.ledger.write("joined", **{k: v for k, v in found.items() if k != "what"})
        on_leave(lambda: _say_goodbye(me, post))
    except DpsolveError as error:
        found |= {"what": "unfit", "message": str(error)}
    except Exception as error:  # whatever a broken installation raises
        found |= {"what": "unfit", "message": f"{type(error).__name__}: {error}"}
    found |= {"job": os.environ.get("SLURM_JOB_ID", ""), "host": platform.node()}
    me.log_event(post.topic, found)


def perform(post: Post, order: Order) -> None:
    """Carry out an order, and report how it ended."""
    from distributed import get_worker

    me = get_worker()
    about = {"worker": me.address, "id": order.id, "task": order.task}

    def tell(report: Report) -> None:
        me.log_event(post.topic, about | report)

    desk = _desk(post)
    with desk.one_at_a_time:
        try:
            tell(desk.perform(order, tell))
        except Late as late:
            desk.ledger.write("declined", task=order.task, why=late.args[0])
            tell({"what": "late", "seconds": late.args[1], "message": str(late.args[0])})
        except Told:
            desk.ledger.write("abandoned", task=order.task, why="told to leave")
            tell({"what": "left"})
        except Exception as raised:
            unprepared = isinstance(raised, Unprepared) and isinstance(raised.__cause__, Exception)
            error = raised.__cause__ if unprepared else raised
            assert isinstance(error, Exception)
            cause = cause_of(error)
            text = str(error) if isinstance(error, DpsolveError) else in_short(error)
            # For the job's log, where `dpsolve logs` looks for the mark.
            print(mark(order.task), traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
            if cause != "disk":
                desk.ledger.write("error", task=order.task, cause=cause, message=text)
            tell({"what": "error", "cause": cause, "message": text,
                  "smallest": desk.smallest,
                  "ours": unprepared or is_of_environment(error)})  # fmt: skip


def dismiss(post: Post) -> None:
    """End this worker, and its nanny.

    dask's own way, `retire_workers`, keeps a worker whose data nobody else can take; here there is
    no data.
    """
    from distributed import get_worker

    me = get_worker()

    def close() -> None:
        me.loop.add_callback(me.close, reason="dismissed")

    me.loop.add_callback(me.loop.call_later, 0.1, close)  # once this call is over


def _say_goodbye(me: Worker, post: Post) -> None:
    """Tell the driver that this worker is leaving; it sends nothing more, and lets it go."""
    if me.batched_stream is not None and not me.batched_stream.closed():
        me.log_event(post.topic, {"what": "leaving", "worker": me.address})


@lru_cache(maxsize=2)
def _desk(post: Post) -> Desk:
    return Desk(post)

"""``--detach``: a driver that outlives its terminal."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpsolve.hpc.store.trust import handed_on
from dpsolve.solvers.errors import DpsolveError

from .job_paths import driver_log, make_logs_folder
from .single_driver import driver_record

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


WAIT = 20.0
"""Seconds in which a driver that cannot begin has said why."""


def detach(store: Store, options: Sequence[str], *, retry_failed: bool = False) -> str:
    """Start a driver of its own for a store; return in words how to follow it.

    Parameters
    ----------
    store : Store
    options : sequence of str
        Where tasks run, in the words of ``dpsolve resume``: ``--on slurm --profile gpu``.
    retry_failed : bool
        Compute tasks with failed points once more.

    Raises
    ------
    DpsolveError
        If it ends at once with an error, in its words.
    """
    log = driver_log(store.path)
    make_logs_folder(store.path)
    before = driver_record(store)
    # -P: no module is looked for in the folder where the user happens to be.
    command = [sys.executable, "-P", "-m", "dpsolve", "resume", str(store.path.resolve())]
    command += ["--retry-failed"] if retry_failed else []
    command += ["--trusted", handed_on(store)]  # what this process trusts
    with open(log, "ab") as out:
        start = out.tell()
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no signal of the terminal reaches it
        )
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if (code := process.poll()) is not None:
            said = log.read_bytes()[start:].decode(errors="replace").strip()
            if code in (0, 1) and "error:" not in said:
                return said  # it was done already
            raise DpsolveError(f"the driver ended at once (exit code {code}):\n{said}")
        driver = driver_record(store)
        if driver is not None and (before is None or driver.id != before.id):
            break
        time.sleep(0.1)
    path = shlex.quote(str(store.path))
    return (
        f"the driver goes on as process {process.pid}; this terminal may be closed.\n"
        f"  its log     {log}\n"
        f"  follow it   dpsolve status {path}\n"
        f"  end it      dpsolve cancel {path}"
    )

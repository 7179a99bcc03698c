"""Main process of a worker job: starts a dask nanny and its workers.

It starts one dask worker (or several, one per GPU) under a nanny, which replaces a worker that
dies while the job still has time. It is called like ``dask worker``, by dask-jobqueue, and differs
in four things: nannies and workers listen at one address, to those who have the run's keys; each
worker gets its share of the job's GPUs before it starts; a signal that announces the job's end
reaches the workers, which then finish or abandon their task; and when the grace period is nearly
over the process ends, so that SLURM need not kill it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dpsolve.hpc.cluster.shutdown import GRACE, SIGNALS, listen
from dpsolve.hpc.cluster.worker_devices import gpu_environment, share_of_gpus

if TYPE_CHECKING:
    from distributed import Nanny


CANNOT_START = "[dpsolve] the worker cannot start:"
"""What a log says before the reason for which a job never got to work."""

FAREWELL = 0.3
QUIET_AT_THE_END = ("distributed.worker", "distributed.core", "distributed.comm")


def dask_setup(worker: Any) -> None:
    """Prepare the worker's process: dask calls this in its main thread, before any task."""
    logging.getLogger("distributed.batched").setLevel(logging.ERROR)  # a closed driver is no error
    listen()


def dask_teardown(worker: Any) -> None:
    """End the process soon: dask calls this when the worker begins to close.

    dask would wait 30 s for a task that nobody wants any more. What is committed is on the disk.
    """
    for name in ("distributed", *QUIET_AT_THE_END):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # that the other side is gone is no news
    timer = threading.Timer(FAREWELL, os._exit, (0,))
    timer.daemon = True
    timer.start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the job's workers until the driver, a signal or the loss of the driver ends them."""
    given = _parser().parse_args(arguments)
    # Processes that end by `os._exit` leave semaphores to a cleaner, which would tell everybody.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    asyncio.run(_run(given))


def _exit(code: int) -> NoReturn:
    """End at once: nothing is left to be done, and asyncio and dask would take seconds for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dpsolve.hpc.slurm.worker_process")
    parser.add_argument("scheduler")
    parser.add_argument("--name", required=True)
    parser.add_argument("--nthreads", type=int, default=1)  # dask-jobqueue says so
    parser.add_argument("--memory-limit")  # ours is watched by the worker itself
    parser.add_argument("--death-timeout", type=float, default=60.0)
    parser.add_argument("--keys", type=Path, required=True, help="folder of the run's TLS keys")
    parser.add_argument("--scratch", help="where temporary files go; may name variables")
    parser.add_argument("--interface")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    return parser


async def _run(given: argparse.Namespace) -> NoReturn:
    from dask import config

    from dpsolve.hpc.cluster.dask_settings import WORKER

    config.set(WORKER)
    try:
        nannies = _nannies(given)
    except Exception as error:
        _cannot_start(error)
    told = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    try:
        await asyncio.gather(*nannies)
    except Exception as error:
        _cannot_start(error)
    finished = asyncio.gather(*(nanny.finished() for nanny in nannies))
    leaving = asyncio.create_task(_leave(told, nannies))
    await finished
    leaving.cancel()
    _exit(0)


def _cannot_start(error: BaseException) -> NoReturn:
    """End, and say why in a line that the driver finds in the log."""
    reasons = [str(error)]
    while (cause := error.__cause__) is not None:
        error = cause
        reasons.append(str(error))
    said = " ".join(": ".join(filter(None, dict.fromkeys(reasons))).split())
    print(f"{CANNOT_START} {said}", file=sys.stderr)
    _exit(1)


def _nannies(given: argparse.Namespace) -> list[Nanny]:
    from dpsolve.hpc.cluster.run_keys import security
    from dpsolve.hpc.run.private_folders import scratch_folder

    scratch = os.path.expandvars(given.scratch or "")
    folder = scratch_folder(scratch if "$" not in scratch else None)  # a variable that is not set
    options = {
        "security": security(given.keys),
        "host": _own_address(given),
        "local_directory": str(folder),
    }
    return [_nanny(given, number, options) for number in range(given.workers)]


def _own_address(given: argparse.Namespace) -> str:
    """Return this node's one address at which nannies and workers listen.

    Without an interface, the address from which the scheduler is reached.
    """
    from distributed.comm.addressing import get_address_host, unparse_host_port
    from distributed.utils import get_ip, get_ip_interface

    if not given.interface:
        return str(unparse_host_port(get_ip(get_address_host(given.scheduler))))
    try:
        return str(get_ip_interface(given.interface))
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"interface = {given.interface!r} in the profile: {error}, on {platform.node()}"
        ) from None


def _nanny(given: argparse.Namespace, number: int, options: dict[str, Any]) -> Nanny:
    from distributed import Nanny

    from .worker_heartbeat import QuietWorker

    environment = gpu_environment(os.environ, given.gpus)
    if (gpus := share_of_gpus(os.environ, number, given.workers)) is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    return Nanny(
        given.scheduler,
        name=given.name if given.workers == 1 else f"{given.name}-{number}",
        nthreads=1,
        memory_limit=0,
        death_timeout=given.death_timeout,
        env=environment,
        preload=["dpsolve.hpc.slurm.worker_process"],
        dashboard=False,
        worker_class=QuietWorker,
        **options,
    )


async def _leave(told: asyncio.Event, nannies: Sequence[Nanny]) -> None:
    """Pass the signal on, and end before SLURM does it."""
    await told.wait()
    for nanny in nannies:
        if nanny.process is not None and nanny.process.pid:
            with suppress(ProcessLookupError):  # SLURM told the workers too, and they were quick
                os.kill(nanny.process.pid, signal.SIGUSR2)
    grace = float(os.environ.get(GRACE, "0") or 0)
    await asyncio.sleep(max(0.0, grace - 1.0))
    await asyncio.gather(*(nanny.close(timeout=0.5, reason="told-to-leave") for nanny in nannies))


if __name__ == "__main__":
    main()

"""``--on dask``: what a user's own scheduler is asked for before anything connects to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest

from dpsolve.hpc.cluster.dask_executor import DaskExecutor
from dpsolve.hpc.cluster.dask_settings import WORKER, quiet_dask
from dpsolve.hpc.cluster.run_keys import make_keys, security
from dpsolve.hpc.run.private_folders import private_folder
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.solvers.errors import ClusterError

from ..conftest import Listener, run

TLS = "distributed.comm.tls"


def keys_in_configuration(folder: Path) -> dict[str, Any]:
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    return {
        f"{TLS}.ca-file": certificate,
        f"{TLS}.client.cert": certificate,
        f"{TLS}.client.key": key,
    }


def test_tls_without_keys_is_refused_before_it_connects(toy_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(ClusterError, match=r"configuration has none.*tls\.ca-file"):
        run(toy_sweep(), executor=DaskExecutor("tls://192.0.2.1:8786"))


def test_keys_that_cannot_be_read_are_named(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    with (
        dask.config.set(keys_in_configuration(tmp_path / "nowhere")),
        pytest.raises(ClusterError, match=r"cannot be used: .*No such file"),
    ):
        run(toy_sweep(), executor=DaskExecutor("tls://192.0.2.1:8786"))


def test_ones_own_keys_let_one_in_and_plain_tcp_is_warned_of(
    toy_sweep: Callable[..., Sweep], tmp_path: Path, listener: Listener
) -> None:
    from distributed import LocalCluster

    keys = private_folder(tmp_path / "keys")
    make_keys(keys)
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    options |= {"dashboard_address": ":0", "host": "127.0.0.1"}
    for protocol, own in (("tls://", security(keys)), ("tcp://", None)):
        with (
            quiet_dask(),
            dask.config.set(WORKER | keys_in_configuration(keys)),
            LocalCluster(**options, protocol=protocol, security=own) as cluster,
        ):
            executor = DaskExecutor(cluster.scheduler_address)
            outcome = run(toy_sweep(f"{protocol[:3]}.zarr"), listener, executor=executor)
        assert outcome.exit_code == 0
        warned = [note for note in listener.notes if "can run code as you" in note]
        assert len(warned) == (protocol == "tcp://")

"""Who can talk to a run: every port that driver, nanny and worker open, and who is let in."""

from __future__ import annotations

import datetime
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from dpsolve.hpc.cluster.dask_settings import quiet_dask
from dpsolve.hpc.cluster.run_keys import make_keys, run_keys
from dpsolve.hpc.run.private_folders import private_folder, scratch_folder
from dpsolve.hpc.slurm.profiles import Profile
from dpsolve.hpc.slurm.worker_process import CANNOT_START
from dpsolve.solvers.errors import RefusedError

from ..local_slurm import until

# It says of each door which ways in are open. "shut": no word was exchanged.
ATTACK = '''
import asyncio, json, os, ssl, sys
import dask, distributed
from distributed import Security
from distributed.core import rpc

doors, folder, user = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])

async def speaks(address, context=None):
    """Ask who is there: whoever gets an answer gets code run as well."""
    try:
        given = {"ssl_context": context, "require_encryption": True} if context else {}
        async with rpc(address, connection_args=given, timeout=2) as other:
            return bool(await asyncio.wait_for(other.identity(), 2))
    except BaseException as error:
        return False

async def answers(host, port, context=None):
    """Say something as a browser would; wait for an answer."""
    try:
        name = "" if context else None
        reading = asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        reader, writer = await asyncio.wait_for(reading, 2)
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        await writer.drain()
        return b"HTTP" in await asyncio.wait_for(reader.read(100), 2)
    except BaseException:
        return False

def without():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context

async def main():
    c, k = folder + "/cert.pem", folder + "/key.pem"
    keys = Security(require_encryption=True, tls_ca_file=c, tls_client_cert=c, tls_client_key=k)
    context = keys.get_connection_args("client")["ssl_context"]

    async def through(host, port):
        at = f"{host}:{port}"
        ways = {
            "plain": speaks(f"tcp://{at}"),
            "keys": speaks(f"tls://{at}", context),
            "no certificate": speaks(f"tls://{at}", without()),
            "http": answers(host, port),
            "https": answers(host, port, without()),
        }
        tried = await asyncio.gather(*ways.values())
        return at, [way for way, worked in zip(ways, tried) if worked]

    print(json.dumps(dict(await asyncio.gather(*(through(*door) for door in doors)))))

async def become():
    """Be another user from here on; what is imported late has been imported by then."""
    await speaks("tcp://127.0.0.1:9")
    await answers("127.0.0.1", 9, without())
    if user:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    await main()

dask.config.set({"distributed.comm.timeouts.connect": "2s", "distributed.comm.retry.count": 0})
asyncio.run(become())
'''


@dataclass
class Run:
    """A scheduler in this process, and one job's processes, as SLURM would start them."""

    cluster: Any
    keys: Path
    job: subprocess.Popen[bytes]
    store: Path

    def processes(self) -> list[psutil.Process]:
        job = psutil.Process(self.job.pid)
        return [psutil.Process(), job, *job.children(recursive=True)]

    def doors(self, before: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Return the addresses at which any of them listens."""
        return {
            tuple(connection.laddr)
            for process in self.processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        } - before


def listening() -> set[tuple[str, int]]:
    return {
        tuple(connection.laddr)
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start a driver's scheduler and run the script of one job beside it."""
    from dpsolve.hpc.slurm.worker_job import SETTINGS, job_script, make_cluster

    closing: list[Callable[[], Any]] = []

    def start(name: str = "toy.zarr", **profile: Any) -> Run:
        store = tmp_path / name
        given = Profile.model_validate({"grace": 1, "death_timeout": 20} | profile)
        jobs = run_keys(store.with_name(f"{store.name}.jobs"))
        keys = jobs.__enter__()
        closing.append(lambda: jobs.__exit__(None, None, None))
        cluster = make_cluster(given, store, keys)
        closing.append(lambda: cluster.close(timeout=5))
        script = job_script(given, store, cluster.scheduler_address, keys)
        job = subprocess.Popen(["bash"], stdin=subprocess.PIPE, cwd=tmp_path)
        closing.append(job.wait)
        closing.append(job.kill)
        assert job.stdin is not None
        job.stdin.write(script.encode())
        job.stdin.close()
        until(lambda: cluster.scheduler_info["workers"], "the worker has joined", 60)
        return Run(cluster, keys, job, store)

    own = SETTINGS | {"temporary-directory": str(tmp_path)}
    with quiet_dask(), dask.config.set(own):
        yield start
        for close in reversed(closing):
            close()


def attack(doors: set[tuple[str, int]], keys: Path, user: int) -> dict[str, list[str]]:
    """Try every way into every door; as another user, if one is given."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", ATTACK, json.dumps(sorted(doors)), str(keys), str(user)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture
def foreign() -> Iterator[Path]:
    """Keys of somebody else's, where another user can read them."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        made = private_folder(Path(folder) / "keys")
        make_keys(made)
        for path in (made, *made.iterdir()):
            path.chmod(0o755)
        yield made


NOBODY = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else 0


def test_every_port_of_a_run_is_shut_to_whoever_has_not_its_keys(
    started: Callable[..., Run], foreign: Path, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    before = listening()
    run = started("a`touch${IFS}x`; $HOME %j 'b c'.zarr", walltime="00:10:00")
    doors = run.doors(before)
    assert not any((tmp_path / name).exists() for name in ("x", "touch"))
    address = run.cluster.scheduler_address.removeprefix("tls://").rpartition(":")[0]
    assert {host for host, _ in doors} == {address}  # nothing listens everywhere
    assert len(doors) == 3  # scheduler, nanny, worker; no HTTP
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", protocol="tcp://"
    ) as open_to_all:
        plain = open_to_all.scheduler.port
        browsed = open_to_all.scheduler.http_server.port
        found = attack({*doors, ("127.0.0.1", plain), ("127.0.0.1", browsed)}, foreign, NOBODY)
    assert found.pop(f"127.0.0.1:{plain}") == ["plain"]  # so the attack is one
    assert found.pop(f"127.0.0.1:{browsed}") == ["http"]
    assert found == {f"{host}:{port}": [] for host, port in doors}
    assert attack(doors, run.keys, 0) == {f"{host}:{port}": ["keys"] for host, port in doors}


def test_keys_are_their_owners_and_only_their_path_is_told(started: Callable[..., Run]) -> None:
    run = started()
    words = [word for process in run.processes() for word in process.cmdline()]
    assert str(run.keys) in words
    assert not any("PRIVATE" in word for word in words)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (run.keys, *run.keys.iterdir())}
    assert modes == {run.keys.name: 0o700, "cert.pem": 0o600, "key.pem": 0o600}
    if NOBODY:
        reading = subprocess.run(
            ["cat", run.keys / "key.pem"], capture_output=True, user=NOBODY, check=False
        )
        assert b"Permission denied" in reading.stderr


def test_the_next_driver_removes_the_keys_of_a_killed_one(tmp_path: Path) -> None:
    left = private_folder(tmp_path / "jobs" / "keys-0")
    make_keys(left)
    with run_keys(tmp_path / "jobs") as keys:
        assert [path.name for path in (tmp_path / "jobs").iterdir()] == [keys.name]
    assert not keys.exists()


def test_a_node_whose_clock_is_behind_takes_the_certificate(tmp_path: Path) -> None:
    from cryptography import x509

    make_keys(private_folder(tmp_path / "keys"))
    certificate = x509.load_pem_x509_certificate((tmp_path / "keys/cert.pem").read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    assert now - certificate.not_valid_before_utc > datetime.timedelta(hours=23)
    assert certificate.not_valid_after_utc - now > datetime.timedelta(days=365)


def test_the_dashboard_is_for_this_machine_alone(started: Callable[..., Run]) -> None:
    before = listening()
    run = started(dashboard=True)
    (http,) = [port for host, port in run.doors(before) if host == "127.0.0.1"]
    assert run.cluster.dashboard == f"http://127.0.0.1:{http}"


def test_a_workers_modules_come_from_no_folder_of_others(started: Callable[..., Run]) -> None:
    """Neither from where the job was submitted, nor from what lies in /tmp under dask's name."""
    run = started()
    with run.cluster.get_client() as client:
        (found,) = client.run(lambda: (sys.flags.safe_path, sys.path)).values()
    safe, searched = found
    assert safe
    for folder in searched:
        path = Path(folder or ".")
        if path.is_dir():
            assert path.stat().st_uid == os.geteuid()
            assert not path.stat().st_mode & 0o022, path


def test_a_wrong_interface_on_the_nodes_is_named(
    started: Callable[..., Run], tmp_path: Path
) -> None:
    from dpsolve.hpc.slurm.worker_job import job_script

    run = started(interface="lo")
    profile = Profile.model_validate({"interface": "ib7"})
    script = job_script(profile, run.store, run.cluster.scheduler_address, run.keys)
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(CANNOT_START)]
    assert "interface = 'ib7'" in line
    assert "'lo'" in line


@pytest.mark.parametrize("wrong", ["mode", "owner"])
def test_a_folder_that_others_could_write_to_is_not_trusted(wrong: str, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir()
    if wrong == "mode":
        folder.chmod(0o777)
    elif not NOBODY:
        assert "CI" not in os.environ, "CI runs as root, and tries what only root can"
        pytest.skip("only root can give a folder away")
    else:
        os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(RefusedError, match="not to be trusted"):
        private_folder(folder)
    folder.rename(tmp_path / f"dpsolve-{os.geteuid()}")  # as somebody does who comes first
    scratch = scratch_folder(str(tmp_path))
    assert scratch.name != f"dpsolve-{os.geteuid()}"
    assert scratch.stat().st_mode & 0o777 == 0o700

"""One model, by several processes, into one store; killed, taken up again, and equal."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr

import dpsolve as dp
from dpsolve.hpc.cli import solve
from dpsolve.hpc.distributed_solve.checkpoints import Checkpoints
from dpsolve.hpc.distributed_solve.meeting_secret import meeting_secret
from dpsolve.hpc.distributed_solve.srun_address import find_address, nodes_of
from dpsolve.hpc.distributed_solve.stored_solve import SolveReport, solve_into_store
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.reader import Reading
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.sharding.processes.group import SILENCE, ProcessGroup
from dpsolve.sharding.processes.rendezvous import alone
from dpsolve.solvers.errors import RefusedError, UsageError

from ..conftest import Listener, arrays, assert_equal_stores
from ..local_slurm import until
from ..several import SLOW, Ended, Several, solve_alone, sweeps_of

VI = ("--method", "vi", "--with", "solve.max_iter=100000", "--tol", "1e-6")
KEEP = ("--keep", "value,lower,upper,policy,eaten")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    (folder / "slow.py").write_text(SLOW)
    return folder


@pytest.fixture(scope="module")
def by_one(runner: Path) -> Path:
    """A store by one process with four devices."""
    done = solve_alone(runner, "slow.py", *KEEP, "--mesh", "states=4", "--store", "one.zarr",
                       devices=4)  # fmt: skip
    assert done.code == 0, done.output
    return runner / "one.zarr"


@pytest.fixture(scope="module")
def by_two(runner: Path) -> Path:
    """A store by two processes with two devices each."""
    ended = Several(runner, ["slow.py", *KEEP, "--mesh", "states=4", "--store", "two.zarr"])
    for done in ended.start().end():
        assert done.code == 0, done.output
    return runner / "two.zarr"


def assert_same_answer(one: Path, other: Path) -> None:
    """Coordinates, policies and words are equal; values differ by less than they may."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    slack = float(a["error_bound"][0] + b["error_bound"][0])
    for name, x in a.items():
        y = b[name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        if name == "value":
            assert np.max(np.abs(x - y)) <= slack
        elif name in ("lower", "upper"):
            assert (a["lower"] <= b["upper"]).all()
            assert (b["lower"] <= a["upper"]).all()
        elif name not in ("residual", "error_bound", "iterations"):
            assert (x == y).all(), name


@pytest.mark.slow
def test_two_processes_write_the_store_that_one_writes(by_one: Path, by_two: Path):
    assert_same_answer(by_one, by_two)
    names = {f.relative_to(by_one) for f in by_one.rglob("*")}
    assert names == {f.relative_to(by_two) for f in by_two.rglob("*")}
    parts = sorted(f.name for f in (by_two / "value").glob("c.*"))
    assert parts == [f"c.0.0.{i}" for i in range(4)]  # 37 members: 10, 10, 10 and 7
    assert not list(by_two.rglob("*.partial"))
    assert not (by_two / "status" / "checkpoint").exists()


@pytest.mark.slow
def test_what_several_wrote_opens_loads_and_verifies_as_any_store(by_two: Path):
    dataset = dp.open(by_two)
    assert dict(dataset.sizes) == {"point": 1, "c": 2, "x": 37}
    assert dataset.status.compute().item() == "solved"
    checked = dp.verify(by_two, all_points=True)
    assert checked.ok, checked
    assert checked.points_checked == 1


@pytest.mark.slow
def test_an_altered_part_is_found(by_two: Path, tmp_path: Path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(by_two, copy)
    array = zarr.open_group(copy, mode="r+")["value"]
    assert isinstance(array, zarr.Array)
    array[0, 1, 33] = 7.0  # by a program that writes valid checksums
    claims = "\n".join(dp.verify(copy, sample=0).claims)
    assert "value:c.0.0.3 was altered" in claims
    (copy / "lower" / "c.0.0.2").unlink()
    claims = "\n".join(dp.verify(copy, sample=0).claims)
    assert "lower is missing: its file c.0.0.2 is not there" in claims


def kill_one(runner: Path, store: Path, dead: int) -> list[Ended]:
    """Start two processes, and kill one of them after a checkpoint."""
    words = ["slow.py", *VI, "--checkpoint", "0.02", "--store", store.name]
    several = Several(runner, words).start()
    parts = (store / "status" / "checkpoint").glob
    until(lambda: len(list(parts("*/*.part"))) >= 4, "a checkpoint", pause=0.01)
    several.tell(dead, signal.SIGKILL)
    ends = several.end()
    assert ends[dead].code == -signal.SIGKILL
    assert ends[1 - dead].seconds < SILENCE
    assert not open_store(store).receipts()
    return ends


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_same_command_resumes(runner: Path):
    store = runner / "killed.zarr"
    left = kill_one(runner, store, 1)[0]
    assert left.code == 130, left.output
    assert "process 1 on" in left.output
    assert "was lost: its connection closed" in left.output
    assert "the same command goes on from the last checkpoint" in left.output

    words = ["slow.py", *VI, "--store", store.name]
    ends = Several(runner, words).start().end()
    assert [done.code for done in ends] == [0, 0], ends
    resumed = sweeps_of(ends[0].output, "resuming after")
    total = int(dp.open(store).iterations.compute().item())
    assert 0 < resumed < total
    assert f"{total}, taken up after {resumed}" in ends[0].output
    assert dp.verify(store).ok
    assert not (store / "status" / "checkpoint").exists()


class Losing(ProcessGroup):
    """One whose thread has just noticed a loss, and is about to end this process."""

    def __init__(self) -> None:
        pass

    def await_loss(self, seconds: float) -> bool:
        return True


def test_the_error_that_a_loss_brings_is_not_shown(monkeypatch: Any, capfd: Any) -> None:
    """The broken collective may be noticed a moment before the thread has had its say."""

    def waits(seconds: float) -> None:
        raise TimeoutError(seconds)

    monkeypatch.setattr(solve.time, "sleep", waits)
    with pytest.raises(TimeoutError):
        solve._abandon(Losing(), RuntimeError("Gloo all-reduce failed"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_end_of_process_0_ends_the_others_too(runner: Path):
    left = kill_one(runner, runner / "headless.zarr", 0)[1]
    if left.code == -signal.SIGABRT:  # JAX lost its service with process 0, and was faster
        assert "JAX distributed service" in left.output
    else:
        assert left.code == 130, left.output
        assert "process 0 on" in left.output
        assert "was lost: its connection closed" in left.output


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(runner: Path):
    words = ["slow.py", "--wait", "1", "--store", "never.zarr"]
    (done,) = Several(runner, words).start(0).end()
    assert done.code == 130
    assert "process 1 did not come to 127.0.0.1:" in done.output
    assert "1 of 2 processes are there" in done.output
    assert not (runner / "never.zarr").exists()


@pytest.mark.slow
def test_a_process_with_other_devices_is_told_once_and_ends_all(runner: Path):
    words = ["slow.py", "--mesh", "states=4", "--store", "odd.zarr"]
    ends = Several(runner, words, devices=(2, 1)).start().end()
    assert [done.code for done in ends] == [2, 2], ends
    (said,) = [done.output for done in ends if "error:" in done.output]
    assert "the mesh points=1,states=4 takes 4 devices, and there are 3" in said
    assert "process 1 on" in said
    assert "XLA_FLAGS=" in said
    assert not (runner / "odd.zarr").exists()


# -- what SLURM says ------------------------------------------------------------------------------

STEP = {
    "SLURM_JOB_ID": "70", "SLURM_STEP_ID": "1", "SLURM_STEP_NODELIST": "gpu[08-10]",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1", "SLURM_DISTRIBUTION": "block",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1", ["n1"]),
        ("n[1-3,07],gpu-a", ["n1", "n2", "n3", "n07", "gpu-a"]),
        ("r[1-2]n[9-10]", ["r1n9", "r1n10", "r2n9", "r2n10"]),
        ("a[001-002]-ib", ["a001-ib", "a002-ib"]),
    ],
)
def test_lists_of_nodes_are_read_as_slurm_writes_them(text: str, nodes: list[str]):
    assert list(nodes_of(text)) == nodes


def test_a_step_tells_who_this_is_and_where_all_meet():
    process_address = find_address(environment=STEP)
    assert (process_address.process, process_address.processes, process_address.run) == (
        3,
        5,
        "70.1",
    )
    assert process_address.hosts == ("gpu08", "gpu08", "gpu09", "gpu09", "gpu10")
    assert process_address.coordinator.startswith("gpu08:")
    assert (
        find_address(environment=STEP | {"SLURM_STEP_ID": "2"}).endpoint[1]
        != process_address.endpoint[1]
    )
    cyclic = find_address(environment=STEP | {"SLURM_DISTRIBUTION": "cyclic:block"})
    assert cyclic.hosts == ("gpu08", "gpu09", "gpu10", "gpu08", "gpu09")
    given = find_address("other:1234", 2, 1, STEP)
    assert (given.coordinator, given.processes, given.process) == ("other:1234", 2, 1)


@pytest.mark.parametrize(
    ("visible", "devices"), [("0,1,2,3", (2, 3)), ("0,1", (1,)), ("1", None), ("", None)]
)
def test_processes_of_one_node_share_its_gpus(visible: str, devices: tuple[int, ...] | None):
    process_address = find_address(environment=STEP | {"CUDA_VISIBLE_DEVICES": visible})
    assert process_address.local_devices == devices


def test_without_srun_everything_is_to_be_given():
    with pytest.raises(UsageError, match="--processes, --process-id not given"):
        find_address("n1:1234", environment={})
    with pytest.raises(UsageError, match="inside SLURM job 70, but not in a step of it"):
        find_address(environment={"SLURM_JOB_ID": "70", "SLURM_PROCID": "0"})


# -- in this process, on its eight devices --------------------------------------------------------


class Ender(Listener):
    """Tells this process to end when a checkpoint is written."""

    def note(self, text: str) -> None:
        super().note(text)
        if text.startswith("checkpoint") and len(self.notes) < 3:  # once: the next would kill
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path / "slow.py"


def reading(model: str | Path, store: Path, tol: float = 1e-5, **given: Any) -> Reading:
    from dpsolve.hpc.cli.options import read_target

    other = ("one_point=true", "solve.max_iter=100000")
    words = {"fixed": (), "keep": (), "method": "vi", "other": other}
    return read_target(str(model), tol=tol, store=str(store), **(words | given))


def into_store(read: Reading, states: int, every: float = 0.0, progress: Any = None) -> SolveReport:
    return solve_into_store(
        read.sweep, read.source, mesh=MeshShape(states=states), group=alone(), every=every,
        progress=progress or Silent(),
    )  # fmt: skip


def interrupted(read: Reading, states: int) -> SolveReport:
    found = into_store(read, states, every=1e-3, progress=Ender())
    assert found.interrupted == "SIGTERM"
    assert found.exit_code == 130
    assert found.status == "pending"
    return found


@pytest.mark.slow
def test_an_interrupted_solve_ends_with_the_bits_of_an_undisturbed_one(slow: Path, tmp_path: Path):
    whole = into_store(reading(slow, tmp_path / "whole.zarr"), 4)
    read = reading(slow, tmp_path / "two.zarr")
    interrupted(read, 4)
    listener = Listener()
    found = into_store(read, 4, progress=listener)
    assert found.resumed is not None
    assert 0 < found.resumed < found.iterations == whole.iterations
    assert f"resuming after {found.resumed} sweeps" in listener.notes
    assert_equal_stores(tmp_path / "whole.zarr", tmp_path / "two.zarr")
    assert into_store(read, 4).before


@pytest.mark.parametrize(("before", "after"), [(4, 3), (1, 4), (4, 1)])
@pytest.mark.slow
def test_a_solve_goes_on_on_another_mesh(slow: Path, tmp_path: Path, before: int, after: int):
    read = reading(slow, tmp_path / "x.zarr")
    interrupted(read, before)
    found = into_store(read, after)
    assert found.resumed
    assert found.status == "solved"
    assert len(list((tmp_path / "x.zarr" / "value").glob("c.*"))) == after
    checked = dp.verify(tmp_path / "x.zarr", all_points=True)
    assert checked.ok, checked


@pytest.mark.slow
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(slow: Path, tmp_path: Path):
    read = reading(slow, tmp_path / "x.zarr")
    interrupted(read, 2)
    checkpoints = Checkpoints(open_store(tmp_path / "x.zarr"))
    newest, older = checkpoints.generations()
    part = checkpoints.folder / newest / "1.part"
    content = bytearray(part.read_bytes())
    content[-20] ^= 1
    part.write_bytes(content)
    listener = Listener()
    found = into_store(read, 2, progress=listener)
    assert found.resumed == int(older)
    assert any("is left aside: 1.part is damaged" in note for note in listener.notes)


@pytest.mark.slow
def test_other_options_are_refused_and_change_nothing(slow: Path, tmp_path: Path):
    interrupted(reading(slow, tmp_path / "x.zarr"), 2)
    with pytest.raises(RefusedError, match=r"solve\.tol"):
        into_store(reading(slow, tmp_path / "x.zarr", tol=1e-4), 2)
    with pytest.raises(RefusedError, match=r"fixed beta"):
        into_store(reading(slow, tmp_path / "x.zarr", fixed=("beta=0.9",)), 2)
    assert Checkpoints(open_store(tmp_path / "x.zarr")).generations()


@pytest.mark.slow
def test_devices_that_have_copies_alone_write_nothing(slow: Path, tmp_path: Path):
    read = reading(slow, tmp_path / "x.zarr", fixed=("n_x=9", "stay=0.9"))
    assert into_store(read, 8).status == "solved"
    assert len(list((tmp_path / "x.zarr" / "value").glob("c.*"))) == 5  # of two members, and one
    assert dp.verify(tmp_path / "x.zarr", all_points=True).ok


FINITE = """
import jax.numpy as jnp
import dpsolve as dp

def finite(beta=0.95, *, n_x=21):
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, n_x)}, choices={"x_next": "x"}, transition={"x": "x_next"},
        feasible=lambda x, x_next: x_next <= x, reward=lambda x, x_next: jnp.sqrt(x - x_next),
        discount=beta, horizon=4, terminal=lambda x: jnp.sqrt(x),
    )
"""


@pytest.mark.slow
def test_a_finite_horizon_is_solved_in_one_go(tmp_path: Path):
    (tmp_path / "finite.py").write_text(FINITE)
    stores = [tmp_path / "one.zarr", tmp_path / "four.zarr"]
    for store, states in zip(stores, (1, 4), strict=True):
        read = reading(tmp_path / "finite.py", store, method="auto", other=("one_point=true",))
        assert into_store(read, states).status == "solved"
    assert_same_answer(*stores)
    assert dp.verify(stores[1], all_points=True).ok


def test_arrays_of_a_factory_have_no_states_to_cut(toy: str, tmp_path: Path):
    read = reading(toy, tmp_path / "toy.zarr", method="auto", other=("one_point=true",))
    with pytest.raises(UsageError, match="returns arrays of its own and has no states to cut"):
        into_store(read, 2)
    assert not (tmp_path / "toy.zarr").exists()
    assert into_store(read, 1).status == "solved"
    assert dp.verify(tmp_path / "toy.zarr").ok


@pytest.mark.slow
def test_no_port_of_a_distributed_solve_is_open_on_every_interface(tmp_path: Path) -> None:
    sizes = ["--set", "n_x=37", "--set", "stay=0.9"]
    (tmp_path / "slow.py").write_text(SLOW)
    several = Several(tmp_path, ["slow.py", *sizes, "--store", "two.zarr"]).start()
    seen: dict[int, set[str]] = {0: set(), 1: set()}
    while any(process.poll() is None for process in several.started.values()):
        for number, process in several.started.items():
            with suppress(psutil.Error):  # it ended this moment
                for each in psutil.Process(process.pid).net_connections("inet"):
                    if each.status == psutil.CONN_LISTEN:
                        seen[number].add(each.laddr.ip)
        time.sleep(0.02)
    assert [done.code for done in several.end()] == [0, 0]
    assert all(seen.values())  # JAX's service, and the collectives of each
    assert not {"0.0.0.0", "::"} & (seen[0] | seen[1])


def test_the_secret_of_a_solve_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = {*pool.map(lambda _: meeting_secret(tmp_path / "a.zarr"), range(8))}
    assert len(found) == 1
    assert len(found.pop()) == 32
    (file,) = (tmp_path / "a.zarr.jobs").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    with pytest.raises(RefusedError, match="not yours alone"):
        meeting_secret(tmp_path / "a.zarr")

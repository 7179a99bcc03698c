"""Small sweeps, in the words of a sweep file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dpsolve as dp
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import SweepReport, run_sweep
from dpsolve.hpc.store.event_log import Event
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.trust import seal
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve

from .local_slurm import LocalSlurm, local_slurm, until, why_not

TOY = '''
import jax.numpy as jnp

def toy(a=1.0, b=2.0, *, n=3):
    """A product and a line: compiled in no time."""
    return {"price": a * b, "path": (("t",), a + b * jnp.arange(n))}
'''

HOSTILE = "stock </td><script>top.hacked = 1</script>"
STOCK = '''
import jax.numpy as jnp
import dpsolve as dp

def stock(beta=0.9, cost=0.3, *, n=4):
    """Keep or grow a stock that a shock may take."""
    def profit(k, up):
        return jnp.sqrt(1.0 * k) - cost * up
    return dp.Model(
        states={"k": dp.integers(0, n), "z": dp.markov([0.0, 1.0], [[0.5, 0.5], [0.2, 0.8]])},
        choices={"up": dp.integers(0, 1)},
        transition={"k": lambda k, z, up: jnp.where(z > 0.5, jnp.minimum(k + up, n), 0)},
        reward=profit, discount=beta, outputs={"profit": profit},
        labels={"k": "stock </td><script>top.hacked = 1</script> (<tons>)",
                "z": ("is it stolen", ["stolen", "kept"]),
                "up": "purchase (tons)", "profit": "profit (dollars)",
                "beta": "discount factor", "value": "worth of the firm (dollars)"},
    )
'''
GRID = {"beta": [0.8, 0.9, 0.95], "cost": [0.1, 0.3]}
KEEP = ["value", "policy", "profit", "distribution", "moment_mean_k", "moment_mean_profit"]

BETAS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]

Tables = dict[str, Any]


class Listener(Silent):
    """Remembers what a sweep reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: tuple[int, int] | None = None
        self.counts = [0, 0, 0]
        self.stopped = False

    def start(self, total: int, done: int) -> None:
        self.begun = (total, done)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, solved: int, inexact: int, failed: int) -> None:
        self.counts = [a + b for a, b in zip(self.counts, (solved, inexact, failed), strict=True)]

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="session")
def stock_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store with labels, a distribution and moments, finished; not to be changed."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "stock.py").write_text(STOCK)
    dp.sweep(f"{folder}/stock.py:stock", grid=GRID, store=folder / "stock.zarr", keep=KEEP)
    return folder / "stock.zarr"


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """A factory of arrays in a file; the reference to it."""
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    return f"{tmp_path / 'toy.py'}:toy"


@pytest.fixture
def toy_sweep(toy: str, tmp_path: Path) -> Callable[..., Sweep]:
    """Make a sweep of the factory in the file: three points, one to a task."""

    def make(path: Path | str = "toy.zarr", **tables: Tables) -> Sweep:
        raw: dict[str, Any] = {"model": toy}
        if not {"grid", "zip", "sample"} & tables.keys():
            raw["grid"] = {"a": [1.0, 2.0, 3.0]}
        store = {"points_per_task": 1} | tables.get("store", {}) | {"path": str(tmp_path / path)}
        return sweep_from(raw | tables | {"store": store})

    return make


@pytest.fixture
def cake(tmp_path: Path) -> Callable[..., Sweep]:
    """Make a small sweep of the built-in `cake`: six points, two to a task."""

    def make(path: str = "cake.zarr", **tables: Tables) -> Sweep:
        raw: dict[str, Any] = {
            "model": "cake",
            "fixed": {"n_x": 12},
            "grid": {"beta": BETAS},
            "solve": {"tol": 1e-8},
        } | tables
        store = {"points_per_task": 2} | tables.get("store", {}) | {"path": str(tmp_path / path)}
        return sweep_from(raw | {"store": store})

    return make


def run(sweep: Sweep, progress: Any = None, **arguments: Any) -> SweepReport:
    return run_sweep(sweep, resolve(sweep.model), progress=progress or Silent(), **arguments)


def arrays(path: Path | str) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a store but the time it took, as zarr reads it."""
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    found = {name: node[...] for name, node in group.members(max_depth=None) if is_array(node)}
    return {n: np.asarray(x) for n, x in found.items() if n.rpartition("/")[2] != "seconds"}


def is_array(node: Any) -> bool:
    return isinstance(node, zarr.Array)


def assert_equal_stores(one: Path | str, other: Path | str) -> None:
    """Array by array, bit by bit."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    assert len(a) > 6
    for name, x in a.items():
        y = b[name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        same = x.tobytes() == y.tobytes() if x.dtype.kind in "biufc" else (x == y).all()
        assert same, name


def reseal(path: Path | str) -> None:
    """Vouch for a store's attributes as they are now: it is as if it had been begun like that."""
    seal(open_store(path))


def files(path: Path) -> dict[str, bytes]:
    """Every file of a folder with its content."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def slurm_environment() -> Iterator[dict[str, str]]:
    """A SLURM of this session's own. In CI a machine without one fails, elsewhere it skips."""
    if reason := why_not():
        if "CI" in os.environ:
            pytest.fail(f"CI must test against a real SLURM: {reason}")
        pytest.skip(reason)
    with local_slurm() as environment:
        yield environment


@pytest.fixture
def slurm(slurm_environment: dict[str, str], tmp_path: Path) -> Iterator[LocalSlurm]:
    """A SLURM with four idle nodes, on which this test leaves nothing behind."""
    naps = tmp_path / "naps"
    naps.mkdir()
    own = {"NAP_LOG": str(naps), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    # Jobs get none of this process's XLA_FLAGS; so nothing does that is compared with them.
    shell = {name: value for name, value in slurm_environment.items() if name != "XLA_FLAGS"}
    cluster = LocalSlurm(shell | own)
    yield cluster
    for process in cluster.started:
        if process.poll() is None:
            process.kill()
        process.wait()
    cluster.run("scancel", "--quiet", "--full", "--user=root", check=False)
    cluster.run("scancel", "--quiet", "--user=root", check=False)
    until(lambda: not cluster.jobs(), "the queue is empty")
    for node in ("n1", "n2", "n3", "n4"):
        cluster.restart(node)


def done_twice(events: list[Event]) -> list[Event]:
    """Return the beginnings of tasks that were committed before: there should be none."""
    committed: set[int] = set()
    found = []
    for event in events:
        if event.task is None:
            continue
        if event.what == "committed":
            committed.add(event.task)
        elif event.what == "retried":  # its commit was taken back
            committed.discard(event.task)
        elif event.what == "started" and event.task in committed:
            found.append(event)
    return found

"""``dp.sweep``: what a sweep file says, from Python, by the same engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr

import dpsolve as dp
from dpsolve import RefusedError, UsageError
from dpsolve.hpc.cli.main import main
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.trust import trusted
from dpsolve.solvers import compile_forecast
from dpsolve.solvers.errors import ClusterError

from .conftest import TOY, assert_equal_stores

SLOPE = 2.0
WEIGHTS = np.array([0.25, 0.75])
SHIFTS = {"low": (1, jnp.array([0.5])), "nan": [float("nan")]}
half = lambda x: x / 2  # noqa: E731  # as people write them in notebooks


def line(x: Any, slope: float = SLOPE) -> Any:
    return half(slope * x + WEIGHTS.sum())


def toy(a: float = 1.0, b: float = 2.0, *, n: int = 3) -> dict[str, Any]:
    """A product and a line."""
    return {"price": a * b, "path": (("t",), line(a) + b * jnp.arange(n) + SHIFTS["low"][1])}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_the_sweep_of_the_command_line(here: Path) -> None:
    (here / "toy.py").write_text(TOY)
    ds = dp.sweep(
        "toy.py:toy", grid={"a": np.array([1.0, 2.0, 3.0])}, fixed={"b": 4, "n": 2},
        store=here / "one.zarr", keep="price,path", points_per_task=2, quiet=True,
    )  # fmt: skip
    assert isinstance(ds, xr.Dataset)
    assert ds["price"].values.tolist() == [4.0, 8.0, 12.0]
    assert ds["status"].values.tolist() == ["solved"] * 3
    options = ["--set", "b=4", "--set", "n=2", "--keep", "price,path", "--store", "two.zarr"]
    words = ["sweep", "toy.py:toy", "--grid", "a=1.0,2.0,3.0", *options]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--with", "store.points_per_task=2"])
    assert ended.value.code == 0
    assert_equal_stores("one.zarr", "two.zarr")


def test_the_same_call_goes_on_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    call: dict[str, Any] = {"grid": {"a": [1.0, 2.0]}, "store": "a.zarr"}
    dp.sweep(toy, **call)
    dp.sweep(toy, **call)
    assert "2 points, 2 of them committed before" in capsys.readouterr().err
    with pytest.raises(RefusedError, match=r"parameter a: the store has \[1.0, 2.0\]"):
        dp.sweep(toy, grid={"a": [1.0, 3.0]}, store="a.zarr", quiet=True)
    anew = dp.sweep(toy, grid={"a": [1.0, 3.0]}, store="a.zarr", overwrite=True, quiet=True)
    assert anew["a"].values.tolist() == [1.0, 3.0]


def test_points_in_a_row_by_lists_by_draws_and_from_a_file(here: Path) -> None:
    (here / "points.csv").write_text("a,b\n1,10\n2,20\n")
    by_list = dp.sweep(toy, zip={"a": (1, 2), "b": np.array([10, 20])}, store="z.zarr", quiet=True)
    by_file = dp.sweep(toy, table=here / "points.csv", store="t.zarr", quiet=True)
    assert by_list["price"].values.tolist() == by_file["price"].values.tolist() == [10.0, 40.0]
    draws = {"method": "sobol", "points": 4, "a": {"from": 0, "to": 1}}
    drawn = dp.sweep(toy, sample=draws, store="s.zarr", quiet=True)
    assert drawn.sizes["point"] == 4


def test_several_sizes_make_a_tree() -> None:
    tree = dp.sweep(toy, grid={"a": [1.0, 2.0], "n": [2, 3]}, store="n.zarr", quiet=True)
    assert isinstance(tree, xr.DataTree)
    assert tree["n=3"]["path"].shape == (2, 3)


def test_a_factory_of_a_module_travels_as_its_file(here: Path) -> None:
    dp.sweep(toy, grid={"a": [1.0, 2.0]}, store="a.zarr", quiet=True)
    source = open_store("a.zarr").source
    assert (source.kind, source.reference.rpartition(":")[2]) in {
        ("file", "toy"),
        ("module", "toy"),
    }
    assert "SLOPE = 2.0" in source.source


def test_a_built_in_is_known_by_its_function() -> None:
    from dpsolve.solvers.library import cake

    dp.sweep(cake, grid={"beta": [0.5, 0.6]}, fixed={"n_x": 12}, store="c.zarr", quiet=True)
    assert open_store("c.zarr").source.kind == "builtin"


CELLS = [
    "import numpy as np, jax.numpy as jnp, dpsolve as dp\nfrom jax.numpy import exp as e",
    "SCALE, SHIFT = 2.0, np.float64(0.5)\nTABLE = {'x': [1, (2.0, None)], 'nan': float('nan')}",
    "ARRAY = jnp.array([[1.0, 2.0]])\nhalf = lambda x: x / 2",
    "def inner(a):\n    return half(a) * SCALE + ARRAY.sum() + SHIFT + len(TABLE)",
    "class Names:\n    price = 'price'",
    "def toy(a=1.0, *, n=3, wide: bool = SCALE > 1):\n"
    "    return {'price': e(0.0) * inner(a), 'path': (('t',), a + jnp.arange(n))}",
    "ds = dp.sweep(toy, grid={'a': [1.0, 2.0]}, store='a.zarr', quiet=True)",
    "print(ds.price.values.tolist(), float(toy(2.0)['price']))",
]


def ipython(*cells: str) -> subprocess.CompletedProcess[str]:
    """Run cells one after another, as a notebook does."""
    code = (
        "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for cell in {list(cells)!r}:\n"
        "    found = shell.run_cell(cell)\n"
        "    if not found.success: sys.exit(f'{type(found.error_in_exec).__name__}: "
        "{found.error_in_exec}')\n"
    )
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)


def test_a_factory_of_a_notebook_is_written_out_with_all_that_it_reads() -> None:
    ran = ipython(*CELLS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "[6.5, 7.5] 7.5" in ran.stdout
    source = open_store("a.zarr").source
    assert source.reference == "notebook.py:toy"
    assert "half = lambda x: x / 2" in source.source
    # From the store alone, in a process that knows nothing of the notebook:
    factory = trusted(open_store("a.zarr")).source.load()
    assert np.asarray(factory(2.0)["price"]) == 7.5


def defined(text: str, name: str = "toy") -> Any:
    """Define a function as a script does that is executed."""
    path = Path("script.py").resolve()
    path.write_text(dedent(text))
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space[name]


HEAD = "import jax.numpy as jnp, numpy as np, dpsolve as dp\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("G = dp.grid(0, 1, 3)\ndef toy(a=1.0):\n    return {'x': a * G.values[0]}",
         "reads 'G', and it cannot be taken along by a sweep: what a Grid holds"),
        ("def make(k):\n    def toy(a=1.0):\n        return {'x': a * k}\n    return toy\n"
         "toy = make(2)", "'k' comes from the function that toy was defined in"),
        ("toy = lambda a=1.0: {'x': a}", "with def, not as lambda"),
        ("import functools\ntoy = functools.partial(lambda a: {'x': a}, 1.0)",
         "this is functools's partial"),
        ("class Toy:\n    def __call__(self, a=1.0):\n        return {'x': a}\ntoy = Toy()",
         "a sweep takes a plain function"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(UsageError, match="sweep") as refused:
        dp.sweep(defined(HEAD + text), grid={"a": [1.0, 2.0]}, store="a.zarr", quiet=True)
    assert why in str(refused.value)
    assert not Path("a.zarr").exists()


def test_a_source_that_is_no_longer_the_function_is_refused() -> None:
    toy = defined("def toy(a=1.0):\n    return {'x': a}\n")
    text = Path("script.py").read_text()
    Path("script.py").write_text(text.replace("a}", "a + 1.0}"))
    import linecache

    linecache.checkcache()
    with pytest.raises(UsageError, match="another model than the function 'toy' in memory"):
        dp.sweep(toy, grid={"a": [1.0, 2.0]}, store="a.zarr", quiet=True)


def test_mistakes_are_told_at_once_in_the_words_of_the_file() -> None:
    with pytest.raises(UsageError) as error:
        dp.sweep(toy, grid={"a": [], "c": [1.0]}, sample={"method": "grid"}, tol="x", keep=["q"])
    text = str(error.value)
    for part in ("grid.a", "no parameter 'c'", "sample.points", "solve.tol"):
        assert part in text
    with pytest.raises(UsageError, match=r"'b' is a parameter of toy, not an option: fixed="):
        dp.sweep(toy, grid={"a": [1.0]}, b=2.0)
    with pytest.raises(UsageError, match=r"store\.keep.* names 'q'"):
        dp.sweep(toy, grid={"a": [1.0]}, keep=["q"], quiet=True)
    with pytest.raises(UsageError, match="needs a profile"):
        dp.sweep(toy, grid={"a": [1.0]}, on="slurm")


def test_ctrl_c_is_an_interrupt_that_the_same_call_resumes() -> None:
    code = HEAD + dedent("""
        import os, signal, threading
        from dpsolve.hpc.run import executor
        whole = executor._solve
        def slow(store, task, *rest):
            if task.id == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return whole(store, task, *rest)
        executor._solve = slow
        try:
            dp.sweep("cake", grid={"beta": [.5, .6, .7, .8]}, fixed={"n_x": 9}, store="a.zarr",
                     points_per_task=1)
        except KeyboardInterrupt as error:
            print("interrupted:", error)
    """)
    ran = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert "interrupted: SIGINT" in ran.stdout, ran.stderr
    done = dp.sweep("cake", grid={"beta": [0.5, 0.6, 0.7, 0.8]}, fixed={"n_x": 9},
                    store="a.zarr", points_per_task=1, quiet=True)  # fmt: skip
    assert (done["status"] == "solved").all()


def test_mass_at_the_top_of_a_grid_is_stored_told_and_verified(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("walk.py").write_text(
        HEAD + "def walk(p=0.5, *, n=5):\n"
        "    return dp.Model(\n"
        "        states={'a': dp.grid(0.0, 1.0, n, outside='clip')},\n"
        "        choices={'eat': dp.integers(0, 0)},\n"
        "        shocks={'luck': dp.iid([-1.0, 1.0], [1 - p, p])},\n"
        "        transition={'a': lambda a, luck: a + luck / (n - 1)},\n"
        "        reward=lambda a: a, discount=0.9)\n"
    )
    call: dict[str, Any] = {"grid": {"p": [0.01, 0.5]}, "keep": ["distribution", "policy"]}
    ds = dp.sweep("walk.py:walk", **call, store="walk.zarr")
    np.testing.assert_allclose(ds["top_mass_a"], [0.0, 0.2], atol=1e-7)
    told = "at 1 of 2 points up to 20 % of the mass lies at the top of the grid of a"
    assert capsys.readouterr().err.count(told) == 1
    assert told in str(read_status("walk.zarr"))
    assert dp.verify("walk.zarr").ok
    Path("walk.py").unlink()
    group = zarr.open_group("walk.zarr", mode="r+", use_consolidated=False)
    group["top_mass_a"][:] = [0.0, 0.0]
    claims = dp.verify("walk.zarr", all_points=True).claims
    assert any("top_mass_a is 0, but the stored distribution has 0.2" in c for c in claims)


def test_a_sweep_says_what_it_compiles_before_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_forecast, "LONG", 0.0)
    fixed = {"n_x": 14}  # which no other test has compiled
    dp.sweep("cake", grid={"beta": [0.5, 0.6]}, fixed=fixed, store="c.zarr")
    told = capsys.readouterr().err
    assert told.count("compiling cake, some") == 1
    assert told.index("compiling cake, some") < told.index("compiled cake in")


def test_where_tasks_cannot_run_no_store_is_made(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(ClusterError, match="no SLURM commands here"):
        dp.sweep(toy, grid={"a": [1.0]}, store="a.zarr", on="slurm", profile="cpu", quiet=True)
    with pytest.raises(UsageError, match="character"):
        dp.sweep(toy, grid={"a": [1.0]}, store="a\n.zarr", on="slurm", profile="cpu", quiet=True)
    assert not list(here.glob("*.zarr"))


def test_the_check_at_the_end_runs_the_model_at_hand(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "no_folder").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "no_folder"))  # no place for a key
    ds = dp.sweep(toy, grid={"a": [1.0]}, store="a.zarr", quiet=True)
    assert ds["status"].values.tolist() == ["solved"]

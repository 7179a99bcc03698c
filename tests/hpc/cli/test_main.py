"""The command line: what it prints, how it ends, and what it does not import."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.solvers.library import BUILTIN

COMMANDS = [
    "init", "models", "describe", "check", "solve", "sweep", "plan", "status", "resume", "verify",
    "plot", "report", "export", "profiles", "submit", "logs", "cancel", "doctor", "completion",
]  # fmt: skip

MODELS = '''
import jax.numpy as jnp
import dpsolve as dp

def toy(a=1.0, b=2.0, *, n=3):
    """A product and a line: compiled in no time."""
    return {"price": a * b, "path": (("t",), a + b * jnp.arange(n))}

def root(a=1.0):
    """Fails where a is negative."""
    return {"x": jnp.sqrt(a)}

def walk(beta=0.5, *, n=4):
    """Stay or move up, and be paid where you stand."""
    return dp.Model(
        states={"k": dp.integers(0, n)}, choices={"up": dp.integers(0, 1)},
        transition={"k": lambda k, up: jnp.minimum(k + up, n)},
        reward=lambda k, up: 1.0 * k - 0.1 * up, discount=beta,
    )

def typo(beta=0.5):
    def reward(k):
        return jnp.lgo(k)
    return dp.Model(states={"k": dp.integers(1, 2)}, choices={"c": dp.integers(0, 1)},
                    transition={"k": "k"}, reward=reward, discount=beta)
'''

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder with a file of models; return what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MODELS)

    def run(line: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, line.split(), prog_name="dpsolve")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    return run


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(run: Run, command: str) -> None:
    text = run(f"{command} --help")
    assert "Examples:\n" in text
    assert f"  dpsolve {command}" in text


def test_the_commands_and_the_version(run: Run) -> None:
    text = run("--help")
    listed = text.partition("Commands:")[2].partition("Examples:")[0]
    assert re.findall(r"^  (\w+) +[A-Z]", listed, re.MULTILINE) == COMMANDS
    assert "..." not in listed
    assert run("--version") == f"dpsolve {dp.__version__}\n"


LIGHT = """
import sys, time
from dpsolve.hpc.cli.main import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"jax", "jaxlib", "xarray", "zarr", "dask", "distributed", "scipy", "matplotlib"}}
print("heavy:", *sorted(heavy & {{*sys.modules}}), f"seconds: {{time.process_time():.2f}}")
"""


def test_help_and_status_are_light(run: Run, fresh_python: Callable[[str], str]) -> None:
    run("sweep m.py:toy --grid a=1:2:3 --store toy.zarr")
    for line in (
        "--help", "status toy.zarr", "status toy.zarr --events", "plan --help", "sweep --help",
        "submit --help", "profiles", "logs toy.zarr", "cancel toy.zarr",
    ):  # fmt: skip
        last = fresh_python(LIGHT.format(arguments=line.split())).splitlines()[-1]
        found = re.fullmatch(r"heavy: seconds: (.*)", last)
        assert found, (line, last)
        assert float(found[1]) < 1.0


def test_help_imports_few_modules(fresh_python: Callable[[str], str]) -> None:
    """Modules are counted, since seconds depend on the machine: 21 and 88 when this was written."""
    code = """
    import sys
    before = {*sys.modules}
    import dpsolve
    print(len({*sys.modules} - before), *({"dataclasses", "tempfile", "numpy"} & {*sys.modules}))
    from dpsolve.hpc.cli.main import main
    try:
        main(["--help"])
    except SystemExit:
        print(len({*sys.modules} - before), *({"numpy", "tempfile"} & {*sys.modules}))
    """
    lines = fresh_python(textwrap.dedent(code)).splitlines()
    assert int(lines[0]) < 30
    assert int(lines[-1]) < 110


def test_no_import_starts_a_device(fresh_python: Callable[[str], str]) -> None:
    """A solve of several processes has to meet before any of them looks for devices."""
    code = """
    import importlib, pkgutil
    import dpsolve
    for module in pkgutil.walk_packages(dpsolve.__path__, "dpsolve."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from jax._src.xla_bridge import backends_are_initialized
    print(backends_are_initialized())
    """
    assert fresh_python(textwrap.dedent(code)).strip() == "False"


# -- one model -------------------------------------------------------------------------------------


def test_models_are_listed_by_what_is_chosen_in_them(run: Run) -> None:
    continuous, lists, arrays, how = run("models").split("\n\n")
    named = [
        re.findall(r"^  (\w+) +\w", part, re.MULTILINE) for part in (continuous, lists, arrays)
    ]
    assert {"growth", "savings"} <= {*named[0]}
    assert {"cake", "inventory"} <= {*named[1]}
    assert "solow" in named[2]
    assert sorted(name for part in named for name in part) == sorted(BUILTIN)
    assert "dpsolve describe savings" in how


@pytest.mark.slow
def test_describe_and_check(run: Run) -> None:
    text = run("describe m.py:toy --set n=7")
    assert "A product and a line" in text
    assert "path   over t (7)" in text
    assert run("check m.py:walk --set beta=0.9") == "walk: no fault found at beta=0.9, n=4.\n"
    assert "Did you mean 'beta'?" in run("check m.py:walk --set bta=0.9", code=2)


def test_solve_prints_a_summary_and_saves(run: Run) -> None:
    text = run("solve m.py:walk --set n=3 --tol 1e-9 --save w.zarr")
    assert text.startswith("walk: solved\n")
    assert "parameters  beta=0.5\n" in text
    assert "sizes       n=3\n" in text
    assert "(tol 1e-09)" in text
    assert "value       " in text
    assert " over k (4)" in text
    assert re.search(r"time +\S+ \w+, and \S+ \w+ to compile", text)
    saved = xr.open_zarr("w.zarr", consolidated=False)
    assert saved.value.dims == ("k",)
    assert saved.status.item() == "solved"
    run("solve m.py:toy --save t.nc")
    assert xr.open_dataset("t.nc", engine="scipy").price.item() == 2.0
    assert "exists already" in run("solve m.py:toy --save t.nc", code=2)
    assert ".zarr or .nc" in run("solve m.py:toy --save t.csv", code=2)


def test_solve_that_fails_ends_with_1(run: Run) -> None:
    text = run("solve m.py:root --set a=-1", code=1)
    assert text.startswith("root: failed\n")
    assert "because" in text


def test_an_error_in_the_users_file_shows_its_line(run: Run) -> None:
    for line in ("solve m.py:typo", "sweep m.py:typo --grid beta=0.5,0.6"):
        text = run(line, code=2)
        assert re.search(r"m\.py, line 23, in reward:\n +return jnp\.lgo\(k\)\nAttrib", text)
        assert "Traceback" not in text


def test_an_error_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dpsolve.hpc.store.status.read_status", broken)
    with pytest.raises(ZeroDivisionError):
        run("status any.zarr")


# -- a sweep ---------------------------------------------------------------------------------------

SWEEP = """
model = "m.py:walk"
[grid]
beta = { from = 0.1, to = 0.9, points = 9 }
[solve]
tol = 1e-8
[store]
path = "walk.zarr"
points_per_task = 3
"""


def test_the_life_of_a_sweep(run: Run) -> None:
    Path("walk.toml").write_text(SWEEP)
    assert "9 points, no fault found" in run("check walk.toml")

    text = run("plan walk.toml --no-probe")
    assert text.startswith("9 points of m.py:walk into walk.zarr\n")
    for row in ("tasks       3, at most 3 points each", "bytes", "files", "memory", "side by side"):
        assert row in text
    assert "time" not in text
    assert text.endswith("run it      dpsolve sweep walk.toml\n")
    assert not Path("walk.zarr").exists()
    assert re.search(r"time +about .* to solve \(from \d probed points\)", run("plan walk.toml"))

    text = run("sweep walk.toml")
    assert "9 points: 9 solved\n" in text
    assert re.search(r"worst certified error \S+ \(tol 1e-08\)", text)
    assert "store       walk.zarr\n" in text
    assert text.endswith("next        dpsolve plot walk.zarr\n")
    assert "3 of 3 tasks are committed already" in run("plan walk.toml --no-probe")
    assert "every point was committed before" in run("sweep walk.toml")
    assert "every point was committed before" in run("resume walk.zarr")
    assert "dpsolve resume walk.zarr" in run("sweep walk.zarr", code=2)

    assert "command    dpsolve sweep walk.toml" in run("status walk.zarr")
    status = json.loads(run("status walk.zarr --json"))
    assert (status["points"], status["solved"], status["pending"]) == (9, 9, 0)
    assert status["failures"] == []
    assert "9 of 9 points against the definition" in run("verify walk.zarr --all")
    assert "2 of 9 points" in run("verify walk.zarr --sample 2 --seed 5")

    text = run("sweep walk.toml --tol 1e-6", code=3)
    assert "solve.tol: the store has 1e-08, this call asks for 1e-06" in text
    assert "--store" in text


def test_a_lost_task_is_found_and_resumed(run: Run) -> None:
    run("sweep m.py:toy --grid a=1:2:6 --store t.zarr --with store.points_per_task=2")
    before = dp.open("t.zarr").load()
    Path("m.py").unlink()
    Path("t.zarr/status/c.1").unlink()
    assert "2 pending" in run("status t.zarr")
    assert json.loads(run("status t.zarr --json"))["pending"] == 2
    text = run("resume t.zarr")
    assert "6 points: 6 solved" in text
    assert "to plan, solve and write 2 points" in text
    xr.testing.assert_identical(
        dp.open("t.zarr").load().drop_vars("seconds"), before.drop_vars("seconds")
    )


def test_points_that_fail_are_told_and_end_with_1(run: Run) -> None:
    text = run("sweep m.py:root --grid a=-2,-1,0,4 --store r.zarr", code=1)
    assert "4 points: 2 solved, 2 failed" in text
    assert re.search(r"failed: .* \(at a=-2, and 1 more\)", text)
    assert dp.open("r.zarr").x.sel(a=4.0).values == 2.0


def test_sizes_and_options_on_the_command_line(run: Run) -> None:
    text = run("sweep m.py:toy --grid n=2,3 --grid a=1:2:3 --set b=5 --store s.zarr --keep path")
    assert "6 points: 6 solved" in text
    tree = dp.open("s.zarr")
    assert tree["n=2"]["path"].shape == (3, 2)
    assert "price" not in tree["n=3"]
    assert "n=2: 3 points, 1 tasks" in run(
        "plan m.py:toy --grid n=2,3 --grid a=1:2:3 --set b=5 --no-probe --store other.zarr"
    )


def test_mistakes_end_with_2_and_no_store(run: Run) -> None:
    Path("walk.toml").write_text(SWEEP.replace("tol = 1e-8", 'tol = "1e-8"'))
    text = run("sweep walk.toml", code=2)
    assert "line 6, solve.tol" in text
    assert "Traceback" not in text
    text = run("sweep m.py:toy --grid a=1:2:3 --keep prce,pth,path --store t.zarr", code=2)
    assert "Did you mean 'price'?" in text
    assert "Did you mean 'path'?" in text
    assert "nothing is swept" in run("sweep growth", code=2)
    assert not list(Path().glob("*.zarr"))


def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dpsolve.hpc.run.sweep.run_sweep", interrupt)
    assert "interrupted" in run("sweep m.py:toy --grid a=1:2:3", code=130)


def test_what_certifies_nothing_says_so_in_every_summary(run: Run) -> None:
    """Arrays of a factory that states no error, and a sample in place of a certificate."""
    none = "accuracy    nothing is certified: the factory states no error_bound of its arrays"
    assert none in run("solve m.py:toy")
    assert none in run("solve m.py:toy --store one.zarr")
    assert none in run("sweep m.py:toy --grid a=1:2:3 --store s.zarr")
    assert none.replace("    ", "   ") in run("status s.zarr")
    assert (dp.open("s.zarr")["message"] == none.split("    ")[1]).all()
    run("verify s.zarr")
    sample = "--with solve.certificate=sampled --with solve.sample=1500 --cold"
    sizes = "--set continuous=false --set n_a=300 --set n_z=2"
    text = run(f"sweep savings {sizes} --grid beta=0.9,0.95 {sample} --store some.zarr", code=1)
    assert "2 points: 0 solved, 2 inexact" in text
    assert "no better choice at 1,500 sampled states (confidence .999)" in text
    assert "accuracy    nothing is certified at some points: error_bound is inf" in text
    stored = dp.open("some.zarr")
    assert stored["certificate"].attrs["long_name"].endswith("which bounds no error")
    assert (stored["certificate"] == 1).all()
    assert (stored["status"] == "inexact").all()
    assert "nothing is certified at some points" in run("status some.zarr")
    assert "nothing is claimed of the value" in run("verify some.zarr")
    assert dp.load("some.zarr", beta=0.9).message.startswith("no better choice at 1,500")


def test_a_plan_says_how_long_a_certificate_takes_and_what_is_quicker(run: Run) -> None:
    sizes = "--set continuous=false --set n_a=20000 --set n_z=25"
    command = f"plan savings {sizes} --grid beta=0.9,0.95 --no-probe"
    text = run(command)
    assert "certified   by a full sweep, about 12 s a point on two cores (by count: " in text
    assert (
        "certifies nothing: points are inexact, with an error_bound of inf (in [solve], or" in text
    )
    option = "--with solve.certificate=sampled"
    assert f"{option})" in text
    asked = run(f"{command} {option}")
    assert "then a sample of the states is looked at, which certifies nothing" in asked
    assert "certified   by" not in asked


def test_a_plan_says_whether_its_store_would_be_resumed_or_refused(run: Run) -> None:
    run("sweep m.py:toy --grid a=1:2:3 --store s.zarr")
    again = run("plan m.py:toy --grid a=1:2:3 --store s.zarr --no-probe")
    assert "1 of 1 tasks are committed" in again
    other = run("plan m.py:toy --grid a=1:2:4 --store s.zarr --no-probe")
    assert "refused" in other
    assert "parameter a" in other

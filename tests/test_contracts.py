"""What holds the rooms together: the direction of imports, the lazy face, and float64."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grimp
import pytest

import dpsolve
from dpsolve.solvers import errors

HEAVY = ("jax", "xarray", "zarr", "dask", "distributed", "scipy", "pandas", "matplotlib")


def lint_imports(config: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", config, "--no-cache"],
        env={**os.environ, "PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied_package(root: Path, tmp_path: Path) -> Path:
    """The package as a wheel would lay it out, free to be broken."""
    shutil.copytree(
        root / "src" / "dpsolve", tmp_path / "dpsolve", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def test_rooms_keep_their_contracts(root: Path) -> None:
    done = lint_imports(root / "pyproject.toml", root / "src")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("solvers/errors.py", "from dpsolve.sharding import solve", "The rooms import one way"),
        ("sharding/solve.py", "from dpsolve.hpc.store import store", "The rooms import one way"),
        ("solvers/errors.py", "import zarr", "The solver room knows no files"),
        ("sharding/solve.py", "import click", "The sharding room knows no files"),
        (
            "hpc/model_definition/pairs.py",
            "from dpsolve.solvers.solve import point",
            "Verification shares no kernel",
        ),
    ],
)
def test_contracts_catch_a_breach(
    root: Path, copied_package: Path, module: str, line: str, contract: str
) -> None:
    with (copied_package / "dpsolve" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(root / "pyproject.toml", copied_package)
    broken = [row for row in done.stdout.splitlines() if " BROKEN" in row]
    assert done.returncode != 0
    assert any(row.startswith(contract) for row in broken), done.stdout + done.stderr


def test_what_verification_computes_with_reaches_no_kernel() -> None:
    """Not by a detour either: all that these modules import, directly or through others.

    Types of arrays and a count of bytes are among them, which compute nothing.
    """
    graph = grimp.build_graph("dpsolve", cache_dir=None)
    reached: set[str] = set()
    for name in ("continuum", "distributions", "proofs", "stored_point"):
        reached |= graph.find_upstream_modules(f"dpsolve.hpc.verify.{name}")
    assert {name for name in reached if not name.startswith("dpsolve.hpc.")} == {
        "dpsolve.solvers.logit.taste_shocks",
        "dpsolve.solvers.model.arguments",
        "dpsolve.solvers.model.construction",
        "dpsolve.solvers.model.user_functions",
        "dpsolve.solvers.program_keys.code_reads",
        "dpsolve.solvers.program_keys.fingerprint",
        "dpsolve.solvers.program_keys.installed",
        "dpsolve.solvers.probability.markov",
        "dpsolve.solvers.named_arguments.computed",
        "dpsolve.solvers.named_arguments.families",
        "dpsolve.solvers.named_arguments.order",
        "dpsolve.solvers.named_arguments.positions",
        "dpsolve.solvers.named_arguments.reading",
        "dpsolve.solvers.numerics.memory",
        "dpsolve.solvers.numerics.given",
        "dpsolve.solvers.probability.iid",
        "dpsolve.solvers.probability.unfolding",
        "dpsolve.solvers.errors",
        "dpsolve.solvers.labels",
        "dpsolve.solvers.model.grids",
        "dpsolve.solvers.model.lookups",
        "dpsolve.solvers.model.mdp",
        "dpsolve.solvers.model.model",
        "dpsolve.solvers.model.post_decision",
        "dpsolve.solvers.numerics.arrays",
        "dpsolve.solvers.probability.probabilities",
        "dpsolve.solvers.model.returns",
        "dpsolve.solvers.program_keys.array_content",
        "dpsolve.solvers.numerics.tracing",
    }
    assert "dpsolve" not in graph.find_modules_directly_imported_by(
        "dpsolve.hpc.verify.verification"
    )


def test_no_room_imports_the_face() -> None:
    """It imports the rooms."""
    graph = grimp.build_graph("dpsolve", cache_dir=None)
    assert graph.find_modules_that_directly_import("dpsolve") == set()


def test_the_errors_are_one_tree_in_one_file(root: Path) -> None:
    """Whoever asks for an exit code looks there."""
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for room in ("hpc", "sharding", "solvers")
        for path in (root / room).rglob("*.py")
    }
    homes = {
        path.relative_to(root).as_posix()
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Error") for base in node.bases)
    }
    assert homes == {"solvers/errors.py"}
    for found in vars(errors).values():
        own = isinstance(found, type) and found.__module__ == errors.__name__
        if own and found is not errors.AgreedError:  # which has another's
            assert issubclass(found, errors.DpsolveError)
            assert found.exit_code in {1, 2, 3, 130}


def test_slurm_room_holds_data_and_no_logic(root: Path) -> None:
    modules = list((root / "slurm").rglob("*.py"))
    assert [path.name for path in modules] == ["__init__.py"]
    body = ast.parse(modules[0].read_text(encoding="utf-8")).body
    assert len(body) == 1, "slurm/__init__.py is a docstring and nothing else"
    assert isinstance(body[0], ast.Expr)


def test_every_public_name_resolves() -> None:
    for name in (*dpsolve._HOME, *dpsolve._PARTS):
        assert getattr(dpsolve, name) is not None
        assert name in dir(dpsolve)
    public = {name for name in dir(dpsolve) if not name.startswith("_")}
    assert public >= set(dpsolve._HOME)


def test_type_checkers_see_the_names_that_the_face_loads(root: Path) -> None:
    """The names under TYPE_CHECKING in the face are those that __getattr__ finds, from there."""
    tree = ast.parse((root / "src" / "dpsolve" / "__init__.py").read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    declared = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {name for name, home in declared.items() if home is None}  # from . import plot
    assert modules == set(dpsolve._PARTS)
    assert {n: home for n, home in declared.items() if home is not None} == dpsolve._HOME


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'slove'"):
        _ = dpsolve.slove


@pytest.mark.parametrize(
    "module",
    [
        "dpsolve",
        "dpsolve.solvers.errors",
        "dpsolve.solvers.labels",
        "dpsolve.hpc.cli.main",
        "dpsolve.hpc.sweep_file.fields",
        "dpsolve.hpc.store.status",
    ],
)
def test_light_modules_import_nothing_heavy(
    module: str, fresh_python: Callable[[str], str]
) -> None:
    code = f"import sys, {module}; print(*sorted({{*{HEAVY}}} & {{*sys.modules}}))"
    assert fresh_python(code).split() == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plan", "--help"], ["sweep", "--help"]]
)
def test_help_imports_nothing_heavy(
    arguments: list[str], fresh_python: Callable[[str], str]
) -> None:
    code = f"""
import sys
from dpsolve.hpc.cli.main import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code, end.code
print("\\nheavy:", *sorted({{*{HEAVY}}} & {{*sys.modules}}))
"""
    assert fresh_python(code).splitlines()[-1].split() == ["heavy:"]


@pytest.mark.parametrize("order", ["import dpsolve, jax", "import jax, dpsolve"])
def test_numbers_are_float64_in_either_order_of_imports(
    order: str, fresh_python: Callable[[str], str]
) -> None:
    code = f"{order}; import jax.numpy as jnp; print(jnp.zeros(()).dtype)"
    assert fresh_python(code).strip() == "float64"

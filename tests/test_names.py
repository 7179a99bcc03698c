"""Every name says what it is in the field's words: no old one is left, and the map is true.

Modules stood in three flat rooms under names that meant something to their authors alone. Whoever
brings one back, by an old branch or from memory, is told here. The changelog may speak of them.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = {
    "hpc": """
        activity agreeing agreement arguments audit bellman buckets cancelling checkpoints
        commands_cluster commands_models commands_solve commands_store commands_sweep
        committing conductor creation dask_executor dask_settings definition design desk
        detached devices dispatch driver examination executors files finding fleet gains
        interrupts joblogs jobs leaving ledger loading manifest masses memory_watch mishaps
        mistakes orders overrides placement places profiles program_cache proof provenance
        quiet_worker reading recutting resolve results retries retrying running schema
        sequence slurm_cluster slurm_executor slurm_step slurm_units slurm_worker solving
        spec status submission sweep table tasks toml_source unsolvable verification worker
    """,
    "sharding": """
        compiled estimates fit layout many mesh one panel program roll rounds serving
        stepwise strands threads whole
    """,
    "solvers": """
        arrays average binding bounds chain chain_methods chains check compiling contraction
        cut cyclic dense dense_chain describe distribution doubling ergodic factory forward
        functions grids hitting horizon implicit initial invariant iteration krylov lattice
        lattice_policy law line locate lookup loops maximum moments monotone monte_carlo
        named operator outlook phases point points population post product refusals root
        sampled single stages stationary streams summation survey tabular tiles warm
    """,
}

# Of classes that are called otherwise now. Some are English words: they are looked for as names in
# code, and after `import` in any text.
CLASSES = """
    AverageRun Compiled Conductor Crew Cut Cyclic Desk Dispatch Ending Everywhere Fleet Functions
    GainStep Hand JobFleet Late Lattice LatticePolicy Law Ledger Line Look MonotoneLattice Named
    OneGo Pairs Past Placement Post Presence Roll SampledLattice Seat SingleLattice Tabular Told
    TurnPolicy Whole
""".split()  # noqa: SIM905  # the words are easier to read and to extend
UNMISTAKABLE = [name for name in CLASSES if re.search("[a-z][A-Z]|Lattice", name)]

MOST_MODULES = 14
ROOMS = ("hpc", "sharding", "solvers")
SPEAKS_OF_THEM = {"CHANGELOG.md", "tests/test_names.py"}


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every tracked text that is to be looked through, with its path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    for name in sorted(set(listed.split("\0")) - SPEAKS_OF_THEM - {""}):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture


def old_modules() -> re.Pattern[str]:
    """Match a dotted path or a file of an old module, and no longer path that begins like one."""
    each = [
        rf"dpsolve\.{room}\.(?:{names})(?![\w.])|\b{room}/(?:{names})\.py\b"
        for room, words in MODULES.items()
        for names in ["|".join(words.split())]
    ]
    return re.compile("|".join(each) + r"|dpsolve\.(?:hpc|solvers)\.(?:cli|solve|store):\w")


def test_no_old_module_is_named(root: Path) -> None:
    pattern = old_modules()
    found = [
        f"{name}: {match.group()}" for name, text in texts(root) for match in pattern.finditer(text)
    ]
    assert found == []


def test_no_old_class_is_named(root: Path) -> None:
    unmistakable = re.compile(rf"\b(?:{'|'.join(UNMISTAKABLE)})\b")
    imported = re.compile(rf"\bimport [^\n]*\b(?:{'|'.join(CLASSES)})\b")
    found = []
    for name, text in texts(root):
        found += [
            f"{name}: {m.group()}" for p in (unmistakable, imported) for m in p.finditer(text)
        ]
        if name.endswith(".py"):
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            found += [
                f"{name}:{token.start[0]}: {token.string}"
                for token in tokens
                if token.type == tokenize.NAME and token.string in CLASSES
            ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["dpsolve.hpc.jobs", "`hpc/conductor.py`", "dpsolve.solvers.lattice is", "solvers/law.py"],
)
def test_an_old_module_would_be_found(text: str) -> None:
    assert old_modules().search(text)


@pytest.mark.parametrize(
    "text",
    [
        "dpsolve.hpc.store.store",
        "dpsolve.solvers.operators.bellman",
        "hpc/model_definition/bellman.py",
    ],
)
def test_a_new_module_is_no_old_one(text: str) -> None:
    assert not old_modules().search(text)


def aliases(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield module, name and value of every alias of a type that is one line of a module."""
    for room in (*ROOMS, "scripts"):
        for path in (root / room).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                targets = (
                    node.targets
                    if isinstance(node, ast.Assign)
                    else [getattr(node, "target", None)]
                )
                for target in targets:
                    if isinstance(target, ast.Name) and (value := getattr(node, "value", None)):
                        yield path.relative_to(root).as_posix(), target.id, ast.unparse(value)


def test_an_array_is_annotated_as_what_it_is(root: Path) -> None:
    """`Array` is JAX's, `Numpy` and `AnyArray` have one home; `Any` says nothing."""
    found = list(aliases(root))
    anything = {(module, name) for module, name, value in found if value == "Any"}
    assert anything == {("solvers/numerics/fixed_point.py", "Tree")}  # no type can say that
    homes = {
        (module, name)
        for module, name, value in found
        if name in ("Numpy", "AnyArray") or value == "np.ndarray[Any, Any]"
    }
    home = "solvers/numerics/arrays.py"
    assert homes == {(home, "Numpy"), (home, "AnyArray")}


def test_no_folder_is_hard_to_overlook(root: Path) -> None:
    folders = {path.parent for room in ROOMS for path in (root / room).rglob("*.py")}
    many = {
        str(folder.relative_to(root)): count
        for folder in folders
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > MOST_MODULES
    }
    assert many == {}
    assert {len(folder.relative_to(root).parts) for folder in folders} == {1, 2}  # one level


def test_every_module_says_in_one_line_what_it_is(root: Path) -> None:
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert docstring, path
            assert "\n" not in docstring.partition("\n\n")[0], path


def test_the_map_is_what_the_code_is(root: Path) -> None:
    """The picture and the tree in ARCHITECTURE.md are drawn from the imports."""
    done = subprocess.run(
        [sys.executable, root / "scripts" / "map", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

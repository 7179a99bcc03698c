"""What a user gets: the wheel's content and metadata, and a checkout that works on any machine."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import dpsolve

ROOMS = ("hpc", "sharding", "slurm", "solvers")


@pytest.fixture(scope="module")
def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def tracked_files(root: Path) -> list[str]:
    """The files that a commit would hold, whether they are added yet or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name]


def packages_in_tree(root: Path) -> set[str]:
    found = {
        ".".join(("dpsolve", *init.parent.relative_to(root).parts))
        for room in ROOMS
        for init in (root / room).rglob("__init__.py")
    }
    return {"dpsolve", *found}


def test_pyproject_lists_every_package(root: Path, pyproject: dict[str, Any]) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages_in_tree(root))


def test_every_module_stands_in_a_package(root: Path) -> None:
    """A folder without __init__.py would be left out of the wheel without an error."""
    for room in ROOMS:
        for module in (root / room).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


@pytest.mark.parametrize("room", ROOMS)
def test_face_links_to_the_room_by_a_relative_link(root: Path, room: str) -> None:
    link = root / "src" / "dpsolve" / room
    assert str(link.readlink()) == f"../../{room}"
    assert (link / "__init__.py").is_file()


def test_version_is_told_once(root: Path, pyproject: dict[str, Any]) -> None:
    """In one file, for what is built and for what runs, and in no other."""
    home = root / "src" / "dpsolve" / "_version.py"
    told = re.compile(r"^__version__ = \"(.*)\"$", re.MULTILINE)
    found = {
        path: told.findall(path.read_text(encoding="utf-8"))
        for folder in (root / "src", *(root / room for room in ROOMS))
        for path in folder.rglob("*.py")
    }
    assert {path: x for path, x in found.items() if x} == {home: [dpsolve.__version__]}
    assert "version" not in pyproject["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", dpsolve.__version__)
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == dpsolve.__version__  # type: ignore[index]


def test_what_others_set_up_by_names_files_and_extras_that_there_are(
    root: Path, pyproject: dict[str, Any]
) -> None:
    """CITATION.cff, environment.yml and the Apptainer definition."""
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == pyproject["project"]["license"]
    assert "version" not in citation  # told once, elsewhere

    conda = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    *tools, packages = conda["dependencies"]
    assert "pip" in tools
    extras = set(pyproject["project"]["optional-dependencies"])
    constraints, checkout = packages["pip"]
    assert (root / constraints.removeprefix("-c ")).is_file()
    assert set(Requirement(checkout.replace("-e .", "dpsolve")).extras) <= extras

    definition = (root / "scripts" / "apptainer.def").read_text(encoding="utf-8")
    copied = re.search(r"^%files\n((?: +.*\n)+)", definition, re.MULTILINE)
    assert copied is not None
    names = [line.split()[0] for line in copied[1].splitlines()]
    needed = {"src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", *ROOMS}
    assert needed <= set(names)
    assert all((root / name).exists() for name in names)
    assert set(re.findall(r"extra=(\w+)", definition)) <= extras


def test_constraints_pin_every_requirement_exactly(root: Path, pyproject: dict[str, Any]) -> None:
    pins: dict[str, list[Requirement]] = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert [clause.operator for clause in pin.specifier] == ["=="], line
            assert pin.url is None, line
            pins.setdefault(pin.name.lower(), []).append(pin)
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["plot"], *extras["dev"]]:
        requirement = Requirement(text)
        matching = pins.get(requirement.name.lower(), [])
        assert matching, f"{requirement.name} has no line in constraints.txt: run scripts/pin"
        for pin in matching:
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version), f"{pin} does not fit {requirement}"


def test_no_file_names_a_machine_path_or_a_package_registry(root: Path) -> None:
    homes = "|".join(
        ("work", "root", "home", "tmp/v", "tmp/h[0-9]")
    )  # apart: this file is read too
    registries = "|".join(
        (r"pypi\." + "org", "python" + "hosted", r"npm" + r"js\.", "debian" + r"\.org")
    )
    forbidden = re.compile(rf"(?<![\w.*/-])/(?:{homes})/|{registries}|index" + "-url")
    for name in tracked_files(root):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found = forbidden.search(text)
        assert found is None, f"{name} says {found.group()!r}" if found else ""


def test_scripts_can_be_run(root: Path) -> None:
    for name in ("scripts/quickstart", "scripts/test", ".ci/run"):
        path = root / name
        assert path.stat().st_mode & 0o111, f"{name} is not executable"
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.fixture(scope="module")
def dist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release is: a source distribution, and the wheel built from it, not from the tree.

    The source distribution is gathered in the tree, where two workers would get into each other's
    way: each has a copy.
    """
    folder, copy = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("copy")
    for name in tracked_files(root):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name, follow_symlinks=False)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_source_distribution_leaves_the_tests_to_the_checkout(dist: Path) -> None:
    """A few of them without their conftest are no use."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}
    assert folders == {"dpsolve.egg-info", "src", *ROOMS}


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile, root: Path) -> None:
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    expected = {"dpsolve/__init__.py", "dpsolve/__main__.py", "dpsolve/_version.py"}
    expected |= {"dpsolve/py.typed", "dpsolve/plot.py"}
    for room in ROOMS:
        for path in (root / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"dpsolve/{path.relative_to(root).as_posix()}")
    assert sorted(names) == sorted(expected)


@pytest.mark.slow
def test_wheel_runs_on_every_machine(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL"))
    assert email.message_from_bytes(wheel.read(name))["Tag"] == "py3-none-any"
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "dpsolve = dpsolve.hpc.cli.main:main" in wheel.read(name).decode()


@pytest.mark.slow
def test_wheel_carries_its_licence(wheel: zipfile.ZipFile, metadata: Message, root: Path) -> None:
    assert metadata["License-Expression"] == "BSD-3-Clause"
    (name,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert wheel.read(name) == (root / "LICENSE").read_bytes()


@pytest.mark.slow
def test_wheel_promises_its_extras(metadata: Message) -> None:
    assert sorted(metadata.get_all("Provides-Extra", [])) == [
        "bench",
        "cuda12",
        "cuda13",
        "dev",
        "docs",
        "plot",
    ]
    assert metadata["Requires-Python"] == ">=3.11"
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    for requirement in required:
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {">="}, f"{requirement}: floors, no upper caps"
    for extra in ("cuda12", "cuda13"):
        (jax,) = (r for r in required if r.marker and r.marker.evaluate({"extra": extra}))
        assert jax.name == "jax"
        assert jax.extras == {extra}

"""What the package ships for clusters: every profile is valid, and every file is in the wheel."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dpsolve.hpc.slurm.profiles import find_profile, list_profiles

ROOM = Path(__file__).resolve().parents[2] / "slurm"
PROFILES = sorted(ROOM.glob("*.toml"))


@pytest.fixture(autouse=True)
def no_profiles_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_is_valid_and_described(path: Path) -> None:
    found = find_profile(path.stem)
    assert found.path == path or found.path.samefile(path)
    assert found.profile.description != "no description"
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_all_shipped_profiles_are_listed() -> None:
    assert {path.stem for path in PROFILES} >= {"cpu", "gpu", "local-test"}
    assert [getattr(found, "name", found) for found in list_profiles()] == [
        path.stem for path in PROFILES
    ]


@pytest.mark.parametrize(
    "path", [p for p in PROFILES if p.stem in {"cpu", "gpu"}], ids=lambda path: path.stem
)
def test_a_generic_profile_is_as_valid_with_its_suggestions(path: Path, tmp_path: Path) -> None:
    """Each line such as `# account = "my_project"  # why` may be uncommented as it stands."""
    lines = path.read_text(encoding="utf-8").splitlines()
    own = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line.partition("  #")[0]
        else line
        for line in lines
    ]  # fmt: skip
    assert len([1 for a, b in zip(lines, own, strict=True) if a != b]) >= 4
    site = tmp_path / "site.toml"
    site.write_text("\n".join(own), encoding="utf-8")
    profile = find_profile(str(site)).profile
    assert (profile.account, profile.interface) == ("my_project", "ib0")


def test_every_file_of_the_room_is_package_data(root: Path) -> None:
    """A file that no pattern names would be missing from the wheel without an error."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dpsolve.slurm"]
    shipped = [path.name for path in ROOM.iterdir() if path.is_file() and path.suffix != ".py"]
    assert [name for name in shipped if not any(fnmatch(name, p) for p in patterns)] == []


@pytest.mark.parametrize(
    "path", [*sorted(ROOM.glob("*.sh")), ROOM.parent / "scripts/slurm-local"], ids=lambda p: p.name
)
def test_a_script_is_written_as_bash_reads_it(path: Path) -> None:
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

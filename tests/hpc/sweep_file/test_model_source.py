"""From a model's name to its factory, by way of the text that was read once."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from dpsolve import ModelError, RefusedError, UsageError
from dpsolve.hpc.sweep_file.model_source import ModelSource, explain, resolve
from dpsolve.solvers.library import BUILTIN


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_built_in_by_name() -> None:
    source = resolve("growth")
    assert (source.kind, source.name, source.reference) == ("builtin", "growth", "growth")
    assert source.load() is BUILTIN["growth"]
    assert "def growth(" in source.source
    assert source.sha256 == hashlib.sha256(source.source.encode()).hexdigest()


def test_a_function_in_a_file(folder: Path) -> None:
    (folder / "mine.py").write_text("def f(a=1.0):\n    return {'x': a}\n")
    source = resolve("mine.py:f")
    assert (source.kind, source.name, source.file) == ("file", "f", "mine.py")
    assert source.load()(2.0) == {"x": 2.0}
    assert source.load() is source.load()


def test_a_file_is_looked_for_where_the_sweep_file_stands(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "mine.py").write_text("def f(a=1.0):\n    return a\n")
    assert resolve("mine.py:f", folder / "deep").load()(3.0) == 3.0
    assert resolve("deep/mine.py:f").load()(3.0) == 3.0
    assert resolve(f"{folder}/deep/mine.py:f").load()(3.0) == 3.0


def test_a_later_edit_changes_nothing(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text("def f(a=1.0):\n    return 'as it was'\n")
    source = resolve("mine.py:f")
    path.write_text("def f(a=1.0):\n    return 'edited'\n")
    assert source.load()() == "as it was"
    assert resolve("mine.py:f") != source
    path.unlink()
    assert ModelSource.from_dict(json.loads(json.dumps(source.as_dict()))).load()() == "as it was"
    assert pickle.loads(pickle.dumps(source)) == source


def test_where_a_file_lies_is_no_part_of_the_model(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "m.py").write_text("def f(a=1.0):\n    return a\n")
    assert resolve("m.py:f", folder / "one") == resolve("m.py:f", folder / "two")


def test_a_file_may_import_from_its_folder(folder: Path) -> None:
    (folder / "sibling_of_mine.py").write_text("scale = 10.0\n")
    (folder / "mine.py").write_text(
        "from sibling_of_mine import scale\ndef f(a=1.0):\n    return scale * a\n"
    )
    before = list(sys.path)
    assert resolve("mine.py:f").load()(2.0) == 20.0
    assert sys.path == before


def test_a_file_with_one_function_needs_no_name(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from math import sqrt\n_HIDDEN = lambda x: x\ndef f(a=1.0):\n    return sqrt(a)\n"
    )
    assert resolve("mine.py").reference == "mine.py:f"


def test_a_file_with_several_functions_lists_them(folder: Path) -> None:
    (folder / "mine.py").write_text("def f(a=1.0): ...\ndef g(a=1.0): ...\n")
    with pytest.raises(UsageError, match=r"say which is the model: mine.py:f or mine.py:g"):
        resolve("mine.py")


def test_a_dataclass_in_a_model_file_works(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: float\ndef f(a=1.0):\n    return P(a).x\n"
    )
    assert resolve("mine.py:f").load()(2.0) == 2.0


def test_a_function_of_a_package(folder: Path) -> None:
    (folder / "pack_of_mine").mkdir()
    (folder / "pack_of_mine" / "__init__.py").write_text("")
    (folder / "pack_of_mine" / "models.py").write_text("def f(a=1.0):\n    return a\n")
    source = resolve("pack_of_mine.models:f")
    assert (source.kind, source.load()(2.0)) == ("module", 2.0)
    (folder / "pack_of_mine" / "models.py").write_text("def f(a=1.0):\n    return -a\n")
    with pytest.raises(RefusedError, match="differs from the source"):
        source.load()


def test_an_installed_model_that_changed_is_refused() -> None:
    source = replace(resolve("cake"), source="def cake(): ...\n", sha256="0" * 64)
    with pytest.raises(RefusedError, match="sweep into a new store"):
        source.load()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("grwth", r"no built-in model 'grwth'\. Did you mean 'growth'\?"),
        ("mien.py:f", r"no model file .*mien\.py\. Did you mean 'mine\.py'\?"),
        ("mine.py:ff", r"mine\.py defines no function 'ff'\. .*It defines: first, last\."),
        ("no_such_package.models:f", "no module 'no_such_package'"),
        ("math:cosine", "math defines no function 'cosine'"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    folder: Path, reference: str, expected: str
) -> None:
    (folder / "mine.py").write_text("def first(a=1.0): ...\ndef last(a=1.0): ...\n")
    with pytest.raises(UsageError, match=expected):
        resolve(reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = x +\n", "mine.py, line 2: invalid syntax\n    y = x +\n"),
        (
            "x = 1\ny = undefined\n",
            "mine.py, line 2:\n    y = undefined\nNameError: name 'undefined'",
        ),
        (
            "def g():\n    return {}['k']\ng()\n",
            "mine.py, line 2, in g:\n    return {}['k']\nKeyError: 'k'",
        ),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_fails_shows_its_own_line(folder: Path, text: str, expected: str) -> None:
    (folder / "mine.py").write_text(text)
    with pytest.raises(ModelError) as caught:
        resolve("mine.py:f")
    assert expected in str(caught.value)


def test_an_error_inside_the_model_is_explained_by_the_files_own_line(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text("def f(a=1.0):\n    return inner(a)\ndef inner(a):\n    return a / 0\n")
    factory = resolve("mine.py:f").load()
    path.unlink()
    with pytest.raises(ZeroDivisionError) as caught:
        factory(1.0)
    text = explain(caught.value) or ""
    assert text.startswith("mine.py, line 4, in inner:\n    return a / 0\nZeroDivisionError: ")
    assert "    return a / 0" in "".join(traceback.format_exception(caught.value))


def test_an_error_elsewhere_is_not_the_users() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018  # for its error
    assert explain(caught.value) is None

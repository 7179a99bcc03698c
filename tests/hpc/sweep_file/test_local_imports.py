"""What a model file imports from its folder is part of the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dpsolve import ModelError, RefusedError, UsageError
from dpsolve.hpc.sweep_file.local_imports import files_beside, same_code
from dpsolve.hpc.sweep_file.model_source import ModelSource, explain, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_files_are_found_wherever_they_are_imported_and_no_others(folder: Path) -> None:
    write(folder, one="import two\n", two="x = 1\n", three="y = 2\n", four="z = 3\n", never="")
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("from .inner import w\nfrom . import other\n")
    (folder / "pack" / "inner.py").write_text("from three import y as w\n")
    (folder / "pack" / "other.py").write_text("")
    (folder / "plain").mkdir()
    (folder / "plain" / "deep.py").write_text("import four as numbers\n")
    text = (
        "import os, numpy as np, one\nfrom pack import w\n"
        "def f(a=1.0):\n    import plain.deep\n    return a\n"
    )
    assert list(files_beside(text, folder)) == [
        "four.py", "one.py", "pack/__init__.py", "pack/inner.py", "pack/other.py",
        "plain/deep.py", "three.py", "two.py",
    ]  # fmt: skip
    assert files_beside("import (", folder) == {}


def test_they_travel_as_text(folder: Path) -> None:
    write(
        folder,
        mine="from helper import scale\nimport deep.down as down\n\n"
        "def f(a=1.0):\n    from late import shift\n    return scale * a + shift + down.x\n",
        helper="import base\nscale = base.one * 10.0\n",
        base="one = 1.0\n",
        late="shift = 0.5\n",
        deep__down="from .beside import x\n",
        deep__beside="x = 0.25\n",
    )
    source = resolve("mine.py:f")
    assert source.load()(2.0) == 20.75
    plain = json.loads(json.dumps(source.as_dict()))
    for path in [*folder.rglob("*.py")]:
        path.write_text("raise RuntimeError('edited')\n")
    assert source.load()(2.0) == 20.75
    assert ModelSource.from_dict(plain, Path("/nowhere")).load()(2.0) == 20.75
    assert ModelSource.from_dict(plain) == source
    assert {"helper", "base", "late", "deep"}.isdisjoint(sys.modules)


def test_a_helper_finds_what_lies_beside_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "rate.txt").write_text("2.5")
    write(folder / "deep", m="from rates import rate\ndef f(a=1.0):\n    return rate * a\n",
          rates="from pathlib import Path\n"
                "rate = float((Path(__file__).parent / 'rate.txt').read_text())\n")  # fmt: skip
    assert resolve("deep/m.py:f").load()(2.0) == 5.0


def test_two_models_may_each_have_a_helper_of_one_name(folder: Path) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        text = "import helper\ndef f(a=1.0):\n    return helper.scale * a\n"
        write(folder / name, m=text, helper=f"scale = {scale}\n")
    first, second = (resolve("m.py:f", folder / name) for name in ("one", "two"))
    assert (first.load()(1.0), second.load()(1.0), first.load()(1.0)) == (1.0, 2.0, 1.0)
    assert first != second


def test_modules_that_import_each_other_and_missing_names_end_as_in_python(folder: Path) -> None:
    write(folder, mine="import a\ndef f(x=1.0):\n    return a.g(x)\n",
          a="import b\nbase = 2.0\ndef g(x):\n    return b.h(x)\n",
          b="import a\ndef h(x):\n    return a.base * x\n")  # fmt: skip
    assert resolve("mine.py:f").load()(3.0) == 6.0
    write(folder, other="from a import nothing\ndef f(x=1.0): ...\n")
    with pytest.raises(ModelError, match=r"cannot import name 'nothing'"):
        resolve("other.py:f")
    write(folder, third="import a.deeper\ndef f(x=1.0): ...\n")
    with pytest.raises(ModelError, match=r"No module named 'a.deeper'"):
        resolve("third.py:f")


def test_an_error_in_a_helper_shows_the_helpers_line(folder: Path) -> None:
    write(folder, mine="import helper\ndef f(x=1.0):\n    return helper.g(x)\n",
          helper="def g(x):\n    return x / 0\n")  # fmt: skip
    factory = resolve("mine.py:f").load()
    with pytest.raises(ZeroDivisionError) as caught:
        factory(1.0)
    assert (explain(caught.value) or "").startswith("helper.py, line 2, in g:\n    return x / 0\n")
    write(folder, helper="x = 1\ny = undefined\n")
    with pytest.raises(ModelError, match=r"helper.py, line 2:\n    y = undefined\nNameError"):
        resolve("mine.py:f")
    write(folder, helper="x = = 1\n")
    with pytest.raises(ModelError, match=r"helper.py, line 1: invalid syntax"):
        resolve("mine.py:f")


def test_an_import_that_no_statement_shows_is_refused(folder: Path) -> None:
    write(folder, hidden_helper="x = 1\n",
          mine="import importlib\nh = importlib.import_module('hidden_helper')\n"
               "def f(a=1.0): ...\n")  # fmt: skip
    with pytest.raises(UsageError, match=r"imports hidden_helper .*Write: import hidden_helper"):
        resolve("mine.py:f")
    assert "hidden_helper" not in sys.modules


def test_what_an_installed_model_imports_from_its_package_is_compared(folder: Path) -> None:
    write(folder, pack_of_ours__models="import json\nfrom .rates import tax\ndef f(a=1.0):\n"
                               "    return a * tax\n",
          pack_of_ours__rates="tax = 2.0\n")  # fmt: skip
    (folder / "pack_of_ours" / "__init__.py").write_text("")
    source = resolve("pack_of_ours.models:f")
    assert list(dict(source.files)) == ["pack_of_ours/__init__.py", "pack_of_ours/rates.py"]
    write(folder, pack_of_ours__rates="# the rates\ntax = 2.0\n")
    assert source.load()(1.0) == 2.0
    write(folder, pack_of_ours__rates="tax = 3.0\n")
    with pytest.raises(RefusedError, match=r"rates.py\) as installed here differs"):
        source.load()


def test_comments_and_docstrings_are_no_part_of_a_program() -> None:
    text = "def f(a=1.0):\n    return a  # as it is\n"
    assert same_code(text, 'def f(a = 1.0):\n    """Say so."""\n    # here\n    return (a)\n')
    assert not same_code(text, "def f(a=1.0):\n    return a + 0\n")
    assert not same_code(text, "def f(a=1):\n    return a\n")
    assert not same_code("x = = 1", "x = = 2")


@pytest.mark.parametrize("where", ["mine", "helper"])
def test_numbers_drawn_at_import_are_refused_without_a_seed(folder: Path, where: str) -> None:
    """Each worker would draw its own."""
    mine, helper = "import helper\ndef f(a=1.0): ...\n", "import numpy as np\n"
    drawn = "import numpy as np\nDRAWS = np.random.{}\n"
    write(folder, **{"mine": mine, "helper": helper} | {
        where: drawn.format("normal(size=3)") + (mine if where == "mine" else "")})  # fmt: skip
    with pytest.raises(ModelError, match=rf"{where}.py draws random numbers from numpy"):
        resolve("mine.py:f")
    seeded = "default_rng(0).normal(size=3)"
    write(folder, **{where: drawn.format(seeded) + (mine if where == "mine" else "")})
    resolve("mine.py:f").load()

"""A sweep file: what it may say, and every mistake told at once, where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsolve import UsageError
from dpsolve.hpc.plan.check_names import check_names
from dpsolve.hpc.sweep_file.fields import Range, sweep_from
from dpsolve.hpc.sweep_file.overrides import Overrides
from dpsolve.hpc.sweep_file.reader import read_sweep
from dpsolve.hpc.sweep_file.toml_lines import TomlSource

Write = Callable[..., Path]

WHOLE = """
model = "growth"
[fixed]
n_k = 50
[grid]
beta = { from = 0.90, to = 0.99, points = 10 }
alpha = [0.30, 0.35]
[solve]
tol = 1e-8
[store]
path = "out.zarr"
keep = ["value", "consumption"]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a sweep file, and files beside it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, **beside: str) -> Path:
        for name, content in beside.items():
            (tmp_path / name.replace("_", ".")).write_text(content, encoding="utf-8")
        path = tmp_path / "sweep.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path | None, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read_sweep(path, Overrides(**options))
    return str(caught.value)


def test_a_whole_sweep(write: Write) -> None:
    sweep = read_sweep(write(WHOLE)).sweep
    assert sweep.model == "growth"
    assert sweep.fixed == {"n_k": 50}
    assert sweep.grid["beta"] == Range(start=0.9, stop=0.99, points=10)
    assert sweep.grid["alpha"] == (0.30, 0.35)
    assert sweep.solve == {"tol": 1e-8}
    assert sweep.store.path == "out.zarr"
    assert sweep.store.keep == ("value", "consumption")


def test_the_store_is_named_after_the_file_or_the_model(write: Write) -> None:
    path = write('model = "cake"\n[grid]\nbeta = [0.9]\n')
    assert read_sweep(path).sweep.store.path == "sweep.zarr"
    assert (
        read_sweep(None, Overrides(model="cake", grid=("beta=0.9",))).sweep.store.path
        == "cake.zarr"
    )


def test_a_sweep_comes_back_from_json_as_it_was(write: Write) -> None:
    text = WHOLE + '[sample]\nmethod = "sobol"\npoints = 4\ndelta = { from = 0.05, to = 0.1 }\n'
    sweep = read_sweep(write(text)).sweep
    assert sweep_from(json.loads(json.dumps(sweep.as_dict()))) == sweep
    assert isinstance(sweep_from(json.loads(json.dumps(sweep.as_dict()))).fixed["n_k"], int)


EVERY_MISTAKE = """
model = "growth"
[fixed]
n_k = 12.5
bta = 0.9
alpha = "0.3"
[grid]
beta = { from = 0.9, to = 0.99, points = 1 }
alpha = [0.3, 0.3]
z = []
[zip]
delta = [0.1, 0.2]
n_k = [50, 60, 70]
[table]
file = "points.csv"
[solve]
tol = -1
metod = "vi"
[store]
path = "points.csv"
keep = "value"
[grd]
"""


def test_every_mistake_is_told_at_once_with_its_line_and_its_value(write: Write) -> None:
    text = refusal(write(EVERY_MISTAKE, points_csv="beta,gam\n0.9,1\n0.91\nx,nan\n"))
    lines = text.splitlines()
    assert lines[0] == "sweep.toml: 15 mistakes, nothing was started."
    for expected in (
        "line 4, fixed.n_k = 12.5: 'n_k' takes a whole number",
        "line 5, fixed.bta: model 'growth' has no parameter 'bta'. Did you mean 'beta'?",
        'line 6, fixed.alpha = "0.3": in quotes this is text; write the number bare: 0.3.',
        "line 8, grid.beta.points = 1: a range with two ends has at least 2 points.",
        "line 9, grid.alpha = [0.3, 0.3]: 0.3 stands there twice",
        "line 10, grid.z = []: the list is empty",
        "line 11, zip: the lists are paired and need equal lengths, but delta has 2, n_k has 3.",
        "line 13, zip.n_k: 'n_k' is given in [fixed] as well",
        "line 14, table: [zip] is there already",
        "line 15, table.file = \"points.csv\": row 3: 1 of 2 values; row 4, column 'beta': x is "
        "not a finite number; row 4, column 'gam': nan is not a finite number.",
        "line 17, solve.tol = -1:",
        "line 18, solve.metod = \"vi\": there is no solve option 'metod'. Did you mean 'method'?",
        'line 20, store.path = "points.csv": a store is a folder of Zarr arrays',
        'line 21, store.keep = "value": a list is expected: ["value"].',
        "line 22, grd: unknown key. Did you mean 'grid'?",
    ):
        assert any(line.strip().startswith(expected) for line in lines), (expected, text)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("beta = 0.9", "a list is expected: [0.9]."),
        ("beta = { from = 0.9, to = 0.9, points = 3 }", "from and to are both 0.9"),
        ("beta = { from = 0.9, points = 3 }", "'to' is missing"),
        ("beta = { from = 0.9, too = 0.99, points = 3 }", "Did you mean 'to'?"),
        ("beta = { from = 0.9, to = 0.99, points = 2.5 }", "a whole number is expected"),
        ("beta = { from = 0, to = 0.99, points = 3, spacing = 'log' }", "above 0"),
        ("beta = { from = 0.9, to = 0.99, points = 3, spacing = 'lg' }", '"linear" or "log"'),
        ("beta = [0.9, nan]", "a finite number is expected"),
        ("beta = [0.9, inf]", "a finite number is expected"),
        ("beta = [0.9, '0.95']", "in quotes this is text; write the number bare: 0.95."),
        ("beta = [0.9, true]", "'beta' takes a number"),
        ("beta = ['high']", "'beta' takes a number"),
        ("n_k = [50, 60.5]", "'n_k' takes a whole number"),
        ("n_k = { from = 100, to = 200, points = 4 }", "the values would be 33.33 apart"),
        ("alhpa = [1]", "model 'growth' has no parameter 'alhpa'. Did you mean 'alpha'?"),
    ],
)
def test_mistakes_of_an_axis(write: Write, lines: str, expected: str) -> None:
    text = refusal(write(f'model = "growth"\n[grid]\n{lines}\n'))
    assert all(line.startswith("  line 3, grid.") for line in text.splitlines()[1:])
    assert expected in text


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ("", "the sweep names no model"),
        ("model = 3", "text in"),
        ('model = "grwth"', "there is no built-in model 'grwth'. Did you mean 'growth'?"),
        ('model = "growth"', "nothing is swept"),
        ('model = "growth"\ngrid = 3', "a table is expected: [grid]"),
        ('model = "growth"\n[fixed]\nbeta = [0.9, 0.95]', "put them in [grid]"),
        ('model = "growth"\n[sample]\npoints = 3', "no parameter to sample"),
        ('model = "growth"\n[sample]\npoints = 3', "method is missing"),
        ('model = "growth"\n[sample]\nbeta = 3', "neither a known key nor a range"),
        (
            'model = "growth"\n[sample]\nmethod = "sobol"\npoints = 4\nn_k = {from = 2, to = 9}',
            "'n_k' is a size, and sampled values are not whole",
        ),
        ('model = "f.py:need"\n[grid]\na = [1]', "model 'need' has no default for 'b'"),
        ('model = "f.py:need"\n[grid]\na = [1]', "model 'need' has no default for 'n'"),
        ('model = "cake"\n[grid]\nbeta = [0.9]\n[store]\npoints_per_task = 0', "at least 1"),
        (
            'model = "cake"\n[grid]\nbeta = [0.9]\n[solve]\nmethod = "vfx"',
            "method='vfx' is unknown",
        ),
        ('model = "cake"\n[grid]\nbeta = [0.9]\n[solve]\ntol = "1e-8"', "bare: 1e-8."),
    ],
)
def test_mistakes_of_a_sweep(write: Write, tables: str, expected: str) -> None:
    assert expected in refusal(write(tables, f_py="def need(a, b, *, n):\n    return {}\n"))


def test_names_to_keep_are_checked_against_the_model(write: Write, toy: str) -> None:
    reading = read_sweep(
        write(f'model = "{toy}"\n[grid]\na = [1]\n[store]\nkeep = ["price",\n "pat",\n "vale"]\n')
    )
    with pytest.raises(UsageError) as caught:
        check_names(reading)
    text = str(caught.value)
    assert "line 6, store.keep[2] = \"pat\": keep names 'pat'" in text
    assert "Did you mean 'path'?" in text
    assert "line 7, store.keep[3]" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model = growth\n",
            "line 1, column 9: not valid TOML: Invalid value.\n    model = growth",
        ),
        ("[grid]\nbeta = [0.9, 0.95\n", "Unclosed array"),
        ("[grid]\nbeta = [1]\nbeta = [2]\n", "line 3"),
    ],
)
def test_a_syntax_error_shows_the_line(write: Write, text: str, expected: str) -> None:
    assert expected in refusal(write(text))


def test_a_missing_file_is_told_with_a_guess(write: Write) -> None:
    path = write(WHOLE)
    assert "Did you mean 'sweep.toml'?" in refusal(path.with_name("swep.toml"))


# -- tables ---------------------------------------------------------------------------------------

POINTS = '\ufeffname,"discount, yearly",n\nfirst,0.9,50\n\nsecond,0.95,60\n'


def test_a_table_is_read_beside_the_sweep_file_and_kept(write: Write) -> None:
    path = write(
        'model = "growth"\n[table]\nfile = "points.csv"\n'
        'columns = { beta = "discount, yearly", n_k = "n" }\n',
        points_csv=POINTS,
    )
    table = read_sweep(path).sweep.table
    assert table is not None
    assert table.values == {"beta": (0.9, 0.95), "n_k": (50, 60)}
    assert isinstance(table.values["n_k"][0], int)


@pytest.mark.parametrize(
    ("csv", "columns", "expected"),
    [
        ("beta,gam\n0.9,1\n", "", "the column is no parameter: model 'growth' has no parameter"),
        ("beta,gam\n0.9,1\n", 'columns = ["bet"]', "no column 'bet'. Did you mean 'beta'?"),
        ("beta\n", "", "rows below it"),
        ("0.9\n0.95\n", "", "its first row holds numbers"),
        ("beta,beta\n1,2\n", "", "two columns have the same name: beta"),
        ("beta\n" + "x\n" * 9, "", "row 6, column 'beta': x is not a finite number; and 4 more"),
        ("beta,alpha\n0.9,\n", "", "column 'alpha': empty is not a finite number"),
        ("n_k\n50\n60.5\n", "", "60.5 does not fit: 'n_k' takes a whole number"),
        ("beta\n0.9\n", 'colums = ["beta"]', "Did you mean 'columns'?"),
    ],
)
def test_mistakes_of_a_table(write: Write, csv: str, columns: str, expected: str) -> None:
    text = f'model = "growth"\n[table]\nfile = "points.csv"\n{columns}\n'
    assert expected in refusal(write(text, points_csv=csv))


def test_a_missing_table_is_told_with_a_guess(write: Write) -> None:
    path = write('model = "growth"\n[table]\nfile = "pts.csv"\n', points_csv=POINTS)
    assert "line 3, table.file" in refusal(path)
    assert "there is no such file" in refusal(path)


# -- the command line -----------------------------------------------------------------------------


def test_options_replace_what_the_file_says(write: Write) -> None:
    sweep = read_sweep(
        write(WHOLE),
        Overrides(
            grid=("alpha=0.2:0.4:3", "n_k=10,20", "delta=0.01:1:3:log"),
            fixed=("beta=0.95",),
            tol=1e-4,
            method="vi",
            store="other.zarr",
            keep=("value,policy", "lower"),
            other=("solve.block=7", "store.points_per_task=3"),
        ),
    ).sweep
    assert list(sweep.grid) == ["alpha", "n_k", "delta"]
    assert sweep.grid["alpha"] == Range(start=0.2, stop=0.4, points=3)
    assert sweep.grid["n_k"] == (10, 20)
    assert sweep.fixed == {"beta": 0.95}
    assert sweep.solve == {"tol": 1e-4, "method": "vi", "block": 7}
    assert sweep.store.model_dump() == {
        "path": "other.zarr",
        "keep": ("value", "policy", "lower"),
        "points_per_task": 3,
    }


def test_an_axis_that_is_replaced_keeps_its_place(write: Write) -> None:
    assert list(read_sweep(write(WHOLE), Overrides(grid=("beta=0.9,0.95",))).sweep.grid) == [
        "beta",
        "alpha",
    ]


def test_mistakes_in_options_name_the_option(write: Write) -> None:
    text = refusal(write(WHOLE), grid=("beta=0.9:0.99", "delta=0.1:0.2:x"), fixed=("n_k",), tol=0.0)
    assert "--grid beta=0.9:0.99: write --grid NAME=FROM:TO:POINTS" in text
    assert "--grid delta=0.1:0.2:x, grid.delta.points" in text
    assert "--set n_k: write --set NAME=VALUE" in text
    assert "--tol, solve.tol = 0.0" in text


def test_a_sweep_without_a_file() -> None:
    reading = read_sweep(None, Overrides(model="growth", grid=("beta=0.9:0.98:5",)))
    assert reading.sweep.model == reading.source.reference == "growth"
    assert "command line, model" in refusal(None, model="grwth", grid=("beta=1,2",))


# -- where keys stand -----------------------------------------------------------------------------

LAYOUT = """# a comment = with an equals sign
top = 'a # b = c'
[one.two]   # beta = 1
  "quoted key" = [1, # two = 2
     [2,
      3],
    { deep = 4, deeper = 5 }]
text = \"\"\"
not.a = "key"
[not a table]
\"\"\"
a.b = { c = 1, d = { e = 2 } }
[[rows]]
x = 1979-05-27 07:32:00
"""


def test_every_key_is_found_on_its_line() -> None:
    lines = TomlSource.parse(LAYOUT, "layout.toml").lines
    assert lines == {
        ("top",): 2,
        ("one",): 3,
        ("one", "two"): 3,
        ("one", "two", "quoted key"): 4,
        ("one", "two", "quoted key", 0): 4,
        ("one", "two", "quoted key", 1): 5,
        ("one", "two", "quoted key", 1, 0): 5,
        ("one", "two", "quoted key", 1, 1): 6,
        ("one", "two", "quoted key", 2): 7,
        ("one", "two", "quoted key", 2, "deep"): 7,
        ("one", "two", "quoted key", 2, "deeper"): 7,
        ("one", "two", "text"): 8,
        ("one", "two", "a"): 12,
        ("one", "two", "a", "b"): 12,
        ("one", "two", "a", "b", "c"): 12,
        ("one", "two", "a", "b", "d"): 12,
        ("one", "two", "a", "b", "d", "e"): 12,
        ("rows",): 13,
        ("rows", "x"): 14,
    }


NAMES = st.text("abcxyz_-0123", min_size=1, max_size=5)


@given(
    tables=st.dictionaries(
        NAMES,
        st.dictionaries(
            NAMES, st.one_of(st.text(), st.lists(st.floats(allow_nan=False)), st.booleans())
        ),
    ),
    blank=st.integers(0, 3),
)
def test_lines_point_at_the_keys_whatever_the_values(
    tables: dict[str, dict[str, Any]], blank: int
) -> None:
    rows: list[str] = []
    for table, pairs in tables.items():
        rows += [f"[{table}]", *[""] * blank]
        rows += [f"{name} = {toml(value)}" for name, value in pairs.items()]
    source = TomlSource.parse("\n".join(rows), "any.toml")
    for table, pairs in tables.items():
        assert rows[(source.line((table,)) or 0) - 1] == f"[{table}]"
        for name in pairs:
            assert rows[(source.line((table, name)) or 0) - 1].startswith(f"{name} = ")


def toml(value: Any) -> str:
    if isinstance(value, str):
        # JSON escapes are TOML escapes, but for DEL and for surrogate pairs.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value).replace("Infinity", "inf")

"""A store elsewhere: labels that plain xarray shows, ``ds.dpsolve``, and other files made of it."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import xarray as xr
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.sharding.batches.variable_labels import named
from dpsolve.solvers.labels import Label
from dpsolve.solvers.solve.result_dims import ModelShape

from .conftest import HOSTILE, STOCK


def run(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*map(str, arguments)], prog_name="dpsolve")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def rows_of(file: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(file.read_text().splitlines())]


# -- labels ----------------------------------------------------------------------------------------


def test_plain_xarray_shows_names_units_and_descriptions(stock_store: Path) -> None:
    found = xr.open_zarr(stock_store)
    told = {n: (found[n].attrs["long_name"], found[n].attrs.get("units")) for n in
            ("k", "beta", "cost", "value", "policy_up", "output_profit", "moment_mean_k",
             "moment_mean_profit", "seconds")}  # fmt: skip
    assert told == {
        "k": (HOSTILE, "<tons>"),
        "beta": ("discount factor", None),
        "cost": ("parameter cost", None),
        "value": ("worth of the firm", "dollars"),
        "policy_up": ("purchase", "tons"),
        "output_profit": ("profit", "dollars"),
        "moment_mean_k": (f"mean of {HOSTILE}", "<tons>"),
        "moment_mean_profit": ("mean of profit", "dollars"),
        "seconds": ("time to solve", "s"),
    }
    for name in found.data_vars:
        assert found[name].attrs["long_name"]
    assert "not computed yet" in found["status"].attrs["description"]
    assert "policy" in found["value"].attrs["description"]


def test_a_choice_is_called_after_the_state_that_it_becomes() -> None:
    shape = ModelShape({"a": 3}, labels={"a": Label("assets", "income")}, next_of={"a_next": "a"})
    names = ("policy_a_next", "policy_lower_a_next", "policy_loss", "moment_p90_a", "moment_var_a")
    told = {n: named(n, names, shape).label for n in names}
    assert {n: label[:2] for n, label in told.items()} == {
        "policy_a_next": ("assets next period", "income"),
        "policy_lower_a_next": ("assets next period, certified lower end", "income"),
        "policy_loss": (told["policy_loss"].words, ""),
        "moment_p90_a": ("percentile 90 of assets", "income"),
        "moment_var_a": ("variance of assets", ""),
    }
    assert "loses" in told["policy_loss"].words


def test_the_values_of_a_state_are_selected_by_what_they_are_called(stock_store: Path) -> None:
    assert xr.open_zarr(stock_store)["z"].attrs["flag_meanings"] == "stolen kept"
    found = dp.open(stock_store)
    assert [*found["z_label"].values] == ["stolen", "kept"]
    xr.testing.assert_equal(found["value"].sel(z_label="kept"), found["value"].isel(z=1))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"k": 3}, "labels: 'k' is 3; write words"),
        ({"k": " (tons)"}, "labels: 'k' is ' (tons)'; write words"),
        ({"kk": "stock"}, "labels names 'kk', which this model does not have. Did you mean 'k'?"),
        ("stock", "labels is 'stock'; it is a dict by name"),
        ({"k": ["low"]}, "1 names are given for the 2 values of 'k'"),
        ({"k": ["low", "low"]}, "two values of 'k' are called 'low'"),
        ({"k": ["low", "very high"]}, "a value of 'k' is called 'very high'; give it one word"),
        ({"up": ["no", "yes"]}, "it is no state or period. It can be: k"),
    ],
)
def test_wrong_labels_are_refused(labels: Any, expected: str) -> None:
    def model(beta: Any = 0.9) -> dp.Model:
        return dp.Model(states={"k": dp.integers(0, 1)}, choices={"up": dp.integers(0, 1)},
                        transition={"k": "up"}, reward=lambda k: 1.0 * k, discount=beta,
                        labels=labels)  # fmt: skip

    with pytest.raises(dp.DpsolveError, match="labels") as error:
        dp.describe(model)
    assert expected in str(error.value)


# -- ds.dpsolve ------------------------------------------------------------------------------------


def test_points_policies_and_expectations(stock_store: Path) -> None:
    found = dp.open(stock_store)
    assert list(found.dpsolve.parameters) == ["beta", "cost"]
    one = found.dpsolve.at(beta=0.95, cost=0.1)
    xr.testing.assert_identical(one, found.sel(beta=0.95, cost=0.1))
    assert found.dpsolve.at(beta=0.9 * (1 + 1e-15)).sizes["cost"] == 2
    assert list(found.dpsolve.policy.data_vars) == ["up"]
    np.testing.assert_array_equal(one.dpsolve.policy["up"], one.policy_up)
    mean = found.dpsolve.expect("k")
    assert (mean.dims, mean.attrs) == (
        ("beta", "cost"), {"long_name": f"mean of {HOSTILE}", "units": "<tons>"},
    )  # fmt: skip
    np.testing.assert_allclose(mean, found.moment_mean_k, rtol=1e-12)
    np.testing.assert_allclose(
        found.dpsolve.expect(lambda profit: profit), found.moment_mean_profit, rtol=1e-12
    )
    spread = found.dpsolve.expect(lambda k, up: k**2 * (up > 0))
    by_hand = (found.distribution * found.k**2 * (found.policy_up > 0)).sum(["k", "z"])
    np.testing.assert_allclose(spread, by_hand, rtol=1e-12)


def test_the_worst_points_come_first(stock_store: Path) -> None:
    found = dp.open(stock_store).load()
    found["status"] = found.status.astype(object)
    found.status[0, 1], found.status[2, 0] = "failed", "inexact"
    worst = found.dpsolve.worst(3)
    assert [*worst.status.values] == ["failed", "inexact", "solved"]
    assert [*worst.beta.values[:2]] == [0.8, 0.95]
    solved = found.error_bound.where(found.status == "solved")
    assert float(worst.error_bound[2]) == float(solved.max())
    assert "value" not in worst


def test_what_is_not_there_is_said(stock_store: Path) -> None:
    found = dp.open(stock_store)
    for call, expected in (
        (lambda: found.dpsolve.at(beta=0.91), "no point has beta=0.91; there is beta = 0.8, 0.9"),
        (lambda: found.dpsolve.at(bta=0.9), "no parameter 'bta' varies here. Did you mean 'beta'?"),
        (lambda: found.dpsolve.expect("profits"), "nothing of the name 'profits' was kept. Did"),
        (lambda: found.drop_vars("distribution").dpsolve.expect("k"), "no distribution was kept"),
        (lambda: found.drop_vars("policy_up").dpsolve.policy, "no policy was kept"),
        (lambda: xr.Dataset().dpsolve.at(beta=1.0), "this dataset has no status"),
    ):
        with pytest.raises(dp.UsageError) as error:
            call()
        assert expected in str(error.value)


# -- dpsolve export --------------------------------------------------------------------------------


def test_every_format_holds_the_same_numbers(stock_store: Path, tmp_path: Path) -> None:
    found = dp.open(stock_store).load()
    for suffix in ("nc", "npz", "csv", "parquet"):
        assert run("export", stock_store, tmp_path / f"r.{suffix}")[0] == 0
    again = xr.open_dataset(tmp_path / "r.nc", engine="scipy")
    for name in found.variables:
        assert again[name].attrs["long_name"] == found[name].attrs["long_name"]
        assert (again[name].values == found[name].values.astype(again[name].dtype)).all() or (
            name == "residual"
        )
    assert again.attrs["model_source"] == STOCK
    with np.load(tmp_path / "r.npz") as arrays:
        np.testing.assert_array_equal(arrays["value"], found.value)
        assert {*arrays["status"].ravel()} == {"solved"}
    rows = rows_of(tmp_path / "r.csv")
    table = pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pydict()
    assert [*rows[0]] == [*table]
    assert len(rows) == 6
    for i, row in enumerate(rows):
        one = found.dpsolve.at(beta=float(row["beta"]), cost=float(row["cost"]))
        assert float(row["moment_mean_k"]) == table["moment_mean_k"][i] == float(one.moment_mean_k)
        assert (row["n"], row["status"], table["status"][i]) == ("4", "solved", "solved")


def test_a_table_holds_every_size_and_other_formats_one(
    stock_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = f"{stock_store.parent}/stock.py:stock"
    code, text = run("sweep", model, "--grid", "n=4,5", "--grid", "beta=0.8,0.9", "--store",
                     "sizes.zarr", "--keep", "moment_mean_k", "--keep", "value")  # fmt: skip
    assert code == 0, text
    assert run("export", "sizes.zarr", "sizes.csv")[0] == 0
    rows = rows_of(Path("sizes.csv"))
    assert [(row["n"], row["beta"]) for row in rows] == [
        ("4", "0.8"), ("4", "0.9"), ("5", "0.8"), ("5", "0.9"),
    ]  # fmt: skip
    code, text = run("export", "sizes.zarr", "sizes.nc")
    assert (code, "--group n=4 | n=5" in text) == (2, True)
    assert run("export", "sizes.zarr", "five.nc", "--group", "n=5")[0] == 0
    assert xr.open_dataset("five.nc", engine="scipy").sizes["k"] == 6


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    stock_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("mine")
    Path("empty").mkdir()
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(stock_store, damaged)
    for file in (damaged / "value").glob("c.*"):
        file.write_bytes(file.read_bytes()[:-40])
    pending = tmp_path / "pending.zarr"
    shutil.copytree(stock_store, pending)
    for file in (pending / "status").glob("c.*"):
        file.unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    for arguments, code, expected in (
        (("export", stock_store, "mine.csv"), 3, "mine.csv exists already, and was left"),
        (("export", stock_store, "a.cvs"), 2, "'.cvs' is no format. Did you mean '.csv'?"),
        (("export", stock_store, "a"), 2, "the file has no suffix"),
        (("export", stock_store, "empty"), 2, "the file has no suffix"),
        (("export", stock_store, "nowhere/a.nc"), 2, "there is no folder nowhere"),
        (("export", stock_store, "a.nc", "--var", "valeu"), 2, "'valeu'. Did you mean 'value'?"),
        (("export", stock_store, "a.nc", "--group", "n=4"), 2, "one set of sizes, and no groups"),
        (("export", "empty", "a.nc"), 1, "empty is not a store of dpsolve"),
        (("export", damaged, "a.nc"), 1, "What is damaged: dpsolve doctor"),
        (("export", pending, "a.nc"), 2, "no point is computed yet. To go on: dpsolve resume"),
        (("plot", stock_store, "-o", "mine.csv"), 3, "mine.csv exists already"),
        (("plot", stock_store, "-o", "a.cvs"), 2, "cannot write a.cvs"),
        (("plot", stock_store, "--var", "valeu"), 2, "no variable 'valeu'. Did you mean 'value'?"),
    ):  # fmt: skip
        told = run(*arguments)
        assert (told[0], expected in told[1]) == (code, True), (arguments, told)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, arguments
    assert Path("mine.csv").read_text() == "mine"
    assert run("export", stock_store, "mine.csv", "--overwrite")[0] == 0
    assert Path("mine.csv").read_text().startswith("n,")
    real = importlib.util.find_spec
    monkeypatch.setattr("dpsolve.hpc.export.find_spec",
                        lambda name: None if name == "pyarrow" else real(name))  # fmt: skip
    code, text = run("export", stock_store, "a.parquet")
    assert (code, "pip install pyarrow" in text) == (2, True)

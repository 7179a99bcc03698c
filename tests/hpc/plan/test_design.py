"""The points of a sweep: which parameters vary, along which dimensions, with which values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dpsolve import UsageError
from dpsolve.hpc.plan.design import Bucket, Design, make_design
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.solvers.model.factory_signature import signature


def model(a=1.0, b=2.0, c=3.0, *, n=5, kind="x"):
    return {}


def design(**tables: Any) -> Design:
    raw = {"model": "model", "store": {"path": "s.zarr"}} | tables
    return make_design(sweep_from(raw), signature(model))


def only(made: Design) -> Bucket:
    (bucket,) = made.buckets
    return bucket


def test_a_grid_is_a_full_factorial_in_the_order_of_the_file() -> None:
    bucket = only(design(grid={"c": [1, 2, 3], "a": {"from": 0.0, "to": 1.0, "points": 2}}))
    assert bucket.group == ""
    assert list(bucket.axes) == ["c", "a"]
    assert bucket.shape == (3, 2)
    assert bucket.fixed == {"b": 2.0}
    assert bucket.sizes == {"n": 5, "kind": "x"}
    points = bucket.points(np.arange(6))
    np.testing.assert_array_equal(points["c"], [1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(points["a"], [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(points["b"], np.full(6, 2.0))
    assert {x.dtype for x in points.values()} == {np.dtype("float64")}


def test_points_are_the_same_however_they_are_asked_for() -> None:
    bucket = only(design(grid={"a": [1, 2, 3], "b": [4, 5]}, zip={"c": [7, 8]}))
    every = bucket.points(np.arange(bucket.size))
    some = bucket.points(np.array([11, 0, 5]))
    for name, values in some.items():
        np.testing.assert_array_equal(values, every[name][[11, 0, 5]])


def test_decimals_that_were_meant_are_met() -> None:
    bucket = only(design(grid={"a": {"from": 0.90, "to": 0.99, "points": 10}}))
    assert bucket.axes["a"].tolist() == [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]
    thirds = only(design(grid={"a": {"from": 0.0, "to": 1.0, "points": 4}})).axes["a"]
    np.testing.assert_array_equal(thirds, np.linspace(0, 1, 4))


def test_a_logarithmic_axis() -> None:
    axis = {"from": 1e-4, "to": 1.0, "points": 5, "spacing": "log"}
    assert only(design(grid={"a": axis})).axes["a"].tolist() == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def test_paired_lists_run_along_point_beside_a_grid() -> None:
    bucket = only(design(grid={"a": [1, 2]}, zip={"b": [3, 4, 5], "c": [6, 7, 8]}))
    assert list(bucket.axes) == ["a", "point"]
    assert bucket.axes["point"].tolist() == [0, 1, 2]
    assert bucket.parameters["b"][0] == ("point",)
    points = bucket.points(np.array([0, 1, 5]))
    assert (points["a"].tolist(), points["b"].tolist(), points["c"].tolist()) == (
        [1, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
    )


def test_each_size_is_a_bucket_of_its_own() -> None:
    made = design(grid={"n": [3, 4], "a": [1.0, 2.0], "kind": ["x", "y/z"]})
    assert [bucket.group for bucket in made.buckets] == [
        "n=3,kind=x",
        "n=3,kind=y_z",
        "n=4,kind=x",
        "n=4,kind=y_z",
    ]
    assert made.buckets[3].sizes == {"n": 4, "kind": "y/z"}
    assert all(list(bucket.axes) == ["a"] for bucket in made.buckets)
    assert made.size == 8


def test_a_range_of_sizes_gives_whole_numbers() -> None:
    made = design(grid={"n": {"from": 10, "to": 30, "points": 3}})
    assert [bucket.sizes["n"] for bucket in made.buckets] == [10, 20, 30]
    assert all(type(bucket.sizes["n"]) is int for bucket in made.buckets)


def test_rows_with_the_same_sizes_share_a_bucket_and_keep_their_numbers() -> None:
    made = design(zip={"n": [3, 4, 3], "a": [0.1, 0.2, 0.3]}, fixed={"b": 9})
    first, second = made.buckets
    assert (first.group, first.axes["point"].tolist()) == ("n=3", [0, 2])
    assert first.points(np.array([0, 1]))["a"].tolist() == [0.1, 0.3]
    assert (second.group, second.axes["point"].tolist()) == ("n=4", [1])
    assert second.fixed == {"b": 9.0, "c": 3.0}


def test_one_size_alone_needs_no_group() -> None:
    bucket = only(design(grid={"n": [7]}))
    assert (bucket.group, bucket.sizes["n"], bucket.shape) == ("", 7, (1,))
    assert list(bucket.axes) == ["point"]


SAMPLE = {
    "points": 48,
    "seed": 3,
    "a": {"from": -1.0, "to": 1.0},
    "b": {"from": 1e-3, "to": 1e3, "spacing": "log"},
}


@pytest.mark.parametrize("method", ["sobol", "latin-hypercube"])
def test_a_sample_is_fixed_by_its_seed_and_fills_its_box(method: str) -> None:
    sample = SAMPLE | {"method": method}
    a, b = (only(design(sample=sample)).parameters[name][1] for name in "ab")
    again = only(design(sample=sample)).parameters["a"][1]
    other = only(design(sample=sample | {"seed": 4})).parameters["a"][1]
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, other)
    assert a.shape == (48,)
    assert ((a >= -1) & (a <= 1)).all()
    assert ((b >= 1e-3) & (b <= 1e3)).all()
    # Evenly: each quarter of the range, or of its logarithm, has close to a quarter of the points.
    for share in ((a + 1) / 2, (np.log10(b) + 3) / 6):
        counts = np.bincount((share * 4).astype(int).clip(0, 3), minlength=4)
        assert np.abs(counts - 12).max() <= (0 if method == "latin-hypercube" else 1)


def test_a_sample_may_name_its_ranges_in_a_table_of_their_own() -> None:
    plain = only(design(sample=SAMPLE | {"method": "sobol"}))
    ranges = {name: SAMPLE[name] for name in "ab"}
    nested = only(design(sample={"method": "sobol", "points": 48, "seed": 3, "ranges": ranges}))
    np.testing.assert_array_equal(plain.parameters["b"][1], nested.parameters["b"][1])


def test_a_table_gives_its_rows() -> None:
    table = {"file": "t.csv", "columns": {"a": "a"}, "values": {"a": [0.5, 0.25], "n": [3, 3]}}
    bucket = only(design(table=table))
    assert (bucket.group, bucket.sizes["n"]) == ("", 3)
    assert bucket.points(np.array([1]))["a"].tolist() == [0.25]


def test_a_sweep_that_does_not_fit_the_model_is_refused_with_all_its_mistakes() -> None:
    with pytest.raises(UsageError) as caught:
        design(fixed={"a": 1, "d": 2}, grid={"a": [1, 2], "n": [2.5]})
    text = str(caught.value)
    assert "3 mistakes" in text
    assert "'a' is given in [fixed] as well" in text
    assert "no parameter 'd'" in text
    assert "'n' takes a whole number" in text

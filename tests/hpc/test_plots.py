"""Pictures of a store: what is drawn, labelled, and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure

import dpsolve as dp
from dpsolve import UsageError
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.pictures.jobs import Attempt, attempts, draw_timeline
from dpsolve.hpc.pictures.picture import picture
from dpsolve.hpc.pictures.sweep_data import select
from dpsolve.hpc.store.event_log import Event

from .conftest import run


def grid_store(**changes: Any) -> xr.Dataset:
    """Two parameters, two states; one point failed."""
    beta, alpha = np.linspace(0.90, 0.98, 9), np.array([0.3, 0.35, 0.4])
    k, z = np.linspace(1.0, 3.0, 11), np.array([-1.0, 0.0, 1.0])
    axes = (beta[:, None, None, None], alpha[:, None, None], k[:, None], z)
    value = axes[0] + axes[1] * np.log(axes[2]) + axes[3]
    value[0, 1] = np.nan
    status = np.full((9, 3), "solved", dtype=object)
    status[0, 1] = "failed"
    dims = ("beta", "alpha", "k", "z")
    return xr.Dataset(
        {
            "value": (dims, value, {"long_name": "value function"}),
            "policy_k_next": (dims, 2 * value),
            "policy_index_k_next": (dims, np.zeros(value.shape, np.int32)),
            "status": (dims[:2], status),
            "error_bound": (dims[:2], 10.0 ** -np.arange(27.0).reshape(9, 3)),
        },
        {"beta": beta, "alpha": alpha, "k": k, "z": z} | changes,
        {"model_name": "growth"},
    )


def sampled_store() -> xr.Dataset:
    draw = np.random.default_rng(0)
    beta, gamma, k = draw.uniform(0.9, 0.98, 40), draw.uniform(1, 5, 40), np.linspace(1, 3, 7)
    return xr.Dataset(
        {
            "value": (("point", "k"), beta[:, None] + k),
            "status": ("point", np.full(40, "solved")),
        },
        {"beta": ("point", beta), "gamma": ("point", gamma), "k": k},
    )


def panels(data: xr.Dataset, *arguments: Any) -> list[Axes]:
    return [axis for axis in picture(data, *arguments).axes if axis.get_label() != "<colorbar>"]


def legend(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_value_policy_and_a_map_over_the_parameters() -> None:
    value, policy, summary = panels(grid_store())
    assert (value.get_xlabel(), value.get_ylabel()) == ("k", "value")
    assert policy.get_ylabel() == "policy_k_next"
    assert value.get_title() == "value function\nalpha=0.35, z=0"
    # The first of the five betas failed at alpha=0.35, and is left out.
    assert legend(value) == ["beta=0.92", "beta=0.94", "beta=0.96", "beta=0.98"]
    np.testing.assert_allclose(value.lines[0].get_ydata()[[0, -1]], 0.92 + 0.35 * np.log([1, 3]))
    assert (summary.get_xlabel(), summary.get_ylabel()) == ("beta", "alpha")
    assert summary.get_title() == "value function\nk=2, z=0"
    (mesh,) = (part for part in summary.collections if isinstance(part, QuadMesh))
    assert mesh.get_array().shape == (3, 9)
    assert mesh.get_array().mask.sum() == 1


def test_coordinates_can_be_held() -> None:
    figure = picture(grid_store(), "k_next", {"alpha": "0.41", "z": "1"})
    assert figure.get_suptitle() == "growth   alpha=0.4, z=1"
    lines, summary = figure.axes
    assert lines.get_ylabel() == "policy_k_next"
    assert (summary.get_xlabel(), summary.get_ylabel()) == ("beta", "policy_k_next")


def test_a_grid_that_depends_on_the_parameters() -> None:
    grid = np.linspace(1, 3, 11) * np.linspace(0.90, 0.98, 9)[:, None]
    data = grid_store(grid_k=(("beta", "k"), grid)).drop_vars("k")
    value = panels(data)[0]
    np.testing.assert_array_equal(value.lines[-1].get_xdata(), grid[-1])
    assert "k at the middle of its grid" in panels(data)[2].get_title()


def test_sampled_points_are_scattered_over_their_parameters() -> None:
    data = sampled_store()
    value, summary = panels(data)
    first = [float(label.partition(",")[0].removeprefix("beta=")) for label in legend(value)]
    assert first == sorted(first)
    assert first[0] == pytest.approx(data.beta.min().item(), rel=1e-3)
    assert (summary.get_xlabel(), summary.get_ylabel()) == ("beta", "gamma")
    (dots,) = (part for part in summary.collections if isinstance(part, PathCollection))
    assert len(dots.get_offsets()) == 40
    held, words = select(data, {"gamma": "3"})
    assert held.sizes == {"k": 7}
    assert words == f"gamma={held.gamma.item():.6g}"


def test_a_status_is_drawn_as_colours_and_a_wide_number_on_a_log_scale() -> None:
    (axis,) = panels(grid_store(), "status")
    assert legend(axis) == ["failed: 1", "solved: 26"]
    (axis,) = panels(grid_store(), "error_bound", {"alpha": "0.3"})
    assert axis.get_yscale() == "log"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("vlaue",), "no variable 'vlaue'. Did you mean 'value'?"),
        ((None, {"bta": "1"}), "no coordinate 'bta'. Did you mean 'beta'?"),
        ((None, {"beta": "high"}), "--select beta=high: a number is expected."),
        ((None, {"beta": "0.2"}), "--select beta=0.2: beta runs from 0.9 to "),
        (("error_bound", {"alpha": "0.3", "beta": "0.9"}), "is a single number here: 1.0."),
    ],
)
def test_what_cannot_be_drawn_is_told(arguments: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        picture(grid_store(), *arguments)
    assert expected in str(caught.value)


def test_the_command_draws_stores_and_saved_solutions(
    toy_sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(toy_sweep("plain.zarr"))
    run(toy_sweep("sizes.zarr", grid={"n": [2, 3], "a": [1.0, 2.0]}))

    def draw(line: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["plot", *line.split()])
        assert done.exit_code == code, done.output
        return done.output

    assert draw("plain.zarr") == "drew plain.png\n"
    assert "exists already" in draw("plain.zarr", code=3)
    assert draw("plain.zarr --overwrite") == "drew plain.png\n"
    assert draw("plain.zarr --var path --select a=2 -o p.svg") == "drew p.svg\n"
    assert "</svg>" in Path("p.svg").read_text()
    assert "other sizes: --group n=3" in draw("sizes.zarr")
    assert draw("sizes.zarr --group n=3 --var path -o s.png") == "drew s.png\n"
    assert "Did you mean 'n=3'?" in draw("sizes.zarr --group n=33 -o x.png", code=2)
    assert "no groups" in draw("plain.zarr --group n=3 -o x.png", code=2)
    assert "there is no folder no/such" in draw("plain.zarr -o no/such/folder.png", code=2)
    assert "cannot write" in draw("plain.zarr -o picture.xyz", code=2)
    assert "NAME=VALUE" in draw("plain.zarr --select a", code=2)
    for name in ("plain.png", "s.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")


def two_assets() -> xr.Dataset:
    """Three points of a model with two assets that are chosen and a shock that is not."""
    beta, a, b, z = (
        np.array([0.9, 0.92, 0.95]),
        np.arange(5.0),
        np.arange(4.0),
        np.array([0.0, 1.0]),
    )
    shape = (3, 5, 4, 2)
    dims = ("beta", "a", "b", "z")
    draw = np.random.default_rng(0)
    mass = draw.uniform(size=shape)
    mass /= mass.sum((1, 2, 3), keepdims=True)
    path = np.stack([mass * (5 - t) / 5 for t in range(3)], 1)
    path[:, :, 0, 0, 0] += 1.0 - path.sum((2, 3, 4))
    return xr.Dataset(
        {
            "value": (dims, draw.uniform(size=shape)),
            "policy_a_next": (dims, draw.choice(a, shape)),
            "policy_b_next": (dims, draw.choice(b, shape)),
            "policy_work": (dims, draw.integers(0, 2, shape)),
            "distribution": (dims, mass),
            "distribution_path": (("beta", "time", *dims[1:]), path),
            "status": ("beta", np.full(3, "solved")),
        },
        {"beta": beta, "a": a, "b": b, "z": z, "time": np.arange(3)},
    )


def test_a_distribution_is_drawn_as_its_marginal_and_summed_up_by_its_mean() -> None:
    data = two_assets()
    lines, summary = panels(data, "distribution")
    assert "marginal over a, summed over b, z" in lines.get_title()
    marginal = data.distribution.sum(["b", "z"])
    for line, mass in zip(lines.lines, marginal.values, strict=True):
        np.testing.assert_allclose(line.get_ydata(), mass)
    np.testing.assert_allclose(summary.lines[0].get_ydata(), (marginal * data.a).sum("a").values)


def test_a_path_is_drawn_at_a_few_times_and_as_means_over_time() -> None:
    data = two_assets()
    times, means = panels(data, "distribution_path")
    assert legend(times) == ["time 0", "time 1", "time 2"]
    mass = data.distribution_path.sum(["b", "z"])
    np.testing.assert_allclose(times.lines[2].get_ydata(), mass.values[1, 2])
    assert means.get_xlabel() == "time"
    np.testing.assert_allclose(means.lines[2].get_ydata(), (mass * data.a).sum("a").values[2])
    assert len(panels(data.isel(beta=0), "distribution_path")) == 2


def test_with_two_assets_a_policy_is_a_map_of_steps() -> None:
    data = two_assets()
    steps, _ = panels(data, "a_next")
    (mesh,) = (part for part in steps.collections if isinstance(part, QuadMesh))
    here = data.policy_a_next.isel(beta=1, z=0).values - data.a.values[:, None]
    np.testing.assert_array_equal(mesh.get_array(), here.T)
    assert (steps.get_xlabel(), steps.get_ylabel()) == ("a", "b")
    assert (*steps.get_xlim(), *steps.get_ylim()) == (0.0, 4.0, 0.0, 3.0)


def test_with_one_asset_a_policy_is_the_difference_from_staying() -> None:
    data = two_assets().isel(b=0).drop_vars(["policy_b_next", "b"])
    lines, _ = panels(data, "a_next")
    assert lines.get_ylabel() == "policy_a_next - a"
    step = data.policy_a_next.isel(beta=0, z=0).values - data.a.values
    np.testing.assert_array_equal(lines.lines[0].get_ydata(), step)
    assert lines.lines[0].get_drawstyle() == "steps-mid"


def test_whole_numbers_make_steps_and_maps_end_with_their_parameters() -> None:
    lines, _ = panels(two_assets(), "work")
    assert {line.get_drawstyle() for line in lines.lines} == {"steps-mid"}
    summary = panels(grid_store())[2]
    assert (*summary.get_xlim(), *summary.get_ylim()) == pytest.approx((0.9, 0.98, 0.3, 0.4))


def labelled_household() -> xr.Dataset:
    """Two points; assets on an uneven grid, a seventh of all at its end, and bounds to be seen."""
    a = 10.0 * np.linspace(0.0, 1.0, 41) ** 2
    chosen = np.stack([0.9 * a, 0.95 * a])
    mass = np.stack([np.exp(-a) * np.gradient(a)] * 2)
    mass[:, 0] = mass[:, 1:].sum(1) / 6
    words = {"long_name": "assets next period", "units": "annual income"}
    return xr.Dataset(
        {
            "policy_a_next": (("beta", "a"), chosen, words),
            "policy_lower_a_next": (("beta", "a"), chosen - 0.2, words),
            "policy_upper_a_next": (("beta", "a"), chosen + 0.3, words),
            "certifies": ("beta", np.ones(2, np.int8)),
            "distribution": (("beta", "a"), mass / mass.sum(1, keepdims=True)),
            "status": ("beta", np.full(2, "solved")),
        },
        {"beta": ("beta", [0.9, 0.95], {"long_name": "discount factor"}),
         "a": ("a", a, {"long_name": "assets", "units": "annual income"})},
    )  # fmt: skip


def test_labels_stand_at_the_axes_and_bounds_are_bands() -> None:
    data = labelled_household()
    steps, summary = panels(data, "a_next")
    assert steps.get_xlabel() == "assets (annual income)"
    assert summary.get_xlabel() == "discount factor"
    assert steps.get_ylabel() == "assets next period − assets (annual income)"
    low, high = (band.get_paths()[0].get_extents() for band in steps.collections[:2])
    assert (low.ymin, low.ymax) == pytest.approx((-1.2, 0.3))
    assert high.ymax == pytest.approx(0.3)
    assert "shaded: certified bounds" in steps.get_title()


def test_on_an_uneven_grid_shares_are_drawn_and_an_atom_is_a_jump() -> None:
    data = labelled_household()
    axis = dp.plot.distribution(data)
    share, jump, dot = axis.lines[:3]
    np.testing.assert_allclose(share.get_ydata(), np.cumsum(data.distribution[0]))
    assert [*jump.get_xdata(), *jump.get_ydata()] == pytest.approx([0.0, 0.0, 0.0, 1 / 7])
    assert dot.get_ydata() == pytest.approx([1 / 7])
    assert axis.get_ylabel() == "share with a at or below"
    assert axis.get_xlim()[1] < 9.0  # where next to nobody is, is left out


def test_a_choice_of_few_values_is_drawn_as_regions() -> None:
    a, age = np.linspace(0, 5, 9), np.arange(20.0, 30.0)
    work = (a[:, None] < 30 - age).astype(float)[None]
    data = xr.Dataset(
        {"policy_work": (("beta", "a", "age"), work), "status": ("beta", ["solved"])},
        {"beta": [0.9], "a": a, "age": age},
    )
    figure = Figure()
    given = figure.subplots()
    assert dp.plot.policy(data, ax=given) is given
    (mesh,) = (part for part in given.collections if isinstance(part, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array(), work[0])
    with pytest.raises(UsageError, match=r"no choice 'wrok'\. Did you mean 'work'"):
        dp.plot.policy(data, "wrok")
    with pytest.raises(UsageError, match="no parameter varies here"):
        dp.plot.parameters(data, "status")


def test_attempts_are_read_from_the_event_log() -> None:
    told = [
        (0.0, "worker-a-1", "started", {"task": 0}), (1.0, "worker-b-2", "started", {"task": 1}),
        (4.0, "driver-x-3", "lost", {"task": 0, "worker": "worker-a-1"}),
        (5.0, "worker-b-2", "committed", {"task": 1}),
        (5.5, "driver-x-3", "committed", {"task": 1}),
        (6.0, "worker-b-2", "started", {"task": 0}), (9.0, "worker-b-2", "solved", {"task": 0}),
    ]  # fmt: skip
    events = [Event(*event) for event in told]
    assert attempts(events) == [
        Attempt("worker-a-1", 0, 1, 0.0, 4.0, "lost"),
        Attempt("worker-b-2", 1, 1, 1.0, 5.0, "committed"),
        Attempt("worker-b-2", 0, 2, 6.0, 9.0, "not ended"),
    ]
    axis = Figure().subplots()
    draw_timeline(axis, events)
    assert legend(axis) == ["committed: 1", "lost: 1", "not ended: 1", "again: 1"]
    with pytest.raises(UsageError, match="tells of no task"):
        draw_timeline(axis, [])

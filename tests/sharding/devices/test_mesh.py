"""Meshes: how they are read, and how one that cannot be made is refused."""

import os
from typing import Any

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.devices import fit
from dpsolve.sharding.devices.mesh import MeshShape, devices_seen, make_mesh
from dpsolve.sharding.solve import solve
from dpsolve.solvers.inspection.forecast import Footprint

GIB = 2**30


@pytest.mark.parametrize(
    ("given", "points", "states"),
    [
        ("points=4,states=2", 4, 2),
        (" states = 2 , points = 4 ", 4, 2),
        ("states=8", 1, 8),
        ({"points": 3}, 3, 1),
        (MeshShape(2, 2), 2, 2),
    ],
)
def test_a_mesh_is_read_as_it_is_written(given: Any, points: int, states: int) -> None:
    assert MeshShape.read(given) == MeshShape(points, states)


def test_a_mesh_reads_back_what_it_prints() -> None:
    assert MeshShape.read(str(MeshShape(4, 2))) == MeshShape(4, 2)


@pytest.mark.parametrize("given", ["auto", " auto ", None])
def test_an_automatic_mesh_is_left_open(given: Any) -> None:
    assert MeshShape.read(given) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("state=2", "there is no axis 'state'. Did you mean 'states'?"),
        ({"rows": 2}, "there is no axis 'rows'"),
        ("states=-1", "states=-1; it is a whole number of devices, at least 1"),
        ("states=0", "states=0; it is a whole number"),
        ({"states": 2.5}, "states=2.5; it is a whole number"),
        ({"states": True}, "states=True; it is a whole number"),
        ("states=2.5", "'states=2.5' is no axis=number"),
        ("states=--1", "'states=--1' is no axis=number"),
        ("states=²", "'states=²' is no axis=number"),
        ("states", "'states' is no axis=number"),
        ("4", "'4' is no axis=number"),
        ("states=2,states=4", "states stands twice"),
        (4, "mesh=4 is no mesh; write points=4,states=2, or auto"),
        (["states"], "is no mesh; write points=4,states=2, or auto"),
    ],
)
def test_what_is_no_mesh_is_refused(given: Any, words: str) -> None:
    with pytest.raises(dp.UsageError) as refused:
        MeshShape.read(given)
    assert words in str(refused.value)


def test_groups_along_points_are_neighbouring_devices() -> None:
    made = make_mesh(MeshShape(points=4, states=2))
    assert made.axis_names == ("points", "states")
    assert made.devices.tolist() == np.array(jax.devices()).reshape(4, 2).tolist()


def test_too_few_devices_print_what_jax_sees_and_what_decides() -> None:
    with pytest.raises(dp.UsageError) as refused:
        make_mesh(MeshShape(points=4, states=4))
    text = str(refused.value)
    assert "the mesh points=4,states=4 takes 16 devices, and there are 8" in text
    assert "JAX sees 8 cpu (cpu)" in text
    assert f"XLA_FLAGS={os.environ['XLA_FLAGS']!r}" in text
    assert "JAX_PLATFORMS='cpu'" in text
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        assert f"{name} is not set" in text or f"{name}={os.environ.get(name)!r}" in text
    assert "XLA_FLAGS=--xla_force_host_platform_device_count=16 makes as many" in text
    assert devices_seen() in text


def test_one_model_with_too_few_devices_is_refused() -> None:
    with pytest.raises(dp.UsageError, match="takes 9 devices, and there are 8"):
        solve("growth", {"continuous": False, "n_k": 30}, mesh={"states": 9})


def test_one_model_cannot_be_cut_along_points() -> None:
    with pytest.raises(dp.UsageError, match=r"nothing to cut along points; take states=4"):
        solve("growth", {"continuous": False, "n_k": 30}, mesh="points=2,states=2")


def test_more_parts_than_members_are_refused() -> None:
    with pytest.raises(dp.UsageError) as refused:
        solve("growth", {"continuous": False, "n_k": 5}, mesh={"states": 8})
    assert "has 5 members, fewer than 8 devices; take states=5 or fewer" in str(refused.value)


def test_a_factory_of_arrays_has_no_states_to_cut() -> None:
    def price(spot: float = 1.0, *, n: int = 4) -> dict[str, Any]:
        return {"price": spot * np.ones(n)}

    with pytest.raises(dp.UsageError, match="returns arrays of its own and has no states to cut"):
        solve(price, mesh={"states": 2})


def test_a_mesh_inside_jit_is_refused() -> None:
    def value(beta: Any) -> Any:
        return solve(
            "growth", {"continuous": False, "beta": beta, "n_k": 30}, mesh={"states": 2}
        ).value

    with pytest.raises(dp.UsageError, match="mesh= inside jit, vmap or grad"):
        jax.jit(value)(0.9)


def test_many_points_on_a_mesh_for_one_are_refused() -> None:
    with pytest.raises(dp.ModelError, match=r"use dp\.solve_many for many"):
        solve(
            "growth",
            {"continuous": False, "beta": np.array([0.9, 0.95]), "n_k": 30},
            mesh={"states": 2},
        )


def test_a_mesh_of_one_device_is_no_mesh() -> None:
    alone = dp.solve("growth", {"continuous": False, "n_k": 20}, method="vi")
    found = solve("growth", {"continuous": False, "n_k": 20}, mesh="points=1,states=1", method="vi")
    np.testing.assert_array_equal(found.value, alone.value)
    assert found.problem == alone.problem


def footprint(states: int, bytes_: int) -> Footprint:
    return Footprint(states, 1, bytes_, False)


def test_the_smallest_mesh_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda: GIB)
    size = footprint(1000, 3 * GIB)
    with pytest.raises(dp.UsageError) as refused:
        fit.check_fits(size, MeshShape())
    assert "one point takes 3.0 GiB on a device, which has 1.0 GiB" in str(refused.value)
    assert "The smallest mesh that would do is states=4" in str(refused.value)
    # 3 parts and what is gathered are just too much; 4 are not.
    with pytest.raises(dp.UsageError, match="states=4"):
        fit.check_fits(size, MeshShape(states=3))
    fit.check_fits(size, MeshShape(states=4))


def test_no_mesh_is_promised_where_none_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda: GIB)
    # What a device gathers does not get smaller with more of them.
    with pytest.raises(dp.UsageError, match="no mesh would do; lower memory= or the sizes"):
        fit.check_fits(footprint(GIB, 30 * GIB), MeshShape())
    # Arrays of a factory's own have no states to cut.
    with pytest.raises(dp.UsageError, match="no mesh would do"):
        fit.check_fits(footprint(1, 3 * GIB), MeshShape())


def test_a_model_too_large_for_its_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda: 100_000)
    with pytest.raises(dp.UsageError, match="The smallest mesh that would do is states="):
        solve("growth", {"continuous": False, "n_k": 400}, mesh={"states": 2})


def test_an_automatic_mesh_takes_as_few_devices_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    size = footprint(1000, 3 * GIB)
    for memory, devices in ((4 * GIB, 1), (2 * GIB, 2), (GIB, 4)):
        monkeypatch.setattr(fit, "device_memory", lambda memory=memory: memory)
        assert fit.fewest_devices(size, 8) == devices

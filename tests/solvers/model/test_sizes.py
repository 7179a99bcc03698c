"""Counts on both sides of 2^31: what int32 cannot number is refused, or counted in 64 bits.

Nothing large is made: shapes are traced, and one of the factors is looked at alone.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.model_definition.pairs import define
from dpsolve.hpc.plan.design import make_design
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.solvers.distributions.solved_points import too_many_states
from dpsolve.solvers.model.factory_signature import signature
from dpsolve.solvers.numerics.partition import ALONE
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.interpolation import flattened
from dpsolve.solvers.operators.named_arrays import NamedArray


def model(*sizes: int) -> dp.Model:
    return dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={f"u{i}": dp.integers(1, size) for i, size in enumerate(sizes)},
        transition={"x": lambda x: x},
        reward=lambda x: 1.0 * x,
        discount=0.5,
    )


def test_joint_choices_beyond_32_bits_are_refused_with_their_number() -> None:
    with pytest.raises(dp.ModelError, match=r"2,197,000,000 joint choices.*coarser"):
        model(1300, 1300, 1300)
    with pytest.raises(dp.ModelError, match="joint choices"):
        model(2**16, 2**15)
    assert model(1290, 1290, 1290).choices.keys() == {"u0", "u1", "u2"}
    assert model(2**16 - 1, 2**15).size_of("u1") == 2**15


def test_a_variable_with_more_values_than_32_bits_count_is_refused() -> None:
    with pytest.raises(dp.ModelError, match=r"'u0' has 2,147,483,648 values"):
        model(2**31)
    assert model(2**31 - 1).size_of("u0") == 2**31 - 1


@pytest.mark.parametrize("n_choices", [2**31 - 1, 2**31 - 8, 1000])
@pytest.mark.parametrize("width", [8, 2**30 + 5])
def test_the_last_choices_of_the_last_block_are_numbered_right(n_choices: int, width: int) -> None:
    operator = SimpleNamespace(width=width, n_choices=n_choices)
    last = jnp.int32((n_choices - 1) // width)
    choice = GridOperator._choice(operator, last, jnp.int32(width - 1))  # type: ignore[arg-type]
    assert choice.dtype == jnp.int32
    assert int(choice) == n_choices - 1


@pytest.mark.parametrize(("n", "kind"), [(2**15, jnp.int32), (2**16, jnp.int64)])
def test_positions_along_several_axes_are_as_wide_as_they_must_be(n: int, kind: type) -> None:
    def flat(x: jax.Array, i: jax.Array) -> jax.Array:
        index = NamedArray(i, ("s",))
        return flattened({"a'": index, "b'": index}, NamedArray(x, ("a'", "b'"))).array

    found = jax.eval_shape(
        flat,
        jax.ShapeDtypeStruct((n, n), jnp.float64),
        jax.ShapeDtypeStruct((3,), jnp.int32),
    )
    assert found.dtype == kind
    big = SimpleNamespace(size_of=lambda axis: n)
    at = NamedArray(jnp.asarray([n - 1], jnp.int32), ("s",))
    assert int(flattened({"a'": at, "b'": at}, big).array[0]) == n * n - 1  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "kind"), [(2**31 - 1, jnp.int32), (2**31, jnp.int64)])
def test_numbers_of_states_are_as_wide_as_they_must_be(n: int, kind: type) -> None:
    assert jax.eval_shape(lambda: ALONE.numbers(n)).dtype == kind


def test_action_numbers_beyond_32_bits_are_refused() -> None:
    rows = np.eye(2)
    with pytest.raises(dp.ModelError, match="without gaps"):
        dp.mdp(np.zeros(2), rows, 0.9, states=[0, 1], actions=[0, 2**31])
    assert (
        dp.mdp(np.zeros(2), rows, 0.9, states=[0, 1], actions=[0, 2**31 - 2]).n_actions == 2**31 - 1
    )


def test_verify_numbers_pairs_in_64_bits() -> None:
    states, actions = np.arange(3, dtype=np.int32), np.array([0, 0, 2**30], np.int32)
    pairs = dp.mdp(np.zeros(3), np.eye(3), 0.9, states=states, actions=actions)
    keys = define(pairs).keys  # type: ignore[attr-defined]
    assert keys.tolist() == [0, 2**30 + 1, 2 * (2**30 + 1) + 2**30]


def test_distributions_over_more_states_than_32_bits_count_are_refused() -> None:
    assert "4,294,967,296 states" in too_many_states("m", (2**16, 2**16))


@pytest.mark.parametrize("points", [1290, 1291])
def test_points_of_a_sweep_beyond_32_bits_are_refused(points: int) -> None:
    def factory(a: float = 1.0, b: float = 1.0, c: float = 1.0) -> dp.Model:
        raise AssertionError("nothing is built")

    axis = {"from": 0.1, "to": 0.9, "points": points}
    grid = {"a": axis, "b": axis, "c": axis}
    sweep = sweep_from({"model": "m", "grid": grid, "store": {"path": "x.zarr"}})
    if points**3 < 2**31:
        assert make_design(sweep, signature(factory)).size == points**3
        return
    with pytest.raises(dp.UsageError, match="points"):
        make_design(sweep, signature(factory))

"""What `plan` and `describe` say of a sweep is what the sweep does."""

import jax.numpy as jnp
import pytest

import dpsolve as dp
from dpsolve.solvers.inspection.forecast import Outlook, outlook
from dpsolve.solvers.library import growth, savings
from dpsolve.solvers.options import SolveOptions

SIZES = {"continuous": False, "n_a": 300, "n_z": 3}


def ahead(lanes: int = 1, **options: object) -> Outlook:
    found = outlook(savings, SIZES, SolveOptions(**options), lanes)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_rewards_that_fit_are_kept_and_evaluated_once() -> None:
    found = ahead()
    assert found.kept is not None
    pairs = 300 * 3 * 300
    assert pairs <= found.evaluations <= 1.1 * pairs  # the last block is filled up
    assert 8 * pairs <= found.kept <= 1.2 * 8 * pairs
    assert found.rewards.startswith("kept, ")
    assert found.maxima == "over all choices in every sweep"


def test_rewards_that_do_not_fit_are_recomputed_and_lanes_share_the_memory() -> None:
    assert ahead(lanes=128).kept is None
    found = ahead(memory=2**20)
    assert found.kept is None
    assert (found.block, found.choices) == (32, 300)
    assert found.evaluations == 300 * 3 * (300 + 32)
    assert "recomputed by blocks of 32 of 300 choices; 298,800 evaluations" in found.rewards
    assert found.along == ("a_next", "a")
    assert "a_next taken to rise with a" in found.maxima
    assert found.quick < found.evaluations / 15


def test_a_block_that_was_asked_for_is_looked_at_twice() -> None:
    """Once for the maxima, once for where they are."""
    found = ahead(block=300, method="vi")
    assert (found.block, found.evaluations, found.along) == (300, 300 * 3 * 600, None)


def test_a_long_certificate_is_told_with_how_it_was_counted_and_what_is_quicker() -> None:
    sizes = {"continuous": False, "n_a": 20_000, "n_z": 25}
    full = outlook(savings, sizes, SolveOptions())
    assert full is not None
    assert full.pairs == 20_000 * 25 * 20_000
    assert full.warning.startswith("by a full sweep, about 12 s a point")
    assert "by count: 10,000,000,000 pairs" in full.warning
    assert full.remedy.startswith('certificate = "sampled" is quicker')
    assert full.remedy.endswith("with an error_bound of inf")
    sampled = outlook(savings, sizes, SolveOptions(certificate="sampled"))
    assert sampled is not None
    assert (sampled.sampled, sampled.warning, sampled.remedy) == (True, "", "")
    assert (ahead().warning, ahead().remedy) == ("", "")


def test_where_no_sample_can_be_looked_at_none_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsolve.solvers.inspection.forecast.LONG", 1_000)
    assert ahead(memory=2**20).remedy
    found = ahead(method="vi", memory=2**20)
    assert found.warning
    assert found.remedy == ""


@pytest.mark.parametrize("horizon", [None, 4])
def test_a_finite_horizon_has_no_shortcut(horizon: int | None) -> None:
    def model(beta: float = 0.9) -> dp.Model:
        last = {} if horizon is None else {"horizon": horizon, "terminal": lambda x: 0.0 * x}
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, 300)}, choices={"y": "x"}, transition={"x": "y"},
            reward=lambda x, y: x - y * y, discount=beta, monotone={"y": "x"}, **last,
        )  # fmt: skip

    found = outlook(model, {}, SolveOptions())
    assert found is not None
    assert (found.along is None) == (horizon is not None)


def test_what_has_no_reward_has_no_outlook() -> None:
    def arrays(a: float = 1.0) -> dict[str, object]:
        return {"twice": 2 * jnp.asarray(a)}

    assert outlook(arrays, {}, SolveOptions()) is None
    assert dp.describe(arrays).sweeps == ()


def test_describe_says_it() -> None:
    rewards, maxima = dp.describe(growth, {"continuous": False}).sweeps
    assert rewards.startswith("rewards kept, ")
    assert maxima == "maxima over all choices in every sweep"
    assert rewards in str(dp.describe(growth, {"continuous": False}))

"""Distributions, moments, paths and gradients in a sweep: asked for, stored, resumed, verified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dpsolve as dp
from dpsolve.hpc.plan.check_names import check_names
from dpsolve.hpc.store.open import open as open_results
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import asked_for, options_of, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.sweep_file.overrides import Overrides
from dpsolve.hpc.sweep_file.reader import read_sweep
from dpsolve.solvers.inspection.forecast import footprint
from dpsolve.solvers.library import savings

from .conftest import assert_equal_stores, run
from .verify.test_verification import alter, assert_refuted, vouch

# A compiled point with distribution, moments and gradients takes seconds to make.
pytestmark = pytest.mark.slow

MODELS = '''
import jax.numpy as jnp
import dpsolve as dp

def saver(beta=0.92, sigma=0.2, *, n=12):
    """Savings with a shock: wealth is shared between grid points."""
    return dp.Model(
        states={"a": dp.grid(0.0, 4.0, n, outside="clip"), "z": dp.rouwenhorst(2, 0.6, sigma)},
        choices={"save": dp.grid(0.0, 3.9, 9)},
        shocks={"luck": dp.iid([0.0, 0.5], [0.7, 0.3])},
        transition={"a": lambda save, luck: save + luck},
        feasible=lambda a, z, save: a + jnp.exp(z) > save,
        reward=lambda a, z, save: jnp.log(a + jnp.exp(z) - save),
        discount=beta,
        outputs={"consumption": lambda a, z, save: a + jnp.exp(z) - save,
                 "windfall": lambda a, luck: a * luck},
        moments={"poor": lambda a: a < 1.0},
    )

def cycle(beta=0.9, turn=1.0, *, n=3):
    """Round and round: periodic where it turns, several classes where it stands."""
    return dp.Model(
        states={"x": dp.integers(0, n - 1)},
        choices={"d": dp.integers(0, 0)},
        transition={"x": lambda x, d: jnp.where(turn > 0.5, (x + 1) % n, x)},
        reward=lambda x: x * 1.0,
        discount=beta,
    )

def ending(beta=0.9, *, n=12):
    """A finite horizon."""
    return dp.Model(
        states={"a": dp.grid(0.0, 4.0, n, outside="clip")},
        choices={"eat": dp.grid(0.0, 1.0, 5)},
        transition={"a": lambda a, eat: 1.02 * a - eat},
        feasible=lambda a, eat: eat <= a,
        reward=lambda eat: jnp.sqrt(eat),
        discount=beta,
        horizon=5,
    )

def prices(a=1.0, b=2.0):
    """Arrays of its own, one of them called a distribution."""
    return {"price": a * b, "distribution": (("bin",), jnp.array([a, 1 - a]))}
'''

SAVER: dict[str, Any] = {
    "grid": {"beta": [0.85, 0.9, 0.92], "sigma": [0.1, 0.2]},
    "solve": {
        "tol": 1e-8, "moments": ["gini_a", "p50_a"], "gradients_fixed_policy": ["sigma"],
        "periods": 4, "initial": {"a": 0.3},
    },
    "store": {"keep": ["value", "policy", "distribution", "moments", "windfall"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(models: Path) -> Callable[..., Any]:
    def make(path: Path, model: str = "saver", **tables: Any) -> Any:
        store = {"points_per_task": 2} | tables.get("store", {}) | {"path": str(path)}
        return sweep_from({"model": f"{models}:{model}"} | tables | {"store": store})

    return make


@pytest.fixture(scope="module")
def pristine(made: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saver") / "saver.zarr"
    outcome = run(made(path, **SAVER))
    assert outcome.solved == outcome.points == 6
    return path


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "saver.zarr"))


# -- what is stored --------------------------------------------------------------------------------


def test_everything_that_was_asked_for_is_stored_and_labelled(pristine: Path) -> None:
    ds = open_results(pristine)
    usual = {"mean_a", "sd_a", "mean_z", "sd_z", "mean_consumption", "sd_consumption", "top_a"}
    usual |= {"mean_windfall", "sd_windfall", "poor", "gini_a", "p50_a"}
    variables = {
        "value", "policy_save", "output_windfall", "distribution", "distribution_path", "grid_z",
        "distribution_residual", "distribution_error", "distribution_period", "top_mass_a",
        *(f"moment_{name}" for name in usual),
    }  # fmt: skip
    floats = {"value", "output_windfall", "distribution", "distribution_path"}
    floats |= {f"moment_{name}" for name in usual}
    records = {"status", "message", "residual", "error_bound", "iterations", "seconds"}
    stored = {*ds.data_vars, "grid_z"}
    assert stored == variables | {f"d_{name}_d_sigma_fixed_policy" for name in floats} | records
    axes = ("beta", "sigma")
    assert ds["distribution"].dims == (*axes, "a", "z")
    assert ds["distribution_path"].dims == (*axes, "time", "a", "z")
    assert ds["d_distribution_path_d_sigma_fixed_policy"].dims == (*axes, "time", "a", "z")
    slope = ds["d_moment_gini_a_d_sigma_fixed_policy"]
    assert ds["moment_gini_a"].dims == slope.dims == axes
    np.testing.assert_array_equal(ds["time"], np.arange(5))
    assert slope.attrs["long_name"] == (
        "derivative by sigma, at the fixed policy, of: under the stationary distribution: gini_a"
    )
    np.testing.assert_allclose(ds["distribution"].sum(("a", "z")), 1.0, rtol=1e-13)
    np.testing.assert_allclose(ds["distribution_path"].sum(("a", "z")), 1.0, rtol=1e-13)
    assert (ds["distribution_error"] <= 1e-8).all()
    assert (ds["distribution_period"] == 1).all()
    # The moments are those of the stored distribution.
    mean = (ds["distribution"] * ds["a"]).sum(("a", "z"))
    np.testing.assert_allclose(ds["moment_mean_a"], mean, rtol=1e-12)
    poor = ds["distribution"].where(ds["a"] < 1.0, 0.0).sum(("a", "z"))
    np.testing.assert_allclose(ds["moment_poor"], poor, rtol=1e-12)


def test_a_store_and_solve_many_agree_to_the_last_bit(pristine: Path, models: Path) -> None:
    ds = open_results(pristine)
    factory = resolve(f"{models}:saver").load()
    beta, sigma = (x.ravel() for x in np.meshgrid(ds.beta, ds.sigma, indexing="ij"))
    many = dp.solve_many(
        factory, {"beta": beta, "sigma": sigma}, tol=1e-8, distribution=True,
        moments=("gini_a", "p50_a", "moments"), gradients_fixed_policy="sigma", periods=4,
        initial={"a": 0.3},
    )  # fmt: skip
    slope = "d_distribution_d_sigma_fixed_policy"
    for name in ("distribution", "distribution_path", "moment_gini_a", slope):
        stored = np.asarray(ds[name])
        np.testing.assert_array_equal(stored.reshape(6, *stored.shape[2:]), many[name], name)


def test_what_solve_asks_for_is_stored_and_what_keep_names_is_computed() -> None:
    sweep = sweep_from(
        {
            "model": "savings",
            "fixed": {"continuous": False},
            "grid": {"beta": [0.9]},
            "solve": {"moments": "gini_a, mean_z", "periods": 3, "initial": {"a": 1}},
            "store": {
                "path": "x",
                "keep": ["value", "moment_p90_a", "moments", "d_moment_sd_a_d_rho_fixed_policy"],
            },
        }
    )
    options = options_of(sweep)
    assert options.moments == ("gini_a", "mean_z", "moments", "p90_a", "sd_a")
    assert (options.gradients, options.gradients_fixed_policy) == ((), ("rho",))
    assert (options.distribution, options.periods, options.initial) == (False, 3, (("a", 1),))
    assert asked_for(sweep) == ("moment_gini_a", "moment_mean_z", "distribution_path")
    again = sweep_from(json.loads(json.dumps(sweep.as_dict())))
    assert options_of(again) == options
    assert json.loads(json.dumps(options.as_dict())) == options.as_dict()
    assert dp.SolveOptions.from_mapping(options.as_dict()) == options


def test_nothing_is_kept_in_mind_of_what_was_not_asked_for() -> None:
    plain = dp.SolveOptions(tol=1e-8).as_dict()
    assert set(plain) == {"tol", "method", "max_iter", "steps", "inner_iter", "block", "memory"}


def test_without_keep_the_usual_variables_are_stored_beside(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "usual.zarr"
    solve = {"moments": ["gini_a"], "gradients_fixed_policy": ["beta"]}
    run(made(path, grid={"beta": [0.9]}, solve=solve))
    names = set(zarr.open_group(path, mode="r").array_keys())
    assert {"value", "lower", "upper", "policy_save", "moment_gini_a", "distribution_error"} < names
    slopes = {"d_value_d_beta_fixed_policy", "d_moment_gini_a_d_beta_fixed_policy"}
    assert {name for name in names if name.startswith("d_")} == slopes
    assert not {"distribution", "output_consumption"} & names
    loaded = dp.load(path, beta=0.9).gradients_fixed_policy["beta"]
    assert set(loaded) == {"value", "moment_gini_a"}
    found = dp.verify(path)
    assert found.ok, str(found)
    assert any("no distribution is stored" in note for note in found.notes)
    assert any("gradients are not verified" in note for note in found.notes)


def test_the_command_line_can_ask_too() -> None:
    reading = read_sweep(
        None,
        Overrides(
            model="savings",
            grid=("beta=0.9,0.92",),
            fixed=("continuous=false", "n_a=20", "n_z=3"),
            keep=("value,distribution", "moment_gini_a"),
            other=(
                'solve.gradients_fixed_policy=["rho", "sigma"]', "solve.moments=mean_a,sd_a",
                "solve.periods=7", "solve.initial.a=0.5", "solve.distribution_tol=1e-10",
            ),
        ),
    )  # fmt: skip
    options = options_of(reading.sweep)
    assert options.distribution
    assert options.moments == ("mean_a", "sd_a", "gini_a")
    assert options.gradients_fixed_policy == ("rho", "sigma")
    assert (options.periods, options.initial) == (7, (("a", 0.5),))
    assert options.distribution_tol == 1e-10
    check_names(reading)


def test_the_forecast_counts_what_is_asked_for() -> None:
    sizes = {"continuous": False, "n_a": 100, "n_z": 5}

    def size(**asked: Any) -> int:
        return footprint(savings, sizes, dp.SolveOptions(**asked)).bytes

    states = 8 * 500
    path = {"periods": 200, "initial": {"a": 0.0}}
    assert size(**path) - size() >= 201 * states
    fixed = size(**path, gradients_fixed_policy=("rho",)) - size(**path)
    assert fixed >= 202 * states  # and of the value
    assert size(gradients=("rho",)) - size() < 10 * states  # of the value alone
    assert size(distribution=True) > size()
    small = {"continuous": False, "n_a": 20, "n_z": 5}  # solved densely: the matrix counts
    dense = footprint(savings, small, dp.SolveOptions(distribution=True)).bytes
    assert dense - footprint(savings, small, dp.SolveOptions()).bytes >= 8 * 100**2


# -- points that have no stationary distribution, or one that is periodic --------------------------


def test_a_periodic_chain_is_solved_and_says_so(made: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "cycle.zarr"
    outcome = run(
        made(path, "cycle", grid={"turn": [1.0, 0.0]}, store={"keep": ["policy", "distribution"]})
    )
    assert (outcome.solved, outcome.inexact) == (1, 1)
    ds = open_results(path).load()
    assert list(ds["status"].values) == ["solved", "inexact"]
    assert list(ds["distribution_period"].values[:1]) == [3]
    np.testing.assert_allclose(ds["distribution"][0], 1 / 3, rtol=1e-12)
    assert "periodic with period 3" in str(ds["message"].values[0])
    assert "does not converge to it" in str(ds["message"].values[0])
    assert np.isnan(ds["distribution"][1]).all()  # never an average in silence
    assert "classes" in str(ds["message"].values[1])
    found = dp.verify(path)
    assert found.ok, str(found)
    assert [f.message for f in read_status(path).failures] == [str(ds["message"].values[1])]


def test_moments_of_a_distribution_that_is_not_certified_are_told_in_the_store(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "loose.zarr"
    tables = {
        "grid": {"beta": [0.9, 0.95]},
        "solve": {"moments": ["mean_a"], "distribution_tol": 1e-17},
        "store": {"keep": ["policy"]},
    }
    assert run(made(path, **tables)).inexact == 2
    ds = open_results(path).load()
    assert (ds["status"] == "inexact").all()
    assert (ds["distribution_error"] > 1e-17).all()
    told = "the moments are of a distribution that is not certified (distance"
    assert all(told in str(message) for message in ds["message"].values)
    assert told in str(read_status(path))
    with pytest.raises(dp.UsageError, match="not certified"):
        _ = dp.load(path, beta=0.9).moments
    assert dp.verify(path).ok


def test_an_initial_value_off_a_moving_grid_is_told_at_its_point() -> None:
    def growing(top=2.0):
        return dp.Model(
            states={"a": dp.grid(0.0, top, 5)},
            choices={"b": "a"},
            transition={"a": "b"},
            reward=lambda a, b: -((a - b) ** 2),
            discount=0.9,
        )

    many = dp.solve_many(growing, {"top": [2.0, 1.0]}, periods=2, initial={"a": 1.5})
    assert list(many.status) == ["solved", "inexact"]
    assert "1.5" in many.message[1]
    assert "off the grid" in many.message[1]
    assert np.isfinite(many.distribution_path[0]).all()
    assert np.isnan(many.distribution_path[1]).any()


def test_a_path_over_a_finite_horizon(made: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "ending.zarr"
    tables = {"grid": {"beta": [0.9, 0.95]}, "solve": {"initial": {"a": 4.0}}}
    run(made(path, "ending", **tables))
    ds = open_results(path)
    assert ds["distribution_path"].dims == ("beta", "time", "a")
    assert ds.sizes["time"] == 6
    found = dp.verify(path)
    assert found.ok, str(found)
    alter(path, "distribution_path", (1, 3, 4), lambda x: x + 1e-6)
    alter(path, "distribution_path", (1, 3, 5), lambda x: x - 1e-6)
    vouch(path)
    assert_refuted(dp.verify(path), "beta=0.95: distribution_path at time=3")


def test_arrays_that_are_called_distribution(made: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    run(
        made(
            path,
            "prices",
            grid={"a": [0.25, 0.5]},
            solve={"gradients": ["b"]},
            store={"keep": ["price", "distribution"]},
        )
    )
    ds = open_results(path)
    np.testing.assert_array_equal(ds["distribution"], [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_array_equal(ds["d_price_d_b"], [0.25, 0.5])
    found = dp.verify(path)
    assert found.ok, str(found)


# -- mistakes --------------------------------------------------------------------------------------


def mistakes(folder: Path, text: str) -> str:
    (folder / "sweep.toml").write_text(text, encoding="utf-8")

    def read() -> None:
        check_names(read_sweep(folder / "sweep.toml"))

    with pytest.raises(dp.UsageError) as caught:
        read()
    return str(caught.value)


def test_every_mistake_that_the_file_shows_is_told(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
model = "savings"
[grid]
beta = [0.9, 0.95]
[solve]
distribution = "yes"
gradients = ["n_a", "bta", "sigma"]
periods = 0
initial = { a = [0.5, 0.6, -0.1] }
distribution_method = "krilov"
[store]
keep = ["value", "d_value_d_gama"]
""",
    )
    for words in (
        "7 mistakes",
        'line 6, solve.distribution = "yes"',
        "line 7, solve.gradients[1] = \"n_a\": 'n_a' is a size",
        "line 7, solve.gradients[2] = \"bta\": savings has no parameter 'bta'",
        "Did you mean 'beta'",
        "line 8, solve.periods = 0",
        "line 9, solve.initial: initial: entry 3 of a is -0.1",
        "Did you mean 'krylov'",
        "Did you mean 'gamma'",
    ):
        assert words in found


def test_every_mistake_that_the_model_shows_is_told(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
model = "savings"
[fixed]
continuous = false
n_a = 20
n_z = 3
[grid]
beta = [0.9, 0.95]
[solve]
moments = ["mean_a", "meen_a"]
periods = 3
initial = { b = 1.0 }
[store]
keep = ["moment_gini_zz", "distribution", "valu", "moments"]
""",
    )
    for words in (
        "4 mistakes",
        "line 10, solve.moments[2] = \"meen_a\": there is no moment 'meen_a'.",
        "line 12, solve.initial: initial names 'b', which is no state",
        "store.keep[1] = \"moment_gini_zz\": there is no moment 'gini_zz'",
        "store.keep[3] = \"valu\": keep names 'valu'",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("model", "solve", "keep", "words"),
    [
        ("ending", "", '["distribution"]', ["keep[1]", "finite horizon", "initial = { a ="]),
        ("ending", 'moments = ["mean_a"]', '["value"]', ["solve.moments[1]", "finite horizon"]),
        (
            "ending",
            "periods = 9\ninitial = {a = 1}",
            '["value"]',
            ["has 5 periods", "cannot have 9"],
        ),
        (
            "prices",
            "",
            '["moment_mean_a"]',
            ["keep[1]", "arrays of its own", "price, distribution"],
        ),
        ("prices", "periods = 3", '["price"]', ["solve.periods", "arrays of its own"]),
        ("saver", "", '["distribution_path"]', ["keep[1]", "periods = 40"]),
        ("saver", "periods = 3", '["value"]', ["solve.periods", "nothing of state 'a'"]),
        ("saver", "initial = { a = 9.0 }\nperiods = 3", '["value"]', ["a=9", "0 to 4"]),
        ("saver", "initial = { a = 1.0 }", '["value"]', ["nothing starts from it"]),
        ("saver", "", '["gradients"]', ["by which parameters"]),
        (
            "saver",
            'moments = ["mean_a"]\ngradients = ["beta"]',
            '["value"]',
            [
                "solve.gradients",
                "beside moment_mean_a",
                "holds the policy fixed",
                'gradients_fixed_policy = ["beta"]',
                "d_moment_mean_a_d_beta_fixed_policy",
            ],
        ),
        (
            "saver",
            "",
            '["moment_mean_a", "d_moment_mean_a_d_beta"]',
            ["keep[2]", "holds the policy fixed"],
        ),
        (
            "saver",
            "",
            '["distribution", "d_value_d_beta"]',
            ["keep[2]", "beside distribution", "d_value_d_beta_fixed_policy"],
        ),
        (
            "saver",
            'gradients = ["beta"]',
            '["windfall", "d_output_windfall_d_beta"]',
            ["keep[2]", "Keep 'd_output_windfall_d_beta_fixed_policy'"],
        ),
        (
            "prices",
            'gradients_fixed_policy = ["a"]',
            '["price"]',
            ["solve.gradients_fixed_policy", "no policy to be held fixed", "gradients"],
        ),
        (
            "saver",
            'gradients_fixed_policy = ["bta"]',
            '["value"]',
            ["solve.gradients_fixed_policy[1]", "no parameter 'bta'"],
        ),
    ],
)
def test_what_a_model_cannot_be_asked_is_refused(
    models: Path, tmp_path: Path, model: str, solve: str, keep: str, words: list[str]
) -> None:
    name = "a" if model == "prices" else "beta"
    text = f'model = "{models}:{model}"\n[grid]\n{name} = [0.5, 0.9]\n[solve]\n{solve}\n'
    found = mistakes(tmp_path, text + f"[store]\nkeep = {keep}\n")
    for word in ("1 mistake", *words):
        assert word in found


# -- resumed and verified --------------------------------------------------------------------------


def test_a_sweep_that_was_interrupted_ends_in_the_same_store(
    made: Callable[..., Any], pristine: Path, store: Path
) -> None:
    opened = open_store(store)
    for task in opened.tasks[1:]:
        opened.buckets[0].file("status", task).unlink()
    assert run(made(store, **SAVER)).solved == 6
    assert_equal_stores(pristine, store)


def test_a_resume_that_asks_for_other_moments_is_refused(
    made: Callable[..., Any], store: Path
) -> None:
    solve = SAVER["solve"] | {"moments": ["gini_a", "p75_a"]}
    with pytest.raises(dp.RefusedError) as caught:
        run(made(store, **SAVER | {"solve": solve}))
    assert "solve.moments" in str(caught.value)


def test_a_store_of_distributions_is_verified(pristine: Path) -> None:
    found = dp.verify(pristine, all_points=True)
    assert found.ok, str(found)
    assert found.notes == ("gradients are not verified: nothing is certified about them",)


def shift(store: Path, name: str, by: float) -> None:
    """Move mass from one state to another."""
    alter(store, name, (1, 1, 2, 1), lambda x: x + by)
    alter(store, name, (1, 1, 3, 1), lambda x: x - by)


@pytest.mark.parametrize(
    ("name", "at", "by", "words"),
    [
        ("distribution", (1, 1, 2, 1), 1e-9, ("distribution sums to",)),
        ("distribution", (1, 1, 2, 1), -1.0, ("distribution has the negative mass", "a=", "z=")),
        ("distribution", (1, 1, 2, 1), np.nan, ("distribution holds nan",)),
        ("distribution_path", (1, 1, 0, 2, 1), 1e-6, ("distribution_path at time=0 sums to",)),
        ("distribution_residual", (1, 1), -1.0, ("one period moves it by", "claims -1")),
        ("moment_mean_a", (1, 1), 1e-7, ("moment_mean_a is", "the stored distribution gives")),
        ("moment_sd_windfall", (1, 1), 1e-7, ("moment_sd_windfall is",)),
        ("moment_gini_a", (1, 1), 1e-7, ("moment_gini_a is",)),
        ("moment_p50_a", (1, 1), 1e-3, ("moment_p50_a is", "no value that has mass")),
        ("moment_poor", (1, 1), 1e-7, ("moment_poor is",)),
        ("moment_top_a", (1, 1), 1e-7, ("moment_top_a is",)),
    ],
)
def test_what_was_altered_is_found(
    store: Path, name: str, at: tuple[int, ...], by: float, words: tuple[str, ...]
) -> None:
    alter(store, name, at, lambda x: x + by)
    assert_refuted(dp.verify(store), f"beta=0.9, sigma=0.2: {name} was altered")
    vouch(store)  # now only the definition can tell
    found = dp.verify(store)
    assert_refuted(found, "beta=0.9, sigma=0.2: ", *words)
    assert all("beta=0.9, sigma=0.2" in claim for claim in found.claims)


def test_mass_that_was_moved_is_found(store: Path) -> None:
    shift(store, "distribution", 1e-7)
    vouch(store)
    found = dp.verify(store)
    assert_refuted(found, "one period moves it by", "distribution_residual claims")


def test_a_distance_that_was_understated_is_found(store: Path) -> None:
    # The residual is told as it is, and the distance is not.
    shift(store, "distribution", 1e-7)
    alter(store, "distribution_residual", (1, 1), lambda x: 1e-6)
    vouch(store)
    assert_refuted(dp.verify(store), "from the solution of mu = mu P", "distribution_error claims")


def test_a_path_that_was_bent_is_found(store: Path) -> None:
    alter(store, "distribution_path", (1, 1, 2, 2, 1), lambda x: x + 1e-8)
    alter(store, "distribution_path", (1, 1, 2, 3, 1), lambda x: x - 1e-8)
    vouch(store)
    assert_refuted(dp.verify(store), "distribution_path at time=2", "one period from time=1 gives")
    alter(store, "distribution_path", (1, 1, 0, 1, 0), lambda x: x - 1e-7)
    alter(store, "distribution_path", (1, 1, 0, 1, 1), lambda x: x + 1e-7)
    vouch(store)
    assert_refuted(dp.verify(store), "distribution_path at time=0", "the initial distribution has")


def test_a_quantile_that_is_a_value_but_the_wrong_one_is_found(store: Path) -> None:
    grid = zarr.open_group(store, mode="r")["a"][...]  # type: ignore[index]
    assert isinstance(grid, np.ndarray)
    alter(store, "moment_p50_a", (1, 1), lambda x: grid[np.searchsorted(grid, x) + 1])
    vouch(store)
    assert_refuted(dp.verify(store), "moment_p50_a is", "does not reach 0.5 there first")

"""``dp.sweep``: a sweep from Python, with what a sweep file says, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.solvers.errors import UsageError, VerificationError

from .executor_choice import ExecutorChoice
from .progress import Progress, Silent, progress_for

if TYPE_CHECKING:
    import xarray

    from .run.sweep import SweepReport
    from .sweep_file.model_source import ModelSource

Values = Mapping[str, Any]


def sweep(
    model: Callable[..., Any] | str,
    *,
    grid: Values | None = None,
    zip: Values | None = None,
    sample: Values | None = None,
    table: Values | str | PathLike[str] | None = None,
    fixed: Values | None = None,
    store: str | PathLike[str] | None = None,
    keep: Sequence[str] | str | None = None,
    points_per_task: int | None = None,
    on: str = "local",
    profile: str | None = None,
    scheduler: str | None = None,
    mesh: str | Mapping[str, int] = "auto",
    retry_failed: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **solve: Any,
) -> xarray.Dataset | xarray.DataTree:
    """Solve a model at many points, into a store; or go on where the store stands.

    What ``dpsolve sweep`` does, by the same engine: the same call again resumes, and what is
    committed is not computed again. Every argument says what the section or field of its name says
    in a sweep file.

    Parameters
    ----------
    model : factory or str
        A factory; a built-in's name, ``"file.py:function"`` or ``"package.module:function"``. A
        factory that was defined in a notebook is written into the store with what it reads there
        (imports, numbers, arrays, other functions); what cannot be written is refused by name.
    grid : dict, optional
        Full factorial, each parameter a dimension of the result: values, or a range
        ``{"from": 0.90, "to": 0.99, "points": 50}`` (``"spacing": "log"``).
    zip, sample, table : optional
        Points in a row, one of the three: values of equal length; draws, such as
        ``{"method": "sobol", "points": 64, "beta": {"from": 0.9, "to": 0.98}}``; a CSV file or an
        ``.npz`` file, or ``{"file": "points.csv", "columns": [...]}``. Of a parameter that is an
        array (:func:`dpsolve.array`): (points, ...), in `zip` or in the ``.npz`` file.
    fixed : dict, optional
        Parameters and sizes that do not vary; of one that is an array, its entries.
    store : path, optional
        Where results go; by default ``<model>.zarr`` in this folder.
    keep : list of str, optional
        What is stored; by default value, bounds and policy.
    points_per_task : int, optional
        Points that are solved and committed together.
    on : str
        ``"local"``, in this process; ``"slurm"`` with a `profile`; ``"dask"`` with a `scheduler`.
    profile : str, optional
        The name or file of a site profile.
    scheduler : str, optional
        The address of a dask scheduler.
    mesh : str or dict
        How each process cuts its devices; see :func:`dpsolve.solve_many`.
    retry_failed : bool
        Compute tasks with failed points once more.
    overwrite : bool
        Begin anew where another sweep's store lies: that is deleted, once this one is in order.
    quiet : bool
        Show no progress.
    **solve
        What ``[solve]`` may say: ``tol``, ``method``, ``moments``, ``periods``, ``verify``, ...;
        see :class:`dpsolve.SolveOptions`.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        The store, opened; see :func:`dpsolve.open`. ``status`` and ``message`` tell of each point
        how it went.

    Raises
    ------
    UsageError
        With every mistake in the arguments.
    RefusedError
        If `store` holds another sweep.
    VerificationError
        If the check of a few points at the end contradicts the store.
    KeyboardInterrupt
        If it was interrupted; what was committed stays, and the same call goes on.
    """
    from .plan.check_names import wrong_names_at_once
    from .run.sweep import run_sweep
    from .store.open import open as open_dataset
    from .sweep_file.python_factory import source_of
    from .sweep_file.reader import read_tables

    cut = mesh if isinstance(mesh, str) else ",".join(f"{k}={n}" for k, n in mesh.items())
    choice = ExecutorChoice.of(on, profile, scheduler, cut)
    source = source_of(model)
    _no_parameters(source, solve)
    file = {"file": table} if isinstance(table, str | PathLike) else table
    places = {
        "path": store,
        "keep": keep.split(",") if isinstance(keep, str) else keep,
        "points_per_task": points_per_task,
    }
    tables = {
        "grid": grid, "zip": zip, "sample": sample, "table": file, "fixed": fixed, "solve": solve,
        "store": {name: value for name, value in places.items() if value is not None},
    }  # fmt: skip
    raw = {name: _plain(table) for name, table in tables.items() if table is not None}
    reading = read_tables(raw, source)
    choice.check(reading.sweep.store.path)
    progress: Progress = Silent() if quiet else progress_for()
    with wrong_names_at_once(reading):
        outcome = run_sweep(
            reading.sweep, source, progress=progress, command=f"dp.sweep({source.name}, ...)",
            executor=choice.executor(progress.jobs), retry_failed=retry_failed, overwrite=overwrite,
        )  # fmt: skip
    if outcome.interrupted:
        raise KeyboardInterrupt(outcome.interrupted)
    _verify(outcome, reading.sweep.verified, progress)
    return open_dataset(outcome.path)


def _no_parameters(source: ModelSource, options: Values) -> None:
    """Refuse a parameter that was given where options are."""
    from dpsolve.solvers.model.factory_signature import signature
    from dpsolve.solvers.options import SolveOptions

    known = signature(source.load()).names
    for name, value in options.items():
        if name in known and not hasattr(SolveOptions, name):
            raise UsageError(
                f"'{name}' is a parameter of {source.name}, not an option: fixed={{'{name}': "
                f"{value!r}}}, or grid={{'{name}': [...]}} to sweep it"
            )


def _plain(value: Any) -> Any:
    """Return numbers, texts, lists and dicts, as a sweep file has them, for arrays and the like."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, list | tuple | range):
        return [_plain(part) for part in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a table of pandas
        return {str(name): _plain(value[name]) for name in value.columns}
    if hasattr(value, "dtype"):
        return value if np.ndim(value) > 1 else np.asarray(value).tolist()
    return value


def _verify(outcome: SweepReport, points: int, progress: Progress) -> None:
    """Compare a few points with the model's definition."""
    if outcome.pending or not points or not outcome.solved + outcome.inexact:
        return
    from .verify.after_sweep import check_sweep

    check = check_sweep(outcome.path, points, source=outcome.source)
    lines = [line.strip() for line in check.lines()]
    if not check.ok:
        raise VerificationError("\n".join(lines))
    progress.note(lines[0])

"""Names in ``keep`` and ``[solve]`` that only the traced model can tell.

Tracing takes seconds, and planning a sweep does it anyway. So names are checked on request: by
``dpsolve check``, and where a plan was refused, so that every wrong name is told and not the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dpsolve.hpc.sweep_file.fields import GRADIENT, Sweep, options_of
from dpsolve.hpc.sweep_file.mistakes import Key, Mistake
from dpsolve.hpc.sweep_file.reader import Reading
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.options import SolveOptions

from .array_parameters import with_arrays
from .design import make_design


@contextmanager
def wrong_names_at_once(reading: Reading) -> Iterator[None]:
    """If a sweep is refused, tell every wrong name in `keep` with its line, not the first alone."""
    try:
        yield
    except UsageError:
        check_names(reading)
        raise


def check_names(reading: Reading) -> None:
    """Check the names in `keep` and in [solve], which only the traced model can tell.

    Raises
    ------
    UsageError
        With every name that the model does not have.
    """
    if mistakes := list(_unknown_names(reading)):
        raise reading.error_of(mistakes)


def _unknown_names(reading: Reading) -> Iterator[Mistake]:
    """Check what only the model itself can tell: names in `keep`, and what [solve] asks for."""
    from dpsolve.sharding.batches.program import program

    sweep, factory = reading.sweep, reading.source.load()
    options = options_of(sweep)
    bucket = with_arrays(make_design(sweep, reading.signature).buckets[0], factory)
    refused = program(factory, bucket.sizes, options).outline.refused
    for option, entry, text in refused:
        yield Mistake(_asked_where(sweep, options, option, entry), text)
    keep = list(enumerate(sweep.store.keep or ()))
    if refused:  # the rest of the names can be told without what was refused
        names = ["distribution", "moments", "periods", "initial", "gradients"]
        names += ["gradients_fixed_policy", "distribution_grid"]
        options = replace(options, **{n: getattr(SolveOptions(), n) for n in names})
        needs = ("distribution", "moment", "d_")
        keep = [(i, name) for i, name in keep if not name.startswith(needs)]
        others = {option for option, _, _ in refused}
        options = replace(options, **{n: getattr(SolveOptions(), n) for n in others})
    layout = program(factory, bucket.sizes, options).layout(bucket.fixed, tuple(bucket.parameters))
    for i, name in keep:
        try:
            layout.select([name])
        except UsageError as error:
            yield Mistake(("store", "keep", i), str(error))


def _asked_where(sweep: Sweep, options: SolveOptions, option: str, entry: int | None) -> Key:
    """Return the key that asks for something: in [solve], or in `keep`."""
    given = sweep.solve.get(option)
    keep = list(sweep.store.keep or ())
    if option == "moments" and entry is not None:
        name = options.moments[entry]
        if isinstance(given, list | tuple) and name in given:
            return ("solve", "moments", list(given).index(name))
        kept = name if name == "moments" else f"moment_{name}"
        return ("store", "keep", keep.index(kept)) if kept in keep else ("solve", "moments")
    if option.startswith("gradients") and not given:
        fixed = option.endswith("fixed_policy")
        every = ((i, GRADIENT.fullmatch(n)) for i, n in enumerate(keep))
        return ("store", "keep", next(i for i, n in every if n and bool(n["fixed"]) == fixed))
    if option == "distribution" and not given:
        at = [i for i, n in enumerate(keep) if n.startswith("distribution")]
        return ("store", "keep", at[0])
    return ("solve", option)

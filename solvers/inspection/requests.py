"""Options that ask for what the model does not have, refused before anything is solved.

Each refusal says which option asks, which entry of its list, and what is wrong; so a sweep file can
be told all of them at once, each with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.distributions.finer_grid import on_distribution_grid, wrong_grid
from dpsolve.solvers.distributions.initial import read_initial
from dpsolve.solvers.distributions.moments import check_moments
from dpsolve.solvers.distributions.solved_points import too_many_states
from dpsolve.solvers.errors import DpsolveError, UsageError
from dpsolve.solvers.methods.shortest_path import undiscounted
from dpsolve.solvers.model.array_factory import own_dims
from dpsolve.solvers.model.grids import Integers
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import SolveOptions

from .choice_search import endogenous_grid_fails
from .concavity import asks

NO_GRADIENTS = (
    "criterion='average' has no gradients: relative values are not differentiated here. Leave "
    "gradients out, and take differences of the gain between points"
)
NO_GRADIENTS_UNDISCOUNTED = (
    "a discount of 1 has no gradients: the value of a shortest path is not differentiated here. "
    "Leave gradients out, and take differences between points"
)
FIXED = "_fixed_policy"  # the end of the name of a derivative at the fixed policy
Refusal = tuple[str, int | None, str]  # the option, the entry of its list, and what is wrong


def check_asked(made: Any, options: SolveOptions, name: str = "the model") -> None:
    """Refuse what a model cannot be asked for.

    Raises
    ------
    UsageError
        With the first thing that is wrong.
    """
    for _, _, text in refusals(made, options, name):
        raise UsageError(text)


def refusals(made: Any, options: SolveOptions, name: str = "the model") -> Iterator[Refusal]:
    """Yield each thing that the options ask for and the model does not have.

    Parameters
    ----------
    made : Model, TabularModel or mapping
        What a factory returned, its arrays perhaps traced.
    options : SolveOptions
    name : str
        What to call the model.
    """
    if isinstance(made, Mapping):
        yield from _refusals_of_arrays(made, options, name)
    elif isinstance(made, Model | TabularModel):
        finite = made.horizon is not None
        if isinstance(made, Model) and made.continuous:
            yield from _refusals_of_continuous(made, options, name)
            yield from _refusals_not_yet(made, options, name)
        else:
            if options.refine:
                yield "refine", None, no_refinement(name)
            if options.method == "egm":
                yield "method", None, no_endogenous_grid(name, _listed(made))
            yield from _refusals_of_average(made, options, name)
            yield from _refusals_of_taste(made, options, name)
        if options.distribution and finite:
            yield "distribution", None, _finite(name, "", made)
        for i, moment in enumerate(options.moments):
            if finite:
                yield "moments", i, _finite(name, f" with a moment '{moment}'", made)
                continue
            try:
                check_moments(made, [moment])
            except UsageError as error:
                yield "moments", i, str(error)
        wrong = wrong_grid(made, options.distribution_grid, name)
        if wrong:
            yield "distribution_grid", None, wrong
            return
        listed = not (isinstance(made, Model) and made.continuous)
        if options.distribution_grid and options.differentiated_by and listed:
            yield (
                "distribution_grid",
                None,
                "distribution_grid beside gradients: derivatives are of distributions on the "
                "value's own grid; leave one of them out",
            )
        yield from _refusals_of_path(made, options, name)
        if prod(made.shape) > MOST and (options.stationary or options.periods is not None):
            yield "distribution", None, too_many_states(name, made.shape)
        yield from _refusals_of_gradients(made, options, name)


def chooses(made: Model | TabularModel) -> bool:
    """Tell whether there is anything to choose; where there is not, no policy is held fixed."""
    if isinstance(made, TabularModel):
        return made.n_actions > 1
    if made.taste is not None:  # all of whose values are chosen, with chances that are smooth
        names = set(made.gridded) - set(made.taste.choices)
        return prod(made.size_of(choice) for choice in names) > 1
    return bool(made.continuous) or prod(made.size_of(choice) for choice in made.gridded) > 1


def _refusals_of_gradients(
    made: Model | TabularModel, options: SolveOptions, name: str
) -> Iterator[Refusal]:
    """Refuse derivatives that hold the policy fixed where that is not said."""
    if not options.gradients or not chooses(made) or options.criterion == "average":
        return
    if isinstance(made, Model) and not made.gridded:  # the policy's response is differentiated, too
        return
    asked = [f"moment_{n}" if n != "moments" else "moment_..." for n in options.moments]
    asked += ["distribution"] if options.distribution and not asked else []
    asked += ["distribution_path"] if options.periods is not None or options.initial else []
    if not asked:
        return
    by, what = options.gradients[0], asked[0]
    yield (
        "gradients",
        None,
        f"gradients by '{by}' beside {what}: {name} chooses among grid points, and what could be "
        f"differentiated of {what} holds the policy fixed, while in truth choices respond to "
        f"'{by}', by jumps; so it is not the derivative, and often 0. Take differences between "
        f'points on a fine grid; or ask for gradients{FIXED} = ["{by}"], which gives '
        f"d_{what}_d_{by}{FIXED} by that name, and d_value_d_{by}{FIXED}, the value's true "
        "derivative (the envelope theorem)",
    )


def _finite(name: str, what: str, made: Any) -> str:
    return (
        f"{name} has a finite horizon, and so no stationary distribution{what}: its distribution "
        "moves with time. Ask for the path instead: initial = { "
        f"{next(iter(made.states))} = VALUE }}"
    )


def _refusals_of_average(
    made: Model | TabularModel, options: SolveOptions, name: str
) -> Iterator[Refusal]:
    gradients = [n for n in ("gradients", "gradients_fixed_policy") if getattr(options, n)]
    if undiscounted(made, options):
        yield from ((option, None, NO_GRADIENTS_UNDISCOUNTED) for option in gradients)
    if options.criterion != "average":
        return
    if made.horizon is not None:
        yield (
            "criterion",
            None,
            f"{name} has a finite horizon of {made.horizon} periods, and criterion='average' is "
            "about the long run: leave criterion out, or take the horizon out of the model",
        )
    yield from ((option, None, NO_GRADIENTS) for option in gradients)


def _refusals_of_taste(
    made: Model | TabularModel, options: SolveOptions, name: str
) -> Iterator[Refusal]:
    """Refuse what is about policies that choose one thing."""
    if not isinstance(made, Model) or made.taste is None:
        return
    of = f"{name} has taste shocks on {' and '.join(repr(c) for c in made.taste.choices)}"
    if options.criterion == "average":
        yield (
            "criterion",
            None,
            f"{of}, and criterion='average' bounds the gain of maximised values: leave criterion "
            "out, and take a discount near 1",
        )
    if options.certificate == "sampled":
        yield (
            "certificate",
            None,
            f"{of}, all of whose values count, so that no sample of choices stands for the rest: "
            "leave certificate out",
        )
    if options.distribution_grid:
        yield (
            "distribution_grid",
            None,
            f"{of}, whose chances are known at the nodes of the value's grid: leave "
            "distribution_grid out, and take more nodes",
        )


def _refusals_of_continuous(made: Model, options: SolveOptions, name: str) -> Iterator[Refusal]:
    """Refuse what is about choices from lists of values."""
    choice, interval = next(iter(made.continuous.items()))
    of = f"{name} has a continuous choice, '{choice}' (dp.interval)"
    grid = f"'{interval.state}'" if interval.state else "dp.grid(lo, hi, n)"
    if options.criterion == "average":
        yield (
            "criterion",
            None,
            f"{of}, and criterion='average' is for choices from lists of values: leave criterion "
            f"out and discount, or list them, choices={{'{choice}': {grid}}}",
        )
    if options.method == "egm" and (why := endogenous_grid_fails(made)):
        yield "method", None, no_endogenous_grid(name, why)
    if options.gradients_fixed_policy:
        by = ", ".join(f'"{parameter}"' for parameter in options.gradients_fixed_policy)
        yield (
            "gradients_fixed_policy",
            None,
            f"{of}, whose response to a parameter is part of every derivative, so that none is at "
            f"a fixed policy: ask for gradients = [{by}]",
        )
    if options.certificate == "sampled":
        yield (
            "certificate",
            None,
            f"{of}, and is certified without a sweep over pairs, of which a sample could be taken: "
            "leave certificate out",
        )
    if options.precision == "mixed":
        yield (
            "precision",
            None,
            f"{of}, which is found in double precision throughout; precision='mixed' is for "
            "rewards that are kept for lists of values: leave precision out",
        )


def no_endogenous_grid(name: str, why: str) -> str:
    """Say that the endogenous grid method does not apply, and why."""
    return (
        f"method='egm' does not apply to {name}: {why}. Leave method out: what is certified is the "
        "same, by whatever method"
    )


def _listed(made: Model | TabularModel) -> str:
    if isinstance(made, Model) and made.gridded:
        return f"its choice '{next(iter(made.gridded))}' is from a list of values (dp.interval)"
    return "it has no continuous choice (dp.interval)"


def _refusals_not_yet(made: Model, options: SolveOptions, name: str) -> Iterator[Refusal]:
    """Refuse what a continuous choice could have, and has not."""
    choice = next(iter(made.continuous))
    if options.gradients and not asks(made):
        yield "gradients", None, no_slopes(name, choice)
    if options.warm:
        why = "each point is solved cold, by itself; leave warm out"
        yield "warm", None, f"{name} has a continuous choice, '{choice}' (dp.interval): {why}"


def no_slopes(name: str, choice: str) -> str:
    """Say why there are no derivatives."""
    return (
        f"{name} has a continuous choice, '{choice}' (dp.interval), and derivatives with its "
        "response are those of a concave model, which this one is not, or is not known to be here: "
        "write dp.Model(..., concave=True) if it is one, or take differences between points"
    )


def no_refinement(name: str) -> str:
    """Say what refinement is for."""
    return (
        "refine takes more points until the certified distance from the true value of a continuous "
        f"choice is within tol, and {name} has none: write dp.interval for one, or leave it out"
    )


def _refusals_of_arrays(
    made: Mapping[str, Any], options: SolveOptions, name: str
) -> Iterator[Refusal]:
    """Whatever is asked for, the factory itself may return an array of that name."""
    why = (
        f"{name} returns arrays of its own and not a model, so that there is no policy and nothing "
        f"to find it from. It returns: {', '.join(own_dims(made))}."
    )
    if options.distribution and "distribution" not in made:
        yield "distribution", None, f"there is no distribution: {why}"
    for i, moment in enumerate(options.moments):
        if f"moment_{moment}" not in made:
            yield "moments", i, f"there is no moment '{moment}': {why}"
    if options.periods is not None and "distribution_path" not in made:
        yield "periods", None, f"there is no path of distributions: {why}"
    if options.initial is not None:
        yield "initial", None, f"there is no initial distribution: {why}"
    if options.distribution_grid:
        yield "distribution_grid", None, wrong_grid(made, options.distribution_grid, name)
    if options.gradients_fixed_policy:
        yield (
            "gradients_fixed_policy",
            None,
            f"there is no policy to be held fixed: {why} Ask for their gradients",
        )
    if options.refine:
        yield "refine", None, no_refinement(name)
    if options.criterion == "average":
        yield "criterion", None, f"there is no average reward to maximise: {why}"


def _refusals_of_path(
    made: Model | TabularModel, options: SolveOptions, name: str
) -> Iterator[Refusal]:
    horizon, periods = made.horizon, options.periods
    if horizon is not None and periods is not None and periods > horizon:
        yield (
            "periods",
            None,
            f"{name} has {horizon} periods, and the path cannot have {periods}; leave periods out "
            "for all of them",
        )
    if options.initial is None and periods is None:
        return
    if horizon is None and periods is None and not options.stationary:
        yield (
            "initial",
            None,
            "initial is given, but nothing starts from it; add periods = 40 for the path of the "
            "distribution",
        )
    try:
        lived = made
        if isinstance(made, Model):
            lived = on_distribution_grid(made, options.distribution_grid)
        read_initial(dict(options.initial or ()), lived)
    except DpsolveError as error:
        yield ("periods" if options.initial is None else "initial"), None, str(error)
        return
    if isinstance(made, Model):
        yield from _off_grid(made, options)


def _off_grid(made: Model, options: SolveOptions) -> Iterator[Refusal]:
    """Find values off grids that are plain numbers; others are found at their point."""
    for name, given in options.initial or ():
        spec = made.states[name]
        if not isinstance(given, int | float) or not is_concrete(spec.values):
            continue
        values = np.asarray(spec.values, np.float64)
        member = not isinstance(spec, Integers) or given == round(given)
        if not (values[0] <= given <= values[-1] and member):
            yield (
                "initial",
                None,
                f"initial puts all mass at {name}={given:g}, which is no value of its grid; that "
                f"goes from {values[0]:g} to {values[-1]:g}"
                + (" in whole numbers" if isinstance(spec, Integers) else ""),
            )

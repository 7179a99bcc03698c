"""Options that several commands share, and the target of a sweep."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    from dpsolve.hpc.sweep_file.reader import Reading


COMMAND_LINE = "dpsolve.command_line"
"""Where a click context keeps what the user typed."""

PATH = click.Path(readable=False)
"""Completed by shells, and not looked at before the command does."""

F = TypeVar("F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """Return an epilog that shows examples as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def command_line() -> str:
    """Return what the user typed."""
    return str(click.get_current_context().meta.get(COMMAND_LINE, ""))


set_option = click.option(
    "--set", "fixed", multiple=True, metavar="NAME=VALUE",
    help="Fix a parameter or a size: --set n_k=500.",
)  # fmt: skip

_SWEEP_OPTIONS = (
    click.option(
        "--grid", multiple=True, metavar="NAME=AXIS",
        help="Sweep a parameter or a size: FROM:TO:POINTS, FROM:TO:POINTS:log or a list A,B,C.",
    ),
    set_option,
    click.option("--tol", type=float, help="Certified error of the value to reach."),
    click.option("--method", help="auto, vi (vfi), pi (howard), opi (modified) or egm."),
    click.option("--criterion", help="discounted, or average: the average reward per period."),
    click.option("--warm/--cold", default=None,
                 help="Start points from what was found at their neighbours, or do not; by default "
                 "where one point is enough for a core."),
    click.option("--store", metavar="PATH", help="Where the results go."),
    click.option("--keep", multiple=True, metavar="NAMES",
                 help="Variables to store: --keep value,policy,consumption."),
    click.option("--with", "other", multiple=True, metavar="KEY=VALUE",
                 help="Any other field of the sweep file: --with sample.points=512."),
)  # fmt: skip


def sweep_options(command: F) -> F:
    """Add the options that replace fields of a sweep file."""
    for option in reversed(_SWEEP_OPTIONS):
        command = option(command)
    return command


mesh_option = click.option(
    "--mesh", metavar="AXES", default="auto", show_default=True,
    help="How each process cuts its devices: points=4,states=2 is four groups of two devices, "
    "each group with points of its own, each device with half of a point's states.",
)  # fmt: skip

trust_option = click.option(
    "--trust", is_flag=True,
    help="Run the model that the store keeps, whoever made the store.",
)  # fmt: skip


def word_for(trust: bool) -> bool | Callable[[str], bool]:
    """Return the user's word for a store: given, or to be asked for where somebody sits."""
    if trust or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return trust
    return lambda question: click.confirm(f"{question}.\nDo you trust whoever made it?", err=True)


_EXECUTOR_OPTIONS = (
    click.option(
        "--on", type=click.Choice(["local", "dask", "slurm"]), default="local", show_default=True,
        help="Where tasks run: in this process, on a dask scheduler's workers, in SLURM jobs.",
    ),
    click.option("--profile", metavar="NAME|FILE",
                 help="With --on slurm: what jobs ask for; see dpsolve profiles."),
    click.option("--scheduler", metavar="ADDRESS", help="With --on dask: tls://HOST:PORT."),
    mesh_option,
    click.option("--retry-failed", is_flag=True,
                 help="Compute tasks with failed points once more: after the reason was mended."),
    click.option("--detach", is_flag=True,
                 help="Go on in the background, whatever becomes of this terminal."),
    click.option("--no-verify", is_flag=True,
                 help="Do not compare a few points with the model's definition at the end."),
)  # fmt: skip


def executor_options(command: F) -> F:
    """Add the options that say where tasks run."""
    for option in reversed(_EXECUTOR_OPTIONS):
        command = option(command)
    return command


def read_target(target: str, **given: Any) -> Reading:
    """Read a sweep: a file, or the name of a model, with options in place.

    Raises
    ------
    UsageError
        With every mistake of file and options.
    """
    from dpsolve.hpc.sweep_file.array_file import is_array_file
    from dpsolve.hpc.sweep_file.overrides import Overrides
    from dpsolve.hpc.sweep_file.reader import read_sweep

    path = Path(target).expanduser()
    if is_array_file(path):
        return read_sweep(None, Overrides(model=target, **given))
    if (path / "zarr.json").is_file():
        raise UsageError(
            f"{target} is a store; a sweep is a TOML file or a model's name. To go on with what "
            f"the store holds: dpsolve resume {shlex.quote(target)}"
        )
    if path.suffix == ".toml" or (path.is_file() and path.suffix != ".py"):
        return read_sweep(path, Overrides(**given))
    return read_sweep(None, Overrides(model=target, **given))


def assignments(texts: tuple[str, ...], factory: Any) -> dict[str, Any]:
    """Read ``--set`` options into a dict of values; arrays of a factory from the files they name.

    Raises
    ------
    UsageError
        If one is not of the form NAME=VALUE, or a file holds no array.
    """
    from dpsolve.hpc.sweep_file.array_values import read_array
    from dpsolve.hpc.sweep_file.overrides import parse_assignment, parse_scalar
    from dpsolve.solvers.model.factory_signature import signature

    values: dict[str, Any] = {}
    for text in texts:
        name, value = parse_assignment(text)
        if not name:
            raise UsageError(f"--set {text}: write --set NAME=VALUE, for example --set n_k=500.")
        if name in values:
            raise UsageError(f"--set {text}: {name} is {values[name]} already; say it once.")
        values[name] = parse_scalar(value)
    for name in signature(factory).arrays:
        if isinstance(file := values.get(name), str):
            values[name] = read_array(file, name, Path.cwd())
            if isinstance(values[name], str):
                raise UsageError(f"--set {name}={file}: {values[name]}")
    return values

"""The command ``dpsolve``: its commands, errors and exit codes.

The commands live in the modules beside this one. Nothing heavy is imported before a command needs
it, so that help and ``dpsolve status`` answer at once. Exit codes: 0 done, 1 some points not solved
(or not verified), 2 usage, 3 refused, 130 interrupted and resumable.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from dpsolve._version import __version__
from dpsolve.hpc.run.interrupts import INTERRUPTED, command_interrupts
from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import DpsolveError, ModelError

from .models import check, describe, models
from .options import COMMAND_LINE, examples
from .results import export, plot, report
from .solve import solve
from .start import completion, init
from .store import doctor, status, verify
from .submit import cancel, logs, profiles, submit
from .sweep import plan, resume, sweep


class _Commands(click.Group):
    """A group in the order in which a newcomer meets the commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("\0" in arg for arg in args):  # no shell can, a caller of `main` may
            raise click.UsageError("an argument holds a NUL character, which no path or name has")
        ctx.meta[COMMAND_LINE] = shlex.join(["dpsolve", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DpsolveError as error:
            _tell(str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _tell("interrupted")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OSError as error:  # a name too long, a folder that may not be read, a full disk
            if error.filename is None or _of_users_file(error):
                raise
            _tell(f"{error.filename}: {error.strerror}")
            ctx.exit(DpsolveError.exit_code)
        except Exception as error:
            if (text := _of_users_file(error)) is None:
                raise  # a fault of dpsolve: the traceback is what its report needs
            _tell(text)
            ctx.exit(ModelError.exit_code)


def _tell(message: str) -> None:
    text = printable(message, lines=True)  # it may quote a store, a log or a file
    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)


def _of_users_file(error: Exception) -> str | None:
    """Return what went wrong in the user's model, if any model was loaded."""
    resolve = sys.modules.get("dpsolve.hpc.sweep_file.model_source")
    return resolve.explain(error) if resolve is not None else None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog=examples(
        "dpsolve init                       # a first model and its sweep",
        "dpsolve sweep growth --grid beta=0.90:0.98:40 --set n_k=300",
        "dpsolve sweep growth.toml          # the same command again resumes",
        "dpsolve status growth.zarr",
        "dpsolve plot growth.zarr --select alpha=0.35",
    ),
)
@click.version_option(__version__, prog_name="dpsolve", message="%(prog)s %(version)s")
def cli() -> None:
    """Solve dynamic-programming models in bulk, each number with a proof of its accuracy."""


for _command in (
    init, models, describe, check, solve, sweep, plan, status, resume, verify, plot, report,
    export, profiles, submit, logs, cancel, doctor, completion,
):  # fmt: skip
    cli.add_command(_command)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with the exit code."""
    with command_interrupts():
        cli(args, prog_name="dpsolve")

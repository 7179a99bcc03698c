"""Site profiles (TOML): what a job asks for; walltimes and memory sizes.

A profile is found by name: a path, then ``NAME.toml`` in the user's folder (by default
``~/.config/dpsolve/profiles``, below ``$XDG_CONFIG_HOME`` if that is set), then the shipped ones
(``slurm/*.toml``). A user's profile hides a shipped one of its name. Every key may be left out:

    description = "one line for `dpsolve profiles`"
    # What a job asks for
    account = "abc123"          # -A
    partition = "gpu"           # -p
    qos = "normal"              # --qos
    constraint = "a100&nvlink"  # -C
    walltime = "12:00:00"       # -t: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S
    nodes = 1                   # above 1 only for one model over several nodes (job templates)
    cpus = 8                    # of one job
    memory = "64G"              # of one job, in SLURM's units (K, M, G, T are powers of 1024)
    memory_request = "node"     # --mem; or "cpu" (--mem-per-cpu), "gpu" (--mem-per-gpu), "none"
    gpus = 4                    # of one job
    gpu_type = "a100"           # --gres=gpu:a100:4
    gpu_request = "gres"        # or "gpus-per-node" or "gpus"; "none": `directives` ask for them
    workers_per_job = 1         # 1: one worker owns all GPUs of its job; 4: one worker per GPU
    requeue = false             # --requeue or --no-requeue
    directives = ["--exclusive"]            # further #SBATCH lines
    prologue = ["module load cuda"]         # lines of the job script before the worker starts
    python = "/path/to/python"              # by default the one that runs dpsolve
    scratch = "$TMPDIR"         # a folder of the node, for the workers' temporary files
    # How many jobs, and how gently
    min_jobs = 1                # jobs kept while there is work
    max_jobs = 16               # never more than this at a time
    submit_pause = 1.0          # seconds between two submissions
    poll = 30                   # seconds between two calls of squeue
    # How jobs and driver find each other, and part
    interface = "ib0"           # network interface of the compute nodes
    login_interface = "eth1"    # of the driver's machine, where it has another name
    port = 0                    # of the driver; 0: any free one
    death_timeout = 60          # seconds after which a job without a driver ends
    grace = 25                  # seconds between SLURM's SIGTERM and its SIGKILL (KillWait)
    dashboard = false           # dask's, at 127.0.0.1:8787 of the driver's machine, where its other
                                # users can look at it; costs 1 % of a core for ever
    [driver]                    # the job of `dpsolve submit`: account, partition, qos, constraint,
    walltime = "2-00:00:00"     # walltime, cpus, memory, memory_request, directives, prologue; what
                                # is left out is as above, but for cpus = 1 and memory = "2G"

Durations and sizes are written as SLURM writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dpsolve.hpc.plan.tasks import WorkerCount
from dpsolve.hpc.sweep_file.mistakes import Key, Mistake, report
from dpsolve.hpc.sweep_file.toml_lines import TomlSource
from dpsolve.solvers.errors import UsageError, did_you_mean

PACKAGE = "dpsolve.slurm"


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("mistake", "{text}", {"text": text})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong('text in "quotes" is expected.')
    if not value.strip():
        raise _wrong("the text is empty; leave the key out.")
    if "\n" in value or "\r" in value:
        raise _wrong("one line is expected.")
    if not value.isprintable():
        raise _wrong(f"characters that are not printed do not belong here: {value!r}.")
    return value


def _word(value: Any) -> str:
    text = _text(value)
    if any(character.isspace() for character in text) or set(text) & set("\"'`;#\\"):
        raise _wrong("one word without quotes is expected.")
    return text


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(f'a list of lines is expected: ["{value}"].')
    return tuple(_text(line) for line in value)


_OURS = re.compile(r"(--(job-name|output|error|array)\b|-[Joea](?!-))")
"""Options that a profile may not change."""


def _directives(value: Any) -> tuple[str, ...]:
    lines = _lines(value)
    for line in lines:
        if not line.startswith("-"):
            raise _wrong(f'a directive is written without #SBATCH: "{line.split("#SBATCH")[-1]}" '
                         'should begin with "-".')  # fmt: skip
        if found := _OURS.match(line):
            raise _wrong(f"{found[0]} is said by dpsolve, which finds its jobs and their logs by "
                         "it.")  # fmt: skip
    return lines


def _duration(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    try:
        seconds = walltime_seconds(text)
    except ValueError:
        raise _wrong('a duration as SLURM writes it is expected: "12:00:00" or "2-00".') from None
    if seconds <= 0:
        raise _wrong("a job needs some time.")
    return text


def _memory(value: Any) -> str:
    text = _text(value)
    try:
        memory_bytes(text)
    except ValueError:
        raise _wrong('a size such as "4000M" or "64G" is expected.') from None
    return text


def _whole(least: int) -> Any:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong("a whole number is expected.")
        if value < least:
            raise _wrong(f"at least {least} is needed.")
        return value

    return PlainValidator(check)


def _seconds(least: float) -> Any:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong("a number of seconds is expected.")
        if not least <= value < 1e6:
            raise _wrong(f"at least {least:g} seconds are needed.")
        return float(value)

    return PlainValidator(check)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false is expected.")
    return value


Text = Annotated[str, PlainValidator(_text)]
Word = Annotated[str, PlainValidator(_word)]
Lines = Annotated[tuple[str, ...], PlainValidator(_lines)]
Directives = Annotated[tuple[str, ...], PlainValidator(_directives)]
Duration = Annotated[str, PlainValidator(_duration)]
Memory = Annotated[str, PlainValidator(_memory)]
Truth = Annotated[bool, PlainValidator(_truth)]
Count = Annotated[int, _whole(1)]
CountOrNone = Annotated[int, _whole(0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Driver(_Part):
    """The job that ``dpsolve submit`` makes of the driver; None: as the workers' jobs have it."""

    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Text | None = None
    walltime: Duration | None = None
    cpus: Count = 1
    memory: Memory = "2G"
    memory_request: Literal["node", "cpu", "none"] | None = None
    directives: Directives = ()
    prologue: Lines | None = None


class Profile(_Part):
    """What the jobs of a sweep ask for; the keys are explained in the module's docstring."""

    description: Text = "no description"
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Text | None = None
    walltime: Duration = "01:00:00"
    nodes: Count = 1
    cpus: Count = 1
    memory: Memory = "4G"
    memory_request: Literal["node", "cpu", "gpu", "none"] = "node"
    gpus: CountOrNone = 0
    gpu_type: Word | None = None
    gpu_request: Literal["gres", "gpus-per-node", "gpus", "none"] = "gres"
    workers_per_job: Count = 1
    requeue: Truth = False
    directives: Directives = ()
    prologue: Lines = ()
    python: Text | None = None
    scratch: Text | None = None
    min_jobs: CountOrNone = 1
    max_jobs: Count = 4
    submit_pause: Annotated[float, _seconds(0)] = 1.0
    poll: Annotated[float, _seconds(1)] = 30.0
    interface: Word | None = None
    login_interface: Word | None = None
    port: CountOrNone = 0
    death_timeout: Annotated[float, _seconds(5)] = 60.0
    grace: Annotated[float, _seconds(0)] = 25.0
    dashboard: Truth = False
    driver: Driver = Driver()

    @model_validator(mode="after")
    def _agree(self) -> Profile:
        if self.min_jobs > self.max_jobs:
            raise _wrong(f"min_jobs = {self.min_jobs} is above max_jobs = {self.max_jobs}.")
        if self.gpus and self.workers_per_job > 1 and self.gpus % self.workers_per_job:
            raise _wrong(
                f"{self.gpus} GPUs cannot be shared evenly by {self.workers_per_job} workers: "
                f"workers_per_job = 1 (one worker owns all) or {self.gpus} (one worker per GPU)."
            )
        if self.memory_request == "gpu" and not self.gpus:
            raise _wrong('memory_request = "gpu" without gpus: say how many GPUs a job has.')
        if self.gpu_type and not self.gpus:
            raise _wrong("gpu_type without gpus: say how many GPUs a job should have.")
        return self

    @cached_property
    def walltime_seconds(self) -> float:
        """How long a job lives at most."""
        return walltime_seconds(self.walltime)

    @property
    def memory_bytes(self) -> int:
        """Memory of one job."""
        return memory_bytes(self.memory)

    @property
    def gpus_per_worker(self) -> int:
        """GPUs that one worker owns."""
        return self.gpus // self.workers_per_job

    @property
    def worker_count(self) -> WorkerCount:
        """The workers that a new store is cut for: as many as there may be at a time."""
        each = self.gpus_per_worker or self.cpus // self.workers_per_job
        return WorkerCount(self.max_jobs * self.workers_per_job, max(each, 1))


@dataclass(frozen=True)
class ProfileFile:
    """Where a profile was found, and what it says.

    Attributes
    ----------
    name : str
        As it is given to ``--profile``.
    path : Path
    profile : Profile
    """

    name: str
    path: Path
    profile: Profile


def user_folder() -> Path:
    """Return the folder of the user's own profiles; it need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "dpsolve" / "profiles"


def find_profile(name: str) -> ProfileFile:
    """Find a profile by path or name, and read it.

    Raises
    ------
    UsageError
        If there is none of that name, or with every mistake in it.
    """
    path = Path(name).expanduser()
    if path.suffix == ".toml" or "/" in name:
        return _read(name, path)
    found = _paths()
    if name not in found:
        raise UsageError(
            f"there is no profile '{name}'.{did_you_mean(name, found)} There are: "
            f"{', '.join(found)}. Your own belongs into {user_folder()}/{name}.toml; "
            "or give a path: --profile ./site.toml."
        )
    return _read(name, found[name])


def list_profiles() -> Iterator[ProfileFile | tuple[str, Path, UsageError]]:
    """Yield every profile that can be named; in place of a faulty one, what is wrong with it."""
    for name, path in _paths().items():
        try:
            yield _read(name, path)
        except UsageError as error:
            yield name, path, error


def profile_names() -> list[str]:
    """Return the names that `find_profile` knows."""
    return list(_paths())


def _paths() -> dict[str, Path]:
    own = {path.stem: path for path in sorted(user_folder().glob("*.toml"))}
    shipped: dict[str, Path] = {}
    for entry in files(PACKAGE).iterdir():
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:  # a wheel is unpacked: the path outlives the block
                shipped[path.stem] = path
    return own | {name: path for name, path in sorted(shipped.items()) if name not in own}


def _read(name: str, path: Path) -> ProfileFile:
    if not path.is_file():
        raise UsageError(
            f"there is no profile {path}. `dpsolve profiles` lists those known by name."
        )
    return ProfileFile(name, path, _validated(TomlSource.read(path)))


def _validated(document: TomlSource) -> Profile:
    try:
        return Profile.model_validate(document.data)
    except ValidationError as error:
        mistakes = [_in_words(dict(e)) for e in error.errors(include_url=False)]

    def place(key: Key) -> tuple[int, str]:
        line = document.line(key)
        return (line, f"line {line}") if line is not None else (0, "")

    raise report(document.name, mistakes, document.data, place) from None


def _in_words(error: dict[str, Any]) -> Mistake:
    key: Key = tuple(error["loc"])
    name = str(key[-1]) if key else ""
    match error["type"]:
        case "mistake":
            return Mistake(key, error["ctx"]["text"])
        case "extra_forbidden":
            known = list((Driver if len(key) > 1 else Profile).model_fields)
            guess = did_you_mean(name, known)
            return Mistake(key, f"unknown key.{guess} Known here: {', '.join(known)}.")
        case "literal_error":
            return Mistake(key, f"it must be {error['ctx']['expected']}.".replace("'", '"'))
        case _:
            return Mistake(key, f"a table is expected: [{name}].")


_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def walltime_seconds(text: str) -> float:
    """Return a duration in seconds: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    found = _WALLTIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    parts = [int(part) for part in found["rest"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return float(((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(parts) == 1:
        return 60.0 * parts[0]
    hours, minutes, seconds = (0, *parts)[-3:]
    return float((hours * 60 + minutes) * 60 + seconds)


def memory_bytes(text: str) -> int:
    """Return a size in bytes; units are powers of 1024, and MiB where there is none, as for SLURM.

    Raises
    ------
    ValueError
        If it is no size.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ValueError(text)
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 2
    return int(float(found[1]) * 1024**power)

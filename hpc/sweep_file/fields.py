"""Fields of a sweep file (pydantic).

The models here check each field by itself, in the words of whoever wrote the file; what the fields
must agree on among each other and with the model is checked in :mod:`.consistency`. A valid
:class:`Sweep` is plain data: it goes into the store's attributes and comes back from there.

    model = "growth"
    [fixed]                     # parameters and sizes that do not vary
    [grid]                      # full factorial: each becomes a dimension of the result
    [zip] [sample] [table]      # at most one of these: points in a row, along dimension `point`
                                # an array: its entries in [fixed], (points, ...) in the others
    [solve]                     # tol, method, moments, gradients, periods, initial, verify, ...
    [store]                     # path, keep, points_per_task
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.options import SolveOptions

from .array_values import Arrays, fault, is_nested, is_written
from .mistakes import Key, Mistake, report


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("mistake", "{text}", {"text": text})


def number_in_quotes(value: object) -> str:
    """Return the remedy for a number written in quotes, or an empty string."""
    if not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    if "_" in value:  # 0_93: Python reads it, TOML does not
        return ""
    return f"in quotes this is text; write the number bare: {value}."


def _number(value: Any) -> float:
    """Accept a finite number; a whole one stays whole, so that a size remains a size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(number_in_quotes(value) or "a number is expected.")
    if not math.isfinite(value):
        raise _wrong("a finite number is expected.")
    return value


ONE_VALUE = "one value is expected; several values are swept: put them in [grid]."


def _scalar(value: Any) -> float | bool | str:
    """Accept one value: a number, or the text or truth value of a static option."""
    if isinstance(value, list | tuple | Mapping):
        raise _wrong(ONE_VALUE)
    if isinstance(value, bool) or (isinstance(value, str) and not number_in_quotes(value)):
        return value
    return _number(value)


def _fixed(value: Any) -> Any:
    """Accept one value, or the entries of an array."""
    if isinstance(value, Arrays):
        return value
    if is_written(value):
        return Arrays.written(value)
    if not (isinstance(value, list | tuple) or hasattr(value, "ndim")):
        return _scalar(value)
    return Arrays.of(_entries(value), many=False)


def _rows(value: Any) -> Any:
    """Accept the values of points in a row: one of each, or the entries of an array."""
    if isinstance(value, Arrays):
        return value
    if is_written(value):
        return Arrays.written(value)
    if is_nested(value):
        return Arrays.of(_entries(value), many=True)
    return tuple(_scalar(part) for part in _list(value))


def _entries(value: Any) -> Any:
    if text := fault(value):
        raise _wrong(text)
    return np.asarray(value, np.float64)


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        shown = f'"{value}"' if isinstance(value, str) else value
        raise _wrong(f"a list is expected: [{shown}].")
    if not value:
        raise _wrong("the list is empty; give at least one value, or leave the key out.")
    return tuple(value)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        text = f"{', '.join(twice)} stands there twice; each value of a dimension may stand once."
        raise _wrong(text)
    return values


def _whole(value: Any, least: int, why: str, most: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(number_in_quotes(value) or "a whole number is expected.")
    if value < least:
        raise _wrong(why)
    if value > most:
        raise _wrong(f"at most {most:,} can be counted.")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong('text in "quotes" is expected.')
    if not value.strip():
        raise _wrong("the text is empty.")
    return value


_NO_FOLDERS = frozenset({
    ".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".csv", ".tsv", ".parquet", ".npy", ".npz", ".mat",
    ".dta", ".pkl", ".pickle", ".json", ".toml", ".py", ".zip", ".tar", ".gz", ".xlsx",
})  # fmt: skip


def _store_path(value: Any) -> str:
    """Accept where a store goes: a folder, and not what other programs mean by such a name."""
    text = _text(value)
    if "://" in text:
        raise _wrong(
            f"a store is a folder on a disk that all machines of the sweep see; {text!r} is an "
            "address. Sweep into a folder, and copy that when it is done."
        )
    if (ending := PurePath(text).suffix.lower()) in _NO_FOLDERS:
        raise _wrong(
            f'a store is a folder of Zarr arrays, and "{ending}" is the ending of a file: '
            f'"{PurePath(text).with_suffix(".zarr")}". What it holds becomes a file afterwards: '
            'dp.open("x.zarr").to_netcdf("x.nc").'
        )
    if not text.isprintable():
        raise _wrong(f"characters that are not printed do not belong into a path: {text!r}.")
    return text


# Serialised as they are: an `int` stands for a size and must come back as one.
_as_is = PlainSerializer(lambda value: value)
Number = Annotated[float, PlainValidator(_number), _as_is]
Scalar = Annotated[float | bool | str, PlainValidator(_scalar), _as_is]
_as_text = PlainSerializer(lambda value: value.text if isinstance(value, Arrays) else value)
Fixed = Annotated[Any, PlainValidator(_fixed), _as_text]
Rows = Annotated[Any, PlainValidator(_rows), _as_text]
Text = Annotated[str, PlainValidator(_text)]
StorePath = Annotated[str, PlainValidator(_store_path)]
Count = Annotated[int, PlainValidator(lambda v: _whole(v, 1, "at least 1 is needed."))]
TwoOrMore = Annotated[
    int, PlainValidator(lambda v: _whole(v, 2, "a range with two ends has at least 2 points."))
]
Seed = Annotated[int, PlainValidator(lambda v: _whole(v, 0, "a seed is 0 or above.", 2**63))]
Values = Annotated[tuple[Scalar, ...], BeforeValidator(_list)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Span(_Part):
    """An interval to draw from."""

    start: Number = Field(alias="from", description="One end.")
    stop: Number = Field(alias="to", description="The other end.")
    spacing: Literal["linear", "log"] = Field(
        "linear", description="Even differences, or even ratios."
    )

    @model_validator(mode="after")
    def _two_ends(self) -> Span:
        if self.start == self.stop:
            raise _wrong(f"from and to are both {self.start}: one value, not a range.")
        if self.spacing == "log" and min(self.start, self.stop) <= 0:
            raise _wrong('spacing = "log" needs from and to above 0.')
        return self


class Range(Span):
    """Evenly spaced values, both ends included."""

    points: TwoOrMore = Field(description="How many values, both ends among them.")


Axis = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Values, AfterValidator(_distinct), Tag("list")],
    Discriminator(lambda value: "range" if isinstance(value, Mapping | Range) else "list"),
]


class Sample(_Part):
    """Points drawn evenly from a box: the same seed gives the same points."""

    method: Literal["latin-hypercube", "sobol"] = Field(description="How points are drawn.")
    points: Count = Field(description="How many points.")
    seed: Seed = Field(0, description="The same seed draws the same points.")
    ranges: dict[str, Span] = Field(
        description="The interval of each parameter, or these keys in [sample] itself."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        """Let the ranges stand in [sample] itself, as they do in [grid]."""
        if not isinstance(value, Mapping) or "ranges" in value:
            return value
        own = {k: v for k, v in value.items() if k in cls.model_fields}
        return own | {"ranges": {k: v for k, v in value.items() if k not in own}}


class Table(_Part):
    """Points read from a CSV file, or a NumPy file of arrays (points, ...).

    `values` holds what was read, so that a sweep is whole without the file.
    """

    file: Text = Field(description="The CSV or NumPy file, beside the sweep file.")
    columns: dict[str, Text] = Field(description="The column of each parameter.")
    values: dict[str, Rows] = Field(
        description="What was read from the file: written by dpsolve into the store."
    )


class StoreFields(_Part):
    """Where results go, which of them, and in what portions."""

    path: StorePath = Field(description="The folder that becomes the store.")
    keep: Annotated[tuple[Text, ...], BeforeValidator(_list)] | None = Field(
        None, description="Which variables are stored."
    )
    points_per_task: Count | None = Field(
        None, description="How many points are solved and committed together."
    )


class Sweep(_Part):
    """A whole sweep, each field checked."""

    model: Text = Field(
        description='A built-in model\'s name, "package.module:function" or "file.py:function".'
    )
    one_point: Literal[True] | None = Field(
        None, description="That nothing varies, and this is meant: dpsolve solve --store."
    )
    fixed: dict[str, Fixed] = Field({}, description="Parameters and sizes that do not vary.")
    grid: dict[str, Axis] = Field(
        {}, description="Full factorial: each key becomes a dimension of the result."
    )
    zip: dict[str, Rows] = Field({}, description="Paired lists, along the dimension point.")
    sample: Sample | None = Field(None, description="Points drawn from a box.")
    table: Table | None = Field(None, description="Points read from a CSV or NumPy file.")
    solve: dict[str, Any] = Field(
        {}, description="Options of the solve, by the names of dp.SolveOptions; and verify."
    )
    store: StoreFields = Field(description="Where results go, and which.")

    @property
    def verified(self) -> int:
        """The number of points that are verified at the end; 0 where none is."""
        return verified(self.solve.get(VERIFY, VERIFIED))

    def as_dict(self) -> dict[str, Any]:
        """Return the sweep as JSON-ready tables, which `sweep_from` reads back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


VERIFY = "verify"  # what of [solve] changes no point, and so is no option of a solve
VERIFIED = 4


def verified(value: Any) -> int:
    """Read the number of points to verify at the end of a sweep.

    Raises
    ------
    UsageError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(
            f"verify={value!r}; it is the number of points that are compared with the model's "
            "definition at the end, 0 for none"
        )
    return value


def _of_a_solve(sweep: Sweep) -> SolveOptions:
    verified(sweep.solve.get(VERIFY, VERIFIED))
    return SolveOptions.from_mapping({k: x for k, x in sweep.solve.items() if k != VERIFY})


# The name of a derivative, as a store has it.
GRADIENT = re.compile(r"d_(?P<variable>.+)_d_(?P<parameter>\w+?)(?P<fixed>_fixed_policy)?")


def options_of(sweep: Sweep) -> SolveOptions:
    """Return how the points are solved: as ``[solve]`` says, with what ``keep`` needs.

    What `keep` names is computed, and what ``[solve]`` asks for is stored: see `asked_for`.
    """
    given = _of_a_solve(sweep)
    keep = sweep.store.keep or ()
    named = [found for n in keep if (found := GRADIENT.fullmatch(n))]
    of = (*keep, *(found["variable"] for found in named))
    moments = [n.removeprefix("moment_") for n in of if n.startswith("moment_")]
    return replace(
        given,
        distribution=given.distribution or any(_is_distribution(n) for n in keep),
        moments=(*given.moments, *(("moments",) if "moments" in keep else ()), *moments),
        gradients=(*given.gradients, *(n["parameter"] for n in named if not n["fixed"])),
        gradients_fixed_policy=(
            *given.gradients_fixed_policy,
            *(n["parameter"] for n in named if n["fixed"]),
        ),
    )


def _is_distribution(name: str) -> bool:
    return name.startswith("distribution") and name != "distribution_path"


def asked_for(sweep: Sweep) -> tuple[str, ...]:
    """Return the names of what ``[solve]`` asks for, which is stored beside what `keep` names."""
    given = _of_a_solve(sweep)
    names = ["distribution"] if given.distribution else []
    names += [name if name == "moments" else f"moment_{name}" for name in given.moments]
    return (*names, *(["distribution_path"] if given.periods is not None else []))


def sweep_from(raw: Mapping[str, Any]) -> Sweep:
    """Make a sweep from tables: a store's attributes, or a dict written in Python.

    Raises
    ------
    UsageError
        If a field is wrong; all of them are named.
    """
    if mistakes := field_mistakes(raw):
        raise report("the sweep", mistakes, raw, lambda key: (0, ""))
    return Sweep.model_validate(raw)


def field_mistakes(raw: Mapping[str, Any]) -> list[Mistake]:
    """Check every field of a sweep by itself."""
    try:
        Sweep.model_validate(raw)
    except ValidationError as error:
        return [_in_words(dict(e), raw) for e in error.errors(include_url=False)]
    return []


def _in_words(error: dict[str, Any], raw: Mapping[str, Any]) -> Mistake:
    """Translate one error of the validation library."""
    key = _as_written(error["loc"], raw)
    name, known = str(key[-1]) if key else "", _known(key)
    match error["type"]:
        case "mistake":
            return Mistake(key, error["ctx"]["text"])
        case "missing":
            return Mistake(key, _MISSING.get(key, f"'{name}' is missing."))
        case "extra_forbidden":
            guess = did_you_mean(name, known)
            return Mistake(key, f"unknown key.{guess} Known here: {', '.join(known)}.")
        case "literal_error":
            expected = error["ctx"]["expected"].replace("'", '"')
            return Mistake(key, f"it must be {expected}.")
        case "model_type" if key[:1] == ("sample",) and len(key) > 1:
            range_ = f"{name} = {{ from = 0.1, to = 0.9 }}"
            guess = did_you_mean(name, known)
            return Mistake(key, f"neither a known key nor a range ({range_}).{guess}")
        case _:
            return Mistake(key, f"a table is expected: [{'.'.join(map(str, key))}].")


_MISSING: dict[Key, str] = {
    ("model",): 'the sweep names no model; begin with: model = "growth" (dpsolve models lists '
    'them), or model = "file.py:function".',
    ("sample", "method"): 'method is missing: "latin-hypercube" or "sobol".',
    ("sample", "points"): "points is missing: how many points to draw.",
}


def _as_written(loc: tuple[str | int, ...], raw: Mapping[str, Any]) -> Key:
    """Turn the library's location into the key path of the file."""
    if loc[:1] == ("grid",) and len(loc) > 2:
        return (*loc[:2], *loc[3:])  # without the name of the union's branch
    if loc[:2] == ("sample", "ranges") and "ranges" not in raw["sample"]:
        return ("sample", *loc[2:])
    return tuple(loc)


def _known(key: Key) -> list[str]:
    """Return the keys that are known beside `key`."""
    part: type[_Part] = Sweep
    if len(key) > 1:
        parts: dict[str, type[_Part]] = {"sample": Sample, "table": Table, "store": StoreFields}
        part = parts.get(str(key[0]), Sweep)
    if len(key) > 2:
        part = Range if key[0] == "grid" else Span
    return [field.alias or name for name, field in part.model_fields.items()]

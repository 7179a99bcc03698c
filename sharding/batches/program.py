"""One factory at one set of sizes, compiled once for batches of points.

A batch has a fixed number of *lanes*, chosen from the model's size and the device, never from the
number of points: so a program is compiled once whatever is asked of it, and what a point's result
is, to the last bit, does not depend on its neighbours or on how many points there are. Lanes run
side by side under ``vmap``; each stops by its own criterion and keeps what it has. A lane that is
left over is filled with NaN, which fails before its first sweep.

Unless starts are *warm*: then a point begins from the value of the point before it in its strand
(:mod:`.solving_order`), and its bits depend on its place among the points, though not on which lane
or group takes it, or when; its bounds are its own in any case. By default they are warm where one
point is enough for a core, by the model's own size, so that the answer is the same on every device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import numpy as np

from dpsolve.sharding.devices.fit import automatic, bytes_on_device, check_fits, partition_of
from dpsolve.sharding.devices.mesh import ONE_DEVICE, MeshShape, device_memory
from dpsolve.sharding.devices.threads import cores
from dpsolve.solvers.curvature.proved import MOST_TRIES, THOROUGH, proved
from dpsolve.solvers.inspection.concavity import promised
from dpsolve.solvers.inspection.forecast import Footprint, Outlook, outlook
from dpsolve.solvers.inspection.limits import check_time
from dpsolve.solvers.methods.discounted import SolveState
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Signature,
    Sizes,
    signature,
)
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import PER_POINT, UNCERTIFIED, Outcome, word
from dpsolve.solvers.parameters.given import missing, no_number
from dpsolve.solvers.program_keys.array_content import content
from dpsolve.solvers.program_keys.fingerprint import keyed
from dpsolve.solvers.solve.continuum_point import judged, shared_options, with_proof
from dpsolve.solvers.solve.one_device import check_sizes, explain, has_interval
from dpsolve.solvers.solve.refinement import Refinement

from .coordinates import coordinates
from .lanes import CPU_BYTES, fitting_lanes, hangs_beside_others
from .outline import Outline, outline
from .refill import Results, serve
from .refined_points import refined_points
from .result_arrays import Layout, make_layout, with_refined, with_starts
from .rounds import Rounds
from .single_pass import SinglePass
from .solving_order import START

log = logging.getLogger("dpsolve")


@dataclass(frozen=True)
class Forecast:
    """Memory that one batch takes on its device, from the model's sizes.

    Attributes
    ----------
    lanes : int
        Points solved side by side.
    bytes_per_point, bytes : int
        For one lane, and for the batch.
    streams : bool
        Whether rewards are recomputed by blocks of choices, for lack of memory to keep them.
    """

    lanes: int
    bytes_per_point: int
    bytes: int
    streams: bool


@dataclass(frozen=True)
class Batch:
    """Results of some points; the first axis of every array is the points'.

    Attributes
    ----------
    variables : dict of str to array (points, ...)
        Everything the model gives.
    status, message : array of str (points,)
        Status words and sentences.
    residual, error_bound, seconds : float array (points,)
        As in :class:`~dpsolve.Solution`; seconds are the batch's, shared among its points.
    iterations, code : int array (points,)
        Sweeps made, and result codes.
    """

    variables: dict[str, Numpy]
    status: Numpy
    message: Numpy
    residual: Numpy
    error_bound: Numpy
    iterations: Numpy
    code: Numpy
    seconds: Numpy

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Return the results of several calls that followed each other as those of one."""
        if len(parts) == 1:
            return parts[0]

        def one(name: str) -> Numpy:
            return np.concatenate([getattr(part, name) for part in parts])

        first = parts[0].variables
        names = {name: np.concatenate([p.variables[name] for p in parts]) for name in first}
        if START in names:  # counted within each part
            before = np.cumsum([0, *(len(part.status) for part in parts[:-1])])
            sources = [p.variables[START] for p in parts]
            shifted = [np.where(x < 0, x, x + n) for x, n in zip(sources, before, strict=True)]
            names[START] = np.concatenate(shifted).astype(np.int32)
        return cls(names, **{f.name: one(f.name) for f in fields(cls) if f.name != "variables"})

    def back_in_place(self, numbers: Numpy) -> Batch:
        """Return the results in the order of `numbers` (points,), and starts by number."""
        if START not in self.variables:  # cold starts: the points were solved in their own order
            return self
        order, source = np.argsort(numbers), self.variables[START]
        named = np.where(source < 0, -1, numbers[source]).astype(source.dtype)
        variables = self.variables | {START: named}
        rest = {f.name: getattr(self, f.name)[order] for f in fields(self) if f.name != "variables"}
        return replace(self, variables={n: x[order] for n, x in variables.items()}, **rest)


class Program:
    """One factory at one set of static sizes, compiled for batches of ``lanes`` points to a device.

    Parameters
    ----------
    factory, sizes, options
        What to solve.
    mesh : MeshShape
        How points and states are cut over devices.

    Raises
    ------
    UsageError
        If there are fewer devices than the mesh takes, the model cannot be cut as it asks, or one
        point does not fit into a device's memory.
    """

    def __init__(
        self,
        factory: Factory,
        sizes: Mapping[str, Any],
        options: SolveOptions,
        mesh: MeshShape = ONE_DEVICE,
    ) -> None:
        check_sizes(sizes)
        self.factory = factory
        self.sizes = dict(sizes)
        self.options = options
        self.shape = mesh
        self.signature: Signature = signature(factory)
        # One outline, like one program, for whatever tolerance of a continuous choice.
        free = (options.tol is not None or options.refine) and has_interval(
            factory, Sizes(sizes.items())
        )
        seen = shared_options(options) if free else options
        self.outline: Outline = outline(factory, self.sizes, seen)
        self.footprint: Footprint = self.outline.footprint
        self.partition = partition_of(self.outline.shape, self.signature.name, mesh)
        self.bytes_per_point = bytes_on_device(self.footprint, mesh)
        self.alone = hangs_beside_others(self.footprint)
        self.lanes = 1 if self.alone else fitting_lanes(self.bytes_per_point)
        self.warm = self._starts_warm()
        self._layouts: dict[Any, Layout] = {}
        # One for points that are proved to be concave (True), and one for all others.
        self._compiled: dict[bool, Rounds | SinglePass] = {}
        self.compile_seconds = 0.0  # that compiling took, 0 before

    def _starts_warm(self) -> bool:
        """Decide whether points start from each other: if asked, or if a point is large."""
        large = self.footprint.bytes > CPU_BYTES // 2
        wanted = large if self.options.warm is None else self.options.warm
        if not wanted or not self.outline.shape.iterates or self.outline.refused:
            return False
        return isinstance(self.outline.results.run[1], SolveState)

    def layout(self, fixed: Mapping[str, Any], varying: Collection[str]) -> Layout:
        """Return dimensions, coordinates and variables, given which parameters vary."""
        same = tuple(sorted((name, content(x)) for name, x in fixed.items()))
        key = (same, frozenset(varying))
        if key not in self._layouts:
            finer = self.options.distribution_grid
            own = self.outline.grids
            grids = coordinates(own, self.factory, self.sizes, fixed, varying, finer)
            made = make_layout(self.outline.shape, self.outline.results, *grids)
            made = with_starts(made) if self.warm else made
            refined = self.refinement.named(0) if self.options.refine else ()
            self._layouts[key] = with_refined(made, tuple(refined))
        return self._layouts[key]

    def forecast(self) -> Forecast:
        """Forecast the memory of a batch on a device from the model's sizes, without compiling."""
        each = self.bytes_per_point
        return Forecast(self.lanes, each, each * self.lanes, self.footprint.streams)

    @cached_property
    def outlook(self) -> Outlook | None:
        """How sweeps will find their maxima, without compiling; None where there are none."""
        if self.lanes == self.outline.lanes:
            return self.outline.results.outlook
        return outlook(self.factory, self.sizes, self.options, self.lanes)

    @property
    def compiled_bytes(self) -> int:
        """Memory of a batch on a device by the compiler's own account; compiles if need be."""
        if not self._compiled:
            self.compile()
        return max(int(compiled.memory) for compiled in self._compiled.values())

    def check_possible(self) -> None:
        """Refuse sizes that cannot work on this process's devices, by counting.

        Raises
        ------
        UsageError
            With the bytes or the time, and the nearest size that would do.
        """
        states = self.outline.shape.states
        check_fits(self.footprint, self.shape, states)
        if self.outline.shape.own is None:
            check_time(states, self.footprint.choices, self.options, self.signature.name)

    def compile(self, points: Mapping[str, Numpy] | None = None) -> float:
        """Compile if need be; return the seconds it took when it did.

        A batch that the compiler finds too large for the device's memory is halved until it fits.

        Parameters
        ----------
        points : dict of str to float array (points,), optional
            Every parameter: what is proved of them decides what they are solved by.

        Raises
        ------
        UsageError
            If one point does not fit; the smallest mesh that would is named.
        """
        verdicts = {False} if points is None else set(self.concave(points).tolist())
        self.compile_seconds = sum(self._compile(known) for known in sorted(verdicts))
        return self.compile_seconds

    def _compile(self, known: bool) -> float:
        seconds = 0.0
        while known not in self._compiled:
            self.check_possible()
            several = self.lanes > 1 or self.shape.size > 1
            if self.warm or (several and self.outline.shape.iterates):
                kind: type[Rounds | SinglePass] = Rounds
            else:
                kind = SinglePass
            if self.outline.shape.continuous:
                compiled: Rounds | SinglePass = _shared(
                    self.factory, Sizes(self.sizes.items()), shared_options(self.options),
                    self.lanes, self.shape, known,
                )  # fmt: skip
            else:
                compiled = kind(
                    self.factory, self.sizes, self.options, self.lanes, self.shape, self.partition
                )
            compiled.warm = self.warm
            seconds = compiled.compile() if compiled.compile_seconds == 0 else 0.0
            if self.lanes > 1 and compiled.memory > device_memory():
                log.info("%s lanes take %s bytes: halved", self.lanes, compiled.memory)
                self._halve()
                continue
            self._compiled[known] = compiled
        return seconds

    def _halve(self) -> None:
        """Take half as many lanes from now on."""
        self.lanes //= 2
        self._compiled.clear()

    def run(
        self, points: Mapping[str, Numpy], report: Callable[[int], None] = lambda done: None
    ) -> Batch:
        """Solve points.

        Parameters
        ----------
        points : dict of str to float array (points, ...)
            Every economic parameter.
        report : function
            Is told how many points are done, now and again, by any thread.
        """
        columns = {k: np.asarray(points[k], np.float64) for k in self.signature.parameters}
        if not self.options.refine:
            return self._run(columns, report)
        if len(live := np.flatnonzero(~missing(columns))):
            self.refinement.check({name: x[live[0]] for name, x in columns.items()})
        found = self._run(columns, report)

        def finer(doublings: int, columns: Mapping[str, Numpy]) -> Batch:
            sizes = self.refinement.finer(doublings)
            return program(self.factory, sizes, self.options, self.shape)._run(columns)

        dims = self.outline.results.dims
        return refined_points(found, columns, self.refinement, dims, finer)

    @cached_property
    def refinement(self) -> Refinement:
        """The finer grids of points whose tolerance does not hold."""
        return Refinement(self.factory, self.sizes, self.options)

    def _run(
        self, columns: Mapping[str, Numpy], report: Callable[[int], None] = lambda done: None
    ) -> Batch:
        n = max((len(c) for c in columns.values()), default=1)
        found = Results(n, report)
        concave = self.concave(columns)
        for known in sorted(set(concave.tolist())):
            self._serve(known, columns, found, set(np.flatnonzero(concave == known).tolist()))
        numbers = {name: found.arrays.pop(name) for name in PER_POINT}
        if self.outline.shape.continuous:
            code = judged(numbers["code"], numbers["error_bound"], self.options.tol)
            numbers["code"] = np.asarray(code)
            told = with_proof(found.arrays, concave)
            found.arrays = {name: np.asarray(x) for name, x in told.items()}
        code = numbers["code"]
        if self.warm:
            found.arrays[START] = found.start
        return Batch(
            variables=found.arrays,
            status=np.asarray(word(code)),
            message=self._messages(numbers, columns, found.arrays),
            seconds=found.seconds,
            **numbers,
        )

    def _serve(
        self, known: bool, columns: Mapping[str, Numpy], found: Results, some: set[int]
    ) -> None:
        """Solve some points, of all of which the same is proved."""
        while left := found.left & some:
            self._compile(known)
            try:
                serve(self._compiled[known], columns, found, left, self.workers)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.lanes == 1:
                    raise
                self._halve()
                log.warning(
                    "the device ran out of memory; going on with batches of %s points", self.lanes
                )

    def concave(self, points: Mapping[str, Numpy]) -> Numpy:
        """Tell which points (n,) are proved to be concave; with them those without parameters.

        Parameters
        ----------
        points : dict of str to float array (points,)
            Every parameter.
        """
        columns = {k: np.asarray(points[k], np.float64) for k in self.signature.parameters}
        n = max((len(c) for c in columns.values()), default=1)
        if not self.outline.asks:
            return np.zeros(n, bool)
        nowhere = missing(columns) & np.ones(n, bool)
        # Where it was declared a proof is worth a word; where it was not, the certificate.
        tries = THOROUGH if self.outline.asks == "proof" else MOST_TRIES
        found = np.broadcast_to(proved(self.factory, self.sizes, columns, tries), (n,))
        return found | (nowhere & found.any())

    def promise(self, points: Mapping[str, Numpy]) -> str:
        """Say in words what bounds will be of, at points (n,), before anything is solved."""
        if self.outline.asks != "proof":
            return self.outline.shape.promise
        return promised(np.atleast_1d(proved(self.factory, self.sizes, points)))

    @property
    def workers(self) -> int:
        """Return how many batches run at a time."""
        return self._workers()

    def _workers(self) -> int:
        """Return how many batches run at a time: on a CPU small programs keep one core busy."""
        small = self.bytes_per_point * self.lanes <= 4 * CPU_BYTES
        alone = self.shape.size == 1 and jax.local_devices()[0].platform == "cpu"
        pooled = any(getattr(c, "pooled", False) for c in self._compiled.values())
        return cores() if alone and small and not (self.alone or pooled) else 1

    def _messages(
        self,
        numbers: Mapping[str, Numpy],
        columns: Mapping[str, Numpy],
        found: Mapping[str, Numpy],
    ) -> Numpy:
        code = numbers["code"]
        messages = np.full(code.shape, "", dtype=object)
        messages[(code == Outcome.SOLVED) & np.isnan(numbers["error_bound"])] = UNCERTIFIED
        to_tell = code != Outcome.SOLVED
        if "value" in found and "distribution_period" in found:
            to_tell |= found["distribution_period"] > 1  # solved, with a message
        if "certifies" in found and "lower" in found:  # some cells may be left out
            to_tell |= np.isneginf(found["lower"]).reshape(code.size, -1).any(1)
        for i in np.flatnonzero(to_tell):
            values = {k: c[i] for k, c in columns.items()}
            if told := no_number(values, self.signature.array_dims):
                messages[i] = told
                continue
            messages[i] = explain(
                int(code[i]),
                partial(rebuild, self.factory, values, self.sizes),
                self.options,
                {name: x[i] for name, x in (*found.items(), *numbers.items())},
                refuse=False,
            )
        return messages


@lru_cache(maxsize=64)
def _shared(
    factory: Factory,
    sizes: tuple[tuple[str, Any], ...],
    options: SolveOptions,
    lanes: int,
    mesh: MeshShape,
    known: bool,
) -> SinglePass:
    """Return a compiled batch that points with any tolerance share."""
    shared = SinglePass(factory, dict(sizes), options, lanes, mesh, None)
    shared.proved = known
    return shared


@lru_cache(maxsize=64)
def _program(
    factory: Factory,
    sizes: tuple[tuple[str, Any], ...],
    options: SolveOptions,
    mesh: MeshShape,
) -> Program:
    return Program(factory, dict(sizes), options, mesh)


def program(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    mesh: MeshShape = ONE_DEVICE,
) -> Program:
    """Return the program of a factory at its sizes; the same one for the same arguments."""
    check_sizes(sizes)
    return _program(keyed(factory), Sizes(sizes.items()), options, mesh)


def program_for(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    points: int,
    mesh: MeshShape | None = None,
) -> Program:
    """Return the program for a number of points, on a mesh or on what suits this process's devices.

    Parameters
    ----------
    factory, sizes, options
        What to solve.
    points : int
        How many points there are to solve.
    mesh : MeshShape, optional
        None chooses: as few devices to a point as it fits on, and no group without points.
    """
    alone = program(factory, sizes, options)
    if mesh is None:
        devices = len(jax.local_devices())
        mesh = automatic(alone.footprint, alone.lanes, points, devices)
    return program(factory, sizes, options, mesh)

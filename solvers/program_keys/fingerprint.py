"""What a factory's result depends on beside its arguments; factories that are keyed by it.

A compiled program holds what the factory read when it was traced: globals, variables of enclosing
functions, defaults, attributes of the user's own modules, and all that of the functions that it
calls. A :class:`KeyedFactory` is equal to another only if all of that is equal too, arrays by their
content and functions by their code. So the caches of programs, which are keyed by factory and
sizes, never answer for what was there before; and one whose model must be built once more, after
what it reads has changed, says so.

What belongs to installed packages (and to this one) is taken to stand still. What cannot be
followed is refused by name: an object whose content cannot be compared, a random number drawn at
every call. Not seen are reads that the code does not show (``globals()["TAX"]``, ``getattr`` by a
computed name, files, the environment), and what a ``jax.jit`` of the user's own around ``dp.solve``
holds.
"""

from __future__ import annotations

import enum
import functools
import io
import logging
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.errors import ModelError

from .array_content import content, content_once
from .code_reads import Read, reads_at_once, reads_of
from .installed import is_installed, is_installed_file

Factory = Callable[..., Any]
Parts = tuple[tuple[str, Any], ...]


class KeyedFactory:
    """A factory together with what it depends on: equal to another where both are the same.

    Parameters
    ----------
    factory : function

    Raises
    ------
    ModelError
        If it reads what cannot be followed.
    """

    def __init__(self, factory: Factory) -> None:
        self.__wrapped__ = factory
        self.__name__ = getattr(factory, "__name__", type(factory).__name__)
        self.__doc__ = factory.__doc__
        self.parts = self._seen = fingerprint(factory)
        self._hash = hash((factory, self.parts))
        self._one_at_a_time = threading.RLock()

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        """Build the model.

        Raises
        ------
        ModelError
            If what the factory reads has changed since it was keyed.
        """
        with self._one_at_a_time:
            now = fingerprint(self.__wrapped__)
            if now != self._seen:
                raise ModelError(_changed(self.__name__, self._seen, now))
            try:
                return self.__wrapped__(*args, **sizes)
            finally:
                # It may write itself what it reads: a table that is filled at the first call. The
                # next solve, which sees it filled, is another program then.
                self._seen = fingerprint(self.__wrapped__)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, KeyedFactory)
            and self._hash == other._hash
            and self.__wrapped__ == other.__wrapped__
            and self.parts == other.parts
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __reduce__(self) -> Any:
        return KeyedFactory, (self.__wrapped__,)


def keyed(factory: Factory) -> Factory:
    """Return a factory with what it depends on now; what is no function, as it is."""
    if isinstance(factory, KeyedFactory) or not callable(factory):
        return factory
    return KeyedFactory(factory)


def _changed(name: str, before: Parts, now: Parts) -> str:
    old, new = dict(before), dict(now)
    changed = [label for label in {**old, **new} if old.get(label) != new.get(label)]
    shown = ", ".join(f"'{label}'" for label in changed[:3])
    return (
        f"{shown}, which {name} reads, changed since this was solved, and its model cannot be "
        "built again as it was: solve it again, or make what changes a parameter or a size"
    )


def fingerprint(factory: Factory) -> Parts:
    """Return what a factory depends on beside its arguments: names and comparable contents.

    Raises
    ------
    ModelError
        If something it reads cannot be compared, or draws random numbers.
    """
    code = getattr(factory, "__code__", None)
    if code is not None and _is_ours(getattr(factory, "__module__", "")):
        return ()
    walk = _Walk(factory)
    walk.token(factory, "")
    if walk.stale:
        # What JAX traced of a function that a scan, a loop or the user's own jit called, it keeps.
        jax.clear_caches()
    return tuple(walk.parts)


def refuse_randomness(f: Any, what: str) -> None:
    """Refuse a model's function that draws random numbers.

    Raises
    ------
    ModelError
        If it, or a function of the user that it calls, does.
    """
    if isinstance(f, types.FunctionType):
        walk = _Walk(f, what)
        walk.comparing = False
        walk.token(f, "")


def watch(value: Any) -> None:
    """Let JAX forget what it traced of functions that depend on something else than before.

    What cannot be compared is passed over: the caller traces anew in any case.
    """
    walk = _Walk(value)
    walk.refusing = False
    walk.token(value, "")
    if walk.stale:
        jax.clear_caches()


def refuse_draws_at_import(code: types.CodeType, module: types.ModuleType, what: str) -> None:
    """Refuse a module that draws random numbers when it is imported, other ones in each process.

    Raises
    ------
    ModelError
    """
    walk = _Walk(module, what)
    walk.comparing = False
    body = types.FunctionType(code.replace(co_flags=code.co_flags & ~1), vars(module))
    for read in reads_at_once(code):
        walk._resolved(read, body)


ATOMS = (int, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), complex)
# What gives other numbers each time, where it is called without a seed.
UNSEEDED = (np.random.default_rng, np.random.RandomState, random.Random)
# Whatever they hold, no number comes from it.
TOOLS = (logging.Logger, io.IOBase, type(threading.Lock()), type(threading.RLock()), weakref.ref,
         jax.Device, types.MemberDescriptorType, types.GetSetDescriptorType,
         types.WrapperDescriptorType, types.MethodDescriptorType,
         types.ClassMethodDescriptorType)  # fmt: skip
# Packages of which no function is looked into, not even where it is the one that was handed over.
LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "scipy"})
MISSING = object()


class _Same:
    """Stands for one object, which it keeps alive, and for no other."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Walk:
    """One walk through what a function depends on.

    Attributes
    ----------
    parts : list of (str, token)
        What was found, by name.
    stale : bool
        Whether a function that outlives its call depends on something else than at the last walk.
    comparing : bool
        Whether contents are wanted; else only random numbers are looked for.
    refusing : bool
        Whether what cannot be compared is refused.
    """

    def __init__(self, root: Any, who: str = "") -> None:
        self.root = root
        self.who = who or getattr(root, "__name__", type(root).__name__)
        first = str(getattr(root, "__module__", "")).partition(".")[0]
        self.home = "" if first in LIBRARIES or first in sys.stdlib_module_names else first
        self.parts: list[tuple[str, Any]] = []
        self.stale = False
        self.comparing = self.refusing = True
        self._number: dict[int, int] = {}  # of what was met, by identity
        self._kept: list[Any] = []  # so that identities stay their own

    # -- values ---------------------------------------------------------------------------------

    def token(self, value: Any, label: str) -> Any:
        """Return what stands for a value: equal for equal contents, and hashable."""
        kind = type(value)
        if kind in ATOMS:
            return kind, value
        if kind is float:  # 0.0 and -0.0 differ, and NaN is itself
            return repr(value) if value == 0.0 or value != value else (kind, value)
        if kind is types.FunctionType:
            return self._function(value, label)
        if isinstance(value, type):
            return self._class(value, label)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value, label) if self.comparing else None
        if (met := self._number.get(id(value))) is not None:
            return "met", met
        self._number[id(value)] = len(self._number)
        self._kept.append(value)
        return self._compound(value, label)

    def _compound(self, value: Any, label: str) -> Any:
        kind = type(value)
        if kind is bytearray:
            return kind, bytes(value)
        if kind in (tuple, list):
            return (kind, *(self.token(x, label) for x in value))
        if isinstance(value, Mapping) and kind in (dict, types.MappingProxyType):
            return (dict, *((self.token(k, label), self.token(x, label))
                            for k, x in value.items()))  # fmt: skip
        if kind is slice:
            return kind, *(self.token(x, label) for x in (value.start, value.stop, value.step))
        if kind in (set, frozenset):
            return kind, frozenset(self.token(x, label) for x in value)
        if kind in (staticmethod, classmethod):
            return self.token(value.__func__, label)
        if kind is property:
            return tuple(self.token(f, label) for f in (value.fget, value.fset))
        if isinstance(value, functools.partial):
            return tuple(self.token(x, label) for x in (value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return self.token(value.__func__, label), self.token(value.__self__, label)
        if isinstance(value, enum.Enum):
            return type(value).__qualname__, value.name
        if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            owner = value.__self__
            self._refuse_random_owner(owner, label)
            if owner is None or isinstance(owner, types.ModuleType | type):
                return _Same(value)
            return value.__name__, self.token(owner, label)
        if hasattr(value, "__wrapped__"):  # jitted, cached
            beside = {n: x for n, x in vars(value).items() if not n.startswith("__")}
            return self.token(value.__wrapped__, label), self._compound(beside, label)
        if isinstance(value, TOOLS) or kind is object:
            return _Same(value)
        return self._object(value, label)

    def _object(self, value: Any, label: str) -> Any:
        self._refuse_random_owner(value, label)
        kind = type(value)
        if (state := self._installed_state(value)) is not MISSING:
            return self._class(kind, label), self.token(state, label)
        names = [n for c in kind.__mro__ for n in _slots(c) if hasattr(value, n)]
        own = getattr(value, "__dict__", None)
        if own is None and not names:
            hashed: Any = kind.__hash__
            if hashed is not None and hashed is not object.__hash__:
                return kind, value  # compares by value: a dtype, a path, a date, a fraction
            if isinstance(kind.__dict__.get("__call__"), types.WrapperDescriptorType):
                return _Same(value)  # a function of an extension module
            return self._refused(value, label)
        fields = {n: getattr(value, n) for n in names} | dict(own or {})
        return self._class(kind, label), self._compound(fields, label)

    def _installed_state(self, value: Any) -> Any:
        """Return what an object of an installed package says of itself, as for a pickle."""
        kind = type(value)
        own = {"__reduce__", "__reduce_ex__", "__getstate__"} & _names_of(kind)
        module = kind.__module__.partition(".")[0]
        if not own or module in sys.stdlib_module_names or not self._is_installed(module):
            return MISSING
        try:
            return value.__reduce_ex__(4)
        except Exception:  # whatever an object raises that cannot be copied
            return MISSING

    def _array(self, value: Any, label: str) -> Any:
        if isinstance(value, jax.core.Tracer):
            return _Same(value)
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return "key", content(jax.random.key_data(value))
        if isinstance(value, jax.Array):
            return content_once(value) if value.is_fully_addressable else _Same(value)
        return content(value, lambda x: self.token(x, label))

    def _class(self, value: type, label: str) -> Any:
        name = value.__module__, value.__qualname__
        if self._is_installed(value.__module__) or id(value) in self._number:
            return name
        self._number[id(value)] = len(self._number)
        self._kept.append(value)
        fields = {n: x for n, x in vars(value).items() if n not in UNTOLD}
        return (*name, self.token(value.__bases__, label), self._compound(fields, label))

    def _function(self, f: types.FunctionType, label: str) -> Any:
        code = f.__code__
        if self._is_installed(f.__module__ or "", code.co_filename) and f is not self.root:
            return f.__module__, f.__qualname__
        if (met := self._number.get(id(f))) is not None:
            return "met", met
        self._number[id(f)] = len(self._number)
        first = len(self.parts)
        within = f"{label}: " if label else ""
        for read in reads_of(code):
            name, value = self._resolved(read, f)
            if value is not MISSING:
                self._add(f"{within}{name}", value)
        if self.comparing:
            # The code, too: it can be replaced within a function that stays (IPython's autoreload).
            self.parts.append((f"{within}the code of {f.__name__}", code))
        for kind, given in (("defaults", f.__defaults__), ("sizes", f.__kwdefaults__)):
            if given:
                self._add(f"{within}the {kind} of {f.__name__}", given)
        if self.comparing and f is not self.root:
            self.stale |= _differs(f, tuple(self.parts[first:]))
        return "function", self._number[id(f)]

    def _add(self, label: str, value: Any) -> None:
        at = len(self.parts)
        found = self.token(value, label)
        if self.comparing:
            self.parts.insert(at, (label, found))

    # -- names ----------------------------------------------------------------------------------

    def _resolved(self, read: Read, f: types.FunctionType) -> tuple[str, Any]:
        """Return a read's name and what it finds; MISSING where that is nothing or stands still."""
        label = read.name
        if read.kind == "import":
            value: Any = sys.modules.get(read.name, MISSING)
        elif read.kind == "global":
            value = f.__globals__.get(read.name, MISSING)
        else:
            cell = (f.__closure__ or ())[f.__code__.co_freevars.index(read.name)]
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                return label, MISSING
        for name in read.attributes:
            if not isinstance(value, types.ModuleType):
                break
            if value is random or value is np.random:
                self._refuse_draws(value, name)
            elif value is not np and self._is_installed(value.__name__):
                return label, MISSING
            if read.kind == "import" and read.name.endswith(f".{name}"):
                continue  # `import a.b as c`
            value, label = vars(value).get(name, MISSING), f"{label}.{name}"
        if isinstance(value, types.ModuleType):
            return label, MISSING if self._is_installed(value.__name__) else value
        if read.bare_call and any(value is draws for draws in UNSEEDED):
            self._random(f"{value.__name__}() without a seed")
        return label, MISSING if callable(value) and self._stands_still(value) else value

    def _stands_still(self, value: Any) -> bool:
        """Tell whether a callable is what an installed package has under its own name."""
        module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
        if not isinstance(module, str) or not isinstance(name, str):
            return False
        known = isinstance(value, type | types.FunctionType)
        known = known or getattr(sys.modules.get(module), name, None) is value
        return known and self._is_installed(module)

    def _is_installed(self, module: str, file: str | None = None) -> bool:
        first = module.partition(".")[0]
        if first == "dpsolve":
            return True
        if first == self.home:
            return False
        return is_installed_file(file) if file else is_installed(module)

    # -- refusals -------------------------------------------------------------------------------

    def _refused(self, value: Any, label: str) -> Any:
        if not (self.comparing and self.refusing):
            return _Same(value)
        raise ModelError(
            f"{self.who} reads '{label}', and what a {type(value).__name__} holds cannot be "
            "compared from call to call, so that a compiled program might answer for what was "
            "there before. Make what the model needs of it a parameter or a size, or keep it as "
            "numbers, arrays, lists, dicts and functions"
        )

    def _refuse_draws(self, module: Any, name: str) -> None:
        found = vars(module).get(name)
        if isinstance(found, types.ModuleType):
            return
        if not isinstance(found, type) and found is not np.random.default_rng:
            self._random(f"{module.__name__}.{name}")

    def _refuse_random_owner(self, owner: Any, label: str) -> None:
        if isinstance(owner, random.Random | np.random.RandomState | np.random.Generator):
            self._random(f"'{label}' ({type(owner).__name__}), which another call has moved on")

    def _random(self, source: str) -> None:
        raise ModelError(
            f"{self.who} draws random numbers from {source}: each time that the model is built it "
            "is another one, while a compiled program keeps the first draw. Draw them before, and "
            "pass them on as an array; or draw in the factory with np.random.default_rng(seed) or "
            "jax.random.key(seed)"
        )


# What a class holds beside its members: all of it follows from them, or is no matter.
UNTOLD = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__qualname__"}
    | {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__firstlineno__"}
    | {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__"}
    | {"__annotate_func__", "__annotations_cache__"}
)


def _slots(kind: type) -> Iterator[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return (n for n in names if n not in ("__dict__", "__weakref__"))


def _names_of(kind: type) -> set[str]:
    """Return what the classes that an object is of define themselves."""
    return {name for c in kind.__mro__ if c is not object for name in vars(c)}


_functions: dict[int, tuple[weakref.ref[Any], Parts]] = {}


def _differs(f: types.FunctionType, parts: Parts) -> bool:
    """Tell whether a function depends on something else than when it was last looked at."""
    key = id(f)
    known = _functions.get(key)
    if known is not None and known[0]() is f:
        if known[1] == parts:
            return False
        _functions[key] = (known[0], parts)
        return True
    _functions[key] = (weakref.ref(f, lambda _: _functions.pop(key, None)), parts)
    return False


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "dpsolve"

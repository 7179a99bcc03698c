"""Which modules and files belong to Python or to an installed package, and which are the user's."""

from __future__ import annotations

import functools
import site
import sys
import sysconfig


@functools.cache
def _roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(path.rstrip("/\\") + ("\\" if "\\" in path else "/") for path in found)


@functools.lru_cache(maxsize=4096)
def is_installed_file(file: str) -> bool:
    """Tell whether a file belongs to Python or to an installed package."""
    return file.startswith((*_roots(), "<frozen"))


_modules: dict[str, tuple[str | None, bool]] = {}


def is_installed(module: str) -> bool:
    """Tell whether a module, by its name, belongs to Python or to an installed package."""
    if module in ("__main__", ""):
        return False
    known = sys.modules.get(module)
    file = getattr(known, "__file__", None)
    held = _modules.get(module)
    if held is None or held[0] != file:
        without = module in sys.builtin_module_names or module in sys.stdlib_module_names
        held = file, is_installed_file(file) if file else without
        _modules[module] = held
    return held[1]

"""What every test runs under: eight devices, float64, strict dtypes, and reproducible examples."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if "jax" in sys.modules:
    raise RuntimeError("jax was imported before tests/conftest.py could set its flags")

# One CPU stands for eight devices, so that the ordinary suite covers every sharded path.
# Tests spend their time compiling small programs: half of that goes without LLVM's optimisations,
# and half of the rest without the fusion emitters, where jaxlib still has what they replaced (it
# ends the process at a flag that it does not know). Python 3.13 and SLURM's jobs test these.
flags = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
flags.append("--xla_cpu_parallel_codegen_split_count=1")  # the cores have a worker each
if metadata.version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# Stores are signed with a key in the user's configuration folder: tests have one of their own, and
# share it with the processes that they start, pytest's own workers among them.
OWN_CONFIG = "dpsolve-tests-config-"
if OWN_CONFIG not in os.environ.get("XDG_CONFIG_HOME", ""):
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix=OWN_CONFIG)
    atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)
# What one process of the tests compiles, the others find, in all steps of scripts/test.
OWN_PROGRAMS = "dpsolve-tests-programs-"
if OWN_PROGRAMS not in os.environ.get("DPSOLVE_CACHE", ""):
    os.environ["DPSOLVE_CACHE"] = tempfile.mkdtemp(prefix=OWN_PROGRAMS)
    atexit.register(shutil.rmtree, os.environ["DPSOLVE_CACHE"], ignore_errors=True)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

# Whether compiling is long enough to be told of depends on the machine, and on what else it does.
logging.getLogger("dpsolve.waiting").setLevel("WARNING")

# Compiling takes longer than any deadline; CI must not fail on an example that nobody can repeat.
settings.register_profile(
    "dpsolve",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dpsolve")


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Let go of compiled programs before there are too many.

    Each holds several memory maps of LLVM's, and the kernel gives a process 65,530 in all
    (``vm.max_map_count``); a thousand tests in one process came to that, and it died.
    """
    yield
    maps = Path("/proc/self/maps")
    jax = sys.modules.get("jax")
    if jax is None or not maps.exists() or maps.read_bytes().count(b"\n") < MANY_MAPS:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("dpsolve."):
            for kept in list(vars(module).values()):
                if hasattr(kept, "cache_clear"):
                    kept.cache_clear()
    jax.clear_caches()
    gc.collect()


MANY_MAPS = 20_000
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def fresh_python() -> Callable[[str], str]:
    """Run code in a new interpreter, with warnings as errors; return what it printed."""

    def run(code: str) -> str:
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

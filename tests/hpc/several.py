"""Several processes on this machine, each with virtual devices, that solve one model."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A household that changes its class hardly ever: value iteration takes as long as one likes.
SLOW = '''
import jax.numpy as jnp
import dpsolve as dp

def slow(beta=0.985, stay=0.9975, *, n_x=37):
    """Eat a cake, or be rich and eat what one likes; of two classes that hardly mix."""
    chain = jnp.array([[1.0, 0.0], [0.0, 1.0]]) * stay + jnp.array([[0.0, 1.0], [1.0, 0.0]]) * (1 - stay)
    return dp.Model(
        states={"c": dp.markov([0.0, 1.0], chain), "x": dp.grid(0.0, 1.0, n_x)},
        choices={"x_next": "x"},
        transition={"x": "x_next"},
        feasible=lambda x, x_next: x_next <= x,
        reward=lambda c, x, x_next: c + jnp.sqrt(x - x_next),
        discount=beta,
        outputs={"eaten": lambda x, x_next: x - x_next},
    )
'''  # noqa: E501 - as it is written to the file


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def command(*words: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "dpsolve", "solve", *map(str, words)]


def environment(devices: int) -> dict[str, str]:
    """What a process of a test runs under: so many devices, compiled quickly."""
    flags = f"--xla_force_host_platform_device_count={devices} "
    return os.environ | {
        "XLA_FLAGS": flags + "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip


@dataclass
class Ended:
    """How a process ended, what it said, and when, in seconds since it was asked."""

    code: int
    output: str
    seconds: float


@dataclass
class Several:
    """Processes of ``dpsolve solve --distributed``, each with its output in a file."""

    folder: Path
    words: Sequence[object]
    devices: Sequence[int] = (2, 2)
    count: int | None = None
    port: int = field(default_factory=free_port)
    started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *which: int) -> Several:
        """Start some of the processes, by default all of them."""
        count = self.count or len(self.devices)
        for i in which or range(len(self.devices)):
            process_address = ["--distributed", "--coordinator", f"127.0.0.1:{self.port}"]
            process_address += ["--processes", str(count), "--process-id", str(i)]
            with (self.folder / f"process-{i}.out").open("wb") as file:
                self.started[i] = subprocess.Popen(
                    command(*self.words, *process_address), cwd=self.folder, stdout=file,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    env=environment(self.devices[i]),
                )  # fmt: skip
        return self

    def end(self, seconds: float = 120.0) -> list[Ended]:
        """Wait for all of them."""
        began = time.monotonic()
        found = []
        try:
            for process in self.started.values():
                code = process.wait(max(0.1, began + seconds - time.monotonic()))
                found.append(Ended(code, "", time.monotonic() - began))
        finally:
            self.kill()
        for ended, i in zip(found, self.started, strict=True):
            ended.output = (self.folder / f"process-{i}.out").read_text()
        return found

    def tell(self, which: int, what: signal.Signals) -> None:
        self.started[which].send_signal(what)

    def kill(self) -> None:
        for process in self.started.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def solve_alone(folder: Path, *words: object, devices: int = 1, seconds: float = 120.0) -> Ended:
    """Solve in one process."""
    began = time.monotonic()
    done = subprocess.run(
        command(*words), cwd=folder, env=environment(devices), capture_output=True, text=True,
        timeout=seconds, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def sweeps_of(output: str, said: str) -> int:
    """Return the number in such a line as ``resuming after 131 sweeps``."""
    found = re.search(rf"{said} (\d+) sweeps", output)
    assert found, output
    return int(found[1])

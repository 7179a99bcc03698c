"""A process is alive from its start to its end, also where /proc does not tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsolve.hpc.process_alive import is_alive, process_age


@pytest.fixture(params=["proc", "signal"])
def told_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "signal":

        def hidden(*_: object) -> str:
            raise FileNotFoundError

        monkeypatch.setattr(Path, "read_text", hidden)
    return str(request.param)


def test_a_process_is_alive_until_it_ends(told_by: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        assert is_alive(os.getpid())
        process.kill()
    assert not is_alive(process.pid)
    assert process_age(process.pid) == -1


def test_the_first_process_is_alive_whoever_asks(told_by: str) -> None:
    assert is_alive(1)


def test_where_nothing_tells_the_age_all_are_of_the_same(told_by: str) -> None:
    assert (process_age(os.getpid()) == 0) == (told_by == "signal" or sys.platform == "darwin")

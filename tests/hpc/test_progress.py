"""Progress: counts that add up, a rate of this run alone, few lines in a log."""

from __future__ import annotations

import io

import pytest

from dpsolve.hpc.progress import Bar, Lines, progress_for, span


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> tuple[io.StringIO, Clock, Lines]:
    stream, clock = io.StringIO(), Clock()
    return stream, clock, Lines(stream, every=5.0, clock=clock)


def texts(stream: io.StringIO) -> list[str]:
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def test_a_log_gets_few_lines_and_one_at_the_end(log: tuple[io.StringIO, Clock, Lines]) -> None:
    stream, clock, lines = log
    lines.start(total=100, done=0)
    for _ in range(98):
        clock.now += 0.125
        lines.advance(1, 0, 0)
    lines.advance(0, 1, 1)
    lines.stop()
    lines.stop()
    first, middle, _, last = texts(stream)
    assert first == "100 points"
    assert middle == "40/100 points (40%): 40 solved, 0 inexact, 0 failed; 8 points/s, 7.5 s left"
    assert last == "100/100 points (100%): 98 solved, 1 inexact, 1 failed; 8.2 points/s"


def test_earlier_points_and_compiling_do_not_count_for_the_rate(
    log: tuple[io.StringIO, Clock, Lines],
) -> None:
    stream, clock, lines = log
    lines.start(total=100, done=60)
    clock.now += 30
    lines.note("compiled in 30 s")
    clock.now += 10
    lines.advance(20, 0, 0)
    assert texts(stream) == [
        "100 points, 60 of them committed before",
        "compiled in 30 s",
        "80/100 points (80%): 20 solved, 0 inexact, 0 failed (and 60 from before); "
        "2 points/s, 10 s left",
    ]
    lines.stop()
    assert len(texts(stream)) == 3  # the end was told already


def test_a_stream_that_is_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    assert isinstance(progress_for(stream), Lines)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert isinstance(progress_for(stream), Bar)


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    bar = Bar()
    bar.start(total=10, done=2)
    bar.note("compiled [growth] in 1.0 s")
    bar.advance(5, 1, 0)
    bar.advance(0, 0, 2)
    bar.stop()
    bar.stop()
    text = capsys.readouterr().err
    assert "compiled [growth] in 1.0 s" in text
    assert "10/10" in text
    assert "5 solved" in text
    assert "2 failed" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (0.4, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (18120, "5 h 02 min"),
     (200_000, "2 d 7 h")],
)  # fmt: skip
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text

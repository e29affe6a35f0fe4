"""Three ways to show one stream of events."""

from __future__ import annotations

import io
import json
import os
import pty
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from luthier.core.errors import SystemResourceError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.render import (
    JsonLinesRenderer,
    LogFileRenderer,
    PlainRenderer,
    RichRenderer,
    choose_renderer,
    event_to_json_line,
    format_elapsed_time,
    format_event,
    format_measures,
)


def story(events: RunEventEmitter) -> None:
    """A run as it goes: found, made with progress, waited for, failed."""
    events.emit(RunEvent(kind="run", text="support", total=3, at=0))
    events.emit(RunEvent(kind="cached", step="data", text="prepare", at=1))
    events.emit(RunEvent(kind="start", step="tune", text="tune", at=2))
    events.of("tune").note("batch 8 x 4")
    for done in range(41):
        measures = {"loss": 3.0 / (done + 1)}
        events.emit(
            RunEvent(
                kind="progress", step="tune", done=done, total=40, unit="steps", at=3 + done / 4, measures=measures
            )
        )
    events.of("tune").warning("3 rows were cut")
    events.emit(RunEvent(kind="done", step="tune", text="tune", at=14, measures={"seconds": 12.0, "rows/s": 99.123}))
    events.emit(RunEvent(kind="wait", step="report", text="another process is making it", at=15))
    events.emit(RunEvent(kind="failed", step="report", text="the disk is full", at=16))
    events.emit(RunEvent(kind="end", text="support", at=17, measures={"exit": 2}))


SENTENCES = [
    "support: 3 steps",
    "data: already made (prepare)",
    "tune: batch 8 x 4",
    "tune: 3 rows were cut",
    "tune: done in 12 s (rows/s 99.12)",
    "report: another process is making it",
    "report: failed: the disk is full",
    "support: finished (exit 2)",
]


def test_plain_lines_carry_the_time_and_thin_the_progress() -> None:
    stream = io.StringIO()
    with PlainRenderer(stream) as listener:
        story(RunEventEmitter(listener))
    lines = stream.getvalue().splitlines()
    assert all(line[2] == line[5] == ":" and line[8] == " " for line in lines)
    told = [line[9:].removeprefix("warning: ") for line in lines]
    assert [line for line in told if line in SENTENCES] == SENTENCES
    progress = [line for line in told if "/40 steps" in line]
    assert [line.split("/")[0] for line in progress] == ["tune: 0", "tune: 20", "tune: 40"]
    assert progress[1] == "tune: 20/40 steps, 4 steps/s, loss 0.1429, 5.0 s left"


def test_json_lines_are_events_one_a_line() -> None:
    stream = io.StringIO()
    with JsonLinesRenderer(stream) as listener:
        story(RunEventEmitter(listener))
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(rows) == 8 + 1 + 41
    assert rows[0] == {"kind": "run", "text": "support", "total": 3}
    assert rows[-1]["measures"] == {"exit": 2}


def test_a_number_that_json_cannot_say_becomes_a_word() -> None:
    event = RunEvent(kind="progress", step="tune", done=1, measures={"loss": float("nan"), "norm": float("inf")})
    assert json.loads(event_to_json_line(event))["measures"] == {"loss": "nan", "norm": "inf"}


def test_a_line_of_words_stays_one_line() -> None:
    assert event_to_json_line(RunEvent(kind="note", text="two\nlines")).count("\n") == 1


def test_the_live_line_shows_the_work_and_sentences_stay_above() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=110, color_system=None)
    events = RunEventEmitter(RichRenderer(stream, console=console))
    story(events)
    text = stream.getvalue()
    for wanted in SENTENCES:
        assert wanted in text
    assert "\x1b[2K" in text, "the live line is taken away"
    assert text.rstrip().endswith("support: finished (exit 2)\x1b[?25h") or "\x1b[?25h" in text, "the cursor is back"


def test_the_live_line_names_step_counts_rate_measures_and_time_left() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=110, color_system=None)
    with RichRenderer(stream, console=console) as listener:
        for second in range(3):
            event = RunEvent(kind="progress", step="tune", done=10.0 * second, total=80, unit="rows", at=second)
            listener(replace(event, measures={"loss": 0.5}))
    assert "20/80 rows, 10 rows/s, loss 0.5, 6.0 s left" in stream.getvalue()


def test_children_of_a_step_are_live_lines_alone_unless_they_fail() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=110, color_system=None)
    with RichRenderer(stream, console=console) as listener:
        for kind in ("done", "cached", "note"):
            listener(RunEvent(kind=kind, step="best.3-tune", text="of a child"))
        assert "of a child" not in stream.getvalue()
        listener(RunEvent(kind="start", step="best.3-tune", text="under way"))
        listener(RunEvent(kind="failed", step="best.3-tune", text="it diverged"))
        listener(RunEvent(kind="note", step="best", text="of its driver"))
    assert "best.3-tune: failed: it diverged" in stream.getvalue()
    assert "best: of its driver" in stream.getvalue()


def test_markup_in_a_users_text_is_text() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=110, color_system=None)
    with RichRenderer(stream, console=console) as listener:
        listener(RunEvent(kind="note", step="data", text="dropped [/red] and [bold]"))
        listener(RunEvent(kind="progress", step="[/x]", done=1, total=2, unit="[b]"))
    assert "dropped [/red] and [bold]" in stream.getvalue()


def test_a_terminal_gets_the_live_line_and_a_pipe_plain_lines() -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w") as terminal, choose_renderer(terminal) as listener:
        assert isinstance(listener, RichRenderer)
    os.close(main)
    assert isinstance(choose_renderer(io.StringIO()), PlainRenderer)
    assert isinstance(choose_renderer(io.StringIO(), json=True), JsonLinesRenderer)


def test_a_log_outlives_the_terminal_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "log.jsonl"
    for _ in range(2):
        with LogFileRenderer(path) as listener:
            story(RunEventEmitter(listener, JsonLinesRenderer(io.StringIO())))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 2 * (8 + 1 + 41)


def test_a_log_on_a_full_disk_is_one_clear_error(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    listener = LogFileRenderer(small_disk / "log.jsonl")
    with pytest.raises(SystemResourceError, match="disk is full"):
        story(RunEventEmitter(*[listener] * 50))
    listener.close()


def test_events_reach_every_listener_in_order() -> None:
    heard: list[tuple[str, str]] = []
    events = RunEventEmitter(
        lambda event: heard.append(("a", event.kind)), lambda event: heard.append(("b", event.kind))
    )
    events.of("data").progress(1, 2, "rows")
    events.of("data").note("x")
    assert heard == [("a", "progress"), ("b", "progress"), ("a", "note"), ("b", "note")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (185, "3:05"), (7385, "2:03:05"), (3599.7, "1:00:00")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert format_elapsed_time(seconds) == said


def test_measures_and_odd_events_have_sentences() -> None:
    assert format_measures({"step": 12345, "loss": 1.23456, "device": "cpu"}) == "step 12345, loss 1.235, device cpu"
    assert format_event(RunEvent(kind="run", text="x", total=1)) == "x: 1 step"
    assert format_event(RunEvent(kind="failed", step="tune")) == "tune: failed"
    assert format_event(RunEvent(kind="end", text="x")) == "x: finished"
    assert format_event(RunEvent(kind="done", step="tune", text="tune")) == "tune: done"
    assert format_event(RunEvent(kind="progress", step="tune")) == ""

"""Listeners that show a run's events: a live line on a terminal, time-stamped lines in a log, JSON lines for programs.

>>> with choose(sys.stderr, json=False) as listener:   # doctest: +SKIP
...     recipe.run(events=Events(listener))
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from luthier.core.events import RunEvent, ThroughputMeter
from luthier.core.files import translate_write_errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_THIN_S = 5.0
"""In plain lines, progress is told this often."""


class ProgressRenderer(Protocol):
    """A listener that may hold the terminal or a file, so that it is closed at the end."""

    def __call__(self, event: RunEvent) -> None:
        """Show one event."""

    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def choose_renderer(stream: IO[str] | None = None, *, json: bool = False) -> ProgressRenderer:
    """JSON lines when asked for, a live line on a terminal, else plain lines; to stderr unless a stream is given."""
    to = sys.stderr if stream is None else stream
    if json:
        return JsonLinesRenderer(to)
    return RichRenderer(to) if to.isatty() else PlainRenderer(to)


def format_event(event: RunEvent) -> str:
    """What happened, as one line for a person; empty for progress."""
    say = _SAYINGS.get(event.kind)
    text = say(event) if say else event.text
    return f"{event.step}: {text}" if event.step and text else text


def _format_begin(event: RunEvent) -> str:
    return f"{event.text}: {event.total:g} {'step' if event.total == 1 else 'steps'}"


def _format_done(event: RunEvent) -> str:
    took = event.measures.get("seconds")
    after = f" in {format_elapsed_time(took)}" if isinstance(took, (int, float)) else ""
    rest = {name: value for name, value in event.measures.items() if name != "seconds"}
    return _join_details(f"done{after}", event, format_measures(rest))


def _format_end(event: RunEvent) -> str:
    code = event.measures.get("exit", 0)
    return f"{event.text}: finished" + (f" (exit {code:g})" if isinstance(code, (int, float)) and code else "")


def _join_details(what: str, event: RunEvent, *details: str) -> str:
    """A sentence with details in brackets; a step that is called like its kind does not say so twice."""
    inside = ", ".join(detail for detail in (event.text, *details) if detail and detail != event.step)
    return f"{what} ({inside})" if inside else what


_SAYINGS: dict[str, Callable[[RunEvent], str]] = {
    "run": _format_begin,
    "start": lambda event: _join_details("started", event),
    "cached": lambda event: _join_details("already made", event),
    "done": _format_done,
    "failed": lambda event: f"failed: {event.text}" if event.text else "failed",
    "end": _format_end,
    "progress": lambda event: "",
}


def format_measures(measures: Mapping[str, float | str]) -> str:
    """Measures in a line: `loss 1.234, rows/s 820`."""
    shown = (
        f"{name} {format(value, '.4g') if isinstance(value, float) else value}" for name, value in measures.items()
    )
    return ", ".join(shown)


def format_elapsed_time(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3:05`, `2:03:05`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def format_progress(event: RunEvent, pace: ThroughputMeter) -> str:
    """A progress event in a line: `120/480 rows, 35 rows/s, loss 1.2, 0:10 left`."""
    of = f"/{_count(event.total)}" if event.total else ""
    parts = [f"{_count(event.done)}{of} {event.unit}".strip()]
    if pace.rate:
        parts.append(f"{pace.rate:.3g} {event.unit}/s")
    parts += [format_measures(event.measures)] if event.measures else []
    left = pace.left(event.total) if event.total else None
    parts += [f"{format_elapsed_time(left)} left"] if left else []
    return ", ".join(parts)


class PlainRenderer(ProgressRenderer):
    """Time-stamped lines; progress is thinned to its beginning, its end and one line every five seconds."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._paces: dict[str, ThroughputMeter] = {}
        self._told: dict[str, float] = {}

    def __call__(self, event: RunEvent) -> None:
        """Write the event's line, if it is worth one."""
        if event.kind == "progress":
            line = self._progress(event)
        else:
            mark = "warning: " if event.kind == "warning" else ""
            line = mark + format_event(event)
        if line:
            clock = time.strftime("%H:%M:%S", time.localtime(event.at))
            self._stream.write(f"{clock} {line}\n")
            self._stream.flush()

    def _progress(self, event: RunEvent) -> str:
        pace = self._paces.setdefault(event.step, ThroughputMeter())
        pace.mark(event.at, event.done)
        first_or_last = event.done in (0, event.total)
        if not first_or_last and event.at - self._told.get(event.step, float("-inf")) < _THIN_S:
            return ""
        self._told[event.step] = event.at
        return f"{event.step}: {format_progress(event, pace)}"

    def close(self) -> None:
        """Nothing is held."""


class JsonLinesRenderer(ProgressRenderer):
    """One JSON object a line, every event of it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, event: RunEvent) -> None:
        """Write the event."""
        self._stream.write(event_to_json_line(event))
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held."""


class LogFileRenderer(ProgressRenderer):
    """Appends JSON lines to a file, whole lines at a time: the log of a run that outlives its terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)

    def __call__(self, event: RunEvent) -> None:
        """Append the event in one write, so that lines of two processes do not mix."""
        line = event_to_json_line(event).encode()
        with translate_write_errors(self.path):
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "only a part of the line was written")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def event_to_json_line(event: RunEvent) -> str:
    """The event as one line of strict JSON; a number that JSON cannot say (NaN, infinity) becomes a word."""
    return json.dumps(_to_json(event.as_json()), ensure_ascii=False, allow_nan=False) + "\n"


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and value - value != 0 else value


class RichRenderer(ProgressRenderer):
    """A live line for each step at work; what is finished stands above it in plain sentences."""

    def __init__(self, stream: IO[str], *, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(file=stream)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, ThroughputMeter] = {}

    def __call__(self, event: RunEvent) -> None:
        """Move the live line, or print a sentence above it."""
        if event.kind in ("start", "progress", "wait"):
            self._update_task(event)
        if event.kind in ("done", "failed", "cached"):
            self._remove_task(event.step)
        if event.kind not in ("start", "progress") and not _is_minor(event):
            self._print_message(event)
        if event.kind == "end":
            self.close()

    def close(self) -> None:
        """Take the live line away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}

    def _print_message(self, event: RunEvent) -> None:
        from rich.text import Text

        mark, style = _MARKS.get(event.kind, ("", ""))
        line = Text(f"{mark} " if mark else "", style=style) + Text(
            format_event(event), style=_TONES.get(event.kind, "")
        )
        self._console.print(line, soft_wrap=True)

    def _update_task(self, event: RunEvent) -> None:
        progress = self._get_progress()
        task = self._tasks.get(event.step)
        if task is None:
            task = progress.add_task(event.step, total=None, note=event.text)
            self._tasks[event.step] = task
        if event.kind == "progress":
            pace = self._paces.setdefault(event.step, ThroughputMeter())
            pace.mark(event.at, event.done)
            total = event.total or None
            progress.update(task, completed=event.done, total=total, note=format_progress(event, pace))

    def _remove_task(self, step: str) -> None:
        task = self._tasks.pop(step, None)
        self._paces.pop(step, None)
        if task is not None and self._progress is not None:
            self._progress.remove_task(task)
        if not self._tasks:
            self.close()

    def _get_progress(self) -> Progress:
        if self._progress is None:
            self._progress = _columns(self._console)
            self._progress.start()
        return self._progress


def _is_minor(event: RunEvent) -> bool:
    """Whether it is of a child of a step that drives others, which tells of its children itself, unless one fails."""
    return "." in event.step and event.kind not in ("failed", "warning")


_MARKS = {
    "done": ("✓", "green"),
    "cached": ("=", "dim"),
    "failed": ("✗", "red"),
    "warning": ("!", "yellow"),
    "note": ("·", "dim"),
    "wait": ("…", "dim"),
}
_TONES = {"cached": "dim", "failed": "red", "note": "dim", "wait": "dim"}


def _columns(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        TextColumn(
            "{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        expand=True,
    )

"""Watching a project's released models: counts of traffic, requests one by one, and signals, which a process of its own
computes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.commands.projects.command_process import CommandProcess
from luthier.commands.projects.workspace import save_recipe
from luthier.core.errors import DataError, InputError, LuthierError, SourceLocation
from luthier.core.files import write_atomically
from luthier.metrics.intervals import wilson_interval
from luthier.recipe.edit import set_value
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import read_yaml
from luthier.traces.retention import has_traffic, traffic_folder

if TYPE_CHECKING:
    from luthier.traces.store import TraceWithFeedback

PERIODS: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
"""How far back a page looks."""
_FIRST_MONITOR = {
    "signals": ["latency", "error_rate", "throughput"],
    "alerts": [
        {"expr": "latency.p95 > 2 over 10m", "for": "5m"},
        {"expr": "error_rate > 5% over 5m", "min_events": 20},
    ],
    "channels": ["log"],
}
_EVERY: Mapping[str, str] = {"1h": "5m", "1d": "30m", "7d": "3h", "30d": "12h"}
_FRESH_S = 60.0
_PAGE = 50
_RESULT, _OUTPUT = "result.json", "output"


class TrafficPoint(NamedTuple):
    """Traffic of one stretch of time."""

    at: float
    requests: int
    errors: int
    error_share: tuple[float, float, float]
    """With its 95 % interval (Wilson's)."""
    latency_p50: float | None
    latency_p95: float | None
    tokens: float


def find_traffic(workspace: Workspace, file: Path) -> Path | None:
    """Where a project's traffic is kept; None where none is."""
    folder = traffic_folder(workspace.with_folder(file.parent).folder)
    return folder if has_traffic(folder) else None


def read_traffic_points(folder: Path, period: str) -> list[TrafficPoint]:
    """Counts of the traffic of a period, stretch by stretch."""
    from luthier.traces.store import read_dashboard_series

    rows = read_dashboard_series(folder, datetime.now(UTC) - PERIODS[period], every=_EVERY[period], by=())
    return [
        TrafficPoint(
            row["timestamp"].timestamp(), row["requests"], row["errors"],
            (row["errors"] / row["requests"], *wilson_interval(row["errors"], row["requests"])),
            row["latency_s.p50"], row["latency_s.p95"], row["completion_tokens"] or 0.0,
        )
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RequestFilter:
    """Which requests are listed."""

    search: str = ""
    """Words of the answer."""
    where: str = ""
    """A condition, as `luthier traces list --where` takes it."""
    before: str = ""
    """Only those that came before a moment: how the next page begins."""

    @property
    def condition(self) -> str:
        """Both as one condition; empty where all are meant."""
        mark = "'" if '"' in self.search else '"'
        looked = self.search.replace(mark, " ")[:200] if self.search.strip() else ""
        parts = [f"({self.where})"] if self.where.strip() else []
        return " and ".join([*parts, *([f"text contains {mark}{looked}{mark}"] if looked else [])])


class RequestPage(NamedTuple):
    """Some requests, the latest first."""

    entries: Sequence[TraceWithFeedback]
    before: str
    """Where the next page begins; empty where there is none."""


def list_requests(folder: Path, chosen: RequestFilter) -> RequestPage:
    """The latest requests that are meant; `InputError` says what is wrong with a condition."""
    from luthier.traces.filter import TraceFilter
    from luthier.traces.store import read_latest_traces

    until = None
    if chosen.before:
        try:
            until = datetime.fromisoformat(chosen.before)
        except ValueError as error:
            raise InputError("the address is not as expected", hint="load the page again") from error
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
    if chosen.where.strip():
        TraceFilter(chosen.where)  # so that a mistake is told at its own column
    where = TraceFilter(chosen.condition) if chosen.condition else None
    with_feedbacks = read_latest_traces(folder, _PAGE + 1, None, until, where)[::-1]
    more = len(with_feedbacks) > _PAGE
    shown = with_feedbacks[:_PAGE]
    return RequestPage(shown, shown[-1].trace.timestamp.isoformat() if more else "")


class SignalReading(NamedTuple):
    """The last computed values of signals."""

    result: Mapping[str, Any] | None
    """As `luthier monitor history --json` prints it; None before the first time."""
    at: datetime | None
    """When it was computed."""
    is_computing: bool
    error: LuthierError | None
    """Why the last try failed."""

    @property
    def version(self) -> str:
        """Changes when there is something new to show."""
        state = "computing" if self.is_computing and self.result is None else ""
        return f"{'' if self.at is None else self.at.timestamp()}|{state}|{self.error.message if self.error else ''}"[
            :300
        ]


def find_monitor_steps(file: Path) -> list[str]:
    """The steps of kind `monitor` of a recipe; none where it cannot be read."""
    try:
        steps = read_yaml(file).data.get("steps")
    except LuthierError:
        return []
    found = steps.items() if isinstance(steps, dict) else ()
    return [str(name) for name, step in found if isinstance(step, dict) and step.get("kind") == "monitor"]


def add_monitor(workspace: Workspace, file: Path) -> None:
    """Write a step of kind `monitor` into a recipe, over its data and its evaluation; `InputError` where it has not
    both, or has one already."""
    steps = read_yaml(file).data.get("steps") or {}
    kinds = {str(entry.get("kind")): str(name) for name, entry in reversed(steps.items()) if isinstance(entry, dict)}
    if "monitor" in kinds or "monitor" in steps:
        raise InputError("the recipe has a step monitor already", hint="change it on the page Recipe")
    if not {"prepare", "evaluate"} <= kinds.keys():
        hint = "add steps of kind prepare and evaluate first"
        raise InputError("a monitor holds traffic against data and an evaluation, which this recipe has not", hint=hint)
    step = {"kind": "monitor", "data": kinds["prepare"], "evaluation": kinds["evaluate"], **_FIRST_MONITOR}
    text = set_value(file.read_text(encoding="utf-8"), str(file), ("steps", "monitor"), step)
    save_recipe(workspace, file, text)


class SignalReader:
    """Computes the signals of one project in a process of its own, and keeps what came of it."""

    def __init__(self, workspace: Workspace, file: Path, folder: Path) -> None:
        self._workspace, self._file, self._folder = workspace, file, folder
        self._errors: dict[str, LuthierError] = {}
        self._tried: dict[str, float] = {}
        self._processes: dict[str, CommandProcess] = {}

    def words(self, period: str) -> list[str]:
        """The command that computes them."""
        step = next(iter(find_monitor_steps(self._file)), "monitor")
        return ["monitor", "history", f"{self._workspace.shorten(self._file)}:{step}", "--since", period]

    def read(self, period: str) -> SignalReading:
        """What is known now; where that is old, it is computed anew meanwhile."""
        process = self._processes.setdefault(period, CommandProcess(self._folder / period))
        if process.words and not process.is_running:
            self._take(period, process)
        result, at = self._kept(period)
        is_old = at is None or (datetime.now(UTC) - at).total_seconds() > _FRESH_S
        is_old = is_old and bool(find_monitor_steps(self._file))
        if is_old and not process.is_running and time.monotonic() - self._tried.get(period, -_FRESH_S) >= _FRESH_S:
            self._tried[period] = time.monotonic()
            process.start(self._workspace, [*self.words(period), "--json"])
        return SignalReading(result, at, process.is_running, self._errors.get(period))

    def _take(self, period: str, process: CommandProcess) -> None:
        """Keep what a process that is over has printed."""
        try:
            output = json.loads((process.folder / _OUTPUT).read_bytes())
        except (OSError, ValueError):
            output = {}
        process_said = process.message
        process.stop()
        if "numbers" in output:
            write_atomically(process.folder / _RESULT, json.dumps(output).encode())
            self._errors.pop(period, None)
            return
        problem = output.get("error", {})
        message, hint = problem.get("message") or process_said, problem.get("hint")
        self._errors[period] = DataError(str(message), where=SourceLocation(), hint=hint and str(hint))

    def _kept(self, period: str) -> tuple[Mapping[str, Any] | None, datetime | None]:
        path = self._folder / period / _RESULT
        try:
            return json.loads(path.read_bytes()), datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except (OSError, ValueError):
            return None, None


class MonitorRunner:
    """`luthier monitor run` of one project, which tells its channels of alerts and goes on when the studio ends."""

    def __init__(self, workspace: Workspace, file: Path, folder: Path) -> None:
        self._workspace, self._file = workspace, file
        self._process = CommandProcess(folder)

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self._process.is_running

    @property
    def message(self) -> str:
        """What it said last, where it ended by itself; empty else."""
        return self._process.message if self._process.words and not self.is_running else ""

    def words(self) -> list[str]:
        """The command."""
        step = next(iter(find_monitor_steps(self._file)), "monitor")
        return ["monitor", "run", f"{self._workspace.shorten(self._file)}:{step}"]

    def start(self) -> None:
        """Begin; nothing happens where it goes on already."""
        if not self.is_running:
            self._process.start(self._workspace, self.words())

    def stop(self) -> None:
        """End it."""
        self._process.stop()

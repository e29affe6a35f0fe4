"""Watching from the command line: a recipe's monitor over a log, over live traffic, for Prometheus."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.context import RunContext
from luthier.core.errors import DataError, InputError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.events import StepEventEmitter
from luthier.federated.steps.monitor_sites import MonitorSites
from luthier.monitor.alerts import AlertMessage, AlertState
from luthier.monitor.channel import Channel, DeliveryError
from luthier.monitor.plan import AlertRule, MonitorPlan, read_plan
from luthier.monitor.steps.monitor import Monitor
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.planner import RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.retention import traffic_folder

if TYPE_CHECKING:
    from luthier.monitor.evaluator import AlertEvaluator
    from luthier.monitor.manager import AlertManager

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RecipeMonitor:
    """A monitor with its plan, its alert channels and the folders in which it works."""

    plan: MonitorPlan
    channels: Sequence[Channel]
    history_s: float
    recipe_dir: Path
    kept: Path
    """The folder in which it remembers where it stands."""
    sites: MonitorSites | None = None
    """Sites that count the requests, if they are remote."""
    digest: str = ""
    """Digest of the step's artifact."""

    @property
    def traffic(self) -> Path:
        """Folder of the recipe's traffic."""
        return traffic_folder(self.recipe_dir)

    def evaluator(self, say: Say) -> AlertEvaluator:
        """The monitor at its beginning."""
        from luthier.monitor.evaluator import AlertEvaluator

        context = RunContext(
            recipe_dir=self.recipe_dir, kept=self.kept, events=StepEventEmitter.saying(say), seed=self.plan.seed
        )
        if self.sites is not None:
            from luthier.federated.analytics.watch import SiteAlertEvaluator, SiteMonitoring

            monitoring = SiteMonitoring(
                step=self.sites, digest=self.digest, recipe_dir=self.recipe_dir, kept=self.kept, say=say
            )
            return SiteAlertEvaluator(self.plan, context, monitoring)
        return AlertEvaluator(self.plan, context)


def open_monitor(workspace: Workspace, word: str | None = None) -> RecipeMonitor:
    """The monitor of a recipe: `RECIPE:STEP`, or the only step of its kind in the recipe that is named or here."""
    artifact_ref = find_artifact(
        CommandTarget(workspace, word if word and ":" in word else _only_monitor(workspace, word))
    )
    if artifact_ref.artifact.manifest.makes != "monitor":
        what = f"expected a step of kind `monitor`, got one that makes a {artifact_ref.artifact.manifest.makes}"
        raise RecipeError(what, where=SourceLocation(field=word), hint="add a step {kind: monitor, …} to the recipe")
    assert artifact_ref.plan is not None, "a monitor is found through its recipe"
    return _opened(artifact_ref.plan, str(artifact_ref.step))


def find_recipe_monitor(recipe: Recipe) -> RecipeMonitor | None:
    """The monitor of a recipe that was run, with its overrides; None where it has none, or more than one."""
    steps = [name for name, step in recipe.all_steps().items() if isinstance(step, Monitor)]
    return _opened(build_recipe_plan(recipe, costs_of=()), steps[0]) if len(steps) == 1 else None


def _opened(what: RecipePlan, name: str) -> RecipeMonitor:
    steps = what.recipe.all_steps()
    step = steps[name]
    sites = step if isinstance(step, MonitorSites) else None
    if sites is not None:
        step = steps[sites.monitor]
    assert isinstance(step, Monitor), "what makes a monitor is one"
    artifact = what.artifact(name)
    return RecipeMonitor(
        plan=read_plan(artifact, what.recipe.name),
        sites=sites,
        digest=artifact.digest,
        channels=step.channels,
        history_s=step.lookback,
        recipe_dir=what.recipe.recipe_dir,
        kept=what.recipe.workspace.open_store().root / "monitor" / f"{what.recipe.name}.{name}",
    )


def _only_monitor(workspace: Workspace, word: str | None) -> str:
    """The only step of its kind in a recipe, as `RECIPE:STEP`; with one that watches sites, either may be meant."""
    file = workspace.find_recipe(word or None)
    steps = [name for name, step in Recipe.load(file).all_steps().items() if isinstance(step, Monitor | MonitorSites)]
    if len(steps) == 1:
        return f"{file}:{steps[0]}"
    what = f"{len(steps)} steps that watch: {', '.join(steps)}" if steps else "no step of kind `monitor`"
    names = " or ".join(f"{file}:{step}" for step in steps)
    hint = f"name one: {names}" if steps else "add one: monitor: {kind: monitor, alerts: […]}"
    raise RecipeError(what, where=SourceLocation(file=str(file)), hint=hint)


@dataclass(frozen=True, kw_only=True)
class MonitorReplay:
    """The alert messages that a monitor would have sent over a past log, with counts of events and the time range."""

    messages: Sequence[AlertMessage]
    requests: int
    unjoined: int
    started_at: datetime | None
    ended: datetime | None
    firing: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of `--json`."""
        messages = [message.model_dump(mode="json") for message in self.messages]
        ends = [None if at is None else at.isoformat() for at in (self.started_at, self.ended)]
        counts = {"events": self.requests, "unjoined": self.unjoined, "from": ends[0], "to": ends[1]}
        return {**counts, "firing": list(self.firing), "messages": messages}


def replay_alerts(
    opened: RecipeMonitor,
    log: Path | None,
    since: datetime | None = None,
    until: datetime | None = None,
    say: Say = print,
) -> MonitorReplay:
    """Run the alerts over a past log (a traffic folder or JSON lines; the recipe's own traffic by default)."""
    from luthier.traces.stream import iter_trace_events

    _refuse_sites(opened)
    evaluator = opened.evaluator(say)
    messages: list[AlertMessage] = []
    started_at = ended = None
    for event in iter_trace_events(log or opened.traffic, since, until):
        for at in evaluator.looks(event.timestamp.timestamp()):
            messages += evaluator.look(at)
        evaluator.add(event)
        started_at, ended = started_at or event.timestamp, event.timestamp
    if ended is not None:
        for at in evaluator.looks(ended.timestamp() + evaluator.plan.every_s):
            messages += evaluator.look(at)
    firing = [name for name, state in evaluator.states.items() if state.status == "firing"]
    return MonitorReplay(
        messages=messages,
        requests=evaluator.events_seen,
        unjoined=evaluator.unjoined,
        started_at=started_at,
        ended=ended,
        firing=firing,
    )


_POINTS = 48
"""Moments at which the numbers of a past are read."""


def describe_monitor_history(
    opened: RecipeMonitor, log: Path | None, since: datetime | None, until: datetime | None, say: Say
) -> dict[str, Any]:
    """Return every number over a past period, with its interval; the alerts that would have fired, and their state at
    its end.
    """
    from luthier.traces.stream import iter_trace_events

    _refuse_sites(opened)
    folder, end = log or opened.traffic, (until or datetime.now(UTC)).timestamp()
    if not folder.exists():
        raise _no_traffic(folder)
    evaluator = opened.evaluator(say)
    first = next(iter(iter_trace_events(folder, since, until)), None)
    begin = end if first is None else first.timestamp.timestamp()
    moments = deque(begin + (end - begin) * (at + 1) / _POINTS for at in range(_POINTS) if first is not None)
    messages: list[AlertMessage] = []
    points: dict[tuple[str, str], list[list[float]]] = {}

    def advance(now: float) -> None:
        while moments and moments[0] <= now:
            at = moments.popleft()
            for due in evaluator.looks(at):
                messages.extend(evaluator.look(due))
            for number, spec, value in evaluator.readings(at):
                points.setdefault((number, str(spec)), []).append([at, *value])
        for due in evaluator.looks(now):
            messages.extend(evaluator.look(due))

    for event in iter_trace_events(folder, since, until):
        advance(event.timestamp.timestamp())
        evaluator.add(event)
    advance(end)
    return {
        "monitor": opened.plan.name,
        "from": None if first is None else datetime.fromtimestamp(begin, UTC).isoformat(),
        "to": datetime.fromtimestamp(end, UTC).isoformat(),
        "events": evaluator.events_seen,
        "unjoined": evaluator.unjoined,
        "numbers": [_number(opened.plan, number, spec, found) for (number, spec), found in points.items()],
        "alerts": [_alert(rule, evaluator.states[rule.name]) for rule in opened.plan.rules],
        "messages": [message.model_dump(mode="json") for message in messages],
    }


def _number(plan: MonitorPlan, number: str, spec: str, points: list[list[float]]) -> dict[str, Any]:
    limits = [
        {"alert": rule.name, "limit": rule.limit}
        for rule in plan.rules
        if rule.when.name == number and str(rule.when.window) == spec
    ]
    finite = [point for point in points if all(map(math.isfinite, point))]
    return {"number": number, "window": spec, "report": plan.report.get(number), "limits": limits, "points": finite}


def _alert(rule: AlertRule, state: AlertState) -> dict[str, Any]:
    since = None if state.active_at is None else datetime.fromtimestamp(state.active_at, UTC).isoformat()
    facts = {"alert": rule.name, "when": rule.alert.expr, "for": rule.alert.hold, "clear": rule.alert.clear}
    return {**facts, "severity": rule.alert.severity, "limit": rule.limit, "state": state.status, "since": since}


def send_test_message(opened: RecipeMonitor, kind: str | None = None) -> Iterator[tuple[str, str]]:
    """Send a test message to each channel, or to those of a kind: the kind, and what came of it."""
    known = [channel.kind for channel in opened.channels]
    if kind is not None and kind not in known:
        raise UnknownName(
            f"no channel is of kind {kind!r}", where=SourceLocation(field="--channel"), hint=did_you_mean(kind, known)
        )
    now = datetime.now(UTC)
    message = AlertMessage(
        id=f"test-{time.time_ns():x}",
        tells="test",
        monitor=opened.plan.name,
        alert="test",
        severity="info",
        at=now,
        since=now,
        when="this is a test; nothing is wrong",
        number="test",
        value=0.0,
        limit=1.0,
        act="nothing",
    )
    for channel in opened.channels:
        if kind in (None, channel.kind):
            try:
                channel.send(message, RunContext(recipe_dir=opened.recipe_dir))
            except DeliveryError as error:
                yield channel.kind, f"not sent: {error}"
            else:
                yield channel.kind, "sent"


def write_prometheus_files(opened: RecipeMonitor, to: Path) -> list[Path]:
    """Write a monitor's Prometheus alert rules (`rules.yaml`) and Grafana dashboard (`dashboard.json`) into a
    folder."""
    import json

    import yaml

    from luthier.core.files import write_atomically
    from luthier.monitor.prometheus import render_grafana_dashboard, render_prometheus_rules

    head = f"# The alerts of {opened.plan.name}, over what `luthier monitor run --port` exposes.\n"
    text = head + yaml.safe_dump(render_prometheus_rules(opened.plan), sort_keys=False, allow_unicode=True, width=110)
    files = {"rules.yaml": text, "dashboard.json": json.dumps(render_grafana_dashboard(opened.plan), indent=1) + "\n"}
    for name, content in files.items():
        write_atomically(to / name, content.encode(), "name another folder (`--to`)")
    return [to / name for name in files]


def open_alert_manager(opened: RecipeMonitor, say: Say) -> AlertManager:
    """The monitor with its channels and its memory."""
    from luthier.monitor.manager import AlertManager

    alert_manager = AlertManager(
        opened.evaluator(say),
        opened.channels,
        RunContext(recipe_dir=opened.recipe_dir),
        opened.kept / "state.json",
        say,
    )
    alert_manager.recall()
    return alert_manager


class AlertEvaluation(NamedTuple):
    """The messages of one evaluation of all alerts, and the alerts that fire now."""

    messages: Sequence[AlertMessage]
    firing: Mapping[str, float]
    """The alerts that fire now, and since when each one's condition holds (seconds since 1970)."""


def watch_traffic(
    opened: RecipeMonitor,
    folder: Path | None,
    *,
    say: Say,
    port: int | None = None,
    once: bool = False,
    since: datetime | None = None,
) -> Iterator[AlertEvaluation]:
    """Watch a traffic folder until stopped, look by look; goes on where it was when it is started again.

    What is told is sent to the channels, and yielded. Nothing before `since` is looked at. One process watches at a
    time: two would tell everything twice.
    """
    with _alone(opened):
        yield from _looks(opened, folder, say, port, since, once=once)


@contextmanager
def _alone(opened: RecipeMonitor) -> Iterator[None]:
    """Hold the monitor; `InputError` when another process does."""
    from filelock import FileLock, Timeout

    lock = FileLock(opened.kept / "lock")
    opened.kept.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        what = f"{opened.plan.name} is watched by another process already"
        raise InputError(what, where=SourceLocation(file=str(opened.kept)), hint="stop that one first") from None
    try:
        yield
    finally:
        lock.release()


def _looks(
    opened: RecipeMonitor, folder: Path | None, say: Say, port: int | None, since: datetime | None, *, once: bool
) -> Iterator[AlertEvaluation]:
    from luthier.monitor.evaluator import EventFollower

    if opened.sites is not None:
        yield from _site_looks(opened, say, port, once=once)
        return
    working = open_alert_manager(opened, say)
    every = opened.plan.every_s
    if working.looked is None:
        working.looked = time.time() // every * every
        working.evaluator.begin_after(
            working.looked - every
        )  # it was never looked at: the first look is at this minute
        working.remember()
    begin = datetime.fromtimestamp(working.looked - opened.history_s, UTC)
    following = EventFollower(folder or opened.traffic, max(begin, since or begin))
    exposed = _exposed(working, port)
    working.send()
    while True:
        now = time.time()
        messages = [*working.take(following.fresh(datetime.fromtimestamp(now, UTC))), *working.advance(now)]
        yield _end_look(working, exposed, messages, now)
        if once:
            return
        time.sleep(max(0.05, every - time.time() % every))


def _end_look(working: AlertManager, exposed: Any, messages: Sequence[AlertMessage], now: float) -> AlertEvaluation:
    """Keep the states of alerts, show them to who scrapes them, and send what is due."""
    working.remember()
    if exposed is not None:
        exposed.take(now)
    working.send()
    states = working.evaluator.states.items()
    return AlertEvaluation(
        messages, {name: state.active_at or 0.0 for name, state in states if state.status == "firing"}
    )


def _site_looks(opened: RecipeMonitor, say: Say, port: int | None, *, once: bool) -> Iterator[AlertEvaluation]:
    """Ask sites for each window once it is over and what was late is written."""
    from luthier.monitor.evaluator import LATE

    working, window = open_alert_manager(opened, say), opened.plan.every_s
    if working.looked is None:
        working.looked = (time.time() - LATE.total_seconds()) // window * window - window
        working.evaluator.begin_after(working.looked)
    exposed = _exposed(working, port)
    working.send()
    while True:
        now = time.time() - LATE.total_seconds()
        messages = working.advance(now)
        yield _end_look(working, exposed, messages, now)
        if once:
            return
        time.sleep(max(0.05, window - now % window))


def _exposed(working: AlertManager, port: int | None) -> Any:
    """Numbers for Prometheus on this machine alone: nothing is shown beyond loopback without a key."""
    if port is None:
        return None
    from luthier.monitor.prometheus import MonitorCollector, serve_prometheus_metrics

    exposed = MonitorCollector(working.evaluator)
    try:
        serve_prometheus_metrics(exposed, "127.0.0.1", port)
    except OSError as error:
        what = f"cannot listen on port {port}: {error.strerror}"
        raise InputError(what, where=SourceLocation(field="--port"), hint="choose another port") from None
    return exposed


def describe_monitor_state(opened: RecipeMonitor, log: Path | None, say: Say) -> dict[str, Any]:
    """Every number as of now, and every alert's state as it was last looked at."""
    from luthier.traces.stream import iter_trace_events

    evaluator = opened.evaluator(say)
    if opened.sites is not None:
        at = float(getattr(evaluator, "last_window", None) or time.time())
    else:
        since = datetime.now(UTC) - timedelta(seconds=opened.history_s) if log is None else None
        last = None
        folder = log or opened.traffic
        if not folder.exists():
            raise _no_traffic(folder)
        for event in iter_trace_events(folder, since):
            evaluator.add(event)
            last = event.timestamp.timestamp()
        at = time.time() if log is None else (last or 0.0) + 1
    numbers = [
        {"number": number, "window": str(spec), **reading._asdict()} for number, spec, reading in evaluator.readings(at)
    ]
    states = open_alert_manager(opened, say).evaluator.states
    alerts = [
        {"alert": rule.name, "when": rule.alert.expr, "limit": rule.limit, "state": states[rule.name].status}
        for rule in opened.plan.rules
    ]
    return {"events": evaluator.events_seen, "numbers": numbers, "alerts": alerts}


def _refuse_sites(opened: RecipeMonitor) -> None:
    """Raise `InputError` where requests are at sites, which count each window once."""
    if opened.sites is not None:
        hint = "replay the step `monitor` at a site; `luthier monitor show` has the last counts of all"
        raise InputError("requests lie at the sites, and no log of them is here", hint=hint)


def _no_traffic(folder: Path) -> DataError:
    hint = "serve with traces, import a log, or name one with --log"
    return DataError("there is no traffic yet", where=SourceLocation(file=str(folder)), hint=hint)

"""Evaluates alerts on what sites count of their requests, window by window."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.context import RunContext
from luthier.core.errors import LuthierError
from luthier.core.expressions import Window
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.data.check import RowNames
from luthier.federated.analytics.channel import open_query_channel
from luthier.federated.analytics.run import CountSettings, QueryRun, SiteCounts, find_count_noise
from luthier.federated.queries.monitor import MonitorQuery
from luthier.metrics.counts import Counts, add_counts
from luthier.monitor.alerts import AlertMessage, AlertState, Tells, WorstTrafficSlice
from luthier.monitor.evaluator import AlertEvaluator
from luthier.monitor.plan import AlertRule, MonitorPlan
from luthier.monitor.signal import Signal, SignalValue

if TYPE_CHECKING:
    from luthier.federated.steps.monitor_sites import MonitorSites

KEPT_WINDOWS = 1000
"""Number of windows whose counts are kept."""
FEWEST = 10
"""Events of a site below which it is not named as the worst."""


@dataclass(frozen=True, kw_only=True)
class SiteMonitoring:
    """How sites are queried for the counts of a window."""

    step: MonitorSites
    digest: str
    """Names the step's artifact: each window is a federation of its own beneath it."""
    recipe_dir: Path
    kept: Path
    """A folder for what is in progress, and for the counts of each window."""
    say: Callable[[str], None]

    def read_kept(self) -> dict[int, SiteCounts]:
        """The counts of windows that sites answered for, by the end of each."""
        paths = sorted((self.kept / "windows").glob("*.json"))
        return {int(path.stem): SiteCounts(*json.loads(path.read_text(encoding="utf-8"))) for path in paths}

    def ask(self, plan: MonitorPlan, until: int) -> SiteCounts | None:
        """Return the counts of the window that ends at a moment; None where sites did not answer, which is reported."""
        since = until - int(self.step.window)
        path = self.kept / "windows" / f"{until}.json"
        signals = tuple(signal for signal in plan.signals if signal.list_count_groups())
        query = MonitorQuery(signals=signals, since=since, until=until, models=tuple(sorted(plan.models)))
        try:
            counts = self._exchange(query, plan)
        except LuthierError as error:
            self.say(f"no counts of the window {_format_window(since, until)}: {error}")
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(list(counts)).encode())
        shutil.rmtree(self._find_scratch(until))  # nothing of the exchange is needed once its counts are kept
        self.say(f"counted the window {_format_window(since, until)}")
        for old in sorted(path.parent.glob("*.json"))[:-KEPT_WINDOWS]:
            old.unlink()
        return counts

    def _find_scratch(self, until: int) -> Path:
        return self.kept / "asked" / digest_of([self.digest, until])

    def _exchange(self, query: MonitorQuery, plan: MonitorPlan) -> SiteCounts:
        step, scratch = self.step, self._find_scratch(query.until)
        scratch.mkdir(parents=True, exist_ok=True)
        work = StepContext(
            name="monitor",
            inputs={},
            folder=scratch / "made",
            scratch=scratch,
            recipe_dir=self.recipe_dir,
            seed=plan.seed,
        )
        noise = None if step.privacy is None else find_count_noise(step.privacy, (query,))
        settings = CountSettings(
            least_rows=step.least_rows, masks=step.secure, least=step.least, privacy=step.privacy, noise=noise
        )
        traffic = {name: self.recipe_dir / folder for name, folder in step.sites.items()}
        channel = open_query_channel(
            work, tuple(step.sites), step.transport, masks=step.secure, traffic=traffic, references=plan.references
        )
        try:
            run = QueryRun(work, channel, settings)
            counts = run.count(query, RowNames())
            run.end()
        finally:
            channel.close()
        return counts


class SiteAlertEvaluator(AlertEvaluator):
    """Evaluates the signals and alerts of a monitor on the summed counts of all sites, in place of single requests."""

    def __init__(self, plan: MonitorPlan, context: RunContext, monitoring: SiteMonitoring) -> None:
        super().__init__(replace(plan, every_s=monitoring.step.window), context)
        self._monitoring = monitoring
        self._counts = monitoring.read_kept()
        self._signals: dict[str, Signal] = {
            number: signal for signal in plan.signals for number in signal.list_summed_numbers()
        }

    @property
    def last_window(self) -> int | None:
        """The end of the last window that sites answered for."""
        return max(self._counts, default=None)

    def look(self, at: float) -> list[AlertMessage]:
        """Ask for the window that ends then, and hold every alert against it and those before."""
        self.ask(int(at))
        return super().look(at)

    def ask(self, until: int) -> None:
        """Take the counts of a window, if they are not here."""
        if until not in self._counts and (counts := self._monitoring.ask(self.plan, until)) is not None:
            self._counts[until] = counts
            self.events_seen += 1

    def reading(self, number: str, spec: Window, at: float, *, ends: bool = True) -> SignalValue | None:
        """Return a number over the windows that a rule covers: those of the last seconds, or the last ones with enough
        events.
        """
        return self._measure(number, spec, at, lambda counts: counts.total)

    def _measure(
        self, number: str, spec: Window, at: float, choose: Callable[[SiteCounts], Counts | None]
    ) -> SignalValue | None:
        signal = self._signals.get(number)
        if signal is None:
            return None
        groups, chosen = signal.list_count_groups(), list[Counts]()
        value: SignalValue | None = None
        for until in sorted((end for end in self._counts if end <= at), reverse=True):
            if spec.seconds and until <= at - spec.seconds:
                break
            if (counts := choose(self._counts[until])) is None:
                continue
            chosen.append(counts)
            total = add_counts(groups, chosen)
            value = signal.measure_counts(total, len(chosen) * self._monitoring.step.window).get(number)
            if spec.events and value is not None and value.events >= spec.events:
                break
        return value

    def _message(self, rule: AlertRule, state: AlertState, at: float, tells: Tells) -> AlertMessage:
        """Return the alert's message, with the worst site where sites are visible."""
        message = super()._message(rule, state, at, tells)
        if tells != "firing":
            return message
        sites = sorted({name for counts in self._counts.values() for name in counts.sites})
        values = {
            name: self._measure(rule.when.name, rule.when.window, at, lambda counts, name=name: counts.sites.get(name))  # type: ignore[misc]
            for name in sites
        }
        return message.model_copy(
            update={"worst": _find_worst_site(rule, message.value, values), "act": rule.alert.act}
        )


def _format_window(since: int, until: int) -> str:
    """Begin and end of a window, in UTC."""
    begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (since, until))
    return f"{begin:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"


def _find_worst_site(
    rule: AlertRule, whole: float | None, values: Mapping[str, SignalValue | None]
) -> WorstTrafficSlice | None:
    """The site that is farthest beyond the limit, where it is worse than all together."""
    sign = 1.0 if rule.when.upward else -1.0
    able = {
        name: value
        for name, value in values.items()
        if value is not None and value.events >= FEWEST and whole is not None and sign * (value.value - whole) > 0
    }
    if not able:
        return None
    name = max(able, key=lambda site: (sign * able[site].value, site))
    return WorstTrafficSlice(column="site", value=name, reading=able[name].value, events=able[name].events)

"""The step that watches a released model at all sites that serve it, by counts of their requests alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.core.component import BasicMarker
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.expressions import Seconds, format_duration
from luthier.core.files import PathText, json_bytes, write_atomically
from luthier.core.step import NotHashed, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.federated.messaging.messages import CountPrivacy
from luthier.federated.obstacles import find_answers_obstacle
from luthier.federated.queries.monitor import MonitorQuery
from luthier.federated.transport import Transport
from luthier.monitor.alerts import Alert
from luthier.monitor.plan import FILE, REFERENCES, parse_alert_rules
from luthier.monitor.signal import Signal


class MonitorSites(Step):
    """Watch a released model at all sites that serve it: each site counts its requests of a window of time, and alerts
    are held against the sums. No request, no text and no count of few requests leaves a site.

    Signals, alerts and channels are those of a step `monitor`; `luthier monitor run RECIPE:STEP` watches.
    """

    kind: Literal["monitor_sites"] = "monitor_sites"
    makes: ClassVar[str] = "monitor"
    other_names: ClassVar[Mapping[str, str]] = {"k": "least_rows", "interval": "window", "clients": "sites"}

    monitor: Annotated[str, Reads("monitor"), BasicMarker()]
    """The step `monitor` whose signals and alerts are watched. Signals that counts cannot tell are left out; an alert
    on one is an error."""
    sites: dict[str, PathText] = Field(default_factory=dict)
    """The folder with the requests of each site, by its name, for sites on this machine. Leave it out with a transport
    to sites elsewhere."""
    window: Annotated[Seconds, BasicMarker()] = Field(default=3600, ge=60)
    """How long a window is of which sites count their requests; each is counted once. Windows of alerts are made of
    whole ones."""
    least_rows: int = Field(default=10, ge=1)
    """Counts of fewer requests are not told: a site's own, or under masks those of all sites."""
    secure: bool = False
    """Mask each site's counts, so that the coordinator learns sums over all sites alone."""
    least: int | None = Field(default=None, ge=1)
    """How many sites must answer; all of them when not given. Under masks more than two thirds."""
    privacy: CountPrivacy | None = None
    """Differential privacy of each request: every count of a window has noise, in place of `least_rows`. Drift is then
    left out, since it is held against training rows."""
    transport: Annotated[Transport | None, NotHashed()] = None
    """How messages travel: `processes` for a process for each site of `sites`, `folder` or `http` to sites elsewhere.
    Sites are asked in this process when not given."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.transport is not None and self.transport.remote) == bool(self.sites):
            raise ValueError("name the folders with requests in `sites`, or a transport to sites elsewhere")
        if why := find_answers_obstacle(len(self.site_names), self.least, secure=self.secure):
            raise ValueError(why)
        return self

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(self.sites) or tuple(self.transport.members if self.transport is not None else ())

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Take the plan of the monitor, as far as counts can tell it."""
        source = work.inputs["monitor"]
        record = source.read_json(FILE)
        signals = [Signal.parse(entry) for entry in record["signals"]]
        able = [signal for signal in signals if signal.list_count_groups() and not self._find_obstacle(signal)]
        alerts = [Alert.model_validate(entry) for entry in record["alerts"]]
        self._check_alerts(alerts, signals, able, record["report"])
        for signal in signals:
            if signal not in able:
                work.events.note(
                    f"{signal.called} is left out: {self._find_obstacle(signal) or 'counts cannot tell it'}"
                )
        kept = {signal.called for signal in able}
        entries = [entry for entry, signal in zip(record["signals"], signals, strict=True) if signal.called in kept]
        write_atomically(work.folder / FILE, json_bytes({**record, "signals": entries, "interval": self.window}))
        if (source.folder / REFERENCES).is_dir():
            shutil.copytree(source.folder / REFERENCES, work.folder / REFERENCES)
        return {}

    def _find_obstacle(self, signal: Signal) -> str:
        """Return why noise does not protect a signal's counts; empty without noise, or where it does."""
        if self.privacy is None or not signal.list_count_groups():
            return ""
        from luthier.data.check import RowNames

        return MonitorQuery(signals=(signal,), since=0, until=1).find_noise_obstacle(RowNames())

    def _check_alerts(
        self, alerts: Sequence[Alert], signals: Sequence[Signal], able: Sequence[Signal], report: Mapping[str, float]
    ) -> None:
        """`RecipeError` for an alert that sums cannot answer."""
        numbers = [number for signal in able for number in signal.list_summed_numbers()]
        if not numbers:
            what = "none of the monitor's signals can be told by counts"
            raise RecipeError(what, where=SourceLocation(field="monitor"), hint="add latency, error_rate or accuracy")
        for rule in parse_alert_rules(alerts, signals, report):
            where = SourceLocation(field=f"monitor (alert {rule.name!r})")
            if rule.when.name not in numbers:
                hint = did_you_mean(rule.when.name, numbers) or f"take one of {', '.join(numbers)}"
                raise RecipeError(f"{rule.when.name} cannot be told by counts of sites", where=where, hint=hint)
            if rule.when.window.seconds and rule.when.window.seconds < self.window:
                what = f"looks {rule.when.window}, and sites count windows of {format_duration(self.window)}"
                hint = f"write `over {format_duration(self.window)}` or longer in the alert, or a shorter `window`"
                raise RecipeError(what, where=where, hint=hint)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Describe what the coordinator sees."""
        sees = "the coordinator can see the counts of each site (there are no masks)"
        if self.secure:
            sees = "the coordinator can see sums over all sites alone (counts are masked)"
        return StepCostEstimate(seconds=1.0, how="takes the plan of the monitor", statement=sees)

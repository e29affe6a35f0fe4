"""Prometheus metrics of the gateway: requests, tokens, times and queue length, with bounded labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from luthier.traces.record import TraceEnd

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BOUNDS = [*map(floatToGoString, _SECONDS), "+Inf"]
_KINDS: Sequence[Literal["prompt", "cached", "completion"]] = ("prompt", "cached", "completion")

_UNKNOWN = "unknown"
"""The model of requests for a name that is not served."""
_MOST_OVER = 64
"""Maximum number of finished requests that are not counted yet: those whose clients disconnected have no response."""


class FinishedRequest(Protocol):
    """A request that is over."""

    @property
    def model(self) -> str:
        """The name that was asked for."""
        ...

    @property
    def operation(self) -> str:
        """The requested operation."""
        ...

    @property
    def variant(self) -> str:
        """The model of a released name that answered."""
        ...

    @property
    def end(self) -> TraceEnd | None:
        """Finish reason."""
        ...


class ModelUtilization(NamedTuple):
    """The numbers of waiting and running requests of an open model."""

    model: str
    waiting: int
    running: int


_Kind = tuple[str, str, str, int]
"""Labels of requests that are counted together: model, operation, variant and status."""


class _Times:
    """A histogram of durations."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BOUNDS)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self.buckets[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    def take_in(self, other: _Times) -> None:
        """All of others."""
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total


class _Counts:
    """Counts of one kind of request, as plain numbers: each update of a Prometheus metric takes a lock, and this is one
    thread.
    """

    __slots__ = ("cached", "completion", "first", "prompt", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = self.prompt = self.cached = self.completion = 0
        self.seconds, self.first = _Times(), _Times()


class RequestMetrics:
    """Counts finished requests for the Prometheus metrics.

    An unknown model name counts as `unknown`, so that clients cannot create series.
    """

    def __init__(self, loads: Callable[[], Iterable[ModelUtilization]], knows: Callable[[str], bool]) -> None:
        self._found: dict[_Kind, _Counts] = {}
        self._over: list[FinishedRequest] = []
        self._loads, self._knows = loads, knows

    def add(self, over: FinishedRequest) -> None:
        """A request is over. Its client may still wait, so that it is counted a little later: see `settle`."""
        self._over.append(over)
        if len(self._over) >= _MOST_OVER:
            self.settle()

    def settle(self) -> None:
        """Count what is over."""
        over, self._over = self._over, []
        for finished_request in over:
            self._count(finished_request)

    def _count(self, over: FinishedRequest) -> None:
        assert over.end is not None, "what is over has an end"
        _, _, status, _, prompt, cached, completion, latency_s, first_s, *_ = over.end
        counts = self._found.get((over.model, over.operation, over.variant, status)) or self._new(over, status)
        counts.requests += 1
        counts.seconds.add(latency_s)
        if first_s is not None:
            counts.first.add(first_s)
        counts.prompt += prompt
        counts.cached += cached
        counts.completion += completion

    def _new(self, over: FinishedRequest, status: int) -> _Counts:
        model = over.model if self._knows(over.model) else _UNKNOWN
        return self._found.setdefault((model, over.operation, over.variant, status), _Counts())

    def page(self, shown: Callable[[str], bool] = lambda _: True) -> bytes:
        """Everything of the models that are shown, to the last request that is over, in Prometheus' text format."""
        self.settle()
        found = {kind: counts for kind, counts in self._found.items() if kind[0] == _UNKNOWN or shown(kind[0])}
        registry = CollectorRegistry()
        registry.register(_Finished(found))
        registry.register(_Loads([load for load in self._loads() if shown(load.model)]))
        return generate_latest(registry)


class _Finished(Collector):
    """Collects the counts when Prometheus scrapes."""

    def __init__(self, found: dict[_Kind, _Counts]) -> None:
        self._found = found

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Requests, both times, and tokens."""
        names = ["model", "operation"]
        requests = CounterMetricFamily("luthier_requests", "Requests.", labels=[*names, "variant", "status"])
        for kind, counts in self._found.items():
            requests.add_metric([*map(str, kind)], counts.requests)
        yield requests
        seconds, first = defaultdict[tuple[str, str], _Times](_Times), defaultdict[tuple[str, str], _Times](_Times)
        for (model, operation, *_), counts in self._found.items():
            seconds[model, operation].take_in(counts.seconds)
            first[model, operation].take_in(counts.first)
        yield _histogram("luthier_request_seconds", "Time of a request.", seconds)
        yield _histogram("luthier_first_token_seconds", "Time to first token.", first)
        yield self._tokens()

    def _tokens(self) -> CounterMetricFamily:
        family = CounterMetricFamily("luthier_tokens", "Tokens.", labels=["model", "kind"])
        sums = defaultdict[tuple[str, str], int](int)
        for (model, *_), counts in self._found.items():
            for name in _KINDS:
                sums[model, name] += getattr(counts, name)
        for labels, value in sums.items():
            family.add_metric(labels, value)
        return family


def _histogram(name: str, about: str, found: dict[tuple[str, str], _Times]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, about, labels=["model", "operation"])
    for labels, times in found.items():
        family.add_metric(labels, [*zip(_BOUNDS, accumulate(times.buckets), strict=True)], times.total)
    return family


class _Loads(Collector):
    """Tells how busy the models are."""

    def __init__(self, loads: Iterable[ModelUtilization]) -> None:
        self._loads = loads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Two gauges."""
        waiting = GaugeMetricFamily("luthier_answers_waiting", "Answers that are not begun.", labels=["model"])
        running = GaugeMetricFamily("luthier_answers_running", "Answers that are being written.", labels=["model"])
        for load in self._loads:
            waiting.add_metric([load.model], load.waiting)
            running.add_metric([load.model], load.running)
        yield waiting
        yield running

"""What the gateway counts, for Prometheus: requests, tokens, times, and who waits. Labels are of bounded number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from luthier.traffic.record import Trace

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Load(NamedTuple):
    """How busy an open model is."""

    model: str
    waiting: int
    running: int


class _Series(NamedTuple):
    """What requests of one kind are counted in: looking for it takes longer than counting."""

    requests: Counter
    seconds: Histogram
    first: Histogram
    prompt: Counter
    cached: Counter
    completion: Counter


class Meter:
    """Counts finished requests. A name that is not served counts as `unknown`, so that nobody can invent series."""

    def __init__(self, loads: Callable[[], Iterable[Load]]) -> None:
        self._registry = CollectorRegistry()
        shared: Any = {"registry": self._registry}
        names = ["model", "asked"]
        self._requests = Counter("luthier_requests", "Requests.", [*names, "arm", "status"], **shared)
        self._seconds = Histogram("luthier_request_seconds", "Time of a request.", names, buckets=_SECONDS, **shared)
        self._first = Histogram(
            "luthier_first_token_seconds", "Time to first token.", names, buckets=_SECONDS, **shared
        )
        self._tokens = Counter("luthier_tokens", "Tokens.", ["model", "kind"], **shared)
        self._registry.register(_Loads(loads))
        self._found: dict[tuple[str, str, str, int], _Series] = {}

    def count(self, trace: Trace, *, known: bool) -> None:
        """Count a request that is over."""
        key = (trace.model if known else "unknown", trace.asked, trace.arm, trace.status)
        found = self._found.get(key) or self._found.setdefault(key, self._series(*key))
        found.requests.inc()
        found.seconds.observe(trace.latency_s)
        if trace.first_token_s is not None:
            found.first.observe(trace.first_token_s)
        found.prompt.inc(trace.prompt_tokens)
        found.cached.inc(trace.cached_tokens)
        found.completion.inc(trace.completion_tokens)

    def _series(self, model: str, asked: str, arm: str, status: int) -> _Series:
        tokens = [self._tokens.labels(model, kind) for kind in ("prompt", "cached", "completion")]
        times = (self._seconds.labels(model, asked), self._first.labels(model, asked))
        return _Series(self._requests.labels(model, asked, arm, str(status)), *times, *tokens)

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Loads(Collector):
    """Asks the models how busy they are, when Prometheus asks."""

    def __init__(self, loads: Callable[[], Iterable[Load]]) -> None:
        self._loads = loads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Two gauges."""
        waiting = GaugeMetricFamily("luthier_answers_waiting", "Answers that are not begun.", labels=["model"])
        running = GaugeMetricFamily("luthier_answers_running", "Answers that are being written.", labels=["model"])
        for load in self._loads():
            waiting.add_metric([load.model], load.waiting)
            running.add_metric([load.model], load.running)
        yield waiting
        yield running

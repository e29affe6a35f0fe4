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

    def count(self, trace: Trace, *, known: bool) -> None:
        """Count a request that is over."""
        model = trace.model if known else "unknown"
        self._requests.labels(model, trace.asked, trace.arm, str(trace.status)).inc()
        self._seconds.labels(model, trace.asked).observe(trace.latency_s)
        if trace.first_token_s is not None:
            self._first.labels(model, trace.asked).observe(trace.first_token_s)
        counts = {"prompt": trace.prompt_tokens, "cached": trace.cached_tokens, "completion": trace.completion_tokens}
        for kind, number in counts.items():
            self._tokens.labels(model, kind).inc(number)

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

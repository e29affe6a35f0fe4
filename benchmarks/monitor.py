"""What watching costs: a request's own path, the processor, the disk, and a dashboard's query over a week.

    python benchmarks/monitor.py [--quick] [--only NAME]

Recording is timed beside the OpenTelemetry SDK (a span with the same attributes into its batch processor, whose
exporter throws them away), request by request, in turns. Wall times on a busy machine tell of the machine: the thread's
own processor time stands beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from luthier.chat.messages import Message
from luthier.traces.otel import build_span_attributes
from luthier.traces.record import Trace
from luthier.traces.recorder import TraceRecorder
from luthier.traces.retention import RetentionPolicy
from luthier.traces.store import read_traces

GOAL_US = 50.0
"""A request waits for one line that is appended."""
GOAL_CPU = 0.02
GOAL_QUERY_S = 1.0
A_DAY = 10_000_000
_ASKED = (
    "Hello, I ordered on Monday and nothing has come yet. My order is 4471-22 and you can reach me at "
    "anna.smith@example.org or +49 30 901820. Could you tell me where the parcel is, and when it will be here?"
)
_SAID = "Thank you for writing. Your parcel left our depot yesterday and should be with you by Thursday evening."
Figure = dict[str, Any]


def main() -> None:
    """Run every figure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and rows")
    parser.add_argument("--only", choices=sorted(FIGURES), help="one group of figures")
    parser.add_argument("--query", help=argparse.SUPPRESS)
    parser.add_argument("--gateway", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.query or asked.gateway:
        query(Path(asked.query)) if asked.query else gateway(asked.gateway)
        return
    for name, figures in FIGURES.items():
        if asked.only in (None, name):
            for figure in figures(quick=asked.quick):
                print(json.dumps({**figure, "device": device()}), flush=True)


def device() -> str:
    """Where this ran."""
    return f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"


def request(number: int) -> Trace:
    """A request as the gateway tells of it."""
    return Trace(
        id=f"chatcmpl-{number:032x}",
        timestamp=datetime.now(UTC),
        model="support@prod",
        release="d" * 32,
        messages=(
            Message(role="system", content="You help customers of a shop. Be brief and friendly. " * 4),
            Message(role="user", content=f"{_ASKED} ({number})"),
        ),
        answer=Message(role="assistant", content=_SAID),
        prompt_tokens=120,
        completion_tokens=24,
        latency_s=0.61,
        first_token_s=0.08,
        user=f"C-{number % 1000}",
        parameters={"temperature": 0.2, "max_completion_tokens": 128},
    )


def recording(*, quick: bool) -> Iterator[Figure]:
    """A request's own path, and the processor time of compaction."""
    count = 2_000 if quick else 20_000
    folder = Path(tempfile.mkdtemp())
    ours, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
    with TraceRecorder(folder) as recorder:
        recorder.record(request(count))
        recorder.flush()
        before = _beside_s(recorder)
        span, end = _peer()
        for number in range(count):
            trace = request(number)
            ours.append(_timed(recorder.record, trace))
            theirs.append(_timed(span, trace))
            time.sleep(0.001)
        lost = recorder.lost
        end()
        recorder.flush()
        beside = _beside_s(recorder) - before
    assert lost == 0
    assert sum(1 for _ in read_traces(folder)) == count + 1
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) or None
    shutil.rmtree(folder)
    for name, values in (("luthier", ours), ("opentelemetry-sdk", theirs)):
        for kind, place in (("wall", 0), ("processor", 1)):
            times = sorted(one[place] * 1e6 for one in values)
            print(f"{name:<18} {kind:<10} median {statistics.median(times):7.1f} us   p99 {_p99(times):7.1f} us")
    peer = "opentelemetry-sdk BatchSpanProcessor"
    for kind, place in (("wall", 0), ("cpu", 1)):
        mine, its = (_p99(sorted(one[place] * 1e6 for one in values)) for values in (ours, theirs))
        note = {"value": round(mine, 1), "goal": GOAL_US, "unit": "us", "peer": peer, "peer_value": round(its, 1)}
        yield {"figure": f"recording_p99_{kind}", **note}
    begun = _begin_s() if size else 0.0
    if size:
        print(f"compaction takes {begun:.2f} s of a processor to begin and end, each time; the shares are without them")
    spent = (beside - begun) / count
    own = statistics.mean(one[1] for one in ours)
    yield {"figure": "recording_cpu_per_request", "value": round(1e6 * (spent + own)), "unit": "us", "size": size}
    share = (spent + own) * A_DAY / 86400 / (os.cpu_count() or 1)
    yield {
        "figure": "recording_cpu_share_at_10M_a_day",
        "value": round(share, 4),
        "goal": GOAL_CPU,
        "unit": "of the machine",
    }


def _begin_s() -> float:
    """What compaction of a single request takes of the processor, libraries included."""
    folder = Path(tempfile.mkdtemp())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with TraceRecorder(folder, RetentionPolicy(segment_bytes=1)) as recorder:
        recorder.record(request(0))
        recorder.flush()
        while not any(folder.glob("traces/*/*.parquet")):
            time.sleep(0.01)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _timed(work: Callable[[Trace], object], trace: Trace) -> tuple[float, float]:
    wall, own = time.perf_counter(), time.thread_time()
    work(trace)
    return time.perf_counter() - wall, time.thread_time() - own


def _p99(times: list[float]) -> float:
    return times[int(len(times) * 0.99)]


def _peer() -> tuple[Callable[[Trace], object], Callable[[], None]]:
    """A span of the same request, and the end of it all."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    tracer = provider.get_tracer("peer")

    def span(trace: Trace) -> None:
        tracer.start_span("chat", attributes=build_span_attributes(trace)).end()

    return span, provider.shutdown


def ending(*, quick: bool) -> Iterator[Figure]:
    """All that a gateway does of a request's trace: while the model is at work, while the client waits for its answer's
    end, once that is sent, and beside. Whole answers and streams, in turns.

    A trace is recorded before the last byte of the answer goes, so that a killed server loses none. What is known of
    it before is made ready while the model is at work; it is counted for Prometheus behind the last byte. Beside are
    the recorder's thread and the process that compacts. The gateway is a whole one, asked without a network between,
    and its model sleeps a millisecond before each end. The clock and the processor are read at requests in turns, since
    reading one takes time, too.
    """
    found, beside, page = asyncio.run(_ends(1_000 if quick else 5_000))
    assert 'luthier_requests_total{model="m",operation="chat",status="200",variant="stable"}' in page
    said = {"ready": "us, the model at work", "ended": "us on the request's path", "counted": "us, its answer sent"}
    for (part, kind), times in found.items():
        times.sort()
        goal = {"goal": GOAL_US} if part == "ended" else {}
        note = {"median": round(statistics.median(times), 1), **goal, "unit": said[part], "requests": len(times)}
        yield {"figure": f"ending_{part}_p99_{kind}", "value": round(_p99(times), 1), **note}
    parts = {part: round(statistics.mean(found[part, "cpu"])) for part in said} | {"beside": round(1e6 * beside)}
    whole = sum(parts.values())
    yield {"figure": "ending_all_cpu_per_request", "value": whole, "unit": "us", **parts}
    share = whole / 1e6 * A_DAY / 86400 / (os.cpu_count() or 1)
    note = {"goal": GOAL_CPU, "unit": "of the machine"}
    yield {"figure": "ending_all_cpu_share_at_10M_a_day", "value": round(share, 4), **note}


_CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
Times = dict[tuple[str, str], list[float]]


async def _ends(count: int) -> tuple[Times, float, str]:
    """How long each part took of so many requests of each sort, what was done beside for one, and what was counted."""
    from luthier.serve.app import build_app
    from luthier.serve.model_pool import ModelPool, OpenModel
    from luthier.serve.openai.request_state import RequestState
    from luthier.serve.openai.server import Gateway
    from luthier.traces.api_keys import KeyStore

    found: Times = {(part, kind): [] for part in ("ready", "ended", "counted") for kind in _CLOCKS}
    turns = [(stream, kind) for stream in (False, True) for kind in _CLOCKS]
    now = "wall"

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any, **more: Any) -> Any:
            began = _CLOCKS[now]()
            result = work(*words, **more)
            found[part, now].append((_CLOCKS[now]() - began) * 1e6)
            return result

        return run

    class Timed(RequestState):
        prepare = timed("ready", RequestState.prepare)

        def _end(self, *status: Any, **more: Any) -> None:
            if self.end is None:
                timed("ended", super()._end)(*status, **more)

    class Timing(Gateway):
        def _case(self, request: Any, prefix: str, asked: Any) -> RequestState:
            return Timed(prefix, asked, self._record, None)

    folder = Path(tempfile.mkdtemp())
    with TraceRecorder(folder, RetentionPolicy(segment_bytes=4 << 20)) as recorder:
        _warm(recorder)
        fleet = ModelPool(lambda word: OpenModel(word, _sleeper()))
        await fleet.prepare("m")
        serving = Timing(fleet, recorder=recorder)
        serving.meter.settle = timed("counted", serving.meter.settle)  # type: ignore[method-assign]  # to be timed
        app = build_app(serving, ring=lambda: KeyStore({}, required=False))
        before = _beside_s(recorder)
        for number in range(2 * count):
            stream, now = turns[number % len(turns)]
            await _ask(app, number, stream=stream)
        beside = (_beside_s(recorder) - before) / (2 * count)
        page = serving.meter.page().decode()
        assert recorder.lost == 0
    shutil.rmtree(folder)
    return found, beside, page


def _sleeper() -> Any:
    """A model that writes word by word, something new each time, and whose last word comes a millisecond late."""
    from luthier.serve.engine import ModelRunner
    from luthier.serve.request import EngineRequest, OutputChunk, Usage

    numbers = itertools.count()

    class Sleeper(ModelRunner):
        async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
            await asyncio.sleep(0.001)
            *words, last = f"{_SAID} ({next(numbers)})".split(" ")
            for word in words:
                yield OutputChunk(text=f"{word} ")
            await asyncio.sleep(0.001)
            yield OutputChunk(text=last, finish="stop", usage=Usage(prompt_tokens=120, completion_tokens=24))

    return Sleeper("d" * 32)


async def _ask(app: Any, number: int, *, stream: bool) -> None:
    """A request as a server hands it to the application."""
    told = request(number)
    body: dict[str, Any] = {"model": "m", "stream": stream, "user": told.user, **told.parameters}
    body["messages"] = [{"role": one.role, "content": one.content} for one in told.messages]
    data = json.dumps(body).encode()
    come = [{"type": "http.request", "body": data, "more_body": False}]
    sent = list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return come.pop() if come else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = "/v1/chat/completions"
    headers = {b"host": b"127.0.0.1", b"content-type": b"application/json", b"content-length": b"%d" % len(data)}
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*headers.items()],
    }
    await app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send)
    assert sent[0]["status"] == 200


def _warm(recorder: TraceRecorder) -> None:
    """Let everything be loaded that is needed, and Parquet be made once."""
    for number in range(6000):
        recorder.record(request(number))
    while not any(recorder.folder.glob("traces/*/*.parquet")):
        time.sleep(0.01)


def _beside_s(recorder: TraceRecorder) -> float:
    """Processor time of the recorder's thread and of compaction so far."""
    if recorder._compaction is not None:
        recorder._compaction.wait()
    assert recorder._thread is not None, "something was recorded"
    thread = time.clock_gettime(time.pthread_getcpuclockid(recorder._thread.ident or 0))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return thread + children.ru_utime + children.ru_stime


def answered(*, quick: bool) -> Iterator[Figure]:
    """Requests to two gateways in turns, one of which watches and one of which does not: what a client waits for.

    The model answers at once with the same words, so that nothing else is in the way.
    """
    count = 500 if quick else 5_000
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": _ASKED}], "temperature": 0.2})
    with _gateway("watched") as watched, _gateway("unwatched") as unwatched:
        waits: dict[str, list[float]] = {"watched": [], "unwatched": []}
        for number in range(count + 50):
            for name, line in (("unwatched", unwatched), ("watched", watched)):
                time.sleep(0.001)
                began = time.perf_counter()
                line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                answer = line.getresponse()
                answer.read()
                assert answer.status == 200
                if number >= 50:
                    waits[name].append((time.perf_counter() - began) * 1e6)
    for times in waits.values():
        times.sort()
    for name, pick in (("median", statistics.median), ("p99", _p99)):
        with_it, without = pick(waits["watched"]), pick(waits["unwatched"])
        note = {"watched": round(with_it), "unwatched": round(without), "requests": count}
        yield {"figure": f"answered_{name}_more", "value": round(with_it - without, 1), "unit": "us", **note}


@contextmanager
def _gateway(kind: str) -> Iterator[http.client.HTTPConnection]:
    """A gateway in a process of its own, and a line to it."""
    process = subprocess.Popen([sys.executable, __file__, "--gateway", kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()


def gateway(kind: str) -> None:
    """Serve a model that answers at once, watched or not; prints the port."""
    from luthier.core.db import Ledger
    from luthier.serve.auth import KeyStoreRefresher
    from luthier.serve.engine import ModelRunner
    from luthier.serve.model_pool import ModelPool, OpenModel
    from luthier.serve.openai.request_state import RequestState
    from luthier.serve.openai.server import Gateway
    from luthier.serve.request import EngineRequest, OutputChunk, Usage
    from luthier.serve.server import ServerSettings, run_gateway

    class AtOnce(ModelRunner):
        async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
            yield OutputChunk(text=_SAID, finish="stop", usage=Usage(prompt_tokens=120, completion_tokens=24))

    class Unwatched(RequestState):
        def _end(self, *status: Any, **more: Any) -> None:
            """Nobody is told."""

    class Unwatching(Gateway):
        def _case(self, request: Any, prefix: str, asked: Any) -> RequestState:
            return Unwatched(prefix, asked, self._record, None)

    async def run(folder: Path, recorder: TraceRecorder | None) -> None:
        fleet = ModelPool(lambda word: OpenModel(word, AtOnce("d" * 32)))
        serving = Gateway(fleet, recorder=recorder) if recorder is not None else Unwatching(fleet)
        with Ledger(folder / "ledger.db") as ledger:
            await run_gateway(
                serving,
                ["m"],
                ServerSettings(port=0),
                KeyStoreRefresher(ledger),
                tell=lambda here: print(here.port, flush=True),
            )

    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        recorder = stack.enter_context(TraceRecorder(folder / "traffic")) if kind == "watched" else None
        asyncio.run(run(folder, recorder))


def keeping(*, quick: bool) -> Iterator[Figure]:
    """As many requests as one thread records, each with words of its own: memory, disk, and the bound on the disk."""
    count, most = (20_000, 1 << 20) if quick else (100_000, 4 << 20)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("LUTHIER_BENCH_DIR")))
    chance, words = np.random.default_rng(0), np.array(_ASKED.split())
    with TraceRecorder(folder, RetentionPolicy(segment_bytes=most // 2, most_bytes=most)) as recorder:
        began = time.perf_counter()
        for number in range(count):
            told = request(number)
            text = " ".join(words[chance.integers(0, len(words), 30)])
            asked = (told.messages[0], told.messages[1].model_copy(update={"content": text}))
            recorder.record(told.model_copy(update={"messages": asked}))
        seconds = time.perf_counter() - began
        lost = recorder.lost
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    rows = sum(_rows(path) for path in folder.glob("traces/*/*.parquet"))
    size = sum(path.stat().st_size for path in folder.glob("traces/*/*.parquet"))
    lines = sum(path.stat().st_size for path in folder.glob("segments/*"))
    shutil.rmtree(folder)
    assert lost == 0
    each = size / max(1, rows)
    print(f"{count:,} requests in {seconds:.0f} s; {rows:,} in Parquet ({size / 1e6:.1f} MB), {lines / 1e6:.1f} MB not")
    a_day = {"unit": "GB a day", "rows": A_DAY, "bytes_each": round(each)}
    yield {"figure": "kept_a_second", "value": round(count / seconds), "goal": round(A_DAY / 86400), "unit": "requests"}
    yield {"figure": "kept_on_disk_at_10M_a_day", "value": round(each * A_DAY / 1e9, 2), **a_day}
    yield {"figure": "kept_beyond_the_bound", "value": max(0, size - most), "goal": 0, "unit": "bytes", "bound": most}
    yield {"figure": "compaction_peak", "value": round(peak / 1e6), "unit": "MB", "rows": count}


def _rows(path: Path) -> int:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def week(*, quick: bool) -> Iterator[Figure]:
    """A dashboard's query over a week of ten million requests a day, in a process of its own.

    The counts are made and put together by the code that compaction uses, from segments of ten thousand requests; the
    requests themselves are left out, since the query does not read them. A segment that is being written lies there.
    """
    a_day = A_DAY // 20 if quick else A_DAY
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("LUTHIER_BENCH_DIR")))
    began = time.process_time()
    for day in range(7):
        _count_day(folder, datetime(2026, 11, 16, tzinfo=UTC) + timedelta(days=day), a_day)
    open_lines = _open_segment(folder, datetime(2026, 11, 22, 23, 59, tzinfo=UTC))
    size = sum(path.stat().st_size for path in folder.glob("rollup/*/*.parquet"))
    spent = time.process_time() - began
    print(f"7 days of {a_day:,} requests: counts of {size / 1e6:.1f} MB, made in {spent:.0f} s; {open_lines:,} lines")
    front = os.environ.get("LUTHIER_BENCH_FRONT", "").split()  # such as what keeps a machine quiet meanwhile
    command = [*front, sys.executable, __file__, "--query", str(folder)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)]
    shutil.rmtree(folder)
    assert {one["requests"] for one in found} == {7 * a_day + open_lines}
    found.sort(key=lambda one: one["seconds"])
    print(f"requests, errors, tokens and quantiles by hour and model, five times: {found}")
    rows = 7 * a_day + open_lines
    middle = found[2]["seconds"]
    yield {"figure": "week_query", "value": round(middle, 3), "goal": GOAL_QUERY_S, "unit": "s", "rows": rows}
    peak = max(one["peak_bytes"] for one in found)
    yield {"figure": "week_query_peak", "value": round(peak / 1e6), "unit": "MB", "rows": rows}
    yield {"figure": "week_counts_on_disk", "value": round(size / 1e6, 1), "unit": "MB", "rows": rows}


_SEGMENT = 10_000


def _count_day(folder: Path, day: datetime, rows: int) -> None:
    """A day's counts, put together as the day goes on and once it is over."""
    from luthier.traces.compact import merge_small_day_files, write_row_groups
    from luthier.traces.store import compute_rollup

    chance = np.random.default_rng(day.day)
    for place, begin in enumerate(range(0, rows, _SEGMENT)):
        part = compute_rollup(_columns(chance, day, begin, rows))
        write_row_groups(folder / "rollup" / day.date().isoformat() / f"{begin:09d}.parquet", "rollup", [part])
        if place % 16 == 15:
            merge_small_day_files(folder, day.date())
    merge_small_day_files(folder, day.date() + timedelta(days=1))


def _columns(chance: np.random.Generator, day: datetime, begin: int, rows: int) -> Any:
    """A segment's requests without their texts."""
    import pyarrow as pa

    from luthier.traces.tables import SCHEMAS

    schema, step = SCHEMAS["traces"], 86_400_000_000 // rows
    at = np.datetime64(day.replace(tzinfo=None), "us") + np.arange(begin, begin + _SEGMENT) * step
    latency = chance.lognormal(-0.7, 0.6, _SEGMENT)
    columns: dict[str, Any] = {
        "id": np.full(_SEGMENT, "chatcmpl"),
        "timestamp": pa.array(at).cast(schema.field("timestamp").type),
        "model": np.where(chance.random(_SEGMENT) < 0.8, "support@prod", "triage@prod"),
        "release": np.full(_SEGMENT, "d" * 32),
        "variant": np.full(_SEGMENT, "stable"),
        "status": np.where(chance.random(_SEGMENT) < 0.01, 500, 200),
        "prompt_tokens": chance.integers(20, 800, _SEGMENT),
        "cached_tokens": chance.integers(0, 20, _SEGMENT),
        "completion_tokens": chance.integers(1, 200, _SEGMENT),
        "latency_s": latency,
        "first_token_s": latency * chance.uniform(0.05, 0.5, _SEGMENT),
    }
    arrays = [
        pa.array(columns[one.name], one.type) if one.name in columns else pa.nulls(_SEGMENT, one.type) for one in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _open_segment(folder: Path, at: datetime) -> int:
    """A segment that is half full; returns how many requests it holds."""
    from luthier.traces.segment import Segment, SegmentLine, encode_lines

    count = _SEGMENT // 2
    lines = (request(number).model_copy(update={"timestamp": at}) for number in range(count))
    segment = Segment(folder, "open")
    segment.write(encode_lines(SegmentLine("traces", one.model_dump(mode="json", exclude_unset=True)) for one in lines))
    segment.close()
    return count


def query(folder: Path) -> None:
    """What a dashboard shows; prints how long it took and how much memory."""
    from luthier.traces.store import read_dashboard_series

    began = time.perf_counter()
    found = read_dashboard_series(folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert found.height == 7 * 24 * 2
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "requests": found["requests"].sum()}))


FIGURES: dict[str, Callable[..., Iterator[Figure]]] = {
    "recording": recording,
    "ending": ending,
    "answered": answered,
    "keeping": keeping,
    "week": week,
}


if __name__ == "__main__":
    main()

"""Logs in and out: what other tools write, OpenTelemetry both ways, and a log that is taken in twice or torn off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from luthier.chat.messages import Message, ToolCall
from luthier.cli.app import run_command
from luthier.commands.traces import trace_to_json
from luthier.core.errors import DataError
from luthier.traces.feedback import append_redacted_records, import_log_records
from luthier.traces.logs import hash_log_file, read_log_records
from luthier.traces.record import Feedback, Trace, assemble_stream_chunks
from luthier.traces.store import read_latest_feedback, read_traces, read_traces_with_feedback
from traces.conftest import DAY, opinion, trace


def read(folder: Path, *lines: Any) -> list[Trace | Feedback]:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return list(read_log_records(path, "named"))


WHOLE = trace(
    7,
    release="d" * 32,
    variant="canary",
    messages=(
        Message(role="system", content="Help."),
        Message(role="user", content="Where is 7?"),
        Message(role="assistant", tool_calls=(ToolCall(id="call_1", name="find", arguments={"parcel": 7}),)),
        Message(role="tool", tool_call_id="call_1", content='{"at": "depot"}'),
    ),
    answer=Message(role="assistant", content="In the depot.", thinking="It is there."),
    finish_reason="length",
    prompt_tokens=30,
    cached_tokens=20,
    first_token_s=0.125,
    scores={"a": 0.75, "b": 0.25},
    label_set=("a", "b"),
    user="C-1",
    key="app",
    consent=False,
    parameters={"temperature": 0.5, "stop": ["\n"], "seed": 3, "logit_bias": '{"5": 1}'},
    meta={"shop": "nl"},
)


def test_a_request_in_openais_shape(tmp_path: Path) -> None:
    request = {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image_url", "image_url": {}}]},
        ],
        "temperature": 0,
        "user": "C-9",
        "metadata": {"shop": "de"},
    }
    response = {
        "id": "chatcmpl-abc",
        "created": 1_795_000_000,
        "choices": [{"message": {"role": "assistant", "content": "A cat."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
    }
    (found,) = read(tmp_path, {"request": request, "response": response, "latency_ms": 250, "thumbs": None})
    assert isinstance(found, Trace)
    assert found.id == "chatcmpl-abc"
    assert found.timestamp == datetime.fromtimestamp(1_795_000_000, UTC)
    assert [(turn.role, turn.content) for turn in found.messages] == [
        ("system", "Be brief."),
        ("user", "What is <image>"),
    ]
    assert found.answer is not None
    assert found.answer.content == "A cat."
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (12, 8, 3)
    assert (found.user, found.meta, found.parameters) == ("C-9", {"shop": "de"}, {"temperature": 0})
    assert found.latency_s == pytest.approx(0.25)


HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("line", "asked", "answered", "more"),
    [
        ({"prompt": "Hi", "completion": "Hello", "timestamp": "2026-11-20T12:00:00Z"}, "Hi", "Hello", {}),
        ({"question": "Hi", "answer": "Hello", "ts": 1795176000000, "model": "m"}, "Hi", "Hello", {"model": "m"}),
        (
            {
                "messages": [HI],
                "response": "Hello",
                "time": "2026-11-20 12:00:00",
                "lang": "de",
            },
            "Hi",
            "Hello",
            {"meta": {"lang": "de"}},
        ),
        (
            {
                "input": {"messages": [HI]},
                "output": {"content": "Hello"},
                "startTime": "1795176000",
                "id": "x",
            },
            "Hi",
            "Hello",
            {"id": "x"},
        ),
        ({"input": "Hi", "output": "Hello", "created": 1795176000, "duration": 2}, "Hi", "Hello", {"latency_s": 2.0}),
        (
            {"text": "Hi", "at": "2026-11-20T12:00:00Z", "error": "boom", "status": 500},
            "Hi",
            None,
            {"finish_reason": "error"},
        ),
    ],
)
def test_lines_of_many_forms(tmp_path: Path, line: Any, asked: str, answered: str | None, more: Any) -> None:
    (found,) = read(tmp_path, line)
    assert isinstance(found, Trace)
    assert found.timestamp == DAY
    assert found.messages[-1].content == asked
    assert (found.answer and found.answer.content) == answered
    assert {name: getattr(found, name) for name in more} == more
    assert found.model == more.get("model", "named")


def test_opinions_in_a_line_come_along(tmp_path: Path) -> None:
    line = {"prompt": "Hi", "completion": "Hello", "at": "2026-11-20T12:00:00Z", "thumbs": "down", "correction": "Hey"}
    asked, found = read(tmp_path, line)
    assert found == Feedback(trace=asked.id, timestamp=DAY, rating=-1, correction="Hey")  # type: ignore[union-attr]  # a trace


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nonsense", "no JSON"),
        ("[1]", "expected a mapping"),
        ('{"prompt": "Hi", "completion": "Hello"}', "expected a moment"),
        ('{"at": "2026-11-20T12:00:00Z"}', "expected one of messages"),
        ('{"prompt": "Hi", "at": "soon"}', "isoformat"),
        ('{"prompt": "Hi", "at": "2026-11-20T12:00:00Z", "latency": "quick"}', "could not convert"),
        ('{"id": "a", "timestamp": "2026-11-20T12:00:00Z", "model": "m", "status": "x"}', "status"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"prompt": "Hi", "at": "2026-11-20T12:00:00Z"}}\n\n{line}\n')
    with pytest.raises(DataError, match=told) as caught:
        list(read_log_records(path))
    assert caught.value.where.line == 3


def test_pieces_of_a_stream_are_put_together() -> None:
    def piece(delta: Any, reason: str | None = None) -> Any:
        return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    call = {"index": 0, "id": "call_1", "function": {"name": "find", "arguments": '{"par'}}
    rest = {"index": 0, "function": {"arguments": 'cel": 7}'}}
    other = {"choices": [{"index": 1, "delta": {"content": "not this"}}]}
    found = assemble_stream_chunks(
        [
            piece({"role": "assistant", "content": "So"}),
            other,
            piece({"content": "…", "tool_calls": [call]}),
            piece({"tool_calls": [rest]}, "tool_calls"),
            {"choices": [], "usage": {"completion_tokens": 9}},
        ]
    )
    (choice,) = found["choices"]
    assert choice["message"]["content"] == "So…"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"parcel": 7}'}
    assert (choice["finish_reason"], found["usage"], found["id"]) == (
        "tool_calls",
        {"completion_tokens": 9},
        "chatcmpl-1",
    )


def test_a_log_that_is_taken_in_twice_stands_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.traces.feedback._PART", 10)
    folder, path = tmp_path / "traffic", tmp_path / "log.jsonl"
    moments = [(DAY + timedelta(minutes=number)).isoformat() for number in range(25)]
    lines = [{"prompt": "Ask anna@example.org", "completion": "So.", "at": moment} for moment in moments]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert import_log_records(folder, hash_log_file(path), read_log_records(path)) == 25
    assert import_log_records(folder, hash_log_file(path), read_log_records(path)) == 0
    for mark in list((folder / "taken").iterdir())[:2]:
        mark.unlink()  # a kill came before the mark
    import_log_records(folder, hash_log_file(path), read_log_records(path))
    found = list(read_traces(folder))
    assert len(found) == 25
    assert found[0].messages[0].content == "Ask [EMAIL]"


def test_what_is_kept_already_is_not_taken_in_from_another_log(tmp_path: Path) -> None:
    folder, log = tmp_path / "traffic", tmp_path / "log.jsonl"
    said = Feedback(trace="chatcmpl-1", timestamp=DAY, rating=-1.0)
    append_redacted_records(folder, [*(trace(number) for number in range(3)), said])
    found = [trace_to_json(entry) for entry in read_traces_with_feedback(folder)]
    assert sum(len(entry["feedback"]) for entry in found) == 1
    further = {**found[0], "timestamp": (DAY + timedelta(days=1)).isoformat()}
    log.write_text("".join(json.dumps(line) + "\n" for line in (*found, further)))
    assert import_log_records(folder, hash_log_file(log), read_log_records(log)) == 1, "the same id a day later"
    assert len(list(read_traces(folder))) == 4


def test_a_log_that_breaks_off_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.traces.feedback._PART", 2)
    folder = tmp_path / "traffic"

    def broken() -> Iterator[Trace]:
        yield from (trace(number) for number in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_log_records(folder, "d", broken())
    assert len(list(read_traces(folder))) == 4
    assert import_log_records(folder, "d", iter([trace(number) for number in range(5)])) == 1
    assert len(list(read_traces(folder))) == 5


def test_opentelemetry_out_and_in_again_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = [
        WHOLE,
        trace(8),
        trace(9, operation="label"),
        trace(10, answer=None, finish_reason="error", status=503, error="busy"),
    ]
    append_redacted_records(tmp_path / ".luthier" / "traffic", [*plain, opinion(8, rating=1)])
    assert run_command(["traces", "export", "spans.jsonl", "--format", "otlp"]) == 0
    assert run_command(["traces", "import", "spans.jsonl", "--in", "nowhere"]) == 2
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "other"))
    assert run_command(["traces", "import", "spans.jsonl"]) == 0
    assert list(read_traces(tmp_path / "other")) == plain


def test_our_own_lines_out_and_in_again_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append_redacted_records(tmp_path / ".luthier" / "traffic", [WHOLE, trace(8), opinion(8, rating=1, by="anna")])
    assert run_command(["traces", "export", "all.jsonl", "--where", "timestamp >= '2026-11-20'"]) == 0
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "other"))
    assert run_command(["traces", "import", "all.jsonl"]) == 0
    assert run_command(["traces", "import", "all.jsonl"]) == 0
    assert list(read_traces(tmp_path / "other")) == [WHOLE, trace(8)]
    assert read_latest_feedback(tmp_path / "other")["chatcmpl-8"][0].rating == 1


def test_spans_of_other_tools(tmp_path: Path) -> None:
    def attribute(name: str, value: Any) -> Any:
        return {"key": name, "value": value}

    span = {
        "spanId": "00f067aa0ba902b7",
        "startTimeUnixNano": "1795176000000000000",
        "endTimeUnixNano": "1795176001500000000",
        "attributes": [
            attribute("gen_ai.request.model", {"stringValue": "gpt-4o"}),
            attribute("gen_ai.prompt.0.role", {"stringValue": "user"}),
            attribute("gen_ai.prompt.0.content", {"stringValue": "Hi"}),
            attribute("gen_ai.completion.0.content", {"stringValue": "Hello"}),
            attribute("gen_ai.usage.prompt_tokens", {"intValue": "4"}),
        ],
        "status": {"code": "STATUS_CODE_ERROR", "message": "cut off"},
    }
    database = {"spanId": "1", "attributes": [attribute("db.system", {"stringValue": "sqlite"})]}
    (found,) = read(tmp_path, {"resourceSpans": [{"scopeSpans": [{"spans": [database, span]}]}]})
    assert isinstance(found, Trace)
    assert (found.timestamp, found.latency_s, found.id) == (DAY, 1.5, "00f067aa0ba902b7")
    assert (found.messages[0].content, found.answer and found.answer.content) == ("Hi", "Hello")
    assert (found.prompt_tokens, found.finish_reason, found.error, found.status) == (4, "error", "cut off", 500)


def test_spans_go_to_a_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs OpenTelemetry (extra `otel`)")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    came: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            plain = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            came.append(ExportTraceServiceRequest.FromString(plain))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    append_redacted_records(tmp_path / ".luthier" / "traffic", [WHOLE, trace(8)])
    try:
        assert run_command(["traces", "export", f"http://127.0.0.1:{server.server_port}/v1/traces"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    spans = [
        span
        for one in came
        for resource in one.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["chat support@prod"] * 2
    told = {one.key: one.value for one in spans[0].attributes}
    assert told["gen_ai.response.id"].string_value == "chatcmpl-7"
    assert spans[0].end_time_unix_nano - spans[0].start_time_unix_nano == 250_000_000


def test_an_empty_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").touch()
    assert run_command(["traces", "import", "log.jsonl"]) == 2
    assert "error: log.jsonl: is empty" in capsys.readouterr().err
    assert run_command(["new", "moved", "--from", "axolotl.yaml"]) == 2
    assert "error: axolotl.yaml: there is no such file" in capsys.readouterr().err

"""What is counted for Prometheus: each request once, exactly, and under no name that a client invented."""

from __future__ import annotations

from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from pydantic_core import to_jsonable_python

from luthier.chat.messages import Message, ToolCall
from luthier.serve.metrics import ModelUtilization, RequestMetrics
from luthier.serve.openai.protocol import APIError
from luthier.serve.openai.request_state import RequestState
from luthier.serve.request import AggregatedOutput, Usage
from luthier.traces.record import END_FIELDS, Trace, TraceEnd

_LABELS = ("model", "operation", "variant", "status", "kind", "le")


def case(tell: Any, model: str = "m") -> RequestState:
    made = RequestState("chatcmpl", "chat", tell, "anna")
    made.model, made.release, made.user = model, "d" * 32, "C-1"
    made.messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hello?"))
    return made


class Over(NamedTuple):
    """A request that is over."""

    model: str
    operation: str
    variant: str
    end: TraceEnd


def over(model: str = "m", *, status: int = 200, latency_s: float = 0.1, first_s: float | None = None) -> Over:
    heard = list[RequestState]()
    case(heard.append).done(AggregatedOutput(text="Hi."), Usage(prompt_tokens=7, cached_tokens=3, completion_tokens=2))
    end = heard[0].end
    assert end is not None
    told = {
        **dict(zip(END_FIELDS, end, strict=True)),
        "status": status,
        "latency_s": latency_s,
        "first_token_s": first_s,
    }
    return Over(model, "chat", "stable", tuple(told[name] for name in END_FIELDS))


def trace_of(over: RequestState) -> Trace:
    """What a reader of the traces will find."""
    assert over.end is not None
    fields = {**over.trace_start, **dict(zip(END_FIELDS, over.end, strict=True))}
    return Trace.model_validate(to_jsonable_python(fields))


def values(meter: RequestMetrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(meter.page().decode())
    return {
        (one.name, *(one.labels[name] for name in _LABELS if name in one.labels)): one.value
        for family in families
        for one in family.samples
    }


def test_a_case_is_a_trace_in_two_parts() -> None:
    heard = list[RequestState]()
    call = ToolCall(name="find", arguments={"order": 7}, id="call_1")
    case(heard.append).done(AggregatedOutput(text="", calls=[call], finish="tool_calls"), Usage(prompt_tokens=7))
    case(heard.append).refused(APIError("too much", status=413))
    assert {*heard[0].trace_start, *END_FIELDS} == set(Trace.model_fields)
    called, refused = map(trace_of, heard)
    assert called.answer == Message(role="assistant", tool_calls=(call,))
    assert [one.content for one in called.messages] == ["Be brief.", "Hello?"]
    assert (called.model, called.key, called.user, called.status, called.finish_reason) == (
        "m",
        "anna",
        "C-1",
        200,
        "tool_calls",
    )
    assert (refused.answer, refused.status, refused.finish_reason, refused.error) == (None, 413, "error", "too much")


def test_a_scrape_counts_every_request_that_is_over() -> None:
    meter = RequestMetrics(lambda: [ModelUtilization("m", 2, 1)], lambda name: name == "m")
    for count in range(1, 200):
        first = None if count % 2 else 0.3
        meter.add(over(latency_s=0.005 * count, first_s=first))
        if count in (1, 63, 64, 65, 199):
            assert values(meter)["luthier_requests_total", "m", "chat", "stable", "200"] == count
    found = values(meter)
    assert found["luthier_request_seconds_count", "m", "chat"] == 199
    assert abs(found["luthier_request_seconds_sum", "m", "chat"] - 0.005 * 199 * 100) < 1e-6
    assert found["luthier_request_seconds_bucket", "m", "chat", "0.005"] == 1, "a bound belongs to its bucket"
    assert found["luthier_request_seconds_bucket", "m", "chat", "0.5"] == 100
    assert found["luthier_request_seconds_bucket", "m", "chat", "+Inf"] == 199
    assert found["luthier_first_token_seconds_count", "m", "chat"] == 99
    assert found["luthier_tokens_total", "m", "prompt"] == 7 * 199
    assert found["luthier_tokens_total", "m", "cached"] == 3 * 199
    assert found["luthier_tokens_total", "m", "completion"] == 2 * 199
    assert found["luthier_answers_waiting", "m"] == 2
    assert found["luthier_answers_running", "m"] == 1


def test_nobody_invents_a_series_and_a_name_counts_from_when_it_is_served() -> None:
    served = set[str]()
    meter = RequestMetrics(lambda: (), served.__contains__)
    for name in ("x", "y", "z"):
        meter.add(over(name, status=404))
    meter.settle()
    served.add("z")
    meter.add(over("z"))
    counts = {labels[1:]: value for labels, value in values(meter).items() if labels[0] == "luthier_requests_total"}
    assert counts == {("unknown", "chat", "stable", "404"): 3, ("z", "chat", "stable", "200"): 1}

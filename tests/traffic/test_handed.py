"""What a gateway hands over in two parts comes back as the trace that it is, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.text.messages import Message, ToolCall
from luthier.traffic.handed import ENDED, begun, ended, parsed
from luthier.traffic.lines import loads
from luthier.traffic.place import Keeping
from luthier.traffic.read import traces
from luthier.traffic.record import Trace
from luthier.traffic.recorder import Recorder
from traffic.conftest import in_two, trace


def read(**more: Any) -> dict[str, Any]:
    """The fields of a trace that came in two parts."""
    told, end = in_two(trace(1, **more))
    line = ended(begun(told), end)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\0" not in line
    return dict(parsed(loads(line))["trace"])


def test_both_parts_are_a_whole_trace() -> None:
    call = ToolCall(name="find", arguments={"order": "\0\n"}, id="call_1")
    whole = trace(
        1,
        answer=Message(role="assistant", content="A\nB\0", tool_calls=(call,)),
        scores={"billing": 0.75},
        user="C-1",
        parameters={"temperature": 0.5},
        meta={"shop": "nl"},
        first_token_s=0.1,
    )
    told, end = in_two(whole)
    assert {*told, *ENDED} == set(Trace.model_fields)
    assert Trace.model_validate(parsed(loads(ended(begun(told), end)))["trace"]) == whole


def test_half_a_character_is_kept_in_either_part() -> None:
    half = json.loads('"\\ud83d"')
    assert read(parameters={"stop": half})["parameters"] == {"stop": half}
    assert read(error=half)["error"] == half


def test_what_is_nested_too_deep_goes_and_the_rest_stays() -> None:
    deep: list[object] = []
    for _ in range(50_000):  # CPython 3.13 writes some thousands
        deep = [deep]
    told, end = in_two(trace(1))
    found = parsed(loads(ended(begun({**told, "parameters": {"deep": deep}}), end)))["trace"]
    assert (found["id"], found["parameters"], found["answer"]["content"]) == ("chatcmpl-1", {}, "On its way.")
    found = parsed(loads(ended(begun(told), ({"content": deep}, *end[1:]))))["trace"]
    assert (found["id"], found["answer"], found["messages"][0]["content"]) == (
        "chatcmpl-1",
        None,
        "Where is parcel 1?",
    )


def test_a_sample_is_decided_before_the_answer(tmp_path: Path) -> None:
    with Recorder(tmp_path, Keeping(sample=0.25)) as recorder:
        for number in range(200):
            told, end = in_two(trace(number))
            recorder.end(recorder.ready(told), end)
    kept = [one.id for one in traces(tmp_path)]
    assert recorder.recorded == len(kept)
    assert recorder.left_out == 200 - len(kept)
    assert 20 < len(kept) < 80

"""Feedback from both sides: over HTTP by the gateway's routes, and from the command line; and the list of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from luthier.cli.app import run_command
from luthier.traces.compact import compact_traffic_folder
from luthier.traces.feedback import append_redacted_records, feedback_routes
from luthier.traces.filter import TraceFilter
from luthier.traces.record import Feedback
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import list_segments
from luthier.traces.store import read_latest_feedback, read_traces_with_feedback, scan_table
from traces.conftest import opinion, trace


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some traffic beside where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / ".luthier" / "traffic"
    append_redacted_records(
        folder, [*(trace(number) for number in range(30)), trace(1500, model="other"), opinion(3, rating=-1, by="anna")]
    )
    return folder


def _json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_command([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_latest_requests_are_listed(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "traces", "list")
    assert [one["id"] for one in found] == [*(f"chatcmpl-{number}" for number in range(11, 30)), "chatcmpl-1500"]
    found = _json(capsys, "traces", "list", "-n", "2", "--where", "model = 'support@prod'")
    assert [one["id"] for one in found] == ["chatcmpl-28", "chatcmpl-29"]
    (only,) = _json(capsys, "traces", "list", "--where", "rating < 0", "--in", str(kept))
    assert only["feedback"][0]["rating"] == -1
    found = _json(capsys, "traces", "list", "--since", "2026-11-20T12:10", "--until", "2026-11-20T12:12")
    assert [one["id"] for one in found] == ["chatcmpl-10", "chatcmpl-11"]
    assert run_command(["traces", "list"]) == 0
    assert "support@prod" in capsys.readouterr().out


def test_one_request_is_shown(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["traces", "show", "chatcmpl-3"]) == 0
    out = capsys.readouterr().out
    assert "user: Where is parcel 3?" in out
    assert "assistant: On its way." in out
    assert "feedback of anna: rating -1" in out
    assert _json(capsys, "traces", "show", "chatcmpl-3")["model"] == "support@prod"


def test_a_person_says_something_at_the_command_line(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(
        capsys, "feedback", "chatcmpl-5", "--down", "--correction", "Tomorrow at anna@example.org", "--by", "ben"
    )
    assert told["rating"] == -1
    (found,) = read_latest_feedback(kept)["chatcmpl-5"]
    assert (found.rating, found.correction, found.by) == (-1, "Tomorrow at [EMAIL]", "ben")
    assert run_command(["feedback", "chatcmpl-5", "--label", "delivery", "--by", "ben"]) == 0
    (found,) = read_latest_feedback(kept)["chatcmpl-5"]
    assert (found.rating, found.label) == (-1, "delivery")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["feedback", "chatcmpl-5"], "says nothing"),
        (["feedback", "chatcmpl-5", "--up", "--rating", "1"], "one of them"),
        (["feedback", "chatcmpl-77", "--up"], "no trace 'chatcmpl-77' is kept"),
        (["traces", "show", "chatcmpl-77"], "no trace"),
        (["traces", "list", "--since", "yesterday"], "expected a moment"),
        (["traces", "list", "--where", "ratng < 0"], "unknown"),
    ],
)
def test_what_cannot_be_said_or_found_is_refused(
    kept: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert told in _json(capsys, *words, code=2)["error"]["message"]


def test_without_traffic_it_is_said_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "luthier serve" in _json(capsys, "traces", "list", code=2)["error"]["hint"]


@pytest.fixture
def heard() -> list[Feedback]:
    return []


@pytest.fixture
def client(heard: list[Feedback]) -> Iterator[Any]:
    app = FastAPI()
    app.include_router(feedback_routes(heard.append))
    with TestClient(app) as client:
        yield client


def test_feedback_comes_over_http(client: Any, heard: list[Feedback]) -> None:
    answer = client.post("/v1/feedback", json={"id": "chatcmpl-1", "thumb": "down", "correction": "No.", "user": "C-1"})
    assert answer.status_code == 200
    assert {**answer.json(), "created": 0} == {"id": "chatcmpl-1", "object": "feedback", "created": 0}
    (said,) = heard
    assert (said.trace, said.rating, said.correction, said.by) == ("chatcmpl-1", -1, "No.", "C-1")
    assert said.model_fields_set == {"trace", "timestamp", "by", "rating", "correction"}


@pytest.mark.parametrize(
    "body",
    [
        {"id": "chatcmpl-1"},
        {"thumb": "up"},
        {"id": "", "thumb": "up"},
        {"id": "chatcmpl-1", "thumb": "sideways"},
        {"id": "chatcmpl-1", "rating": 2},
        {"id": "chatcmpl-1", "rating": "NaN"},
        {"id": "chatcmpl-1", "rating": 1, "thumb": "up"},
        {"id": "chatcmpl-1", "thumb": "up", "extra": 1},
        {"id": "chatcmpl-1", "comment": "x" * 2_000_000},
    ],
)
def test_feedback_that_says_nothing_or_too_much_is_refused(client: Any, heard: list[Feedback], body: Any) -> None:
    assert client.post("/v1/feedback", json=body).status_code == 422
    assert heard == []


def test_what_nobody_filled_in_is_no_correction(client: Any, heard: list[Feedback]) -> None:
    told = {"id": "chatcmpl-1", "thumb": "down", "correction": " \n", "label": "", "comment": ""}
    assert client.post("/v1/feedback", json=told).status_code == 200
    assert heard[0].model_fields_set == {"trace", "timestamp", "by", "rating"}
    assert client.post("/v1/feedback", json={"id": "chatcmpl-1", "label": " billing\n"}).status_code == 200
    assert heard[1].label == "billing"
    assert client.post("/v1/feedback", json={"id": "chatcmpl-1", "correction": " "}).status_code == 422
    assert client.post("/v1/feedback", json={"id": "chatcmpl-1", "rating": True}).status_code == 422


def test_failure_types_marks_and_roles_come_over_http(client: Any, heard: list[Feedback]) -> None:
    told = {
        "id": "chatcmpl-1", "thumb": "down", "types": ["wrong tone", "made up"], "role": "reviewer",
        "spans": [{"start": 0, "end": 2, "type": "made up"}],
    }  # fmt: skip
    assert client.post("/v1/feedback", json=told).status_code == 200
    (said,) = heard
    assert said.types == ("wrong tone", "made up")
    assert said.spans[0].end == 2
    assert said.role == "reviewer"
    for bad in ({"types": [""]}, {"spans": [{"start": 2, "end": 2}]}, {"role": "judge"}, {"probability": 0.5}):
        assert client.post("/v1/feedback", json={"id": "chatcmpl-1", "thumb": "up", **bad}).status_code == 422


def test_requests_are_found_by_failure_type_and_by_confidence(tmp_path: Path) -> None:
    sure = [trace(at, scores={"a:0.9": 0.5 + at / 10, "b": 0.5 - at / 10}) for at in range(3)]
    said = [opinion(3, types=("tone", "mail anna@example.org"), by="a"), opinion(4, types=("facts",))]
    append_redacted_records(tmp_path, [*sure, trace(3), trace(4), *said])

    def found(where: str) -> list[str]:
        every = read_traces_with_feedback(tmp_path, where=TraceFilter(where))
        return [one.trace.id.removeprefix("chatcmpl-") for one in every]

    assert found("types = 'tone'") == ["3"]
    assert found("types in ('tone', 'facts')") == ["3", "4"]
    assert found("types contains '[EMAIL]'") == ["3"]
    assert found("types is missing") == ["0", "1", "2"]
    assert found("types is not missing and not types = 'tone'") == ["4"]
    assert found("not types = 'tone'") == ["4"]
    assert found("confidence < 0.65") == ["0", "1"]


def test_files_of_an_earlier_version_are_read_and_merged(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table, write_table

    keeping = RetentionPolicy(days=100_000)
    append_redacted_records(tmp_path, [trace(1), opinion(1, rating=1, by="old")])
    compact_traffic_folder(tmp_path, keeping, closed=list_segments(tmp_path))
    (old,) = (tmp_path / "feedback").glob("*/*.parquet")
    write_table(read_table(old).drop_columns(["types", "spans", "role", "probability"]), old)
    append_redacted_records(tmp_path, [opinion(1, rating=-1, by="new", types=("tone",), role="reviewer")])
    compact_traffic_folder(tmp_path, keeping, closed=list_segments(tmp_path))
    assert scan_table(tmp_path, "feedback").collect().height == 2
    compact_traffic_folder(tmp_path, keeping)  # the day is over: its files become one
    assert len([*(tmp_path / "feedback").glob("*/*.parquet")]) == 1
    old_word, new_word = read_latest_feedback(tmp_path)["chatcmpl-1"]
    assert (old_word.by, old_word.role, old_word.types) == ("old", "user", ())
    assert (new_word.role, new_word.types) == ("reviewer", ("tone",))
    (entry,) = read_traces_with_feedback(tmp_path, where=TraceFilter("rating < 0"))
    assert entry.trace.id == "chatcmpl-1", "what a reviewer says counts before what users say"

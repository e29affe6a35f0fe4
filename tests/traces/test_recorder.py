"""Recording: nothing that was answered is lost or doubled, whoever is killed; bounds hold, and losses are counted."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from luthier.chat.messages import Message, ToolCall
from luthier.core.errors import DataError, SystemResourceError
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PiiSpan
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import END_FIELDS, Trace
from luthier.traces.recorder import MOST_QUEUED, TraceRecorder, is_sampled
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import list_segments
from luthier.traces.store import read_feedback, read_traces
from tests import ready
from traces.conftest import in_two, opinion, trace

SERVER = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from traces.conftest import in_two, trace
from luthier.traces.retention import RetentionPolicy
from luthier.traces.recorder import TraceRecorder
recorder = TraceRecorder(Path(sys.argv[1]), RetentionPolicy(segment_bytes=4000))
number = int(sys.argv[2])
while True:
    if number % 2:
        recorder.record(trace(number))
    else:
        told, end = in_two(trace(number))
        recorder.end(recorder.ready(told), end)
    sys.stdout.write(f"{number}\\n")  # the answer's end is sent
    sys.stdout.flush()
    number += 1
"""


def begin_server(folder: Path, begin: int) -> subprocess.Popen[str]:
    """A server that answers requests from a number on."""
    command = [sys.executable, "-c", SERVER, str(folder), str(begin), str(Path(__file__).parent.parent)]
    process = ready.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{begin}\n"
    return process


def kill_server(process: subprocess.Popen[str]) -> list[int]:
    """The requests that a server answered before it is killed, the first one apart."""
    process.kill()
    rest, _ = process.communicate()
    return [int(line) for line in rest.splitlines()]


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_loses_no_request_that_it_answered(tmp_path: Path, kills: int) -> None:
    chance, answered, begin = random.Random(7), set[str](), 0
    for _ in range(kills):
        server = begin_server(tmp_path, begin)
        time.sleep(chance.uniform(0, 0.3))
        numbers = [begin, *kill_server(server)]
        answered |= {f"chatcmpl-{number}" for number in numbers}
        begin = max(numbers) + 1000
    found = [one.id for one in read_traces(tmp_path)]
    assert answered <= set(found)
    assert len(found) == len(set(found))
    assert len(found) - len(answered) <= kills  # recorded, and killed before the answer's end


def test_what_was_recorded_comes_back_as_it_was(tmp_path: Path) -> None:
    asked = trace(1, scores={"billing": 0.75}, parameters={"temperature": 0.5}, meta={"shop": "nl"}, user="C-1")
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(asked)
        recorder.record(opinion(1, rating=-1, correction="Tomorrow.", by="C-1"))
        recorder.flush()
        assert list(read_traces(tmp_path)) == [asked]
    assert list(read_traces(tmp_path)) == [asked]
    (said,) = read_feedback(tmp_path)
    assert said == opinion(1, rating=-1, correction="Tomorrow.", by="C-1")
    assert said.model_fields_set == {"trace", "timestamp", "rating", "correction", "by"}


def test_personal_data_never_reaches_the_disk(tmp_path: Path) -> None:
    asked = trace(1, user="anna@example.org", error="no mail for anna@example.org", meta={"phone": "4155550143"})
    with TraceRecorder(tmp_path, RetentionPolicy(segment_bytes=1)) as recorder:
        recorder.record(
            asked.model_copy(
                update={
                    "answer": asked.messages[0].model_copy(
                        update={"role": "assistant", "content": "Write to anna@example.org."}
                    )
                }
            )
        )
        recorder.record(opinion(1, by="anna@example.org", correction="Call +31 20 555 0143."))
        recorder.flush()
    found = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"example.org" not in found
    (kept,), (said,) = read_traces(tmp_path), read_feedback(tmp_path)
    assert kept.answer is not None
    assert kept.answer.content == "Write to [EMAIL]."
    assert kept.meta == {"phone": "[PHONE]"}
    assert kept.user == said.by
    assert kept.user is not None
    assert kept.user.startswith("[EMAIL:")
    assert said.correction == "Call [PHONE]."


def test_names_are_taken_out_where_that_is_asked_for(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "John Smith"}])
    pipeline.to_disk(tmp_path / "pipeline")
    names = Recognizer.parse({"kind": "spacy", "model": str(tmp_path / "pipeline")})
    text = "My name is John Smith and my mail is john@example.org."
    asked = trace(1, messages=(Message(role="user", content=text),))
    with TraceRecorder(tmp_path / "traffic", RetentionPolicy(names=names)) as recorder:
        recorder.record(asked)
        recorder.record(opinion(1, comment="John Smith was right."))
    (kept,), (said,) = read_traces(tmp_path / "traffic"), read_feedback(tmp_path / "traffic")
    assert kept.messages[0].content == "My name is [PERSON] and my mail is [EMAIL]."
    assert said.comment == "[PERSON] was right."


def test_a_sample_is_decided_by_the_id(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(sample=0.25)) as recorder:
        for number in range(1000):
            recorder.record(trace(number))
        recorder.record(opinion(1, rating=1))
    kept = {one.id for one in read_traces(tmp_path)}
    assert kept == {f"chatcmpl-{number}" for number in range(1000) if is_sampled(f"chatcmpl-{number}", 0.25)}
    assert 200 < len(kept) < 300
    assert recorder.left_out == 1000 - len(kept)
    assert len(list(read_feedback(tmp_path))) == 1
    assert not is_sampled("anything", 0.0)


def refuse(file: int, data: bytes) -> int:
    """Write nothing, as on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A disk that takes no line until the patch is undone."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        yield patch


def test_on_a_full_disk_serving_goes_on_and_what_waits_is_bounded(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(waiting_bytes=4 << 20, pii=())) as recorder:
        for number in range(100):
            recorder.record(trace(number, error="x" * 100_000))
        assert not recorder.flush(timeout_s=0.05)
        assert recorder.lost > 0
        assert 3 << 20 < recorder.waiting_bytes <= 4 << 20
        assert caplog.text.count("the disk is full") == 1
        full_disk.undo()
    assert len(list(read_traces(tmp_path))) == recorder.recorded == 100 - recorder.lost


def test_several_processes_record_at_once(tmp_path: Path) -> None:
    servers = [begin_server(tmp_path, begin) for begin in (0, 1_000_000)]
    time.sleep(0.3)
    answered = [number for server in servers for number in kill_server(server)]
    found = [one.id for one in read_traces(tmp_path)]
    assert {f"chatcmpl-{number}" for number in answered} <= set(found)
    # The first of each was read at its start, and each may have recorded one more than it said.
    assert len(found) == len(set(found)) <= len(answered) + 2 * len(servers)


def test_a_fork_records_in_a_stream_of_its_own(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(trace(1))
        child = os.fork()
        if child == 0:
            recorder.record(trace(2))
            recorder.close()
            os._exit(0)
        os.waitpid(child, 0)
        recorder.record(trace(3))
    assert [one.id for one in read_traces(tmp_path)] == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]
    assert len(list_segments(tmp_path)) == 2


def test_a_disk_that_refuses_is_waited_for(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path) as recorder:
        (tmp_path / "segments").rmdir()
        (tmp_path / "segments").write_text("in the way")
        recorder.record(trace(1))
        assert not recorder.flush(timeout_s=0.5)
        (tmp_path / "segments").unlink()
        assert recorder.flush()
    assert [one.id for one in read_traces(tmp_path)] == ["chatcmpl-1"]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemResourceError, match="file"):
        TraceRecorder(tmp_path / "file")


def nested(depth: int) -> list[object]:
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


def test_what_is_nested_too_deep_goes_and_the_rest_stays(tmp_path: Path) -> None:
    asked = [
        trace(1).model_copy(update={"parameters": {"deep": nested(50_000)}}),
        trace(2, parameters={"deep": nested(240)}),
        trace(3),
    ]
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(asked[0])
        for one in asked:
            start, end = in_two(one.model_copy(update={"id": f"{one.id}-parts"}))
            recorder.end(recorder.ready(start), end)
        start, end = in_two(trace(4))
        recorder.end(recorder.ready(start), ({"content": nested(50_000)}, *end[1:]))
    first, *_, last = read_traces(tmp_path)
    assert (first.id, first.parameters, first.answer) == ("chatcmpl-1", {}, asked[0].answer)
    assert (last.id, last.answer, last.messages) == ("chatcmpl-4", None, trace(4).messages)
    assert len(list(read_traces(tmp_path))) == recorder.recorded == 5


def test_both_parts_of_a_request_are_a_whole_trace(tmp_path: Path) -> None:
    call = ToolCall(name="find", arguments={"order": "\0\n"}, id="call_1")
    whole = trace(
        1,
        answer=Message(role="assistant", content="A\nB\0", tool_calls=(call,)),
        scores={"billing": 0.75},
        label_set=(),
        user="C-1",
        parameters={"temperature": 0.5},
        meta={"shop": "nl"},
        first_token_s=0.1,
    )
    start, end = in_two(whole)
    assert {*start, *END_FIELDS} == set(Trace.model_fields)
    with TraceRecorder(tmp_path) as recorder:
        recorder.end(recorder.ready(start), end)
    assert list(read_traces(tmp_path)) == [whole]


def test_half_a_character_becomes_a_question_mark(tmp_path: Path) -> None:
    half = json.loads('"\\ud83d"')
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(trace(1, parameters={"stop": half}, error=half))
        recorder.record(trace(2, parameters={"top_p": float("nan")}))
    assert [(one.parameters, one.error) for one in read_traces(tmp_path)] == [
        ({"stop": "?"}, "?"),
        ({"top_p": None}, ""),
    ]


class SlowNames(Recognizer):
    """Finds one name, once it is let."""

    kind: Literal["slow_names"] = "slow_names"
    let: ClassVar[threading.Event] = threading.Event()

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        self.let.wait()
        return [[PiiSpan(m.start(), m.end(), "person", m[0]) for m in re.finditer("John Smith", one)] for one in texts]


def test_a_trace_waits_for_its_names_and_nobody_for_the_trace(tmp_path: Path) -> None:
    asked = trace(1, messages=(Message(role="user", content="My name is John Smith."),), error="by John Smith")
    SlowNames.let.clear()
    with TraceRecorder(tmp_path, RetentionPolicy(names=(SlowNames(),), segment_bytes=100)) as recorder:
        recorder.record(asked)
        start, end = in_two(asked.model_copy(update={"id": "chatcmpl-2"}))
        recorder.end(recorder.ready(start), end)
        assert list(read_traces(tmp_path)) == []
        assert not recorder.flush(timeout_s=0.05)
        shutil.copytree(tmp_path, tmp_path / "killed")
        SlowNames.let.set()
        assert recorder.flush()
        kept = list(read_traces(tmp_path))
        assert [(one.messages[0].content, one.error) for one in kept] == [("My name is [PERSON].", "by [PERSON]")] * 2
    assert list(read_traces(tmp_path)) == kept
    assert b"John" not in b"".join(one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())
    assert [(one.id, one.messages, one.latency_s) for one in read_traces(tmp_path / "killed")] == [
        ("chatcmpl-1", (), 0.25),
        ("chatcmpl-2", (), 0.25),
    ]


def test_requests_wait_for_no_redaction_until_as_many_wait_as_may(tmp_path: Path) -> None:
    """A kill loses the words of those that wait, and no request; those above the bound are redacted by the caller."""
    texts = [f"mail {number} to anna@example.org" for number in range(MOST_QUEUED + 3)]
    asked = [trace(number, messages=(Message(role="user", content=text),)) for number, text in enumerate(texts)]
    let = threading.Event()
    with TraceRecorder(tmp_path / "traffic") as recorder:
        recorder._jobs.put(let.wait)
        for one in asked:
            start, end = in_two(one)
            recorder.end(recorder.ready(start), end)
        assert [one.id for one in read_traces(tmp_path / "traffic")] == [one.id for one in asked[MOST_QUEUED:]]
        assert not recorder.flush(timeout_s=0.05)
        shutil.copytree(tmp_path / "traffic", tmp_path / "killed")
        let.set()
        assert recorder.flush()
        (path,) = list_segments(tmp_path / "traffic")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    ids = [one.id for one in asked]
    assert [one["trace"]["id"] for one in lines if "pending" in one] == ids[:MOST_QUEUED]
    assert [one["trace"]["id"] for one in lines if "pending" not in one] == ids[MOST_QUEUED:] + ids[:MOST_QUEUED]
    kept, killed = list(read_traces(tmp_path / "traffic")), list(read_traces(tmp_path / "killed"))
    assert [one.messages[0].content for one in kept] == [text.replace("anna@example.org", "[EMAIL]") for text in texts]
    assert [one.id for one in killed] == ids
    assert [one.messages for one in killed] == [*((),) * MOST_QUEUED, *(one.messages for one in kept[-3:])]
    assert [one.latency_s for one in killed] == [0.25] * len(asked)
    assert b"anna" not in b"".join(one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())
    assert (recorder.recorded, recorder.lost) == (len(asked), 0)


def test_words_that_wait_are_written_at_the_end_and_once_a_disk_takes_them(tmp_path: Path) -> None:
    let = threading.Event()
    with TraceRecorder(tmp_path) as recorder:
        recorder._jobs.put(let.wait)
        recorder.record(trace(1))
        recorder.record(trace(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", refuse)
            let.set()
            assert not recorder.flush(timeout_s=0.1)
            assert recorder.waiting_bytes > 0
        recorder.record(trace(3))
    assert list(read_traces(tmp_path)) == [trace(1), trace(2), trace(3)]
    assert (recorder.recorded, recorder.lost, recorder.waiting_bytes) == (3, 0, 0)


def test_words_that_find_no_room_until_their_names_are_found_are_lost_alone(tmp_path: Path) -> None:
    SlowNames.let.clear()
    with TraceRecorder(tmp_path, RetentionPolicy(names=(SlowNames(),), waiting_bytes=250)) as recorder:
        for number in range(4):
            recorder.record(trace(number))
        SlowNames.let.set()
    kept = list(read_traces(tmp_path))
    assert (len(kept), recorder.recorded) == (4, 4)
    assert [one.messages for one in kept].count(()) == recorder.lost > 0


def test_a_sample_is_decided_before_the_answer(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(sample=0.25)) as recorder:
        for number in range(200):
            start, end = in_two(trace(number))
            recorder.end(recorder.ready(start), end)
    kept = [one.id for one in read_traces(tmp_path)]
    assert recorder.recorded == len(kept)
    assert recorder.left_out == 200 - len(kept)
    assert 20 < len(kept) < 80


def test_a_full_segment_becomes_parquet(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(segment_bytes=2000)) as recorder:
        for number in range(50):
            recorder.record(trace(number))
    assert [one.id for one in read_traces(tmp_path)] == [f"chatcmpl-{number}" for number in range(50)]
    assert list(tmp_path.glob("traces/2026-11-20/*.parquet"))


def test_a_change_holds_for_all_that_is_recorded_afterwards(tmp_path: Path) -> None:
    """Also where somebody records without a pause, and for what is written by hand; nothing is lost or doubled."""
    asked = trace(1, messages=(Message(role="user", content="call 0171 2345678 or jo@x.example"),))
    with TraceRecorder(tmp_path, RetentionPolicy(pii=())) as recorder:
        for number in range(300):
            recorder.record(asked.model_copy(update={"id": f"before-{number}"}))
        recorder.change(RetentionPolicy(pii=("email",)))
        recorder.change(recorder.keeping)
        for number in range(300):
            recorder.record(asked.model_copy(update={"id": f"after-{number}"}))
        assert recorder.flush()
    kept = [*read_traces(tmp_path)]
    assert sorted(one.id for one in kept) == sorted(f"{when}-{at}" for when in ("before", "after") for at in range(300))
    for one in kept:
        wanted = asked.messages[0].content
        if one.id.startswith("after"):
            wanted = "call 0171 2345678 or [EMAIL]"
        assert one.messages[0].content == wanted
    append_redacted_records(tmp_path, [opinion(1, comment="jo@x.example, 0171 2345678")])
    assert [one.comment for one in read_feedback(tmp_path)] == ["[EMAIL], 0171 2345678"]


def test_settings_that_cannot_be_read_stop_what_is_written_by_hand(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy()) as recorder:
        recorder.record(trace(1))
    (tmp_path / "keeping.json").write_text('{"names": "no such model"}')
    with pytest.raises(DataError, match="cannot be read as settings of traffic"):
        append_redacted_records(tmp_path, [opinion(1, rating=1)])


def test_a_change_of_one_that_is_closed_changes_nothing(tmp_path: Path) -> None:
    recorder = TraceRecorder(tmp_path, RetentionPolicy())
    recorder.close()
    recorder.change(RetentionPolicy(pii=()))
    assert recorder.keeping == RetentionPolicy()


def test_an_old_segment_becomes_parquet_while_nothing_more_comes(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(segment_s=0.1)) as recorder:
        recorder.record(trace(1))
        end = time.monotonic() + 60
        while not list(tmp_path.glob("traces/2026-11-20/*.parquet")):
            assert time.monotonic() < end
            time.sleep(0.05)
        recorder.record(trace(2))
        assert recorder.flush()
        assert [one.id for one in read_traces(tmp_path)] == ["chatcmpl-1", "chatcmpl-2"]


def test_a_recorder_that_begins_finds_what_a_killed_one_left(tmp_path: Path) -> None:
    kill_server(begin_server(tmp_path, 1))
    (path, *_) = list_segments(tmp_path)
    os.utime(path, (0, 0))
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(trace(0))
    assert path not in list_segments(tmp_path)
    found = [one.id for one in read_traces(tmp_path)]
    assert {"chatcmpl-0", "chatcmpl-1"} <= set(found)
    assert len(found) == len(set(found))

"""Recording: nothing that was answered is lost or doubled, whoever is killed; bounds hold, and losses are counted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.core.errors import DataError, Unwritable
from luthier.text.messages import Message
from luthier.text.recogniser import Recogniser
from luthier.traffic.place import Keeping
from luthier.traffic.read import feedback, traces
from luthier.traffic.recorder import Recorder, is_sampled
from luthier.traffic.spool import segments
from luthier.traffic.write import write
from traffic.conftest import opinion, trace

SERVER = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from traffic.conftest import in_two, trace
from luthier.traffic.place import Keeping
from luthier.traffic.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), Keeping(segment_bytes=4000))
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


def killed(folder: Path, begin: int, after_s: float) -> list[int]:
    """The requests that a server answered before it was killed."""
    command = [sys.executable, "-c", SERVER, str(folder), str(begin), str(Path(__file__).parent.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after_s)
    process.kill()
    rest, _ = process.communicate()
    return [int(line) for line in (first + rest).splitlines()]


def wait_until_written(folder: Path, ids: set[str]) -> list[str]:
    """The ids of all traces once those that are wanted are there: what the pipe held is written after a kill."""
    end = time.monotonic() + 30
    while True:
        found = [one.id for one in traces(folder)]
        if ids <= set(found) or time.monotonic() > end:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_loses_no_request_that_it_answered(tmp_path: Path, kills: int) -> None:
    chance, answered, begin = random.Random(7), set[str](), 0
    for _ in range(kills):
        numbers = killed(tmp_path, begin, chance.uniform(0, 0.3))
        answered |= {f"chatcmpl-{number}" for number in numbers}
        begin = max(numbers) + 1000
    found = wait_until_written(tmp_path, answered)
    assert answered <= set(found)
    assert len(found) == len(set(found))
    assert len(found) - len(answered) <= kills  # recorded, and killed before the answer's end


def kill_writer(recorder: Recorder) -> None:
    """Kill the process that writes, and wait until another one is there, or none will be."""
    killed = recorder._writer
    killed.kill()
    end = time.monotonic() + 30
    while recorder._writer is killed and not recorder._closed:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_is_followed_by_another(tmp_path: Path, kills: int) -> None:
    chance, number = random.Random(3), 0
    with Recorder(tmp_path, Keeping(segment_bytes=20_000)) as recorder:
        for _ in range(kills):
            recorder._deaths.clear()
            end = time.monotonic() + chance.uniform(0.05, 0.2)
            while time.monotonic() < end and recorder.waiting_bytes < 2 << 20:  # writers are killed as they begin
                recorder.record(trace(number))
                number += 1
            kill_writer(recorder)
    found = [one.id for one in traces(tmp_path)]
    assert len(found) == number
    assert len(set(found)) == number
    assert recorder.lost == 0


def test_a_writer_that_dies_at_once_is_given_up_and_what_is_lost_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(tmp_path) as recorder:
        for number in range(4):
            recorder.record(trace(number))
            kill_writer(recorder)
        recorder.record(trace(9))
    assert recorder.lost > 0
    assert recorder.flush()
    assert recorder.waiting_bytes == 0
    assert "dies again and again" in caplog.text


def test_what_was_recorded_comes_back_as_it_was(tmp_path: Path) -> None:
    asked = trace(1, scores={"billing": 0.75}, parameters={"temperature": 0.5}, meta={"shop": "nl"}, user="C-1")
    with Recorder(tmp_path) as recorder:
        recorder.record(asked)
        recorder.record(opinion(1, rating=-1, correction="Tomorrow.", by="C-1"))
        recorder.flush()
        assert list(traces(tmp_path)) == [asked]
    assert list(traces(tmp_path)) == [asked]
    (said,) = feedback(tmp_path)
    assert said == opinion(1, rating=-1, correction="Tomorrow.", by="C-1")
    assert said.model_fields_set == {"trace", "at", "rating", "correction", "by"}


def test_personal_data_never_reaches_the_disk(tmp_path: Path) -> None:
    asked = trace(1, user="anna@example.org", error="no mail for anna@example.org", meta={"phone": "4155550143"})
    with Recorder(tmp_path, Keeping(segment_bytes=1)) as recorder:
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
    (kept,), (said,) = traces(tmp_path), feedback(tmp_path)
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
    names = Recogniser.parse({"kind": "spacy", "model": str(tmp_path / "pipeline")})
    text = "My name is John Smith and my mail is john@example.org."
    asked = trace(1, messages=(Message(role="user", content=text),))
    with Recorder(tmp_path / "traffic", Keeping(names=names)) as recorder:
        recorder.record(asked)
        recorder.record(opinion(1, comment="John Smith was right."))
    (kept,), (said,) = traces(tmp_path / "traffic"), feedback(tmp_path / "traffic")
    assert kept.messages[0].content == "My name is [PERSON] and my mail is [EMAIL]."
    assert said.comment == "[PERSON] was right."


def test_a_sample_is_decided_by_the_id(tmp_path: Path) -> None:
    with Recorder(tmp_path, Keeping(sample=0.25)) as recorder:
        for number in range(1000):
            recorder.record(trace(number))
        recorder.record(opinion(1, rating=1))
    kept = {one.id for one in traces(tmp_path)}
    assert kept == {f"chatcmpl-{number}" for number in range(1000) if is_sampled(f"chatcmpl-{number}", 0.25)}
    assert 200 < len(kept) < 300
    assert recorder.left_out == 1000 - len(kept)
    assert len(list(feedback(tmp_path))) == 1
    assert not is_sampled("anything", 0.0)


def test_what_is_not_written_yet_waits_in_memory_within_the_bound(tmp_path: Path) -> None:
    with Recorder(tmp_path, Keeping(waiting_bytes=4 << 20, pii=())) as recorder:
        os.kill(recorder._writer.pid, signal.SIGSTOP)
        try:
            for number in range(100):
                recorder.record(trace(number, error="x" * 100_000))
            assert not recorder.flush(timeout_s=0.05)
            assert recorder.lost > 0
            assert 3 << 20 < recorder.waiting_bytes <= 4 << 20
        finally:
            os.kill(recorder._writer.pid, signal.SIGCONT)
    assert len(list(traces(tmp_path))) == recorder.recorded == 100 - recorder.lost


def test_a_fork_records_in_a_stream_of_its_own(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.record(trace(1))
        child = os.fork()
        if child == 0:
            recorder.record(trace(2))
            recorder.close()
            os._exit(0)
        os.waitpid(child, 0)
        recorder.record(trace(3))
    assert [one.id for one in traces(tmp_path)] == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]
    assert len(segments(tmp_path)) == 2


def test_a_disk_that_refuses_is_waited_for(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        (tmp_path / "spool").rmdir()
        (tmp_path / "spool").write_text("in the way")
        recorder.record(trace(1))
        assert not recorder.flush(timeout_s=0.5)
        (tmp_path / "spool").unlink()
        assert recorder.flush()
    assert [one.id for one in traces(tmp_path)] == ["chatcmpl-1"]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="file"):
        Recorder(tmp_path / "file")


def test_settings_that_are_nested_too_deep_end_no_recording(tmp_path: Path) -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with Recorder(tmp_path) as recorder:
        recorder.record(trace(1).model_copy(update={"parameters": {"deep": deep}}))
        middling: list[object] = []
        for _ in range(240):
            middling = [middling]
        recorder.record(trace(2, parameters={"deep": middling}))
        recorder.record(trace(3))
    assert [one.id for one in traces(tmp_path)] == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]
    assert recorder.lost == 0


def test_what_json_cannot_say_in_utf8_is_kept_all_the_same(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.record(trace(1, parameters={"stop": json.loads('"\\ud83d"')}))
        recorder.record(trace(2))
    assert [one.id for one in traces(tmp_path)] == ["chatcmpl-1", "chatcmpl-2"]


def test_a_change_holds_for_all_that_is_recorded_afterwards(tmp_path: Path) -> None:
    """Also where somebody records without a pause, and for what is written by hand; nothing is lost or doubled."""
    asked = trace(1, messages=(Message(role="user", content="call 0171 2345678 or jo@x.example"),))
    with Recorder(tmp_path, Keeping(pii=())) as recorder:
        for number in range(300):
            recorder.record(asked.model_copy(update={"id": f"before-{number}"}))
        recorder.change(Keeping(pii=("email",)))
        recorder.change(recorder.keeping)
        for number in range(300):
            recorder.record(asked.model_copy(update={"id": f"after-{number}"}))
        assert recorder.flush()
    kept = [*traces(tmp_path)]
    assert sorted(one.id for one in kept) == sorted(f"{when}-{at}" for when in ("before", "after") for at in range(300))
    for one in kept:
        wanted = asked.messages[0].content
        if one.id.startswith("after"):
            wanted = "call 0171 2345678 or [EMAIL]"
        assert one.messages[0].content == wanted
    write(tmp_path, [opinion(1, comment="jo@x.example, 0171 2345678")])
    assert [one.comment for one in feedback(tmp_path)] == ["[EMAIL], 0171 2345678"]


def test_settings_that_cannot_be_read_stop_what_is_written_by_hand(tmp_path: Path) -> None:
    with Recorder(tmp_path, Keeping()) as recorder:
        recorder.record(trace(1))
    (tmp_path / "keeping.json").write_text('{"names": "no such model"}')
    with pytest.raises(DataError, match="cannot be read as settings of traffic"):
        write(tmp_path, [opinion(1, rating=1)])


def test_a_change_of_one_that_is_closed_changes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Keeping())
    recorder.close()
    recorder.change(Keeping(pii=()))
    assert recorder.keeping == Keeping()

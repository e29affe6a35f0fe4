"""Pictures of requests: digests always, bytes where that is asked for and allowed, each once, as long as its day."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from luthier.chat.media_codec import KeptMedia, keep_media
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.core.errors import DataError
from luthier.traces import recorder as recording
from luthier.traces.compact import compact_traffic_folder
from luthier.traces.media import has_trace_media, list_trace_media, read_trace_media
from luthier.traces.recorder import TraceRecorder
from luthier.traces.retention import RetentionPolicy
from luthier.traces.store import read_traces
from tests.traces.conftest import trace
from vision_models import picture

FIRST, FIRST_BYTES = picture(1)
SECOND, SECOND_BYTES = picture(2)


def test_bytes_are_kept_where_that_is_asked_for_and_each_once(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "digests") as recorder:
        recorder.keep_media({FIRST: FIRST_BYTES})
        recorder.flush()
    assert list_trace_media(tmp_path / "digests") == []
    folder = tmp_path / "bytes"
    with TraceRecorder(folder, RetentionPolicy(media="bytes")) as recorder:
        recorder.keep_media({FIRST: FIRST_BYTES, SECOND: SECOND_BYTES})
        recorder.keep_media({FIRST: FIRST_BYTES})
        assert recorder.flush()
        assert len(list_trace_media(folder)) == 2
    assert read_trace_media(folder, FIRST) == FIRST_BYTES
    path = next(path for path in list_trace_media(folder) if FIRST.digest in path.name)
    path.write_bytes(SECOND_BYTES)
    with pytest.raises(DataError, match="other bytes"):
        read_trace_media(folder, FIRST)


def test_what_waits_for_the_disk_is_bounded_and_a_full_one_loses_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TraceRecorder(tmp_path, RetentionPolicy(media="bytes", waiting_bytes=len(FIRST_BYTES) - 1)) as recorder:
        recorder.keep_media({FIRST: FIRST_BYTES})
        assert recorder.lost == 1
        assert recorder.waiting_bytes == 0

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(recording, "write_trace_media", refuse)
    with TraceRecorder(tmp_path, RetentionPolicy(media="bytes")) as recorder:
        recorder.record(trace(1))
        recorder.keep_media({FIRST: FIRST_BYTES})
        assert recorder.flush()
        assert recorder.lost == 1
    assert [one.id for one in read_traces(tmp_path)] == ["chatcmpl-1"]


def test_bytes_go_with_the_last_day_on_which_they_were_shown(tmp_path: Path) -> None:
    keeping = RetentionPolicy(media="bytes", days=3)
    with TraceRecorder(tmp_path, keeping) as recorder:
        recorder.keep_media({FIRST: FIRST_BYTES, SECOND: SECOND_BYTES})
    now = datetime.now(UTC)
    for path in list_trace_media(tmp_path):
        os.utime(path, times=((now - timedelta(days=5)).timestamp(),) * 2)
    with TraceRecorder(tmp_path, keeping) as recorder:
        recorder.keep_media({FIRST: FIRST_BYTES})
        recorder.flush()
        compact_traffic_folder(tmp_path, keeping, now=now)
    assert has_trace_media(tmp_path, FIRST)
    assert not has_trace_media(tmp_path, SECOND)


def test_what_operators_find_is_taken_out_before_anything_is_kept(tmp_path: Path) -> None:
    policy = RetentionPolicy.model_validate({"media": "bytes", "media_ops": ["faces"]})
    assert policy.media_ops == ({"kind": "faces"},)

    def redact(media: Media, content: bytes) -> KeptMedia | None:
        if media == SECOND:
            return None
        return keep_media(picture(9)[1])

    with TraceRecorder(tmp_path, policy) as recorder:
        recorder.redact_media = redact
        for _ in range(2):
            recorder.keep_media({FIRST: FIRST_BYTES, SECOND: SECOND_BYTES})
            assert recorder.flush()
    (path,) = list_trace_media(tmp_path)
    assert path.name.startswith(f"{FIRST.digest}.")
    assert read_trace_media(tmp_path, FIRST) == picture(9)[1]
    assert not has_trace_media(tmp_path, SECOND)
    with TraceRecorder(tmp_path / "other", policy) as recorder:  # nobody who takes anything out
        recorder.keep_media({FIRST: FIRST_BYTES})
        assert recorder.flush()
        assert recorder.lost == 1
    assert list_trace_media(tmp_path / "other") == []


def test_redaction_around_pictures_leaves_a_place_for_each(tmp_path: Path) -> None:
    turn = Message(role="user", content=f"anna@{MEDIA_MARK}example.org, a@b.org{MEDIA_MARK}", media=(FIRST, SECOND))
    with TraceRecorder(tmp_path) as recorder:
        recorder.record(trace(1, messages=(turn,)))
    (found,) = read_traces(tmp_path)
    assert found.messages[0].media == (FIRST, SECOND)
    assert found.messages[0].content == f"anna@{MEDIA_MARK}example.org, [EMAIL]{MEDIA_MARK}"


def test_pictures_of_the_tests_are_as_they_are_kept() -> None:
    assert keep_media(FIRST_BYTES).media.digest == FIRST.digest

"""A traffic folder: torn and broken lines, kills while segments become Parquet, retention, and reading meanwhile."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from luthier.core.errors import InputError, SystemResourceError
from luthier.traces import compact as compacting
from luthier.traces.compact import CompactionStats, compact_traffic_folder
from luthier.traces.folder import read_folder_snapshot
from luthier.traces.record import Feedback, Trace
from luthier.traces.retention import RetentionPolicy, traffic_folder
from luthier.traces.segment import Segment, SegmentLine, encode_lines, is_open_for_writing, list_segments
from luthier.traces.store import (
    read_feedback,
    read_latest_feedback,
    read_trace_by_id,
    read_traces,
    read_traces_with_feedback,
    scan_table,
)
from luthier.traces.stream import TraceTail
from tests import ready
from traces.conftest import DAY, opinion, trace


def write(folder: Path, *records: Trace | Feedback) -> Path:
    """A segment that a writer is done with."""
    segment = Segment(folder, "test")
    lines = [
        SegmentLine(
            "traces" if isinstance(one, Trace) else "feedback", one.model_dump(mode="json", exclude_defaults=True)
        )
        for one in records
    ]
    segment.write(encode_lines(lines))
    segment.close()
    return segment.path


def ids(folder: Path) -> list[str]:
    return [one.id for one in read_traces(folder)]


def test_where_traffic_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert traffic_folder(tmp_path) == tmp_path / ".luthier" / "traffic"
    monkeypatch.setenv("LUTHIER_TRAFFIC", "/srv/traffic")
    assert traffic_folder(tmp_path) == Path("/srv/traffic")


@pytest.mark.parametrize("torn", [b'{"tra', b"\x00\x00\x00", b'{"trace":{"id":"caf\xc3'])
def test_a_torn_last_line_is_skipped_and_counted(tmp_path: Path, torn: bytes) -> None:
    path = write(tmp_path, trace(1))
    with path.open("ab") as file:
        file.write(torn)
    assert ids(tmp_path) == ["chatcmpl-1"]
    assert compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path]) == CompactionStats(
        segments=1, rows=1, broken=1
    )
    assert ids(tmp_path) == ["chatcmpl-1"]
    assert (tmp_path / "broken.jsonl").read_bytes() == torn + b"\n"


def test_a_trace_counts_once_its_words_are_there_or_can_no_longer_come(tmp_path: Path) -> None:
    segment = Segment(tmp_path, "ab")
    arrivals = TraceTail(tmp_path)
    lines = [SegmentLine("traces", one.model_dump(mode="json", exclude_defaults=True)) for one in (trace(1), trace(2))]
    names = ("id", "timestamp", "model")
    bare = [SegmentLine("traces", {name: line.record[name] for name in names}, True) for line in lines]
    segment.write(encode_lines(bare))
    assert ids(tmp_path) == []
    assert list(arrivals.fresh()) == []
    segment.write(encode_lines(lines[:1]))
    assert list(read_traces(tmp_path)) == list(arrivals.fresh()) == [trace(1)]
    segment.close()
    (late,) = arrivals.fresh()
    assert list(arrivals.fresh()) == []
    assert list(read_traces(tmp_path)) == [trace(1), late]
    assert isinstance(late, Trace)
    assert (late.id, late.messages) == ("chatcmpl-2", ())
    assert compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path)).rows == 2
    assert list(read_traces(tmp_path)) == [trace(1), late]


def test_a_line_that_the_disk_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(tmp_path, "ab")
    segment.write(b"one\n")
    real, room = os.write, 2

    def full(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, room = real(file, data[:room]), 0
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(SystemResourceError, match="the disk is full"):
            segment.write(b"two\n")
    segment.write(b"three\n")
    segment.close()
    assert segment.path.read_bytes() == b"one\nthree\n"


def test_a_segment_is_held_by_its_writer_only(tmp_path: Path) -> None:
    segment = Segment(tmp_path, "ab")
    segment.write(b"{}\n")
    assert is_open_for_writing(segment.path)
    assert compact_traffic_folder(tmp_path, RetentionPolicy()) == CompactionStats()
    segment.close()
    assert not is_open_for_writing(segment.path)
    assert not is_open_for_writing(tmp_path / "nothing")


def test_an_empty_segment_leaves_nothing(tmp_path: Path) -> None:
    segment = Segment(tmp_path, "ab")
    segment.close()
    assert list_segments(tmp_path) == []


def test_broken_lines_are_counted_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path, trace(1))
    with path.open("ab") as file:
        file.write(b'nonsense\n{"other":{}}\n{"trace":{"id":"x"}}\n')
    assert ids(tmp_path) == ["chatcmpl-1"]
    assert compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path]) == CompactionStats(
        segments=1, rows=1, broken=3
    )
    assert ids(tmp_path) == ["chatcmpl-1"]
    assert len((tmp_path / "broken.jsonl").read_bytes().splitlines()) == 3


def test_segments_become_parquet_by_day_that_anybody_reads(tmp_path: Path) -> None:
    path = write(tmp_path, trace(1), trace(800), opinion(1, rating=1))
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path])
    assert sorted(day.name for day in (tmp_path / "traces").iterdir()) == ["2026-11-20", "2026-11-21"]
    rows = pl.read_parquet(tmp_path / "traces" / "*" / "*.parquet").sort("timestamp")
    assert rows["id"].to_list() == ["chatcmpl-1", "chatcmpl-800"]
    assert rows["text"].to_list() == ["On its way."] * 2
    assert json.loads(rows["messages"][0]) == [{"role": "user", "content": "Where is parcel 1?"}]


def test_small_files_of_a_day_become_one(tmp_path: Path) -> None:
    for number in range(5):
        compact_traffic_folder(
            tmp_path, RetentionPolicy(), closed=[write(tmp_path, trace(number), opinion(number, rating=1))], now=DAY
        )
    assert len(read_folder_snapshot(tmp_path).days["traces"][DAY.date()]) == 5
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=1))
    assert len(read_folder_snapshot(tmp_path).days["traces"][DAY.date()]) == 1
    assert ids(tmp_path) == [f"chatcmpl-{number}" for number in range(5)]
    assert len(list(read_feedback(tmp_path))) == 5


def test_rows_of_files_that_overlap_come_in_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "_ROWS", 10)
    for begin in range(4):
        write(tmp_path, *(trace(number) for number in range(begin, 100, 4)))
    for path in list_segments(tmp_path)[:3]:
        compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path], now=DAY)
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=1))
    assert ids(tmp_path) == [f"chatcmpl-{number}" for number in range(100)]
    since, until = DAY + timedelta(minutes=20), DAY + timedelta(minutes=23)
    assert [one.id for one in read_traces(tmp_path, since, until)] == ["chatcmpl-20", "chatcmpl-21", "chatcmpl-22"]


def come(folder: Path) -> None:
    """Let every file have come on its own day."""
    for path in folder.glob("*/*/*.parquet"):
        at = DAY.fromisoformat(f"{path.parent.name}T12:00:00+00:00").timestamp()
        os.utime(path, (at, at))


def test_old_days_go_and_then_the_oldest_while_there_is_too_much(tmp_path: Path) -> None:
    for day in range(6):
        write(tmp_path, trace(day * 1440, error="x" * 100), opinion(day * 1440, rating=1))
    now = DAY + timedelta(days=5)
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path), now=now)
    come(tmp_path)
    assert compact_traffic_folder(tmp_path, RetentionPolicy(days=3), now=now) == CompactionStats(removed=6)
    assert [day.isoformat() for day in read_folder_snapshot(tmp_path).days["traces"]] == [
        "2026-11-23",
        "2026-11-24",
        "2026-11-25",
    ]
    assert not (tmp_path / "traces" / "2026-11-20").exists()
    for day in (4, 5):
        rows = range(day * 1440 + 1, day * 1440 + 41)
        write(tmp_path, *(trace(row, error=random.Random(row).randbytes(20_000).hex()) for row in rows))
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path), now=now)
    come(tmp_path)
    compact_traffic_folder(tmp_path, RetentionPolicy(most_bytes=1 << 20), now=now)
    assert [day.isoformat() for day in read_folder_snapshot(tmp_path).days["traces"]] == ["2026-11-25"]


def test_an_old_log_that_came_today_stays(tmp_path: Path) -> None:
    compact_traffic_folder(
        tmp_path, RetentionPolicy(days=3), closed=[write(tmp_path, trace(-1440 * 400))], now=datetime.now(UTC)
    )
    assert len(ids(tmp_path)) == 1


def test_numbers_and_moments_beyond_all_measure_break_nothing(tmp_path: Path) -> None:
    huge = trace(1, prompt_tokens=10**30, status=10**12, parameters={"stop": json.loads('"\\ud83d"')})
    path = write(tmp_path, huge, trace(2))
    with path.open("ab") as file:
        file.write(b'{"trace":{"id":"x","timestamp":"0001-01-01T00:00:00+14:00","model":"m"}}\n')
    assert len(ids(tmp_path)) == 2
    assert compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path]).broken == 1
    assert ids(tmp_path) == ["chatcmpl-1", "chatcmpl-2"]


def test_only_its_owner_reads_a_folder_of_traffic(tmp_path: Path) -> None:
    write(tmp_path / "a" / "traffic", trace(1))
    assert (tmp_path / "a" / "traffic").stat().st_mode & 0o077 == 0


COMPACTOR = """
import sys
from pathlib import Path
from luthier.traces.compact import compact_traffic_folder
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import list_segments
import luthier.traces.tables
folder = Path(sys.argv[1])
print("go", flush=True)
compact_traffic_folder(folder, RetentionPolicy(days=10000), closed=list_segments(folder))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_while_segments_become_parquet_loses_and_doubles_nothing(tmp_path: Path, kills: int) -> None:
    chance, wanted = random.Random(11), 0
    for _ in range(kills):
        for _ in range(4):
            write(tmp_path, *(trace(number) for number in range(wanted, wanted + 50)))
            wanted += 50
        command = [sys.executable, "-c", COMPACTOR, str(tmp_path)]
        process = ready.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert sorted(ids(tmp_path)) == sorted(f"chatcmpl-{number}" for number in range(wanted))
    compact_traffic_folder(tmp_path, RetentionPolicy(days=10000), closed=list_segments(tmp_path))
    assert len(ids(tmp_path)) == wanted
    assert list_segments(tmp_path) == []
    assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.parametrize("moment", ["decided", "half", "undecided"])
def test_a_replacement_counts_from_the_moment_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from luthier.traces import folder as place

    path = write(tmp_path, trace(1), trace(800))
    real = place._finish

    def stopped(folder: Path, job: Path) -> None:
        if moment == "half":
            outputs, _ = place._read_job(folder, job)
            outputs[0].final.parent.mkdir(parents=True)
            outputs[0].aside.replace(outputs[0].final)
        if moment == "undecided":
            job.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(place, "_finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path])
    assert ids(tmp_path) == ["chatcmpl-1", "chatcmpl-800"]
    assert len(read_folder_snapshot(tmp_path).segments) == (1 if moment == "undecided" else 0)
    monkeypatch.setattr(place, "_finish", real)
    compact_traffic_folder(tmp_path, RetentionPolicy(days=10000), closed=list_segments(tmp_path))
    assert ids(tmp_path) == ["chatcmpl-1", "chatcmpl-800"]


def test_a_reader_that_began_before_a_replacement_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "_ROWS", 10)
    path = write(tmp_path, *(trace(number) for number in range(40)))
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[path], now=DAY)
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[write(tmp_path, trace(41))], now=DAY)
    reading = read_traces(tmp_path)
    found = [next(reading).id]
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=1))
    assert [*found, *(one.id for one in reading)] == [f"chatcmpl-{number}" for number in [*range(40), 41]]


def test_what_is_said_is_joined_and_of_each_person_the_last_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        trace(1),
        trace(2),
        opinion(1, by="anna", rating=-1, comment="wrong"),
        opinion(1, by="ben", rating=1),
        Feedback(trace="chatcmpl-1", timestamp=DAY + timedelta(hours=5), by="anna", rating=1),
    )
    first, second = read_traces_with_feedback(tmp_path)
    assert {(one.by, one.rating, one.comment) for one in first.feedback} == {("anna", 1, "wrong"), ("ben", 1, "")}
    assert second.feedback == ()
    assert read_trace_by_id(tmp_path, "chatcmpl-1") == first
    assert list(read_latest_feedback(tmp_path)) == ["chatcmpl-1"]
    with pytest.raises(InputError, match="no trace"):
        read_trace_by_id(tmp_path, "chatcmpl-3")


def test_a_query_reads_segments_and_parquet(tmp_path: Path) -> None:
    assert scan_table(tmp_path, "traces").collect().height == 0
    compact_traffic_folder(
        tmp_path, RetentionPolicy(), closed=[write(tmp_path, *(trace(n, latency_s=n) for n in range(10)))]
    )
    write(tmp_path, trace(11, latency_s=11))
    whole = scan_table(tmp_path, "traces").select(pl.len(), pl.col("latency_s").max()).collect()
    assert whole.row(0) == (11, 11.0)
    assert scan_table(tmp_path, "traces", DAY + timedelta(minutes=9)).collect()["id"].to_list() == [
        "chatcmpl-9",
        "chatcmpl-11",
    ]


def test_traces_of_an_earlier_version_are_refused_and_stay(tmp_path: Path) -> None:
    former = {"trace": {"id": "a", "at": "2026-11-20T12:00:00Z", "model": "m", "arm": "stable", "finish": "stop"}}
    segment = write(tmp_path, trace(1))
    segment.write_text(json.dumps(former) + "\n")
    assert compact_traffic_folder(tmp_path, RetentionPolicy(), closed=[segment]).segments == 0
    assert json.loads(segment.read_text()) == former
    with pytest.raises(InputError, match="`at` is `timestamp` now"):
        ids(tmp_path)
    segment.unlink()
    day = tmp_path / "traces" / "2026-11-20"
    day.mkdir(parents=True)
    pl.DataFrame({"id": ["a"], "at": [DAY], "model": ["m"]}).write_parquet(day / "part.parquet")
    with pytest.raises(InputError, match="`at` is `timestamp` now"):
        ids(tmp_path)
    with pytest.raises(InputError, match="`at` is `timestamp` now"):
        scan_table(tmp_path, "traces")

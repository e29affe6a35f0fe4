"""Filters of traces: what they choose, where they are wrong, and that their text reaches no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import InputError
from luthier.traces.compact import compact_traffic_folder
from luthier.traces.feedback import append_redacted_records
from luthier.traces.filter import TraceFilter
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import list_segments
from luthier.traces.store import read_traces_with_feedback
from traces.conftest import DAY, opinion, trace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rating < 0", [1]),
        ("rating >= 0 or label = 'billing'", [2, 3]),
        ("not rating < 0", [2]),
        ("rating is missing", [0, 3, 4]),
        ("correction is not missing", [1]),
        ('meta.shop in ("nl", "de") and status != 200', [4]),
        ("text contains 'way' and (latency_s > 0.5 or consent = false)", [0, 2]),
        ('timestamp >= "2026-11-20T12:03:00Z"', [3, 4]),
        ('timestamp < "2026-11-20T14:01:00+02:00"', [0]),
        ("user not in ('C-1')", [1]),
    ],
)
def test_a_condition_chooses(tmp_path: Path, text: str, wanted: list[int]) -> None:
    records = [
        trace(0, consent=False, user="C-1"),
        trace(1, user="C-2"),
        trace(2, latency_s=0.75),
        trace(3, meta={"shop": "nl"}),
        trace(4, meta={"shop": "de"}, status=500, answer=None),
        opinion(1, rating=-1, correction="Tomorrow."),
        opinion(2, rating=0.5),
        opinion(3, label="billing"),
    ]
    append_redacted_records(tmp_path, records)
    for _ in range(2):
        assert [
            int(one.trace.id.split("-")[1]) for one in read_traces_with_feedback(tmp_path, where=TraceFilter(text))
        ] == wanted
        compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path), now=DAY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ratng < 0", "did you mean 'rating'"),
        ("rating < 'x'", "column 10: expected a number"),
        ("rating <", "column 9: expected a number"),
        ("(rating < 0", "expected `)`"),
        ("rating < 0 so", "nothing more"),
        ("rating $ 3", "has no meaning"),
        ("consent = 3", "true or false"),
        ("timestamp < 'soon'", "a moment"),
        ("rating contains 'x'", "looks into texts"),
        ("model in ()", "a quoted string"),
        ("model in ('a' 'b')", "expected `,` or `)`"),
        ("rating is gone", "expected `missing`"),
        ("rating not 3", "expected one of"),
        ("meta. = 'x'", "unknown"),
        ("(" * 100, "more than 50"),
        ("", "expected a name"),
        ("id = 'a", "has no meaning"),
    ],
)
def test_a_condition_that_is_wrong_is_refused_at_its_place(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        TraceFilter(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id in (select a from read_parquet('FILE'))", "column 8: expected a quoted string, got 'select'"),
        ("read_parquet('FILE') = 'a'", "column 1: 'read_parquet' is unknown"),
        ("exists (select 1 from read_csv('FILE'))", "column 1: 'exists' is unknown"),
        ("(select a from read_csv('FILE')) = 1", "column 2: 'select' is unknown"),
        ("rating < 0; drop table traces", "column 11: ';' has no meaning in a condition"),
        ("rating < 0 union select 1", "expected `and`, `or` or nothing more, got 'union'"),
        ("rating < random()", "expected a number, got 'random'"),
        ("messages contains 'x'", "column 1: 'messages' is unknown"),
        ("meta.x] = 'y'", "column 7: ']' has no meaning"),
    ],
)
def test_an_attack_reaches_no_file_and_no_column_that_is_not_meant(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "FILE").write_text("a\n1\n")
    with pytest.raises(InputError) as caught:
        TraceFilter(text.replace("FILE", str(tmp_path / "FILE")))
    assert said in str(caught.value)


def test_text_in_a_condition_is_only_compared(tmp_path: Path) -> None:
    text = "select a from read_parquet('/no/such/file')"  # it would be missed
    append_redacted_records(tmp_path, [trace(0), trace(1, user=text), trace(2, meta={"shop": text})])
    found = read_traces_with_feedback(tmp_path, where=TraceFilter(f'user = "{text}" or meta.shop in ("{text}")'))
    assert [one.trace.id for one in found] == ["chatcmpl-1", "chatcmpl-2"]

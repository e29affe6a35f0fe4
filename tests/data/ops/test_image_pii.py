"""Personal data in pictures: what is covered, what is left, and what the books say of it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.drawn_text import DrawnText, draw_text

from luthier.artifacts.dataset import read_examples
from luthier.artifacts.media import MediaReader, list_media_files
from luthier.chat.media_codec import decode_image
from luthier.data.history.lineage import explain_example
from luthier.data.media.text import ImageText, ImageWord, read_image_text
from luthier.data.ops import image_pii
from luthier.data.ops.image_pii import ImagePii

pytest.importorskip("rapidocr")
Make = Callable[..., Any]
PLAIN = "Two boxes of books for the branch in Leeds"
FIXED = [
    ("Mail jo.smith@example.com today", "jo.smith@example.com", "email"),
    ("Phone: +1 415 555 0143", "+1 415 555 0143", "phone"),
    ("Refund to DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00", "iban"),
    ("Card 4111 1111 1111 1111 was charged", "4111 1111 1111 1111", "card"),
    ("Host 192.168.10.44 is down", "192.168.10.44", "ip"),
    ("My SSN is 536-90-4399", "536-90-4399", "ssn"),
]


@pytest.fixture(scope="module", autouse=True)
def _pictures_are_read_once() -> Iterator[None]:
    """OCR takes most of a second, and these tests look at the same few pictures time and again."""
    known: dict[tuple[Any, bytes], ImageText] = {}

    def read(image: Any) -> ImageText:
        key = (image.mode, image.size), image.tobytes()
        if key not in known:
            known[key] = read_image_text(image)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_pii, "read_image_text", read)
        yield


def _drawn(text: str, value: str, *, hard: bool = False) -> DrawnText:
    start = text.index(value) if value else 0
    return draw_text(text, [(start, start + len(value))] if value else [], len(text), hard=hard)


def _ink(content: bytes, box: tuple[float, float, float, float]) -> float:
    """How much the gray values of a box vary."""
    left, top, right, bottom = map(round, box)
    return float(np.asarray(decode_image(content).convert("L"), np.float64)[top:bottom, left:right].std())


@pytest.mark.parametrize("hard", [False, True])
def test_every_value_of_a_small_fixed_set_is_covered_and_the_rest_stays(*, hard: bool) -> None:
    text = "\n".join(line for line, _, _ in FIXED)
    spans = [(start := text.index(value), start + len(value)) for _, value, _ in FIXED]
    drawn = draw_text(text, spans, 3, hard=hard)
    operator = ImagePii()
    findings = operator.find(drawn.content)
    assert {finding.kind for finding in findings} == {kind for _, _, kind in FIXED}
    changed = operator.redact(drawn.content, findings).content
    for (line, value, _), (box,) in zip(FIXED, drawn.boxes, strict=True):
        assert _ink(drawn.content, box) > 10, line
        assert _ink(changed, box) < 3, line
        if hard or line.startswith(value):
            continue
        left, top, _, bottom = box
        before = (24, top, left - 20, bottom)
        assert _ink(changed, before) == pytest.approx(_ink(drawn.content, before)), line
    left = read_image_text(decode_image(changed))
    assert operator.find(changed) == []
    assert not any(value in left.text for _, value, _ in FIXED)
    assert "Host" in left.text


def test_a_picture_without_personal_data_or_text_has_no_findings() -> None:
    assert ImagePii().find(_drawn(PLAIN, "").content) == []
    assert ImagePii().find(draw_text(" ", [], 1).content) == []


def test_a_long_word_that_is_broken_at_the_edge_is_read_whole() -> None:
    words = (ImageWord(0, 5, (0, 0, 40, 10)), ImageWord(6, 18, (50, 0, 200, 10)), ImageWord(19, 24, (0, 20, 60, 30)))
    text = ImageText("note: key-abcdefgh\nij.uk", words)
    joined = text.join_broken_words()
    assert joined.text == "note: key-abcdefghij.uk"
    assert [joined.text[word.start : word.end] for word in joined.words] == ["note:", "key-abcdefgh", "ij.uk"]
    assert joined.join_broken_words() == joined


def _rows(tmp_path: Path) -> str:
    rows = []
    for number, (text, value, _) in enumerate([*FIXED[:2], (PLAIN, "", "")]):
        url = f"data:image/png;base64,{base64.b64encode(_drawn(text, value).content).decode()}"
        for copy in range(2 if number == 0 else 1):
            question = {"type": "text", "text": f"What is in part {copy}?"}
            user = {"role": "user", "content": [question, {"type": "image_url", "image_url": {"url": url}}]}
            rows.append({"messages": [user, {"role": "assistant", "content": f"letter {number} {copy}"}]})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "a.jsonl"


def _prepare(make: Make, tmp_path: Path, **settings: Any) -> Any:
    source = {"kind": "jsonl", "path": _rows(tmp_path)}
    return make(source=source, ops=[{"kind": "image_pii", **settings}], split={"test": 0}, task="text")


@pytest.mark.slow
def test_covered_pictures_stand_once_in_the_data_set_and_lineage_says_what_changed(make: Make, tmp_path: Path) -> None:
    made = _prepare(make, tmp_path)
    again = _prepare(make, tmp_path)
    assert made.files() == again.files(), "the same bytes where passes were taken over"
    examples = list(read_examples(made.artifact, "train"))
    assert len(examples) == 4
    digests = [example.messages[0].media[0].digest for example in examples]
    assert len(set(digests)) == 3
    import pyarrow.parquet as pq

    (file,) = list_media_files(made.artifact)
    assert sorted(pq.read_table(file, columns=["digest"])["digest"].to_pylist()) == sorted(set(digests))
    events = made.events
    assert events["operator"].to_list() == ["image_pii"] * 3
    assert set(events["reason"]) == {"email", "phone"}
    assert set(events["after"]) == set(digests[:3])
    assert not set(events["before"]) & set(digests)
    assert made.summary.counts["image_pii"] == {"email": {"image": 2}, "phone": {"image": 1}}
    assert made.summary.edited == {"image_pii": 3}
    with MediaReader(made.artifact) as reader:
        for digest in set(digests):
            assert ImagePii().find(reader.read(digest)) == []
    story = explain_example(made.artifact, examples[0].id)
    (event,) = story["events"]
    assert (event["field"], event["reason"], event["after"]) == ("messages[0].media/0", "email", digests[0])
    assert made.attributes("image_pii")["found"].to_list() == [1, 1, 1, 0]
    for path in sorted(made.artifact.folder.rglob("*")):
        assert path.is_dir() or b"jo.smith" not in path.read_bytes()


def test_a_row_is_dropped_or_only_counted(make: Make, tmp_path: Path) -> None:
    dropped = _prepare(make, tmp_path, action="drop", kinds=["email"])
    assert dropped.summary.dropped == {"a picture holds email": 2}
    assert dropped.summary.rows == {"train": 2}
    flagged = _prepare(make, tmp_path, action="flag")
    assert not flagged.summary.dropped
    assert len(flagged.events) == 0
    assert flagged.summary.counts["image_pii"] == {"email": {"image": 2}, "phone": {"image": 1}}


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert ImagePii().find(_drawn(*FIXED[0][:2]).content)

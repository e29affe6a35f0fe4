"""Judgments in the ledger and in files: nothing said is lost, nothing wrong comes in, sheets are safe and blind."""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8
from pathlib import Path

import pytest
from pydantic import ValidationError

from eval.human.panel import assigned, judged, preferring
from luthier.annotation.question import QuestionItem
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.questions.faults import FaultsQuestion
from luthier.artifacts.annotation import Annotation
from luthier.core.artifact import Artifact, FileEntry, Manifest
from luthier.core.db import Ledger
from luthier.core.errors import DataError
from luthier.eval.human.rating import (
    RatingFeed,
    keep_last_ratings,
    read_judgments,
    record_rating,
    write_judgments,
    write_rating_sheet,
)
from luthier.eval.human.study import RatingCandidate, create_rating_assignment, read_rating_question
from luthier.eval.steps.human_eval import HumanEval

PAIR, FAULTS = PairQuestion(), FaultsQuestion()
ASKED = assigned(PAIR, 12)
ITEM, OTHER = sorted(ASKED.items)[:2]


def test_the_ledger_gives_back_what_was_said_and_the_last_word_counts(tmp_path: Path) -> None:
    said = [
        Annotation("anna", "A", ITEM, "clearer", "2026-01-02T10:00:00+00:00", 3.5),
        Annotation("anna", None, OTHER, time="2026-01-02T10:01:00+00:00"),
        Annotation("ben", {"text": "ä", "n": [1]}, ITEM, time="2026-01-02T10:02:00+00:00"),
        Annotation("anna", "B", ITEM, time="2026-01-02T10:03:00+00:00", seconds=1.0),
    ]
    with Ledger(tmp_path / "ledger.db") as ledger:
        for one in said:
            record_rating(ledger, "abc", one)
        record_rating(ledger, "other", said[0])
        assert keep_last_ratings(RatingFeed([ledger], "abc").read_new()[0]) == said[1:]
        assert RatingFeed([ledger], "other").read_new() == (said[:1], [])
        feed = RatingFeed([ledger], "none")
        assert feed.read_new() == ([], [])
        record_rating(ledger, "none", said[0])
        assert feed.read_new() == (said[:1], [])
        assert feed.read_new() == ([], [])


@pytest.mark.parametrize("name", ["j.jsonl", "j.csv"])
def test_files_give_back_what_was_written(tmp_path: Path, name: str) -> None:
    said = judged(ASKED, dict.fromkeys(ASKED.sheets, preferring("tuned", 0.7, ties=0.2)))
    said[1] = said[1]._replace(comment='=HYPERLINK("http://evil.example")')
    said[0] = said[0]._replace(comment='Ünïcode, "quoted"\nand two lines', time="2026-01-02T10:00:00+00:00")
    write_judgments(tmp_path / name, said)
    assert read_judgments(tmp_path / name, ASKED, PAIR) == said
    spans = assigned(FAULTS, 12)
    item = sorted(spans.items)[0]
    marked = FAULTS.check(
        [{"text": "says", "severity": "major", "comment": "why"}], QuestionItem((), ("tuned says 1",))
    )
    if spans.items[item].answers[0].startswith(("tuned says", "base says")):
        write_judgments(tmp_path / name, [Annotation("anna", [], item)])
        assert read_judgments(tmp_path / name, spans, FAULTS)[0].value == []
    assert marked[0] == {"start": 6, "end": 10, "text": "says", "severity": "major", "comment": "why"}


def test_a_pass_is_kept_in_json_and_an_empty_cell_is_no_judgment(tmp_path: Path) -> None:
    write_judgments(tmp_path / "j.jsonl", [Annotation("anna", None, ITEM)])
    assert read_judgments(tmp_path / "j.jsonl", ASKED, PAIR) == [Annotation("anna", None, ITEM)]
    (tmp_path / "j.csv").write_text(f"item,judge,value,comment\n{ITEM},anna,,\n{OTHER},anna,b,\n")
    assert read_judgments(tmp_path / "j.csv", ASKED, PAIR) == [Annotation("anna", "B", OTHER)]


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ({"item": "nowhere", "judge": "anna", "value": "A"}, "item", "another assignment"),
        ({"item": ITEM, "judge": "ana", "value": "A"}, "judge", "did you mean 'anna'"),
        ({"item": ITEM, "judge": "anna", "value": "C"}, "value", "expected A, B or tie, got 'C'"),
        ({"item": ITEM, "judge": "anna", "value": "A", "seconds": "long"}, "seconds", "expected a number"),
        ({"item": ITEM, "judge": "anna", "value": "A", "at": "yesterday"}, "at", "expected a time"),
        ({"item": ITEM, "judge": "anna", "valeu": "A"}, None, "did you mean 'value'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, line: dict[str, object], field: str, said: str) -> None:
    good = {"item": ITEM, "judge": "anna", "value": "A"}
    (tmp_path / "j.jsonl").write_text(f"{json.dumps(good)}\n\n{json.dumps(line)}\n")
    with pytest.raises(DataError) as caught:
        read_judgments(tmp_path / "j.jsonl", ASKED, PAIR)
    assert said in str(caught.value)
    assert (caught.value.where.line, caught.value.where.field) == (3, field)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("j.jsonl", b"{nope\n", "is not JSON"),
        ("j.jsonl", b"[1]\n", "expected an object"),
        ("j.jsonl", b"\xff\xfe", "UTF-8"),
        ("j.csv", b'item,judge,value\n"open', "not a whole CSV"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=said):
        read_judgments(tmp_path / name, ASKED, PAIR)
    with pytest.raises(DataError, match="nobody has judged yet"):
        read_judgments(tmp_path / "none.jsonl", ASKED, PAIR)


@pytest.mark.parametrize(
    ("name", "between"), [("sheet.csv", ","), ("sheet.csv", ";"), ("sheet.csv", "\t"), ("sheet.jsonl", "")]
)
def test_a_sheet_is_blind_filled_in_elsewhere_and_read_back(tmp_path: Path, name: str, between: str) -> None:
    """Also where a spreadsheet writes a table as its country does."""
    done = [Annotation("anna", "A", ASKED.sheets["anna"][0])]
    assert write_rating_sheet(tmp_path / name, ASKED, "anna", done) == len(ASKED.sheets["anna"]) - 1
    text = (tmp_path / name).read_text(encoding="utf-8-sig")
    assert "planted" not in text
    assert not any(entry.row in text for entry in ASKED.key.values())
    if name.endswith(".csv"):
        assert (tmp_path / name).read_bytes().startswith(BOM_UTF8), "else Excel takes it for cp1252"
        rows = list(csv.DictReader(text.splitlines()))
        for row in rows:
            row["value"] = "b"
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=between)
            table.writeheader()
            table.writerows(rows)
    else:
        lines = [{**json.loads(line), "value": "b"} for line in text.splitlines()]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_judgments(tmp_path / name, ASKED, PAIR)
    assert [one.item for one in found] == list(ASKED.sheets["anna"][1:])
    assert {one.value for one in found} == {"B"}


def test_no_cell_of_a_sheet_or_a_table_is_a_formula(tmp_path: Path) -> None:
    row = RatingCandidate(
        row="r",
        prompt=({"role": "user", "content": "?"},),
        answers={"tuned": "=1+1", "base": "@SUM(A1)"},
        reference="x",
    )
    asked = create_rating_assignment(
        [row], [("tuned", "base")], rows=None, judges=("anna",), overlap=1, planted=0, seed=1
    )
    write_rating_sheet(tmp_path / "s.csv", asked, "anna", [])
    (told,) = csv.DictReader((tmp_path / "s.csv").read_text("utf-8-sig").splitlines())
    assert {told["answer_a"], told["answer_b"]} == {"'=1+1", "'@SUM(A1)"}
    write_judgments(tmp_path / "j.csv", [Annotation("anna", "A", next(iter(asked.items)), "=cmd()")])
    assert "'=cmd()" in (tmp_path / "j.csv").read_text()


def test_last_words_keep_the_order_of_what_counts() -> None:
    said = [Annotation("a", 1, "i"), Annotation("a", 2, "j"), Annotation("b", 3, "i"), Annotation("a", 4, "i")]
    assert keep_last_ratings(said) == [said[1], said[2], said[3]]


@pytest.mark.parametrize(("former", "kind"), [("pairwise", "pair"), ("likert", "rating"), ("spans", "faults")])
def test_an_assignment_of_an_earlier_version_is_still_read(tmp_path: Path, former: str, kind: str) -> None:
    about = {"form": {"kind": former, "question": "Which is true?"}, "models": ["tuned", "base"]}
    (tmp_path / "about.json").write_text(json.dumps(about))
    manifest = Manifest.model_construct(digest="0" * 64, files=(FileEntry(path="about.json", size=2, digest="0" * 32),))
    asked = read_rating_question(Artifact(tmp_path, manifest, pytest.fail))
    assert (asked.kind, asked.question_text) == (kind, "Which is true?")


def test_a_question_that_gives_no_points_is_refused() -> None:
    with pytest.raises(ValidationError, match="gives no points; these do: faults, pair, rating, rubric"):
        HumanEval.model_validate({"evaluation": "report", "question": "text"})

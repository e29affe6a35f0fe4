"""Files as the tools write them (after their documented schemas): who judged what, and when, is read from all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.core.errors import DataError
from luthier.data.annotation.annotations import detect_class_separator
from luthier.data.annotation.client import LabelChoices
from luthier.data.export import export_dataset
from luthier.data.exporters.label_studio import task
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from luthier.metrics.kinds.structured import JsonFieldF1
from luthier.metrics.metric import EvalPredictions

Make = Callable[..., Any]
Write = Callable[..., str]


def _choice(label: str, name: str = "sentiment") -> dict[str, Any]:
    value = {"choices": [label]}
    return {"id": "r1", "from_name": name, "to_name": "text", "type": "choices", "origin": "manual", "value": value}


def _annotation(number: int, who: Any, *results: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    return {
        "id": number,
        "completed_by": who,
        "result": list(results),
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": f"2024-03-0{number % 9 + 1}T09:00:00.1Z",
        "updated_at": "2024-03-09T09:00:00Z",
        "lead_time": 2.5 * number,
        "result_count": len(results),
        "unique_id": f"u{number}",
        "task": 1,
    }


SPAN = {"from_name": "ner", "to_name": "text", "type": "labels", "value": {"start": 0, "end": 5, "labels": ["ORG"]}}
LABEL_STUDIO = [
    {
        "id": 101,
        "annotations": [
            _annotation(1, 7, _choice("Positive"), SPAN),
            _annotation(2, {"id": 8, "email": "bea@example.org"}, _choice("Positive")),
        ],
        "file_upload": "a.csv",
        "drafts": [],
        "predictions": [{"model_version": "m", "score": 0.9, "result": [_choice("Negative")]}],
        "data": {"text": "Came on time, thank you", "order": 5},
        "meta": {},
        "created_at": "2024-03-01T08:00:00Z",
        "inner_id": 1,
        "total_annotations": 2,
        "project": 3,
    },
    {
        "id": 102,
        "annotations": [
            _annotation(3, 7, _choice("Negative")),
            _annotation(4, {"id": 8, "email": "bea@example.org"}, cancelled=True),
        ],
        "data": {"text": "Still waiting", "order": 6},
    },
    {"id": 103, "annotations": [], "data": {"text": "Hello?", "order": 7}},
]
ARGILLA = [
    {
        "id": "a1",
        "fields": {"text": "Came on time"},
        "metadata": {"page": 1},
        "suggestions": {"label": {"value": "bad", "score": 0.6, "agent": "m"}},
        "responses": {
            "label": [{"value": "good", "user_id": "u-1"}, {"value": "good", "user_id": "u-2"}],
            "stars": [{"value": 4, "user_id": "u-1"}, {"value": 5, "user_id": "u-2"}],
        },
        "vectors": {},
        "status": "completed",
        "_server_id": "s1",
    },
    {
        "id": "a2",
        "fields": {"text": "Still waiting"},
        "metadata": {"page": 2},
        "suggestions": {},
        "responses": {"label": [{"value": "bad", "user_id": "u-1"}], "stars": [{"value": 1, "user_id": "u-1"}]},
        "vectors": {},
        "status": "pending",
        "_server_id": "s2",
    },
]


def read(base: Path, **settings: Any) -> tuple[list[SourceRecord], list[BrokenRow], list[str]]:
    """Everything that the source says."""
    said: list[str] = []
    found = list(Source.parse({"kind": "labels", **settings}).read(base, said.append))
    return (
        [one for one in found if isinstance(one, SourceRecord)],
        [one for one in found if isinstance(one, BrokenRow)],
        said,
    )


def test_label_studio(write: Write, tmp_path: Path) -> None:
    write("ls.json", json.dumps(LABEL_STUDIO, indent=1))
    records, broken, said = read(tmp_path, path="ls.json", question="sentiment")
    first, second = records
    assert first.values["text"] == "Came on time, thank you"
    assert (first.values["item"], first.values["order"], first.values["label"]) == ("101", 5, "Positive")
    assert first.values["judgments"] == [
        {
            "annotator": "7",
            "label": "Positive",
            "time": "2024-03-02T09:00:00.1Z",
            "seconds": 2.5,
            "question": "sentiment",
            "more": {"results": [SPAN]},
        },
        {
            "annotator": "bea@example.org",
            "label": "Positive",
            "time": "2024-03-03T09:00:00.1Z",
            "seconds": 5.0,
            "question": "sentiment",
        },
    ]
    assert [one["label"] for one in second.values["judgments"]] == ["Negative", None]
    assert second.values["judgments"][1]["more"] == {"status": "cancelled"}
    text = (tmp_path / "ls.json").read_text().splitlines()
    assert all(text[record.line - 1].strip() == "{" for record in records), "lines are those on which tasks start"
    assert [(one.problem, one.left_out) for one in broken] == [("no judgment", True)]
    assert "ls.json: read as Label Studio tasks" in said
    assert any("2 annotators, 3 judgments of 3 items" in note for note in said)


def test_several_projects_of_label_studio_count_from_one(write: Write, tmp_path: Path) -> None:
    """A task's number is its project's: other texts under one number are other items, one text under two is one."""
    for project, texts in (("p1", ["Came", "Waiting"]), ("p2", ["Broken", "Waiting"])):
        tasks = [
            {"id": n, "data": {"text": text}, "annotations": [_annotation(1, project, _choice(text))]}
            for n, text in enumerate(texts, start=1)
        ]
        write(f"own/{project}.json", json.dumps(tasks))
    records, broken, _ = read(tmp_path, path="own")
    found = {one.values["text"]: (one.values["label"], len(one.values["judgments"])) for one in records}
    assert (found, broken) == ({"Came": ("Came", 1), "Waiting": ("Waiting", 2), "Broken": ("Broken", 1)}, [])
    given = {
        "id": "0123456789abcdef",
        "origin": {"source": "csv", "file": "a.csv", "line": 3},
        "meta": {},
        "text": "Hi",
    }
    for number in (7, 1007):
        task = {"id": number, "data": given, "annotations": [_annotation(1, number, _choice("a"))]}
        write(f"given/{number}.json", json.dumps([task]))
    records, _, said = read(tmp_path, path="given")
    assert [len(one.values["meta"]["judgments"]) for one in records] == [2]
    assert any("2 annotators, 2 judgments of 1 item" in note for note in said)


def test_label_studio_values_of_other_controls(write: Write, tmp_path: Path) -> None:
    results = {
        "rating": {"rating": 4},
        "number": {"number": 2.5},
        "textarea": {"text": ["a reply"]},
        "taxonomy": {"taxonomy": [["Animal", "Dog"]]},
        "pairwise": {"selected": "left"},
        "choices": {"choices": ["b", "a"]},
    }
    tasks = [
        {
            "id": number,
            "data": {"text": f"t{number}"},
            "annotations": [
                _annotation(1, 1, {"from_name": "q", "to_name": "text", "type": kind, "value": value}),
            ],
        }
        for number, (kind, value) in enumerate(results.items())
    ]
    write("ls.json", json.dumps(tasks))
    records, _, _ = read(tmp_path, path="ls.json")
    assert [one.values["judgments"][0]["label"] for one in records] == [
        4, 2.5, "a reply", "Animal / Dog", "left", "a | b",
    ]  # fmt: skip


def test_argilla_nested_asks_which_question(write: Write, tmp_path: Path) -> None:
    write("a.json", json.dumps(ARGILLA))
    with pytest.raises(DataError, match="asked 2 questions: label, stars") as caught:
        read(tmp_path, path="a.json")
    assert caught.value.where.field == "question"
    with pytest.raises(DataError, match="nobody answered a question 'lable'") as caught:
        read(tmp_path, path="a.json", question="lable")
    assert "did you mean 'label'" in caught.value.hint
    records, _, said = read(tmp_path, path="a.json", question="label")
    assert [record.values["label"] for record in records] == ["good", "bad"]
    assert records[0].values["page"] == 1
    assert [one["annotator"] for one in records[0].values["judgments"]] == ["u-1", "u-2"]
    assert "a.json: read as Argilla records" in said


def test_argilla_flat_as_datasets_has_it(tmp_path: Path) -> None:
    rows = [
        {
            "id": "a1",
            "status": "completed",
            "_server_id": "s1",
            "text": "Came on time",
            "page": 1,
            "label.responses": ["good", "bad", "good"],
            "label.responses.users": ["u-1", "u-2", "u-3"],
            "label.responses.status": ["submitted", "discarded", "submitted"],
            "label.suggestion": "bad",
            "label.suggestion.score": 0.6,
            "label.suggestion.agent": "m",
        },
        {
            "id": "a2",
            "status": "pending",
            "_server_id": "s2",
            "text": "Waiting",
            "page": 2,
            "label.responses": None,
            "label.responses.users": None,
            "label.responses.status": None,
            "label.suggestion": None,
            "label.suggestion.score": None,
            "label.suggestion.agent": None,
        },
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    records, broken, _ = read(tmp_path, path="a.parquet")
    assert {name: records[0].values[name] for name in ("item", "text", "page", "label")} == {
        "item": "a1", "text": "Came on time", "page": 1, "label": "good",
    }  # fmt: skip
    assert set(records[0].values) == {"item", "text", "page", "label", "judgments", "adjudication"}
    assert records[0].values["judgments"][1] == {
        "annotator": "u-2", "label": None, "question": "label", "more": {"status": "discarded"},
    }  # fmt: skip
    assert broken[0].left_out


def test_argilla_as_a_datasets_folder(tmp_path: Path) -> None:
    """What `records.to_datasets().save_to_disk` leaves: Arrow, and JSON that holds no records."""
    import datasets

    columns = {
        "id": ["a1", "a2"],
        "text": ["Came", "Waiting"],
        "label.responses": [["good", "good"], ["bad"]],
        "label.responses.users": [["u-1", "u-2"], ["u-1"]],
        "label.responses.status": [["submitted", "submitted"], ["submitted"]],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    records, _, said = read(tmp_path, path="saved")
    assert [(one.values["item"], one.values["label"], one.line) for one in records] == [
        ("a1", "good", 1),
        ("a2", "bad", 2),
    ]
    assert [one["annotator"] for one in records[0].values["judgments"]] == ["u-1", "u-2"]
    assert any(note.endswith("read as Argilla records") for note in said)


def test_argilla_feedback_records_of_the_first_version(write: Write, tmp_path: Path) -> None:
    rows = [
        {
            "fields": {"text": "Came"},
            "external_id": "e1",
            "responses": [
                {"user_id": "u-1", "status": "submitted", "values": {"label": {"value": "good"}}},
                {"user_id": "u-2", "status": "discarded", "values": {"label": {"value": "bad"}}},
            ],
        }
    ]
    write("a.jsonl", rows)
    records, _, _ = read(tmp_path, path="a.jsonl")
    assert (records[0].values["item"], records[0].values["label"]) == ("e1", "good")


def test_doccano_a_file_a_person(write: Write, tmp_path: Path) -> None:
    for who, labels in (("ann", ["pos", "neg"]), ("bob", ["pos", "pos"])):
        rows = [
            {"id": 1, "text": "Came", "label": [labels[0]], "Comments": [], "page": 1},
            {"id": 2, "text": "Waiting", "label": [labels[1]], "Comments": ["?"], "page": 2},
        ]
        write(f"export/{who}.jsonl", rows)
    records, broken, said = read(tmp_path, path="export")
    assert [(one.values["text"], one.values["label"], one.values["page"]) for one in records] == [("Came", "pos", 1)]
    assert [one["annotator"] for one in records[0].values["judgments"]] == ["ann", "bob"]
    assert broken[0].problem == "tie: 1 neg, 1 pos"
    assert "export/bob.jsonl: read as Doccano documents" in said


def test_doccano_old_and_spans(write: Write, tmp_path: Path) -> None:
    row = {
        "id": 1,
        "text": "Came",
        "annotations": [{"id": 5, "label": 2, "user": 3, "created_at": "2020-01-01T00:00:00Z"}],
        "meta": {},
    }
    write("old.jsonl", [row])
    records, _, _ = read(tmp_path, path="old.jsonl")
    assert records[0].values["judgments"] == [{"annotator": "3", "label": 2, "time": "2020-01-01T00:00:00Z"}]
    write("spans.jsonl", [{"id": 1, "text": "Came", "label": [[0, 4, "VERB"]]}])
    records, _, _ = read(tmp_path, path="spans.jsonl")
    assert records[0].values["label"] == '{"VERB": ["Came"]}'


MARKED = "Ada Byron met Ida in Bonn"
ANSWER = {"PER": ["Ada Byron", "Ida"], "LOC": ["Bonn"]}


def _marked(start: int, end: int, label: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": [label]}
    return {"from_name": "ner", "to_name": "text", "type": "labels", "value": value}


def _span_files() -> dict[str, list[dict[str, Any]]]:
    """The same spans in a text, and none in another, as each tool writes them; one says nothing of a third."""
    places = [(21, 25, "LOC"), (0, 9, "PER"), (14, 17, "PER")]
    studio = [_annotation(1, "ann", *(_marked(*one) for one in places), _choice("Good"))]
    given = [{"user_id": "ann", "status": status} for status in ("submitted", "discarded")]
    spans = [{"start": start, "end": end, "label": label} for start, end, label in places]
    return {
        "label_studio": [
            {"id": 1, "data": {"text": MARKED}, "annotations": studio},
            {"id": 2, "data": {"text": "None"}, "annotations": [_annotation(1, "ann", _choice("Good"))]},
            {"id": 3, "data": {"text": "Passed"}, "annotations": [_annotation(1, "ann", cancelled=True)]},
        ],
        "doccano": [
            {"id": 1, "text": MARKED, "label": [list(one) for one in places]},
            {"id": 2, "text": "None", "label": []},
        ],
        "argilla": [
            {"id": "1", "fields": {"text": MARKED}, "responses": {"ner": [{"value": spans, **given[0]}]}},
            {"id": "2", "fields": {"text": "None"}, "responses": {
                "ner": [{"value": [], **given[0]}], "good": [{"value": "yes", **given[0]}],
            }},
            {"id": "3", "fields": {"text": "Passed"}, "responses": {
                "ner": [{"value": [], **given[1]}], "good": [{"value": "yes", **given[0]}],
            }},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("tool", ["label_studio", "doccano", "argilla"])
def test_spans_are_answers_that_extraction_learns(write: Write, tmp_path: Path, tool: str) -> None:
    write("spans.jsonl", _span_files()[tool])
    question = "spans" if tool == "doccano" else "ner"
    records, broken, _ = read(tmp_path, path="spans.jsonl", question=question, format=tool)
    assert [(one.values["text"], json.loads(one.values["label"])) for one in records] == [
        (MARKED, ANSWER),
        ("None", {}),
    ]
    assert list(json.loads(records[0].values["label"])) == ["PER", "LOC"]
    assert [one.problem for one in broken] == ([] if tool == "doccano" else ["no judgment"])
    asked = {row.get("question") for one in records for row in one.values["judgments"]}
    assert asked == {question}
    if tool == "label_studio":
        records, _, _ = read(tmp_path, path="spans.jsonl")
        assert [one.values["label"] for one in records] == ["Good", "Good"]


def test_extraction_is_measured_by_what_was_found() -> None:
    metric = JsonFieldF1(ordered=False)
    right = json.dumps(ANSWER)
    said = [right, '{"LOC": ["Bonn"], "PER": ["Ida", "Ada Byron"]}', '{"PER": ["Ada Byron"]}', "{}"]
    predictions = EvalPredictions.of(said, [right] * 4)
    assert list(metric.statistics(predictions)[:, 0]) == [1.0, 1.0, 0.5, 0.0]


def test_a_long_table(write: Write, tmp_path: Path) -> None:
    text = "item,text,annotator,label,time,confidence\n" + "".join(
        f"{item},text {item},{who},{label},2024-01-0{item}T10:00:00,{who}{item}\n"
        for item, votes in ((1, "aab"), (2, "bbb"), (3, "ab"))
        for who, label in zip("xyz", votes, strict=False)
    )
    write("long.csv", text)
    records, broken, said = read(tmp_path, path="long.csv")
    assert [(one.values["item"], one.values["label"], one.line) for one in records] == [("1", "a", 2), ("2", "b", 5)]
    assert records[0].values["judgments"][2] == {
        "annotator": "z", "label": "b", "time": "2024-01-01T10:00:00", "more": {"confidence": "z1"},
    }  # fmt: skip
    assert "confidence" not in records[0].values, "what differs between judgments stays with them"
    assert (broken[0].line, broken[0].problem) == (8, "tie: 1 a, 1 b")
    assert "long.csv: a row a judgment: 'annotator' says who, 'label' what, 'time' when" in said
    assert any("3 annotators, 8 judgments of 3 items; Krippendorff's alpha (nominal) 0." in note for note in said)


def test_a_wide_table(write: Write, tmp_path: Path) -> None:
    write("wide.csv", "text,rater_1,rater_2,rater 3,page\none,a,a,,1\ntwo,b,b,a,2\n")
    records, _, said = read(tmp_path, path="wide.csv")
    assert [one.values["label"] for one in records] == ["a", "b"]
    assert len(records[0].values["judgments"]) == 2, "an empty cell is no judgment"
    assert records[0].values["page"] == "1"
    assert "wide.csv: a column an annotator: rater_1, rater_2, rater 3" in said


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_label_studios_tables_hold_several_choices(ending: str, write: Write, tmp_path: Path) -> None:
    """Its CSV has them as JSON text, its short JSON as an object."""
    choices = {"choices": ["Versand", "Größe"]}
    rows = [
        {"annotation_id": n, "annotator": 7, "id": n, "label": label, "lead_time": 3.1, "text": f"Hallo {n}"}
        for n, label in enumerate([choices, "Versand"])
    ]
    text = json.dumps(rows)
    if ending == "csv":
        frame = pl.DataFrame(
            [{**row, "label": json.dumps(choices) if row["label"] == choices else "Versand"} for row in rows]
        )
        text = frame.write_csv()
    write(f"min.{ending}", text)
    records, broken, _ = read(tmp_path, path=f"min.{ending}")
    assert [one.values["label"] for one in records] == ["Größe | Versand", "Versand"]
    assert [one.values["judgments"][0].get("classes") for one in records] == [("Größe", "Versand"), None]
    assert not broken


def test_a_table_by_settings(write: Write, tmp_path: Path) -> None:
    write("odd.csv", "what,by,said\none,ann,a\none,bob,a\n")
    with pytest.raises(DataError, match="cannot tell who judged what"):
        read(tmp_path, path="odd.csv")
    asked = {"kind": "table", "annotator": "by", "label": "said", "item": "what"}
    records, _, _ = read(tmp_path, path="odd.csv", format=asked)
    assert [(one.values["what"], one.values["label"]) for one in records] == [("one", "a")]
    with pytest.raises(DataError, match="there is no column 'bye'") as caught:
        read(tmp_path, path="odd.csv", format={**asked, "annotator": "bye"})
    assert "did you mean 'by'" in caught.value.hint
    asked = {"kind": "table", "annotators": ["by", "said"], "item": "what"}
    write("odd2.csv", "what,by,said\none,a,a\ntwo,b,c\n")
    records, broken, _ = read(tmp_path, path="odd2.csv", format=asked)
    assert (len(records), broken[0].problem) == (1, "tie: 1 b, 1 c")


def test_broken_files(write: Write, tmp_path: Path) -> None:
    write("cut.json", json.dumps(LABEL_STUDIO)[:-200])
    records, broken, _ = read(tmp_path, path="cut.json", question="sentiment")
    assert len(records) == 1
    assert "is not JSON" in broken[0].problem
    assert "from here on the file cannot be read" in broken[-1].problem
    write("cut2.json", json.dumps(LABEL_STUDIO)[:-1])
    _, broken, _ = read(tmp_path, path="cut2.json", question="sentiment")
    assert any("the end of the file" in one.problem for one in broken)
    write("odd.json", json.dumps([*LABEL_STUDIO, 5, {"data": "x", "annotations": []}]))
    _, broken, _ = read(tmp_path, path="odd.json", question="sentiment", format="label_studio")
    assert [one.problem for one in broken if not one.left_out] == [
        "expected a JSON object, got a number",
        "the task has no `data` or no `annotations`",
    ]
    write("nobody.csv", "item,text,annotator,label\n1,t,,a\n1,t,x,a\n")
    _, broken, _ = read(tmp_path, path="nobody.csv")
    assert broken[0].problem == "nobody is named as annotator"
    for name in ("none.json", "none.xyz"):
        with pytest.raises(DataError):
            read(tmp_path, path=name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        read(tmp_path, path="empty")


def test_books_balance_and_undecided_items_are_listed(make: Make, write: Write) -> None:
    rows = [
        {"item": n, "text": f"text number {n}", "annotator": who, "label": "ab"[(n + (who == "z" and n % 3 == 0)) % 2]}
        for n in range(30)
        for who in ("xz" if n % 2 else "xyz")
    ]
    made = make(source={"kind": "labels", "path": write("j.jsonl", rows)}, split={"test": 0.2})
    undecided = [n for n in range(30) if n % 2 and n % 3 == 0]
    assert made.summary.rows_in == 30
    assert made.summary.dropped == {"tie": len(undecided)}
    assert made.summary.task == "label"
    drops = made.events.filter(made.events["action"] == "drop")
    assert drops["reason"].to_list() == ["tie: 1 a, 1 b"] * len(undecided)
    assert "judged texts (column 'text')" in made.notes
    row = json.loads(made.all()["meta"][0])
    assert {one["annotator"] for one in row["judgments"]} <= set("xyz")
    assert row["adjudication"] == {"rule": "majority", "confidence": 1.0}
    assert make(source={"kind": "labels", "path": "j.jsonl"}, split={"test": 0.2}).files() == made.files()


@pytest.mark.parametrize("form", ["label_studio", "argilla", "doccano"])
def test_what_was_given_out_comes_back_with_its_ids(form: str, make: Make, write: Write, tmp_path: Path) -> None:
    """A data set, judged by two people with the tool's file, is read with the same ids, origins and meta."""
    judgments = [{"annotator": who, "label": "b"} for who in ("u-1", "u-2")]
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "page": {"n": n}, "judgments": judgments} for n in range(8)]
    before = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0.4})
    assert before.summary.rows["test"] > 1
    export_dataset(before.artifact, tmp_path / "out", form)
    again = make(source={"kind": "labels", "path": "out"}, split={"test": 0}, task="text")
    old = {row["id"]: row for row in before.all().iter_rows(named=True)}
    for row in again.all().iter_rows(named=True):
        was, meta = old.pop(row["id"]), json.loads(row["meta"])
        assert (row["source"], row["file"], row["line"]) == ("jsonl", "t.jsonl", was["line"])
        assert json.loads(row["messages"])[-1]["content"] == "b"
        assert meta["page"] == {"n": was["line"] - 1}
        assert [(one["annotator"], one["label"]) for one in meta["judgments"]] == [("u-1", "b"), ("u-2", "b")]
        assert set(meta) == {"page", "judgments", "adjudication"}
    assert not old


@pytest.mark.parametrize(
    ("form", "name", "named"),
    [
        ("label_studio", "its topic", "its topic"),
        ("label_studio", "text", "label"),
        ("argilla", "topic", "topic"),
        ("argilla", "its topic", "label"),
    ],
)
def test_a_question_keeps_its_name(form: str, name: str, named: str, make: Make, write: Write, tmp_path: Path) -> None:
    """A recipe that names the question reads the second round as it read the first, where the tool allows the name."""
    judgments = [{"annotator": "u-1", "label": "b", "question": name}]
    rows = [{"text": f"text {n}", "label": "b", "judgments": judgments} for n in range(4)]
    before = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="text")
    export_dataset(before.artifact, tmp_path / "out", form)
    records, _, _ = read(tmp_path / "out", path="train.json", question=named)
    assert [one["label"] for one in records[0].values["meta"]["judgments"]] == ["b"]


def _examples(made: Any) -> list[dict[str, Any]]:
    """Rows by id, without what was judged of them."""
    rows = made.all().sort("id").iter_rows(named=True)
    meta = ("judgments", "adjudication")
    kept = ({**row, "meta": {k: v for k, v in json.loads(row["meta"]).items() if k not in meta}} for row in rows)
    return [{name: row[name] for name in ("id", "line", "messages", "label", "tools", "meta")} for row in kept]


def _chosen(form: str, folder: Path) -> list[list[str]]:
    """The classes that each row of the first annotator goes out with."""
    if form == "doccano":
        return [json.loads(line)["label"] for line in (folder / "train" / "1.jsonl").read_text().splitlines()]
    rows = json.loads((folder / "train.json").read_text())
    if form == "argilla":
        return [answers[0]["value"] for row in rows for answers in row["responses"].values()]
    return [row["annotations"][0]["result"][0]["value"]["choices"] for row in rows]


@pytest.mark.parametrize("form", ["label_studio", "argilla", "doccano"])
def test_rows_of_several_classes_go_out_as_several_and_come_back(
    form: str, make: Make, write: Write, tmp_path: Path
) -> None:
    """One choice `a | b` is none of the classes that annotators know."""
    classes = [["Rückgabe", "Versand"], ["Versand"], ["Bill; late"]]
    tasks = [
        {
            "id": n,
            "data": {"text": f"Päckchen {n}"},
            "annotations": [
                _annotation(who, who, {**_choice(""), "value": {"choices": classes[n % 3]}}) for who in (1, 2)
            ],
        }
        for n in range(9)
    ]
    source = {"kind": "labels", "path": write("ls.json", json.dumps(tasks))}
    before = make(source=source, split={"test": 0}, task="label")
    assert "Rückgabe | Versand" in before.summary.labels
    said: list[str] = []
    export_dataset(before.artifact, tmp_path / "out", form, said.append)
    assert "rows hold several classes, with '|' between: annotators may choose several" in said
    assert _chosen(form, tmp_path / "out") == [classes[n % 3] for n in range(9)]
    told = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.is_file())
    assert {"label_studio": 'choice="multiple"', "argilla": "multi_label_selection", "doccano": ""}[form] in told
    again = make(source={"kind": "labels", "path": "out"}, split={"test": 0}, task="label")
    assert _examples(again) == _examples(before)


def test_classes_written_together_in_a_cell_come_back_as_they_were(make: Make, write: Write, tmp_path: Path) -> None:
    cells = ["b;a", "a", "b", "c;a"]
    rows = [{"text": f"text {n}", "label": cells[n % 4]} for n in range(16)]
    before = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="label")
    export_dataset(before.artifact, tmp_path / "out", "label_studio")
    tasks = json.loads((tmp_path / "out" / "train.json").read_text())
    for made in tasks:
        (proposed,) = made.pop("predictions")[0]["result"]
        proposed["value"]["choices"].sort()  # in the order in which they stand on the page
        made["annotations"] = [{"completed_by": 1, "result": [proposed]}]
    assert tasks[0]["annotations"][0]["result"][0]["value"]["choices"] == ["a", "b"]
    tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = ["a", "c"]
    write("judged.json", json.dumps(tasks))
    again = make(source={"kind": "labels", "path": "judged.json"}, split={"test": 0}, task="label")
    labels = {row["id"]: row["label"] for row in _examples(again)}
    expected = {row["id"]: row["label"] for row in _examples(before)}
    expected[tasks[1]["data"]["id"]] = "a;c"
    assert labels == expected


def test_a_mark_within_one_class_puts_none_together() -> None:
    assert detect_class_separator({"Phone | Internet", "TV", "Yes, please", "No"}) is None
    assert detect_class_separator({"Hardware | Printer", "Hardware | Screen", "Hardware", "Software"}) is None
    assert detect_class_separator({"a, b", "a", "b"}) == (", ",)
    assert detect_class_separator({"a;b", "b; a", "a", "b"}) == (";",)


@pytest.mark.parametrize("form", ["label_studio", "argilla", "doccano"])
def test_conversations_come_back_with_their_turns_and_tools(
    form: str, make: Make, write: Write, tmp_path: Path
) -> None:
    """What annotators read as one text is no conversation any more."""
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 5}'}}
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Pick the class."},
                {"role": "user", "content": f"Where is order {n}?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "sent", "tool_call_id": "c1"},
                {"role": "user", "content": "Which class?"},
                {"role": "assistant", "content": "ab"[n % 2]},
            ],
            "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
            "judgments": [{"annotator": "1", "label": "ab"[n % 2]}],
        }
        for n in range(6)
    ]
    before = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0})
    export_dataset(before.artifact, tmp_path / "out", form)
    again = make(source={"kind": "labels", "path": "out"}, split={"test": 0})
    assert _examples(again) == _examples(before)


def test_annotators_whose_names_make_one_file_name_lose_nothing(make: Make, write: Write, tmp_path: Path) -> None:
    judgments = [{"annotator": "Zoë / Ann", "label": "a"}, {"annotator": "Zoë _ Ann", "label": "b"}]
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "judgments": judgments} for n in range(4)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="label")
    export_dataset(made.artifact, tmp_path / "out", "doccano")
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == [
        "Zoë___Ann-2.jsonl",
        "Zoë___Ann.jsonl",
    ]
    records, broken, _ = read(tmp_path, path="out", rule={"kind": "senior", "annotators": ["Zoë / Ann"]})
    assert [one.values["messages"][-1]["content"] for one in records] == ["a"] * 4
    assert not broken


def test_doccano_gets_the_last_word_of_who_judged_twice(make: Make, write: Write, tmp_path: Path) -> None:
    twice = [
        {"annotator": "ann", "label": "b", "time": "2024-05-02T10:00:00"},
        {"annotator": "ann", "label": "a", "time": "2024-05-01T10:00:00"},
    ]
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "judgments": twice} for n in range(4)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="label")
    export_dataset(made.artifact, tmp_path / "out", "doccano")
    lines = (tmp_path / "out" / "train" / "ann.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == [["b"]] * 4


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("ann@example.org", {"completed_by": {"email": "ann@example.org"}}),
        ("7", {"completed_by": 7}),
        ("bob", {"annotator": "bob"}),
    ],
)
def test_label_studio_is_told_of_people_as_its_import_takes_them(
    write: Write, tmp_path: Path, name: str, written: dict[str, Any]
) -> None:
    judged = [{"annotator": name, "label": "yes"}]
    line = {
        "id": "0123456789abcdef", "origin": {"source": "csv", "file": "a.csv", "line": 3}, "kind": "label",
        "messages": [{"role": "user", "content": "really?"}, {"role": "assistant", "content": "yes"}],
        "label": "yes", "meta": {"judgments": judged},
    }  # fmt: skip
    made = task(line, LabelChoices(["yes"]))
    (annotation,) = made["annotations"]
    assert {key: annotation[key] for key in ("completed_by", "annotator") if key in annotation} == written
    write("again.json", json.dumps([made]))
    records, _, _ = read(tmp_path, path="again.json")
    assert records[0].values["meta"]["judgments"][0]["annotator"] == name

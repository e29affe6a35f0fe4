"""The whole way: books that balance, bytes that do not depend on batches or processes, splits that hold."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import example_id
from luthier.core.errors import DataError
from luthier.core.events import RunEventEmitter
from luthier.core.step import PlanContext, StepContext
from luthier.data.steps.prepare import Prepare
from luthier.pii.recognizers.rampart import Rampart

Make = Callable[..., Any]
Write = Callable[..., str]

PROMPTS = st.one_of(
    st.text(string.printable, max_size=50),
    st.sampled_from(
        ["Where is my order?", "where is  my order?", "Mail me: jo@example.com", "", "wo ist mein paket bitte"]
    ),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": PROMPTS, "label": st.sampled_from(["a", "b", "A ", ""]), "who": st.sampled_from("xyz")}
    ),
    min_size=4,
    max_size=30,
)
OPS = st.lists(
    st.sampled_from(
        [
            "normalize",
            "label_spelling",
            "exact_dedup",
            {"kind": "exact_dedup", "conflict": "drop"},
            "near_dedup",
            {"kind": "near_dedup", "action": "flag"},
            {"kind": "near_dedup", "measure": "edit", "keep": "longest"},
            "decontaminate",
            "language",
            {"kind": "language", "keep": ["en"], "min_chars": 8},
            {"kind": "pii", "action": "hash"},
            {"kind": "pii", "action": "drop"},
            "quality",
        ]
    ),
    max_size=4,
)
SPLITS = st.fixed_dictionaries(
    {
        "test": st.sampled_from([0, 0.2, 3]),
        "validation": st.sampled_from([0, 0.1, 2]),
        "train": st.sampled_from([None, 5]),
        "group": st.sampled_from([None, "who"]),
        "stratify": st.sampled_from([None, True]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, ops=OPS, split=SPLITS, batch=st.integers(1, 9))
def test_books_balance_and_bytes_do_not_depend_on_batches(
    make: Make, write: Write, rows: list[Any], ops: list[Any], split: dict[str, Any], batch: int
) -> None:
    path = write("rows.jsonl", rows)
    asked = {"source": {"kind": "jsonl", "path": path}, "ops": ops, "split": split, "task": "text"}
    try:
        one = make(**asked)
    except DataError as error:
        _nothing_was_left(error)
        return
    summary = one.summary
    assert summary.rows_in == len(rows) == sum(summary.rows.values()) + sum(summary.dropped.values())
    drops = one.events.filter(pl.col("action") == "drop")
    assert drops.height == sum(summary.dropped.values())
    assert drops["id"].n_unique() == drops.height
    assert not set(drops["id"]) & set(one.all()["id"])
    assert one.all()["id"].n_unique() == one.all().height
    assert make(**asked, batch_rows=batch).files() == one.files()
    _no_twin_crosses(one, grouped=split["group"] is not None)


@pytest.mark.parametrize("after", ["label_spelling", "exact_dedup", "near_dedup"])
def test_what_one_operator_rewrote_is_what_the_next_one_sees(make: Make, write: Write, after: str) -> None:
    words = ["parcel", "courier", "letter", "a chair", "my sofa", "the lamp", "her coat", "our boat"]
    rows = [{"text": f"where on earth is {word}?", "label": "late"} for word in words]
    rows += [{"text": f"do take {word} back, please", "label": "refund"} for word in words]
    rows.append({"text": rows[3]["text"], "label": "Late "})
    asked = {"source": {"kind": "jsonl", "path": write("rows.jsonl", rows)}, "task": "label"}
    made = make(**asked, ops=["label_spelling", after], split={"test": 0})
    assert made.summary.labels == ["late", "refund"]
    assert made.events.filter(pl.col("operator") == "label_spelling").height == 1
    if after == "exact_dedup":
        assert made.summary.dropped == {"exact duplicate": 1}


def test_an_id_on_the_same_line_of_two_files_is_still_told(make: Make, write: Write) -> None:
    for name in ("one", "two"):
        write(f"rows/{name}.jsonl", [{"key": "7", "text": f"where is {name}?", "label": "late"}])
    with pytest.raises(DataError, match="ids must differ"):
        make(source={"kind": "folder", "path": "rows", "id": "key"}, task="text", split={"test": 0})


def _nothing_was_left(error: DataError) -> None:
    assert "no row is left" in error.message  # of all, or to train on


def _no_twin_crosses(made: Any, *, grouped: bool) -> None:
    seen: dict[str, str] = {}
    for name in made.summary.rows:
        for row in made.split(name).iter_rows(named=True):
            prompt = json.loads(row["messages"])[0]["content"]
            keys = [" ".join(prompt.casefold().split()), *([f"group {row['group']}"] if grouped else [])]
            for key in keys:
                assert seen.setdefault(key, name) == name


def test_worker_processes_change_nothing(make: Make, write: Write) -> None:
    rows = [{"text": f"Where is order {n}? mail n{n % 7}@example.com  please", "label": "ab"[n % 2]} for n in range(60)]
    asked = {
        "source": {"kind": "jsonl", "path": write("rows.jsonl", rows)},
        "ops": ["normalize", "pii", "exact_dedup", "near_dedup", "language"],
    }
    assert make(**asked, workers=2, batch_rows=8).files() == make(**asked).files()


def test_every_dropped_row_is_listed_with_reason_and_twin(make: Make, write: Write) -> None:
    rows = [
        ("Where is my order?", "delivery"),
        ("where is  my ORDER?", "delivery"),
        ("My parcel arrived broken, the lid has a crack and the box was open when it came", "damage"),
        ("My parcel arrived broken, the lid has a crack and the box was open when it came.", "damage"),
        ("???", "damage"),
        ("Please refund me", ""),
        ("", "refund"),
        ("I want my money back", "refund"),
    ]
    path = write("rows.jsonl", [{"text": text, "label": label} for text, label in rows])
    made = make(
        source={"kind": "jsonl", "path": path},
        ops=["quality", "exact_dedup", "near_dedup"],
        split={"test": 0},
        task="label",
    )
    assert made.summary.dropped == {
        "empty answer": 1,
        "empty prompt": 1,
        "exact duplicate": 1,
        "near duplicate": 1,
        "quality no_letters": 1,
    }
    drops = {row["line"]: row for row in made.events.iter_rows(named=True)}
    ids = {row["line"]: row["id"] for row in made.split("train").iter_rows(named=True)}
    assert drops[2]["twin"] == ids[1]
    assert drops[4]["twin"] == ids[3]
    assert 0.8 <= drops[4]["similarity"] < 1
    assert made.summary.labels == ["damage", "delivery", "refund"]
    assert made.split("train")["label"].to_list() == ["delivery", "damage", "refund"]
    assert made.split("train")["kind"].unique().to_list() == ["label"]


def test_broken_rows_stop_or_are_listed(make: Make, write: Write) -> None:
    path = write("t.csv", "text,label\n" + "one,a\ntwo,b\n" * 3 + "three\nfour,a\n")
    with pytest.raises(DataError, match="1 field, the header has 2") as caught:
        make(source={"kind": "csv", "path": path})
    assert (caught.value.where.file, caught.value.where.line) == ("t.csv", 8)
    made = make(source={"kind": "csv", "path": path, "on_error": "drop"})
    assert made.summary.dropped == {"broken row": 1}
    event = made.events.row(0, named=True)
    assert (event["line"], event["operator"]) == (8, "source")
    assert "1 field" in event["reason"]


def test_identical_rows_get_their_own_ids(make: Make, write: Write) -> None:
    path = write("t.csv", "text,label\n" + "same,a\n" * 3 + "other,b\n")
    made = make(source={"kind": "csv", "path": path}, split={"test": 0}, task="label")
    examples = read_examples(made.artifact, "train")
    expected = [example_id(examples[0].messages, None, {}, n) for n in range(3)]
    assert [example.id for example in examples][:3] == expected
    assert examples[0].label == "a"
    assert examples[3].origin.line == 5


def test_an_id_column_must_differ(make: Make, write: Write) -> None:
    path = write("t.csv", "key,text,label\nT1,a,x\nT2,b,y\nT1,c,x\n")
    with pytest.raises(DataError, match="'T1' stands in line 2, too") as caught:
        make(source={"kind": "csv", "path": path, "prompt": "text", "answer": "label", "id": "key"})
    assert caught.value.where.line == 4


@pytest.mark.parametrize(
    ("answers", "task"),
    [
        (["yes", "no"] * 6, "label"),
        ([f"class {n % 5}" for n in range(40)], "label"),
        ([f"answer {n}" for n in range(40)], "text"),
        (["A whole sentence which is much longer than any class could be.", "no"] * 6, "text"),
    ],
)
def test_the_task_is_decided_from_the_answers_and_said(make: Make, write: Write, answers: list[str], task: str) -> None:
    rows = [{"prompt": f"q{n}", "completion": answer} for n, answer in enumerate(answers)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0.2})
    assert made.summary.task == task
    assert f"task: {task}" in made.notes


def test_one_class_only_and_too_many(make: Make, write: Write) -> None:
    one = write("one.csv", "text,label\n" + "".join(f"q{n},same\n" for n in range(9)))
    with pytest.raises(DataError, match="the same answer, 'same'"):
        make(source={"kind": "csv", "path": one})
    many = write("many.csv", "text,label\n" + "".join(f"q{n},l{n}\n" for n in range(300)))
    with pytest.raises(DataError, match="more than 200 different answers"):
        make(source={"kind": "csv", "path": many}, task="label")


def test_nothing_left_says_why(make: Make, write: Write) -> None:
    path = write("t.csv", "text,label\n???,a\n!!!,b\n")
    with pytest.raises(DataError, match="no row is left: 2 × quality no_letters"):
        make(source={"kind": "csv", "path": path}, ops=["quality"])
    broken = write("b.csv", "text,label\n1\n2\n")
    with pytest.raises(DataError, match="no row is left"):
        make(source={"kind": "csv", "path": broken, "on_error": "drop"})


def test_stated_counts_are_met_and_the_rest_is_listed(make: Make, write: Write) -> None:
    rows = [{"text": f"headline number {n}", "label": "01"[n % 3 == 0]} for n in range(300)]
    asked = {"source": {"kind": "jsonl", "path": write("t.jsonl", rows)}}
    made = make(**asked, split={"test": 60, "validation": 30, "train": 120})
    assert made.summary.rows == {"train": 120, "validation": 30, "test": 60}
    assert made.summary.dropped == {"not sampled": 90}
    for name, count in made.summary.rows.items():
        assert made.split(name)["label"].value_counts().sort("label")["count"][1] == count / 3
    short = make(**asked, split={"test": 60, "train": 1000})
    assert short.summary.rows == {"train": 240, "test": 60}
    assert "train: 240 rows instead of 1000" in short.notes


def test_clusters_stay_together(make: Make, write: Write) -> None:
    base = "The parcel {} came late and the box was open when it was left at the door of my house in town"
    rows = [
        {"text": base.format(n) if n % 2 else f"{n} {hex(n**9)} {n**5} unlike {hex(n**11)}", "label": "ab"[n % 2]}
        for n in range(40)
    ]
    path = write("t.jsonl", rows)
    made = make(
        source={"kind": "jsonl", "path": path},
        ops=[{"kind": "near_dedup", "action": "flag"}],
        split={"test": 0.3, "group": "cluster"},
    )
    clusters = made.attributes("near_dedup").drop_nulls("cluster")
    assert clusters.height >= 20
    splits = {name: set(made.split(name)["id"]) for name in made.summary.rows}
    for _, members in clusters.group_by("cluster"):
        assert sum(1 for ids in splits.values() if ids & set(members["id"])) == 1


def test_settings_that_cannot_be_are_refused() -> None:
    source = {"kind": "csv", "path": "t.csv"}
    for settings_, problem in (
        ({"split": {"group": "cluster"}}, "near_dedup writes"),
        ({"split": {"test": 1.0}}, "a share is below 1"),
        ({"split": {"test": 0.6, "validation": 0.4}}, "nothing is left"),
        ({"split": {"tset": 0.1}}, "tset"),
        ({"ops": ["normalise"]}, "did you mean 'normalize'"),
        ({"ops": [{"kind": "language", "keep": ["english"]}]}, "language 'english' is unknown"),
        ({"ops": [{"kind": "quality", "skip": ["symbol"]}]}, "did you mean 'symbols'"),
    ):
        with pytest.raises(ValidationError, match=problem):
            Prepare(**{"source": source, **settings_})


def test_a_twice_used_operator_is_told_apart(make: Make, write: Write) -> None:
    path = write("t.csv", "text,label\n" + "".join(f"where is my order number {n},{'ab'[n % 2]}\n" for n in range(9)))
    made = make(
        source={"kind": "csv", "path": path}, ops=["language", "normalize", {"kind": "language", "min_chars": 1}]
    )
    assert made.attributes("language").height == made.attributes("language-2").height == 9


def test_foresee_and_measures(make: Make, write: Write, tmp_path: Path) -> None:
    step = Prepare(source={"kind": "csv", "path": write("t.csv", "text,label\na,b\n")})
    forecast = step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path))
    assert forecast.seconds
    assert forecast.tokens == 3
    assert "typical" in forecast.how
    again = step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, history={"bytes_per_s": 15.0}))
    assert again.seconds == 2
    missing = Prepare(source={"kind": "csv", "path": "no.csv"})
    with pytest.raises(DataError, match="there is no such file"):
        missing.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path))
    assert set(step.contents(tmp_path)) == {"source.csv.0"}


def test_a_data_set_may_be_held_out_as_a_whole(make: Make, write: Write) -> None:
    rows = [{"text": f"question {n}", "label": f"answer {n}"} for n in range(7)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows)}
    made = make(source=source, split={"test": 0, "validation": 7, "train": 0}, task="text")
    assert made.summary.rows == {"validation": 7}
    some = make(source=source, split={"test": 0, "validation": 5, "train": 0}, task="text")
    assert (some.summary.rows, some.summary.dropped) == ({"validation": 5}, {"not sampled": 2})


def test_a_class_that_the_system_turn_does_not_name_is_told(make: Make, write: Write) -> None:
    rows = [{"message": f"words {n}", "category": ("billing", "delivery", "refunds")[n % 3]} for n in range(30)]
    path, told = write("t.jsonl", rows), "`system` names 2 of 3 classes, not 'refunds': add what is new to it"
    source = {"kind": "jsonl", "path": path, "prompt": "message", "answer": "category"}
    for system, is_told in (("One of: billing, delivery.", True), ("One of: billing, delivery, refunds.", False)):
        made = make(source={**source, "system": system}, ops=[], split={"test": 0})
        assert (told in made.notes) == is_told
    assert "`system` names" not in make(source={**source, "system": "Name it."}, ops=[], split={"test": 0}).notes


def test_a_model_that_reads_every_row_is_foreseen_and_worth_processes(write: Write, tmp_path: Path) -> None:
    """A recogniser of names takes two hundred times as long as all the rest: a minute for 1 MB, not a second."""
    rows = [{"prompt": f"Where is parcel {number} of mine, please? " * 20, "answer": "soon"} for number in range(1300)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer"}
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)
    plain, named = (Prepare(source=source, ops=[one]) for one in ("pii", {"kind": "pii", "ner": "rampart"}))
    cores = min(8, len(os.sched_getaffinity(0)))
    more = (named.estimate_cost(outlook).seconds or 0) - (plain.estimate_cost(outlook).seconds or 0)
    assert more == pytest.approx((tmp_path / "rows.jsonl").stat().st_size * Rampart.seconds_a_byte / cores)
    assert named.estimate_cost(outlook).how.endswith("s for the model of pii")
    before = replace(outlook, history={"bytes_per_s": 1e6})
    later = (named.estimate_cost(before).seconds or 0) - (plain.estimate_cost(before).seconds or 0)
    assert later == pytest.approx(more), "the speed of a recipe without a model is not one of a model"
    twice = Prepare(source=source, ops=[{"kind": "pii", "ner": "rampart"}] * 2).estimate_cost(before)
    assert (twice.seconds or 0) - (plain.estimate_cost(before).seconds or 0) == pytest.approx(2 * more)


def test_the_speed_of_a_model_and_that_of_a_start_are_not_told_as_that_of_the_rest(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"Where is parcel {number} of mine, please?", "answer": "soon"} for number in range(300)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer"}
    monkeypatch.setattr(Rampart, "recognise", lambda self, texts: [[] for _ in texts])
    named = {"kind": "pii", "ner": "rampart"}
    for number, (ops, least_s, is_told) in enumerate((("pii", 0, True), (named, 0, False), ("pii", 60, False))):
        monkeypatch.setattr("luthier.data.steps.prepare.TELLS_S", least_s)
        folder, scratch = (tmp_path / f"{name}{number}" for name in ("out", "scratch"))
        folder.mkdir()
        scratch.mkdir()
        work = StepContext(
            name="data",
            inputs={},
            folder=folder,
            scratch=scratch,
            recipe_dir=tmp_path,
            seed=7,
            events=RunEventEmitter(lambda event: None).of("data"),
        )
        assert ("bytes_per_s" in Prepare(source=source, ops=[ops], task="text").make(work)) is is_told


def test_of_a_source_that_ends_early_only_that_is_foreseen(write: Write, tmp_path: Path) -> None:
    """Twenty rows of a large file: neither its minutes nor, as the speed of last time, all of its bytes."""
    rows = [{"prompt": f"Where is parcel {number} of mine, please? " * 20, "answer": "soon"} for number in range(1300)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "prompt", "answer": "answer", "limit": 20}
    told = Prepare(source=source, ops=[{"kind": "pii", "ner": "rampart"}]).estimate_cost(
        PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)
    )
    assert told.seconds is not None
    assert told.seconds < 3
    assert told.tokens == pytest.approx(20 * 37 * 20 / 4, rel=0.1)

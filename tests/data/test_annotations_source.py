"""Answers of an annotation project as rows: what is learnt of each kind, who decides, and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.annotation.results import find_items, label_items, record_decision
from luthier.core.db import Ledger
from luthier.core.errors import DataError
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.sources.annotations import Annotations

LABELS = ["billing", "login", "other"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / ".luthier" / "ledger.db") as opened:
        yield opened


def begin(ledger: Ledger, question: dict[str, Any], answers: tuple[str, ...] = (), count: int = 4, **more: Any) -> str:
    settings = ProjectSettings.model_validate({"questions": {"asked": question}, **more})
    project = create_project(ledger, "Asked", settings, by="owner")
    shown = [QuestionItem(({"role": "user", "content": f"text {number}"},), answers) for number in range(count)]
    add_items(ledger, project.id, [NewItem(f"row-{number}", one) for number, one in enumerate(shown)])
    return project.id


def ids(ledger: Ledger, project: str) -> list[int]:
    return [one.item.id for one in find_items(ledger, project)]


def read(folder: Path, **settings: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The rows by item, and why the others are left out."""
    found = list(Annotations(project="Asked", **settings).read(folder, lambda text: None))
    rows = {one.values["item"]: one.values for one in found if isinstance(one, SourceRecord)}
    return rows, {(one.key or "").removeprefix("item = "): one.problem for one in found if isinstance(one, BrokenRow)}


def test_the_rule_decides_and_the_owner_before_it(ledger: Ledger, tmp_path: Path) -> None:
    project = begin(ledger, {"kind": "choice", "labels": LABELS}, overlap=2)
    first, second, third, _ = ids(ledger, project)
    label_items(ledger, project, [first, second, third], {"asked": "billing"}, by="ann")
    label_items(ledger, project, [first], {"asked": "billing"}, by="ben")
    label_items(ledger, project, [second, third], {"asked": "login"}, by="ben")
    record_decision(ledger, project, third, {"asked": "other"}, by="owner")
    rows, left_out = read(tmp_path)
    assert {name: row["label"] for name, row in rows.items()} == {"row-0": "billing", "row-2": "other"}
    assert [one["annotator"] for one in rows["row-0"]["judgments"]] == ["ann", "ben"]
    assert set(left_out) == {"row-1", "row-3"}
    assert left_out["row-3"] == "not answered yet"
    rows, _ = read(tmp_path, rule={"kind": "senior", "annotators": ["ben"]})
    assert rows["row-1"]["label"] == "login"


def test_a_snapshot_stays_the_same(ledger: Ledger, tmp_path: Path) -> None:
    project = begin(ledger, {"kind": "choice", "labels": LABELS})
    first, second, *_ = ids(ledger, project)
    label_items(ledger, project, [first], {"asked": "billing"}, by="ann")
    moment = datetime.now(UTC)
    source = Annotations(project="Asked", until=moment)
    before = source.fingerprint(tmp_path)
    label_items(ledger, project, [second], {"asked": "login"}, by="ann")
    record_decision(ledger, project, first, {"asked": "other"}, by="owner", gold=True)
    add_items(ledger, project, [NewItem("new", QuestionItem(({"role": "user", "content": "new"},)))])
    assert source.fingerprint(tmp_path) == before
    assert not source.living
    assert Annotations(project="Asked").living
    assert Annotations(project="Asked").fingerprint(tmp_path) != before
    rows, _ = read(tmp_path, until=moment)
    assert {name: row["label"] for name, row in rows.items()} == {"row-0": "billing"}


@pytest.mark.parametrize(
    ("question", "answers", "value", "expected"),
    [
        (
            {"kind": "choices", "labels": LABELS},
            (),
            ["login", "billing"],
            {"text": "text 0", "label": "billing | login"},
        ),
        (
            {"kind": "spans", "labels": ["word"]},
            (),
            {"spans": [{"start": 0, "end": 4, "label": "word"}]},
            {
                "messages": [
                    {"role": "user", "content": "text 0"},
                    {"role": "assistant", "content": '{"word": ["text"]}'},
                ]
            },
        ),
        ({"kind": "pair"}, ("yes", "no"), "B", {"chosen": "no", "rejected": "yes"}),
        (
            {"kind": "text"},
            (),
            "a good answer",
            {"messages": [{"role": "user", "content": "text 0"}, {"role": "assistant", "content": "a good answer"}]},
        ),
        (
            {"kind": "correction"},
            ("wrong",),
            {"turn": 1, "text": "right"},
            {"messages": [{"role": "user", "content": "text 0"}, {"role": "assistant", "content": "right"}]},
        ),
        ({"kind": "rating"}, ("an answer",), 4, {"rating": 4}),
    ],
)
def test_each_kind_teaches(
    ledger: Ledger,
    tmp_path: Path,
    question: dict[str, Any],
    answers: tuple[str, ...],
    value: Any,
    expected: dict[str, Any],
) -> None:
    project = begin(ledger, question, answers, count=1)
    label_items(ledger, project, ids(ledger, project), {"asked": value}, by="ann")
    rows, _ = read(tmp_path)
    assert {name: rows["row-0"][name] for name in expected} == expected
    assert len(list(Annotations(project="Asked").mapped(tmp_path, lambda text: None))) == 1


def test_a_tie_teaches_nothing_and_an_unknown_project_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    project = begin(ledger, {"kind": "pair"}, ("yes", "no"), count=1)
    label_items(ledger, project, ids(ledger, project), {"asked": "tie"}, by="ann")
    assert read(tmp_path) == ({}, {"row-0": "nothing is learnt from this answer"})
    with pytest.raises(DataError, match="no annotation project"):
        list(Annotations(project="Nothing").read(tmp_path, lambda text: None))
    with pytest.raises(DataError, match="nobody was asked"):
        list(Annotations(project="Asked", question="other").read(tmp_path, lambda text: None))

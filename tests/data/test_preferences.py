"""Preference pairs from failures of probes: what was wanted is chosen, what was said rejected, the rest is listed."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from eval.evaluations import finish, made
from luthier.artifacts.dataset import DatasetSummary, read_examples
from luthier.artifacts.findings import PROBED, ProbeRow, dump_probe_rows, read_probe_rows
from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.hashing import digest_of
from luthier.core.store import Store
from luthier.data.exporters.providers import format_export_row
from luthier.data.steps.preferences import Preferences


def probed(number: int, **changes: object) -> ProbeRow:
    asked = (Message(role="system", content="Be fair."), Message(role="user", content=f"Question {number}"))
    told = {"probe": "questions", "model": "tuned", "row": str(number), "prompt": asked, "completion": "bad"}
    return ProbeRow.model_validate({**told, "expected": "good", "failed": True, **changes})


ROWS = [
    probed(0),
    probed(1, failed=False),
    probed(2, expected=None),
    probed(3, completion="good "),
    probed(4, model="base"),
    probed(5, probe="refusal", completion="Here you are."),
    probed(0, row="again"),
]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def report(store: Store, rows: list[ProbeRow]) -> Artifact:
    digest = digest_of([row.model_dump(mode="json") for row in rows])
    folder, _ = store.begin(digest)
    (folder / PROBED).write_bytes(dump_probe_rows(rows))
    return finish(store, digest, "evaluate", "evaluation", {})


def test_failures_become_pairs_and_the_books_balance(store: Store) -> None:
    heard = report(store, ROWS)
    assert list(read_probe_rows(heard)) == ROWS
    found = made(store, Preferences(evaluation="report"), {"evaluation": heard})
    rows = read_examples(found, "train")
    assert [(row.messages[1].content, row.messages[-1].content, row.meta["rejected"]) for row in rows] == [
        ("Question 0", "good", "bad"),
        ("Question 5", "good", "Here you are."),
    ]
    assert {row.kind for row in rows} == {"preference"}
    told = DatasetSummary.read(found)
    assert told.rows_in == 6
    assert told.dropped == {
        "did not fail": 1,
        "nothing better is known": 1,
        "said what was wanted": 1,
        "the same pair came before": 1,
    }


def test_some_probes_of_another_model(store: Store) -> None:
    step = Preferences(evaluation="report", probes=("questions",), model="base")
    found = made(store, step, {"evaluation": report(store, ROWS)})
    assert [row.meta["row"] for row in read_examples(found, "train")] == ["4"]


def test_openai_takes_the_pairs(store: Store) -> None:
    found = made(store, Preferences(evaluation="report"), {"evaluation": report(store, ROWS)})
    row = read_examples(found, "train")[0]
    line = {"messages": [one.model_dump(exclude_defaults=True) for one in row.messages], "meta": row.meta}
    made_of = format_export_row(line, pairs=True)  # type: ignore[arg-type]  # the fields that are read
    assert made_of["preferred_output"][0]["content"] == "good"
    assert made_of["non_preferred_output"][0]["content"] == "bad"


def test_what_is_not_there_is_refused(store: Store) -> None:
    heard = report(store, ROWS)
    for step, words in (
        (Preferences(evaluation="report", model="tund"), "did you mean 'tuned'"),
        (Preferences(evaluation="report", probes=("refusl",)), "did you mean 'refusal'"),
    ):
        with pytest.raises(DataError) as refused:
            made(store, step, {"evaluation": heard})
        assert words in refused.value.hint
    with pytest.raises(DataError, match="no row has an answer"):
        made(store, Preferences(evaluation="report"), {"evaluation": report(store, ROWS[1:2])})


def judged(store: Store, lines: list[dict[str, object]]) -> Artifact:
    digest = digest_of(lines)
    folder, _ = store.begin(digest)
    (folder / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return finish(store, digest, "judgments", "judgments", {})


def preferred(row: str, chosen: str, rejected: str) -> dict[str, object]:
    prompt = [{"role": "user", "content": f"Question {row}", "name": "Ann"}]
    return {"row": row, "prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": 0.5, "judges": 2}


def test_what_people_preferred_becomes_pairs(store: Store) -> None:
    lines = [preferred("r1", "yes", "no"), preferred("r2", "no", "yes"), preferred("r3", "yes", "no")]
    lines.append({**lines[0], "row": "r4"})
    found = made(store, Preferences(human_ratings="people"), {"human_ratings": judged(store, lines)})
    rows = read_examples(found, "train")
    assert [(row.meta["row"], row.messages[-1].content, row.meta["rejected"]) for row in rows] == [
        ("r1", "yes", "no"),
        ("r2", "no", "yes"),
        ("r3", "yes", "no"),
    ]
    assert rows[0].messages[0].name == "Ann"
    assert rows[0].origin.source == "judgments"
    assert (rows[0].meta["margin"], rows[0].meta["judges"]) == (0.5, 2)
    assert DatasetSummary.read(found).dropped == {"the same pair came before": 1}
    with pytest.raises(DataError, match="preferred no answer"):
        made(store, Preferences(human_ratings="people"), {"human_ratings": judged(store, [])})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected one of"),
        ({"evaluation": "a", "human_ratings": "b"}, "expected one of"),
        ({"human_ratings": "b", "model": "base"}, "model chooses among what probes asked"),
        ({"human_ratings": "b", "probes": ["refusal"]}, "probes chooses"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preferences.model_validate(settings)

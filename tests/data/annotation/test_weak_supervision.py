"""Weak labels: what functions vote, how they are weighed (beside Snorkel), and the data set that comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from luthier.artifacts.dataset import dump_spec_example, read_examples
from luthier.chat.messages import Message
from luthier.core.errors import DataError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.data.annotation.aggregate import VoteMatrix, fit_one_accuracy_per_voter
from luthier.data.label_function import LabelFunction, name_label_functions
from luthier.data.row import Row
from luthier.data.steps.label import LabelStep
from luthier.models.token_counts import count_row_tokens

Make = Callable[..., Any]
Write = Callable[..., str]
FUNCTIONS: list[Any] = [
    {"kind": "keywords", "label": "billing", "words": ["invoice", "refund"]},
    {"kind": "keywords", "label": "delivery", "words": ["parcel", "courier"], "unless": ["invoice"]},
    {"kind": "regex", "label": "billing", "pattern": r"\b(charged?|price)\b"},
    {"kind": "lookup", "column": "queue", "values": {"Q1": "billing", "Q2": "delivery"}},
]
TEXTS = (
    ("the invoice is wrong", "Q1", "billing"),
    ("where is my parcel", "Q2", "delivery"),
    ("the courier lost the invoice", "Q1", "billing"),
    ("I was charged twice", "", "billing"),
    ("hello there", "", None),
    ("the parcel is late", "Q2", "delivery"),
)


def _vote(function: Any, text: str, **meta: Any) -> str | None:
    turns = (Message(role="user", content=text), Message(role="assistant", content="x"))
    row = Row(0, "0" * 16, "csv", "f.csv", 1, "chat", turns, (), meta)
    return LabelFunction.parse(function).vote([row])[0]


def test_keywords_are_whole_words() -> None:
    function = {"kind": "keywords", "label": "art", "words": ["Art", "fine  arts"], "unless": ["no art"]}
    assert _vote(function, "The ART, please") == "art"
    assert _vote(function, "start") is None
    assert _vote(function, "the fine\n arts") == "art"
    assert _vote(function, "there is no art here") is None
    assert _vote({"kind": "keywords", "label": "c", "words": ["c++", "(x)"]}, "I like c++ a lot") == "c"


def test_regex_is_linear_or_refused() -> None:
    assert _vote({"kind": "regex", "label": "q", "pattern": r"\?\s*$"}, "really? ") == "q"
    for bad in (r"(?=a)b", r"(a)\1", "(unclosed"):
        with pytest.raises(ValidationError, match="is not a pattern that runs in linear time"):
            LabelFunction.parse({"kind": "regex", "pattern": bad})


def test_a_lexicon_counts() -> None:
    function = {"kind": "lexicon", "words": {"good": ["great", "thank you"], "bad": ["bad", "late"]}, "lead": 1}
    assert _vote(function, "Great, thank you, but late") == "good"
    assert _vote(function, "great but late") is None
    assert _vote({**function, "lead": 2}, "great, great, late") is None


def test_a_lookup_leads_into_objects() -> None:
    function = {"kind": "lookup", "column": "ticket.queue", "values": {"5": "billing"}}
    assert _vote(function, "t", ticket={"queue": 5}) == "billing"
    assert _vote(function, "t", ticket={"queue": 6}) is None
    assert _vote(function, "t", ticket=5) is None
    assert _vote({"kind": "lookup", "column": "queue"}, "t", queue="sales") == "sales"


def test_people_and_models_vote_too() -> None:
    proposal = {"label": "a", "confidence": 0.7}
    assert _vote("proposal", "t", proposal=proposal) is None
    assert _vote({"kind": "proposal", "confidence": 0.7}, "t", proposal=proposal) == "a"
    judgments = [{"annotator": "ann", "label": "a"}, {"annotator": "bob", "label": "b"}]
    assert _vote("judged", "t", judgments=judgments) == "b"
    assert _vote({"kind": "judged", "annotator": "ann"}, "t", judgments=judgments) == "a"


def test_functions_have_names() -> None:
    parsed = [LabelFunction.parse(one) for one in [*FUNCTIONS, FUNCTIONS[0], "proposal"]]
    assert name_label_functions(parsed) == [
        "keywords:billing", "keywords:delivery", "regex:billing", "lookup:queue", "keywords:billing-2", "proposal",
    ]  # fmt: skip


def _snorkel_votes(seed: int) -> tuple[Any, Any, Any]:
    """2000 rows, three classes, eight functions between 55 and 90 % right that speak on 60 to 15 % of rows."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, 2000, p=[0.5, 0.3, 0.2])
    accuracy, coverage = np.linspace(0.55, 0.9, 8), np.linspace(0.6, 0.15, 8)
    spoken, right = random.random((2000, 8)) < coverage, random.random((2000, 8)) < accuracy
    other = (truth[:, None] + random.integers(1, 3, (2000, 8))) % 3
    return np.where(spoken, np.where(right, truth[:, None], other), -1), truth, accuracy


@pytest.mark.parametrize(
    ("seed", "alone", "told", "weights"),
    [
        # what snorkel 0.10.0's LabelModel made of the same votes (500 epochs), without and with the true class balance
        (0, 0.7489, 0.8048, [0.539, 0.617, 0.667, 0.671, 0.735, 0.790, 0.841, 0.951]),
        (1, 0.7517, 0.8025, [0.532, 0.584, 0.620, 0.696, 0.772, 0.784, 0.850, 0.891]),
    ],
)
def test_the_label_model_beside_snorkels(seed: int, alone: float, told: float, weights: list[float]) -> None:
    votes, truth, accuracy = _snorkel_votes(seed)
    voted = (votes >= 0).any(axis=1)
    vote_matrix = VoteMatrix.of(
        [[(f"f{at}", int(one)) for at, one in enumerate(row) if one >= 0] for row in votes[voted]]
    )
    found = fit_one_accuracy_per_voter(vote_matrix)
    known = fit_one_accuracy_per_voter(vote_matrix, np.array([0.5, 0.3, 0.2]))

    def right(estimate: Any) -> float:
        return float((estimate.probabilities.argmax(axis=1) == truth[voted]).mean())

    assert right(found) >= alone + 0.02
    assert right(known) >= told
    assert right(found) > float((vote_matrix.shares().argmax(axis=1) == truth[voted]).mean())
    assert np.abs(found.quality - accuracy).max() < 0.06
    assert np.abs(found.quality - weights).max() < 0.08
    assert np.abs(found.quality - accuracy).mean() <= np.abs(np.array(weights) - accuracy).mean() + 0.005


@pytest.fixture
def texts(make: Make, write: Write) -> Any:
    """Texts without any label."""
    rows = [
        {"text": f"{text}, order {n}", "queue": queue, "n": n}
        for n in range(24)
        for text, queue, _ in [TEXTS[n % len(TEXTS)]]
    ]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "answer": "text"}
    return make(source=source, ops=["language"], split={"test": 0.25})


def test_texts_become_labelled_rows(texts: Any, take: Callable[..., Any]) -> None:
    made = take(LabelStep(data="data", functions=FUNCTIONS, system="Which queue?"), data=texts.artifact)
    wanted = {n: TEXTS[n % len(TEXTS)][2] for n in range(24)}
    assert made.summary.task == "label"
    assert made.summary.labels == ["billing", "delivery"]
    assert made.summary.rows_in == 24
    assert made.summary.dropped == {"no vote": 4}
    assert sum(made.summary.rows.values()) == 20
    for row in made.all().iter_rows(named=True):
        turns, meta = json.loads(row["messages"]), json.loads(row["meta"])
        assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
        assert turns[-1]["content"] == row["label"] == wanted[meta["n"]]
        assert turns[1]["content"].endswith(f"order {meta['n']}")
        assert set(meta["weak"]["votes"].values()) >= {row["label"]}
        assert "given" not in meta
    before = {row["id"] for row in texts.all().iter_rows(named=True)}
    assert {row["id"] for row in made.all().iter_rows(named=True)} < before, "rows keep their ids"
    assert {name: set(made.split(name)["id"]) <= set(texts.split(name)["id"]) for name in ("train", "test")}
    edits = made.events.filter(made.events["action"] == "edit")
    assert edits.height == 20
    assert edits["reason"][0].startswith("labelled by ")
    assert made.attributes("language").height == 24, "attributes come along"
    books = json.loads((made.artifact.folder / "functions.json").read_text())
    assert [one["name"] for one in books] == ["keywords:billing", "keywords:delivery", "regex:billing", "lookup:queue"]
    assert books[0]["coverage"] == pytest.approx(8 / 24, abs=1e-6)
    assert books[1]["conflicts"] == 0, "the courier who lost the invoice is silenced"
    assert "keywords:billing: votes on 33%" in made.notes
    again = take(LabelStep(data="data", functions=FUNCTIONS, system="Which queue?"), data=texts.artifact)
    assert again.files() == made.files()


@pytest.fixture
def labelled(make: Make, write: Write) -> Any:
    rows = [
        {"text": f"{text}, order {n}", "queue": queue, "label": "billing" if n % 2 else "delivery", "n": n}
        for n in range(24)
        for text, queue, _ in [TEXTS[n % len(TEXTS)]]
    ]
    return make(source={"kind": "jsonl", "path": write("l.jsonl", rows)}, split={"test": 0.25}, task="label")


def test_held_out_rows_keep_labels_that_no_rule_made(labelled: Any, take: Callable[..., Any]) -> None:
    made = take(LabelStep(data="data", functions=FUNCTIONS, undecided="keep"), data=labelled.artifact)
    assert made.split("test").equals(labelled.split("test"))
    assert made.summary.dropped == {}
    assert "only training rows are labelled" in made.notes
    for row in made.split("train").iter_rows(named=True):
        meta = json.loads(row["meta"])
        given = "billing" if meta["n"] % 2 else "delivery"
        wanted = TEXTS[meta["n"] % len(TEXTS)][2]
        assert row["label"] == (wanted or given)
        assert meta.get("given") == (given if wanted else None)
    books = json.loads((made.artifact.folder / "functions.json").read_text())
    assert books[0]["measured"] is not None
    every = take(LabelStep(data="data", functions=FUNCTIONS, splits="all", undecided="keep"), data=labelled.artifact)
    assert not every.split("test").equals(labelled.split("test"))


def test_the_rule_can_be_another(labelled: Any, take: Callable[..., Any]) -> None:
    functions = [*FUNCTIONS, {"kind": "keywords", "label": "delivery", "words": ["invoice"]}]
    made = take(LabelStep(data="data", functions=functions, rule="majority", undecided="drop"), data=labelled.artifact)
    assert set(made.summary.dropped) <= {"tie", "no vote"}
    senior = {"kind": "senior", "annotators": ["keywords:delivery-2"]}
    made = take(LabelStep(data="data", functions=functions, rule=senior), data=labelled.artifact)
    weak = [json.loads(meta)["weak"]["votes"] for meta in made.split("train")["meta"]]
    assert all(
        row["label"] == "delivery"
        for row, votes in zip(made.split("train").iter_rows(named=True), weak, strict=True)
        if "keywords:delivery-2" in votes
    )


def test_functions_that_never_speak_are_warned_of(texts: Any, take: Callable[..., Any]) -> None:
    silent = {"kind": "keywords", "label": "x", "words": ["xylophone"]}
    made = take(LabelStep(data="data", functions=[*FUNCTIONS, silent]), data=texts.artifact)
    assert [event.text for event in made.said if event.kind == "warning"] == [
        "keywords:x: votes on 0%, beside others on 0%, against others on 0%"
    ]
    with pytest.raises(DataError, match="no row is labelled: no judgment"):
        take(LabelStep(data="data", functions=[silent]), data=texts.artifact)
    with pytest.raises(ValidationError, match="names no labelling function"):
        LabelStep(data="data", functions=[])
    with pytest.raises(DataError, match="only training rows are to be labelled"):
        take(LabelStep(data="data", functions=FUNCTIONS, splits="train"), data=texts.artifact)


def test_foresee_and_outline(texts: Any, tmp_path: Any) -> None:
    step = LabelStep(data="data", functions=FUNCTIONS)
    outlook = PlanContext(inputs={"data": texts.artifact}, upstream={}, recipe_dir=tmp_path)
    assert step.estimate_cost(outlook).how.startswith("24 rows at")
    expected = PlanContext(
        inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": ArtifactSpec(rows={"train": 9})}
    )
    assert step.estimate_cost(expected).how.startswith("9 rows at")
    assert step.outline(expected).rows == {"train": 9}
    assert step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)).seconds is None


def test_rows_are_told_with_a_class_for_their_answer(texts: Any, take: Callable[..., Any], tmp_path: Any) -> None:
    """They were told with the answers that the classes replace, and an evaluation as one that writes."""
    step = LabelStep(data="data", functions=FUNCTIONS, system="Which queue?")
    outlook = PlanContext(inputs={"data": texts.artifact}, upstream={}, recipe_dir=tmp_path)
    told = step.outline(outlook)
    assert (told.task, told.answers) == ("label", ())
    made = [dump_spec_example(one) for one in read_examples(take(step, data=texts.artifact).artifact, "train")]
    assert count_row_tokens(told.examples, None).lengths[0] == pytest.approx(
        count_row_tokens(made, None).lengths[0], abs=2
    )
    labels = ArtifactSpec(task="label", answers=["a", "b"], examples=made)
    assert step.outline(replace(outlook, inputs={}, outlines={"data": labels})) == labels


def test_a_labelled_set_reads_like_any_other(texts: Any, take: Callable[..., Any]) -> None:
    made = take(LabelStep(data="data", functions=FUNCTIONS), data=texts.artifact)
    table = pl.read_parquet(made.artifact.path("examples/train.parquet"))
    assert table.columns == texts.split("train").columns

"""Rows that mean the same, dropped or marked: books, rules, and the real encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.core.errors import ModelError
from luthier.core.step import PlanContext
from luthier.data.ops.semantic_dedup import SemanticDedup
from luthier.data.steps.prepare import Prepare
from luthier.data.suggest.profile import SourceProfile
from tiny_models import tickets, tiny_encoder

SAME = ["Please cancel my order", "please cancel my orders", "Cancel my order, please!"]


def _source(write: Callable[..., str], texts: list[str]) -> dict[str, Any]:
    rows = [{"ask": text, "say": f"answer {n}", "date": f"2026-01-{n + 1:02d}"} for n, text in enumerate(texts)]
    return {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "ask", "answer": "say"}


@pytest.fixture
def texts() -> list[str]:
    filler = [f"{row['message']} {n}" for n, row in enumerate(tickets(40, seed=3))]
    return [SAME[0], *filler[:10], SAME[1], *filler[10:23], SAME[2]]


def test_one_twin_stays_and_the_books_say_why(make: Any, write: Any, texts: list[str]) -> None:
    made = make(source=_source(write, texts), ops=[{"kind": "semantic_dedup", "threshold": 0.5}], split={"test": 0.2})
    drops = made.events.filter(made.events["action"] == "drop")
    gone = set(texts) - set(made.texts())
    assert {SAME[1], SAME[2]} <= gone
    assert SAME[0] in made.texts()
    assert len(drops) == len(gone) == made.summary.dropped["means the same"]
    assert drops["similarity"].min() >= 0.5
    assert set(drops["twin"]) <= set(made.all()["id"])
    assert sum(made.summary.rows.values()) + len(gone) == made.summary.rows_in


@pytest.mark.parametrize(("settings", "stays"), [({"keep": "last"}, 2), ({"keep": "newest", "by": "date"}, 2), ({}, 0)])
def test_who_stays_is_a_rule(make: Any, write: Any, texts: list[str], settings: dict[str, str], stays: int) -> None:
    operator = {"kind": "semantic_dedup", "threshold": 0.5, **settings}
    made = make(source=_source(write, texts), ops=[operator], split={"test": 0.2})
    assert [text for text in SAME if text in made.texts()] == [SAME[stays]]


def test_marked_twins_are_held_together_by_the_split(make: Any, write: Any, texts: list[str]) -> None:
    operator = {"kind": "semantic_dedup", "threshold": 0.5, "action": "flag"}
    made = make(source=_source(write, texts), ops=[operator], split={"test": 0.4, "group": "cluster"})
    assert made.summary.rows_in == sum(made.summary.rows.values())
    column = next(name for name in made.attributes("semantic_dedup").columns if name.endswith("cluster"))
    assert made.attributes("semantic_dedup")[column].drop_nulls().len() >= 3
    for split in made.summary.rows:
        here = [text for text in SAME if text in "\n".join(made.split(split)["messages"])]
        assert here in ([], SAME)


def test_bytes_depend_neither_on_batches_nor_on_workers(make: Any, write: Any, texts: list[str]) -> None:
    source = _source(write, texts)
    made = [
        make(source=source, ops=["normalize", "semantic_dedup"], split={"test": 0.2}, batch_rows=rows, workers=workers)
        for rows, workers in ((1024, 1), (3, 1), (5, 2))
    ]
    assert made[0].files() == made[1].files() == made[2].files()


def test_an_encoder_is_found_below_the_recipe(make: Any, write: Any, tmp_path: Path, texts: list[str]) -> None:
    tiny_encoder(tmp_path / "tiny")
    operator = {"kind": "semantic_dedup", "threshold": 0.999, "embedder": {"kind": "encoder", "model": "tiny"}}
    made = make(source=_source(write, [*texts, texts[0]]), ops=[operator], split={"test": 0.2})
    assert made.summary.dropped["means the same"] >= 1
    operator["embedder"] = {"kind": "encoder", "model": "./none"}
    with pytest.raises(ModelError, match="no folder"):
        make(source=_source(write, texts), ops=[operator], split={"test": 0.2})


def test_it_says_how_far_it_is(make: Any, write: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.engine.pipeline._TICK_S", 0)
    made = make(source=_source(write, texts), ops=["semantic_dedup"], split={"test": 0.2})
    told = [one for one in made.said if one.kind == "progress" and one.measures.get("operator") == "semantic_dedup"]
    assert [(one.done, one.total) for one in told] == [(len(texts), len(texts))] * 2  # points, then pairs
    assert all(one.unit == "rows" for one in told)


def test_a_plan_counts_the_pairs_of_many_rows(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a question of some length " * 20, "completion": "yes"})
    (tmp_path / "many.jsonl").write_text(f"{row}\n" * 60_000)
    with_it, without = (
        Prepare.model_validate({"source": {"kind": "jsonl", "path": "many.jsonl"}, "ops": ops})
        for ops in (["semantic_dedup"], [])
    )
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)
    many, few = with_it.estimate_cost(outlook), without.estimate_cost(outlook)
    assert many.seconds is not None
    assert few.seconds is not None
    assert 10 < many.seconds - few.seconds < 60
    assert "s for semantic_dedup over pairs of rows" in many.how
    assert "pairs" not in few.how
    measured = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, history={"bytes_per_s": 1e6})
    again = with_it.estimate_cost(measured).seconds or 0  # the last time's speed is told without it
    assert again - (without.estimate_cost(measured).seconds or 0) == pytest.approx(many.seconds - few.seconds)


def test_it_is_proposed_to_nobody_and_refuses_half_a_rule() -> None:
    assert SemanticDedup.trial() is None
    assert SemanticDedup.suggest(SourceProfile.model_construct()) is None
    with pytest.raises(ValidationError, match="does not name the column"):
        SemanticDedup(keep="newest")
    with pytest.raises(ValidationError, match="looks at no column"):
        SemanticDedup(by="date")


def test_the_real_encoder_sees_other_words_of_one_meaning(make: Any, write: Any, minilm: str) -> None:
    texts = [
        "How can I get my money back?",
        "What do I have to do to receive a refund?",
        "I forgot my password and cannot sign in.",
        "I can't log in because I don't remember my password.",
        "When will my parcel arrive?",
        "Do you sell gift cards?",
    ]
    source = _source(write, texts)
    operator: dict[str, Any] = {"kind": "semantic_dedup", "threshold": 0.65}
    words = make(source=source, ops=[operator], split={"test": 1})
    operator["embedder"] = {"kind": "encoder", "model": minilm}
    meaning = make(source=source, ops=[operator], split={"test": 1})
    assert len(words.all()) == 6
    assert set(texts) - set(meaning.texts()) == {texts[1], texts[3]}

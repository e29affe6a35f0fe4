"""Pairs of written rules: answer, critique and revision by a model behind an endpoint, and by one that is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import DatasetSummary, preview_input_examples, read_examples
from luthier.chat.messages import prompt_of
from luthier.chat.preference import PreferencePair, pair_of
from luthier.core.errors import DataError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.data.steps.constitution import ConstitutionalAi
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests.endpoint import Body, Server, serving

RULES = ["Be kind.", "Harm nobody."]
ROWS = "question,answer\n" + "".join(f"question {number}?,known {number}\n" for number in range(12))


def speaks(body: Body) -> str:
    """Answers, criticises and revises; one row is revised to nothing new, another to nothing."""
    said = [turn["content"] for turn in body["messages"]]
    asked = re.findall(r"question \d+\?", said[0])[0]
    if said[-1].endswith("Answer with A or B."):
        better = "B" if "revised" in said[-1].split("Answer B: ")[1] else "A"
        return {"A": "B", "B": "A"}[better] if asked == "question 3?" else better
    if said[-1].startswith("Here is a rule"):
        return f"critique of {asked}"
    if said[-1].startswith("Now write"):
        return {"question 1?": f"draft {asked}", "question 2?": ""}.get(asked, f"revised {asked}")
    return f"draft {asked}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(speaks) as found:
        yield found


def made(tmp_path: Path, server: Server, **settings: Any) -> Any:
    (tmp_path / "rows.csv").write_text(ROWS)
    source = {"kind": "csv", "path": str(tmp_path / "rows.csv"), "prompt": "question", "answer": "answer"}
    steps = {
        "data": {"kind": "prepare", "source": source, "task": "text", "split": {"test": 0, "validation": 4}},
        "model": {"kind": "base", "source": {"kind": "endpoint", "url": server.url, "model": "m", "retries": 0}},
        "rules": {"kind": "constitution", "data": "data", "model": "model", "rules": RULES, **settings},
    }
    recipe = Recipe.model_validate({"luthier": 1, "name": "rules", "seed": 7, "steps": steps})
    recipe._workspace = Workspace.open(tmp_path)
    return recipe.run()


def test_each_pair_knows_its_rule_and_its_parents(tmp_path: Path, server: Server) -> None:
    result = made(tmp_path, server)
    known = {row.id: row for split in ("train", "validation") for row in read_examples(result["data"].artifact, split)}
    pairs = read_examples(result["rules"].artifact, "train") + read_examples(result["rules"].artifact, "validation")
    assert len(pairs) == 9
    for pair in pairs:
        row = known[pair.meta["parents"]["row"]]
        asked = row.messages[0].content
        assert pair.kind == "preference"
        assert prompt_of(pair) == prompt_of(row)
        assert pair.messages[-1].content == f"revised {asked}"
        assert (pair.meta["rejected"], pair.meta["critique"]) == (f"draft {asked}", f"critique of {asked}")
        assert pair.meta["rule"] in RULES
        assert pair.meta["parents"]["answer"] == pair.meta["parents"]["revision"] == pair.meta["model"]
    assert {pair.meta["rule"] for pair in pairs} == set(RULES)
    books = DatasetSummary.read(result["rules"].artifact)
    assert books.dropped == {
        "its revision is empty": 1, "its revision is its answer again": 1,
        "the model finds the first answer better by the rule": 1,
    }  # fmt: skip
    assert books.rows_in == sum(books.rows.values()) + sum(books.dropped.values())


def test_answers_of_the_data_can_be_criticised_and_nothing_is_asked_twice(tmp_path: Path, server: Server) -> None:
    pairs = read_examples(made(tmp_path, server, answers="data", chosen=False)["rules"].artifact, "train")
    assert all(pair.meta["rejected"].startswith("known") for pair in pairs)
    assert all(pair.meta["parents"]["answer"] == "data" for pair in pairs)
    asked = len(server.asked)
    assert asked == 2 * 12  # no answers, no choices
    assert made(tmp_path, server, answers="data", chosen=False)["rules"].cached
    assert len(server.asked) == asked


def test_a_model_that_cannot_revise_is_told_so(tmp_path: Path) -> None:
    with serving(lambda body: "the same") as server, pytest.raises(DataError, match="no pair was made") as caught:
        made(tmp_path, server)
    assert "its revision is its answer again" in str(caught.value)


def test_rows_beyond_those_that_are_asked_for_stand_in_the_books(tmp_path: Path, server: Server) -> None:
    books = DatasetSummary.read(made(tmp_path, server, rows=3, chosen=False)["rules"].artifact)
    assert books.dropped["not among the first 3"] == 8 - 3 + 4 - 3
    assert books.rows_in == 12 == sum(books.rows.values()) + sum(books.dropped.values())


def test_where_most_is_cut_off_more_room_is_the_remedy() -> None:
    step = ConstitutionalAi(data="data", rules=tuple(RULES), max_new_tokens=80)
    assert "raise max_new_tokens (80)" in step._remedy({"its answer was cut off": 7, "not among the first 8": 9})
    assert "can revise" in step._remedy({"its answer was cut off": 2, "its revision is empty": 6})


def test_a_critique_that_is_said_again_is_no_revision(tmp_path: Path) -> None:
    speaking = serving(lambda body: f"turn {min(len(body['messages']), 3)}")  # as small models do
    with speaking as server, pytest.raises(DataError, match="its revision is its critique again"):
        made(tmp_path, server)


@pytest.mark.parametrize("rules", [[], ["Be kind.", "Be kind."], [" "]])
def test_rules_that_say_nothing_are_refused(rules: list[str]) -> None:
    with pytest.raises(ValueError, match=r"rule|at least 1"):
        ConstitutionalAi(data="data", rules=rules)


def test_what_will_be_made_is_told_of_the_rows_that_are_asked(tmp_path: Path) -> None:
    """Of 900 rows 50 were asked, and 900 were told; and pairs were told as rows with one answer."""
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    row = {"id": "", "origin": {"source": "csv", "file": "f.csv", "line": 2}, "kind": "chat", "messages": messages}
    outlines = {
        "data": ArtifactSpec(rows={"train": 800, "test": 100}, examples=[row], task="label", answers=["Because."])
    }
    history = {"measures": {"rows_per_s": 2.0}}
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, outlines=outlines, history=history)
    step = ConstitutionalAi(data="data", rules=["Be kind."], rows=50)
    assert step.estimate_cost(outlook).seconds == 50.0
    found = step.outline(outlook)
    assert (found.rows, found.task, found.answers) == ({"train": 50, "test": 50}, "text", ())
    (example,) = preview_input_examples(replace(outlook, outlines={"data": found}), "train", 9)
    assert isinstance(pair_of(example), PreferencePair)

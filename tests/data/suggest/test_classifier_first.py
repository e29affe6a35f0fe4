"""`luthier new` says to try a plain classifier first where rows are few or texts long, and the command works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from luthier.auto.advice.training import explain_plain_classifier
from luthier.cli.app import run_command
from luthier.commands.recipe_text import PLAIN_FIRST, render_recipe
from luthier.data.suggest.propose import propose_recipe
from luthier.recipe.schema import Recipe
from tiny_models import own_cache, tickets, write_csv


def hard(count: int) -> list[dict[str, str]]:
    """Tickets whose words decide two classes of three rows."""
    return [{**row, "category": row["category"] if number % 3 else "other"}
            for number, row in enumerate(tickets(count))]  # fmt: skip


def test_few_rows_are_a_reason(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", tickets(120))
    proposal = propose_recipe(tmp_path / "rows.csv")
    assert "to train on are few: a plain classifier takes seconds, and may do as well" in explain_plain_classifier(
        proposal
    )
    text = render_recipe(proposal, "few")
    assert f"  # {PLAIN_FIRST}" in text.splitlines()
    assert text.index(PLAIN_FIRST) < text.index("tune: {kind: tune")


def test_long_texts_are_a_reason(tmp_path: Path) -> None:
    rows = [{**row, "message": " ".join([row["message"], *[f"word{at} of {number}" for at in range(90)]])}
            for number, row in enumerate(tickets(900))]  # fmt: skip
    write_csv(tmp_path / "rows.csv", rows)
    why = explain_plain_classifier(propose_recipe(tmp_path / "rows.csv"))
    assert "texts are long (27" in why
    assert "are few" not in why


def test_many_short_rows_are_none_and_texts_have_no_classes(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", hard(900))
    assert not explain_plain_classifier(propose_recipe(tmp_path / "rows.csv"))
    assert PLAIN_FIRST not in render_recipe(propose_recipe(tmp_path / "rows.csv"), "many")
    write_csv(tmp_path / "texts.csv", [{"question": f"question {at}", "answer": f"it is {at}"} for at in range(90)])
    assert not explain_plain_classifier(propose_recipe(tmp_path / "texts.csv", task="text"))


def test_words_that_decide_alone_are_a_reason_however_many_rows_there_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", tickets(900))
    text = render_recipe(propose_recipe(tmp_path / "rows.csv"), "many")
    assert "A network is expected to add a point at most" in text
    assert PLAIN_FIRST in text


def test_the_command_of_the_comment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    write_csv(tmp_path / "rows.csv", tickets(150))
    monkeypatch.chdir(tmp_path)
    assert run_command(["new", "desk", "--from", "rows.csv", "--technique", "lora"]) == 0
    monkeypatch.chdir(tmp_path / "desk")
    (line,) = [one.strip(" #") for one in Path("recipe.yaml").read_text().splitlines() if PLAIN_FIRST in one]
    words = shlex.split(line)
    assert run_command(words[1:]) == 0
    plan = Recipe.load(Path("recipe.yaml"), [words[3]]).plan()
    assert plan.artifact("tune").read_json("training.json")["technique"]["kind"] == "plain"
    assert plan.artifact("report").read_json("metrics.json")["models"]["tuned"]["accuracy"]["value"] > 0.5

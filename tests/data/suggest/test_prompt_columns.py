"""Which columns ask and answer where names do not tell, and where somebody names them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from luthier.commands.recipe_text import render_recipe
from luthier.core.errors import DataError, RecipeError
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import ColumnTemplate
from luthier.data.database.propose import propose_table_recipe
from luthier.data.source import Source
from luthier.data.suggest.propose import propose_recipe
from tests.data.conftest import Maker

ASKED = [f"Wie lange dauert die Lieferung von Bestellung {n}?" for n in range(40)]
SAID = [f"Die Bestellung {n} ist in {n % 7 + 2} Tagen bei Ihnen." for n in range(40)]


def _csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    pl.DataFrame(columns).write_csv(path)
    return path


def _parts(source: dict[str, Any], base: Path) -> tuple[str, str]:
    _, parts = Source.parse(source).glance(base)[0]
    return parts.messages[-2].content, parts.messages[-1].content


@pytest.mark.parametrize("names", [("eins", "zwei"), ("zwei", "eins")])
def test_of_two_texts_the_one_with_questions_asks(tmp_path: Path, names: tuple[str, str]) -> None:
    """They were refused: no column looks like answers."""
    texts = dict(zip(names, (ASKED, SAID), strict=True))
    proposal = propose_recipe(_csv(tmp_path / "t.csv", {name: texts[name] for name in ("eins", "zwei")}))
    assert (proposal.source["prompt"], proposal.source["answer"]) == names
    assert (
        f"40 of the first 40 rows have a question in {names[0]!r}, 0 in {names[1]!r}"
        in proposal.reasons["source.prompt"]
    )
    assert "--prompt and --answer" in proposal.reasons["source.prompt"]
    assert "free text" in proposal.reasons["source.answer"]
    assert proposal.task == "text"


def test_of_two_texts_without_questions_the_one_with_fewer_values_answers(tmp_path: Path) -> None:
    told = [text.replace("?", ".") for text in ASKED]
    few = [f"Die Lieferung dauert etwa {n % 25} Tage." for n in range(40)]
    proposal = propose_recipe(_csv(tmp_path / "t.csv", {"eins": few, "zwei": told}))
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("zwei", "eins")
    assert "25 distinct values against 40" in proposal.reasons["source.prompt"]
    proposal = propose_recipe(_csv(tmp_path / "t.csv", {"eins": told, "zwei": SAID}))
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("eins", "zwei"), "else the second answers"


def test_ids_and_days_beside_two_texts_are_none_of_them(tmp_path: Path) -> None:
    more = {"nr": list(range(40)), "angelegt": [f"2026-05-{n % 28 + 1:02d}" for n in range(40)]}
    proposal = propose_recipe(_csv(tmp_path / "t.csv", {**more, "eins": ASKED, "zwei": SAID}))
    assert (proposal.source["prompt"], proposal.source["answer"], proposal.source["id"]) == ("eins", "zwei", "nr")


def test_the_only_other_text_answers_a_column_that_is_called_a_question(tmp_path: Path) -> None:
    proposal = propose_recipe(_csv(tmp_path / "t.csv", {"Frage": ASKED, "zwei": SAID}))
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("Frage", "zwei")
    assert "'zwei' is the only other text" in proposal.reasons["source.prompt"]


def test_three_texts_without_a_telling_name_are_refused_with_the_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column looks like answers") as refused:
        propose_recipe(_csv(tmp_path / "t.csv", {"eins": ASKED, "zwei": SAID, "drei": ASKED[::-1]}))
    assert "name them by `--prompt` and `--answer`" in refused.value.hint
    assert "of eins, zwei, drei" in refused.value.hint


ROWS = {
    "subject": [f"Bestellung {n}" for n in range(40)],
    "body": ASKED,
    "reply": SAID,
    "category": ["Versand", "Storno"] * 20,
}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_that_are_named_are_taken(tmp_path: Path, ending: str) -> None:
    write = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}
    getattr(pl.DataFrame(ROWS), write[ending])(tmp_path / f"t.{ending}")
    proposal = propose_recipe(tmp_path / f"t.{ending}", prompt="{body} ({subject})", answer="reply")
    assert _parts(proposal.source, tmp_path) == (f"{ASKED[0]} (Bestellung 0)", SAID[0])
    assert proposal.task == "text"
    assert proposal.reasons["source.prompt"] == "as asked for"
    assert proposal.reasons["source.answer"].startswith("as asked for; free text")
    read = yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"]["source"]
    assert read == proposal.source


def test_what_is_not_named_is_chosen(tmp_path: Path) -> None:
    path = _csv(tmp_path / "t.csv", ROWS)
    by_answer = propose_recipe(path, answer="category")
    assert by_answer.source["prompt"] == "{subject}\n\n{body}"
    assert by_answer.task == "label"
    assert by_answer.source["system"].endswith("Storno, Versand.")
    by_prompt = propose_recipe(path, prompt="reply")
    assert (by_prompt.source["prompt"], by_prompt.source["answer"]) == ("reply", "category")
    two = _csv(tmp_path / "two.csv", {"eins": ASKED, "zwei": SAID})
    assert propose_recipe(two, prompt="zwei").source["answer"] == "eins"
    assert propose_recipe(two, answer="eins").source["prompt"] == "zwei"


def test_named_columns_go_before_turns_and_known_layouts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    rows = [{"messages": turns, "text": text, "tags": ["late", "lost"][: 1 + n % 2]} for n, text in enumerate(ASKED)]
    pl.DataFrame(rows).write_ndjson(tmp_path / "t.jsonl")
    proposal = propose_recipe(tmp_path / "t.jsonl", prompt="text", answer="{tags}")
    assert "messages" not in proposal.source
    assert proposal.task == "label"
    assert proposal.source["system"].endswith("late, late, lost.")


@pytest.mark.parametrize(
    ("named", "why", "remedy"),
    [
        ({"answer": "catgory"}, "there is no column 'catgory'", "did you mean 'category'"),
        ({"prompt": "{subjct}\n\n{body}"}, "there is no column 'subjct'", "did you mean 'subject'"),
        ({"prompt": "body", "answer": "body"}, "'body' is named as both prompt and answer", "subject, reply, category"),
        ({"prompt": "{subject} {body}", "answer": "body"}, "'body' is named as both", "name another column"),
    ],
)
def test_names_that_cannot_be_taken_are_refused(tmp_path: Path, named: dict[str, str], why: str, remedy: str) -> None:
    with pytest.raises(DataError, match=why) as refused:
        propose_recipe(_csv(tmp_path / "t.csv", ROWS), **named)
    assert remedy in refused.value.hint
    assert refused.value.where is not None
    assert refused.value.where.field in named


def test_columns_of_a_table_are_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.db") as table:
        table.execute("create table tickets (nr integer primary key, subject, body, reply, category)")
        rows = zip(*ROWS.values(), strict=True)
        table.executemany("insert into tickets (subject, body, reply, category) values (?, ?, ?, ?)", rows)
    table.close()
    wanted = Layout(prompt="subject", answer="reply")
    found = propose_table_recipe(f"sqlite:///{tmp_path}/t.db", None, tmp_path, tmp_path, wanted)
    assert (found.source["prompt"], found.source["answer"]) == ("subject", "reply")


@pytest.mark.parametrize("prompt", ["question", "{question}", "{id}: {question}"])
def test_a_recipe_may_not_ask_what_it_answers(prompt: str) -> None:
    with pytest.raises(ValidationError, match="`prompt` and `answer` name the same column 'question'"):
        Source.parse({"kind": "csv", "path": "t.csv", "prompt": prompt, "answer": "question"})
    both = {"prompt": prompt, "answer": "{question} {answer}"}
    assert Source.parse({"kind": "csv", "path": "t.csv", **both}).answer == both["answer"]


def test_rows_that_are_only_asked_say_so(tmp_path: Path, make: Maker) -> None:
    _csv(tmp_path / "t.csv", {"question": ASKED})
    source = {"kind": "csv", "path": "t.csv", "prompt": "question", "prompt_only": True}
    assert make(source=source, ops=[]).summary.rows_in == 40
    for more in ({"answer": "question"}, {"prompt": None}):
        with pytest.raises(ValidationError, match="`prompt_only` goes with `prompt` alone"):
            Source.parse({name: value for name, value in {**source, **more}.items() if value is not None})
    with pytest.raises(ValidationError, match="set `prompt_only: true` where rows hold no answers"):
        Source.parse({**source, "prompt_only": False})


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("{a}", (("", "a"),)),
        ("{a: b}|{c.d!}", (("", "a: b"), ("|", "c.d!"))),
        ('{{"x": "{a}"}}', (('{"x": "', "a"), ('"}', None))),
    ],
)
def test_templates(text: str, pieces: tuple[tuple[str, str | None], ...]) -> None:
    assert ColumnTemplate.parse(text, "prompt").pieces == pieces


@pytest.mark.parametrize("text", ["{a", "{}", "{{a}"])
def test_texts_that_are_no_templates(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a template"):
        ColumnTemplate.parse(text, "prompt")

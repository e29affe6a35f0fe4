"""The question is found in every column that holds it; what gives the answer away is left out, and both are said."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.data.source import Source
from luthier.data.suggest.propose import RecipeProposal, propose_recipe

WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti") for second in "bdfgklmnprst"]
TOPICS = {
    "Versand": "Paket Lieferung Bote Sendung Zusteller Adresse",
    "Storno": "kündigen Widerruf zurücktreten abbestellen Vertrag Frist",
    "Rechnung": "Betrag Mahnung Zahlung Konto Lastschrift Abbuchung",
}


def _say(rng: random.Random, words: str, length: int) -> str:
    """A text with some of the words, and with others that say nothing."""
    said = [rng.choice(words.split() if words and rng.random() < 0.04 else WORDS) for _ in range(length)]
    return f"{' '.join(said).capitalize()}."


def _rows(count: int, seed: int = 1, **columns: int) -> list[dict[str, Any]]:
    """Rows with a class, and texts of so many words; a text with a name in capitals tells nothing of the class."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        topic = rng.choice(list(TOPICS))
        texts = {name: _say(rng, "" if name.isupper() else TOPICS[topic], length) for name, length in columns.items()}
        found.append({**texts, "Kategorie": topic})
    return found


def _proposal(path: Path, rows: list[dict[str, Any]], **named: Any) -> RecipeProposal:
    pl.DataFrame(rows).write_csv(path)
    return propose_recipe(path, **named)


def _why(proposal: RecipeProposal) -> str:
    return proposal.reasons["source.prompt"]


def test_the_context_of_a_question_belongs_to_the_prompt(tmp_path: Path) -> None:
    """It was left out, and with it what the answer is told from."""
    rng = random.Random(3)
    rows = []
    for _ in range(400):
        says = rng.choice(["yes", "no"])
        grounds = "verbessert wirksam Vorteil günstig" if says == "yes" else "unwirksam Nachteil verschlechtert schadet"
        rows.append(
            {"question": f"Hilft {_say(rng, '', 8)[:-1]}?", "context": _say(rng, grounds, 60), "decision": says}
        )
    proposal = _proposal(tmp_path / "t.csv", rows)
    assert proposal.source["prompt"] == "{question}\n\n{context}"
    assert proposal.source["answer"] == "decision"
    assert "'context' belongs to it: a plain classifier finds " in _why(proposal)
    assert "(400 rows, held out)" in _why(proposal)
    _, parts = Source.parse(proposal.source).glance(tmp_path)[0]
    assert parts.messages[-2].content == f"{rows[0]['question']}\n\n{rows[0]['context']}"


def test_a_text_that_does_not_help_is_left_out_with_the_figures(tmp_path: Path) -> None:
    proposal = _proposal(tmp_path / "t.csv", _rows(1000, Nachricht=30, Schilderung=30, FUSSZEILE=30))
    assert proposal.source["prompt"] == "{Nachricht}\n\n{Schilderung}"
    assert "'FUSSZEILE' is left out: a plain classifier finds " in _why(proposal)


def test_a_text_stays_where_a_plain_classifier_shows_nothing(tmp_path: Path) -> None:
    """Of a question that words do not answer, nothing can be shown by words."""
    proposal = _proposal(tmp_path / "t.csv", _rows(600, FRAGE=20, CONTEXT=40))
    assert proposal.source["prompt"] == "{FRAGE}\n\n{CONTEXT}"
    assert "no better than the most frequent class, which shows nothing" in _why(proposal)


def test_few_rows_show_nothing_and_keep_every_text(tmp_path: Path) -> None:
    proposal = _proposal(tmp_path / "t.csv", _rows(40, Nachricht=30, FUSSZEILE=30))
    assert proposal.source["prompt"] == "{Nachricht}\n\n{FUSSZEILE}"
    assert "'FUSSZEILE' belongs to it: a text like the others, and 40 rows are too few to try it" in _why(proposal)


def test_columns_that_give_the_answer_away_are_named_and_left_out(tmp_path: Path) -> None:
    queues = {"Versand": "Q1", "Storno": "Q2", "Rechnung": "Q3"}
    rows = _rows(600, Nachricht=12)
    for number, row in enumerate(rows):
        row["queue"] = queues[row["Kategorie"]]
        row["resolution_code"] = f"R{number % 2}{queues[row['Kategorie']]}"
        row["Kanal"] = ("Mail", "Telefon")[number % 2]
        row["Weg"] = f"Fall {number} nach Prüfung weiter an {row['Kategorie']} gegeben"
    proposal = _proposal(tmp_path / "t.csv", rows, answer="Kategorie")
    assert proposal.source["prompt"] == "Nachricht"
    for name in ("queue", "resolution_code", "Weg"):
        assert f"{name!r} is left out: it gives the answer away, for it alone foretells 100 % of them" in _why(proposal)
    assert "Kanal" not in _why(proposal)
    assert "`--prompt` if it is known before the answer is" in _why(proposal)


@pytest.mark.parametrize("name", ["Sachverhalt", "Vermerk"])
def test_a_text_that_people_write_is_a_leak_only_by_name(tmp_path: Path, name: str) -> None:
    """It may be the only one that tells the class; who knows better is told how to leave it out."""
    rng = random.Random(2)
    rows = [
        {"Frage": _say(rng, "", 9), name: f"{topic}: {_say(rng, '', 6)} wort{number}", "Kategorie": topic}
        for number, topic in enumerate(rng.choices(list(TOPICS), k=400))
    ]
    proposal = _proposal(tmp_path / "t.csv", rows)
    if name == "Vermerk":
        assert proposal.source["prompt"] == "Frage"
        assert "'Vermerk' is left out: it gives the answer away" in _why(proposal)
    else:
        assert proposal.source["prompt"] == "{Frage}\n\n{Sachverhalt}"
        assert "leave it out by `--prompt` if it is written when the answer is known" in _why(proposal)


def test_what_repeats_the_question_is_left_out(tmp_path: Path) -> None:
    rows = [{**row, "bereinigt": row["Nachricht"].lower()} for row in _rows(200, Nachricht=30)]
    proposal = _proposal(tmp_path / "t.csv", rows)
    assert proposal.source["prompt"] == "Nachricht"
    assert "'bereinigt' is left out: it repeats what is asked" in _why(proposal)


def _answered(count: int) -> list[dict[str, str]]:
    """Questions with a context, of which the answer says a part."""
    rng = random.Random(5)
    found = []
    for _ in range(count):
        context = _say(rng, " ".join(f"fakt{rng.randrange(5000)}" for _ in range(20)), 80)
        grounds = " ".join(context.split()[::3])
        row = {"question": f"Was gilt bei {_say(rng, '', 6)[:-1]}?", "context": context, "FUSSZEILE": _say(rng, "", 40)}
        found.append({**row, "decision": f"Es gilt, weil {grounds}, in diesem Fall das Übliche."})
    return found


def test_of_free_answers_the_words_are_counted_that_they_share_with_a_column(tmp_path: Path) -> None:
    proposal = _proposal(tmp_path / "t.csv", _answered(300))
    assert (proposal.task, proposal.source["answer"]) == ("text", "decision")
    assert proposal.source["prompt"] == "{question}\n\n{context}"
    assert "'context' belongs to it: " in _why(proposal)
    assert "of the answers' other words stand in it" in _why(proposal)
    assert "'FUSSZEILE' is left out: " in _why(proposal)
    assert "(answers are no classes)" in _why(proposal)


def test_what_says_the_same_as_a_free_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{**row, "entwurf": f"{row['decision']} Gruß"} for row in _answered(100)]
    proposal = _proposal(tmp_path / "t.csv", rows)
    assert "'entwurf' is left out: it says what the answer says" in _why(proposal)
    assert "entwurf" not in proposal.source["prompt"]


def test_replies_to_what_is_classified_are_left_out_by_name(tmp_path: Path) -> None:
    rows = [{**row, "Antwort": f"Zu {number}: gern."} for number, row in enumerate(_rows(80, Nachricht=12))]
    assert "'Antwort' is left out: by name written afterwards" in _why(_proposal(tmp_path / "t.csv", rows))


def test_a_column_that_some_rows_lack_is_left_out(tmp_path: Path) -> None:
    rows = _rows(120, Nachricht=12, Schilderung=30)
    del rows[7]["Schilderung"]
    (tmp_path / "t.jsonl").write_text("".join(f"{pl.Series([row]).struct.json_encode()[0]}\n" for row in rows))
    proposal = propose_recipe(tmp_path / "t.jsonl")
    assert proposal.source["prompt"] == "Nachricht"
    assert "'Schilderung' is left out: 1 row has no such column" in _why(proposal)
    assert proposal.profile.broken == 0


def test_who_names_the_prompt_gets_no_other(tmp_path: Path) -> None:
    proposal = _proposal(tmp_path / "t.csv", _rows(100, Nachricht=12, Schilderung=30), prompt="Nachricht")
    assert proposal.source["prompt"] == "Nachricht"
    assert _why(proposal) == "as asked for"


@pytest.mark.slow
@pytest.mark.parametrize("words", [12, 120])
def test_ten_thousand_rows_take_a_second_or_two(tmp_path: Path, words: int) -> None:
    from luthier.data.sources.csv import Csv
    from luthier.data.suggest import question
    from luthier.data.suggest.survey import profile_path

    pl.DataFrame(_rows(10_000, Nachricht=words, Schilderung=words)).write_csv(tmp_path / "t.csv")
    source = Csv(path="t.csv")
    records = list(source.read(tmp_path, lambda text: None))
    columns = profile_path(tmp_path / "t.csv").columns
    choice = source.choice(columns, [record.values for record in records[:200]], "t.csv", None)
    begin = time.process_time()
    found = question.add_prompt_columns(choice, list(columns), records)
    assert "Schilderung" in found.settings["prompt"]
    assert time.process_time() - begin < 6, "seconds of one busy core, for some two that it takes"

"""Forms of one class are proposed as one, and the system prompt lists the classes that are left."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.conftest import Maker
from luthier.data.cleaning.class_lists import edit_class_lists
from luthier.data.ops.label_spelling import map_label_variants
from luthier.data.suggest.propose import propose_recipe

WORDS = {
    "Rückerstattung": "Geld zurück Erstattung Betrag Überweisung",
    "Kundenkonto": "Passwort Anmeldung Profil Login Benutzer",
    "Vertrag": "Kündigung Laufzeit Unterschrift Tarif Klausel",
    "Lieferung": "Paket Bote Sendung Karton Adresse",
}
ALSO = {
    "Rueckerstattung": "Rückerstattung",
    "Kunden-Konto": "Kundenkonto",
    "Verträge": "Vertrag",
    "Lieferungen": "Lieferung",
}
LISTED = "Kundenkonto, Lieferung, Rückerstattung, Vertrag"


def _german_rows(seed: int = 1) -> list[dict[str, str]]:
    """Thirty rows of each class, and six of another form of each."""
    chance = random.Random(seed)
    forms = {meant: old for old, meant in ALSO.items()}
    rows = []
    for meant, words in WORDS.items():
        for number in range(36):
            text = " ".join([*chance.sample(words.split(), 3), f"bitte Vorgang {chance.randint(100, 999)} {number}"])
            rows.append({"text": text, "label": forms[meant] if number >= 30 else meant})
    chance.shuffle(rows)
    return rows


@pytest.mark.parametrize(
    ("usual", "rare"),
    [
        ("Rückerstattung", "Rueckerstattung"),
        ("Straße", "Strasse"),
        ("Kundenkonto", "Kunden-Konto"),
        ("Kundenkonto", "kunden konto"),
        ("Rechnung", "Rechnungen"),
        ("Queries", "Query"),
        ("Address", "addresses"),
        ("lost card", "lost cards"),
    ],
)
def test_other_forms_of_a_class_are_found_by_their_names(usual: str, rare: str) -> None:
    assert map_label_variants(Counter({usual: 40, rare: 7, "something else": 30})) == {rare: usual}


@pytest.mark.parametrize(
    ("one", "other"),
    [("Card", "Cards lost"), ("Konto", "Konten"), ("Kauf", "Käufer"), ("-1", "1"), ("A-", "A"), ("News", "New")],
)
def test_names_alone_do_not_bring_classes_together(one: str, other: str) -> None:
    """`Konto` and `Konten` are one only where their texts are alike."""
    assert map_label_variants(Counter({one: 40, other: 7, "something else": 30})) == {}


def test_likely_plurals_are_one_where_the_texts_are_alike() -> None:
    counts = Counter({"Konto": 40, "Konten": 7, "else": 30})
    assert map_label_variants(counts, lambda one, other: True) == {"Konten": "Konto"}
    assert map_label_variants(counts, lambda one, other: False) == {}


def test_new_proposes_forms_as_one_class_and_the_prompt_lists_what_is_left(
    write: Callable[..., str], tmp_path: Path
) -> None:
    found = propose_recipe(tmp_path / write("rows.jsonl", _german_rows()))
    (spelling,) = [one for one in found.ops if one["kind"] == "label_spelling"]
    assert spelling["also"] == ALSO
    assert found.source["system"].endswith(f"Answer with one of: {LISTED}.")
    assert "8 different short values in 144 rows: 4 classes" in found.reasons["source.answer"]
    assert found.reasons["task"].startswith("4 different short answers")


def test_forms_whose_texts_are_unlike_stay_two_classes(write: Callable[..., str], tmp_path: Path) -> None:
    """`Verträge` speaks of something else here: it follows the rule of a plural, and is no plural."""
    rows = [
        {**row, "text": "Notar Grundbuch Makler Urkunde"} if row["label"] == "Verträge" else row
        for row in _german_rows()
    ]
    for number, row in enumerate(rows):
        row["text"] += f" {number}"
    found = propose_recipe(tmp_path / write("rows.jsonl", rows))
    (spelling,) = [one for one in found.ops if one["kind"] == "label_spelling"]
    assert spelling["also"] == {old: meant for old, meant in ALSO.items() if old != "Verträge"}


def test_also_by_hand_takes_merged_classes_out_of_the_prompt(make: Maker, write: Callable[..., str]) -> None:
    """Of eight classes in the prompt, four are left: it went on with eight."""
    eight = ", ".join(sorted({row["label"] for row in _german_rows()}))
    source = {
        "kind": "jsonl",
        "path": write("rows.jsonl", _german_rows()),
        "system": f"Choose the class. Answer with one of: {eight}.",
    }
    made = make(source=source, ops=[{"kind": "label_spelling", "also": ALSO}], split={"test": 10})
    prompts = {json.loads(messages)[0]["content"] for messages in made.all()["messages"]}
    assert prompts == {f"Choose the class. Answer with one of: {LISTED}."}
    assert made.summary.labels == sorted(WORDS)
    assert "the system prompt lists the 4 classes that are left" in made.notes
    edits = made.events.filter((made.events["field"] == "messages[0].content") & (made.events["action"] == "edit"))
    assert edits.height == 144
    assert edits["before"].unique().to_list() == [eight]


def test_classes_that_prepare_merges_by_itself_leave_the_prompt(make: Maker, write: Callable[..., str]) -> None:
    labels = ["refund"] * 6 + ["Refund", "refunds"] + ["delivery"] * 4
    rows = [
        {"messages": [
            {"role": "system", "content": "Say 'refund', 'Refund', 'refunds' or 'delivery'."},
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": label},
        ]}
        for n, label in enumerate(labels)
    ]  # fmt: skip
    made = make(source={"kind": "jsonl", "path": write("c.jsonl", rows)}, ops=["label_spelling"], split={"test": 0})
    assert {json.loads(messages)[0]["content"] for messages in made.all()["messages"]} == {
        "Say 'refund' or 'delivery'."
    }


def test_a_name_outside_of_a_list_is_told(make: Maker, write: Callable[..., str]) -> None:
    source = {
        "kind": "jsonl",
        "path": write("rows.jsonl", _german_rows()),
        "system": "Rueckerstattung means that money goes back.",
    }
    made = make(source=source, ops=[{"kind": "label_spelling", "also": ALSO}], split={"test": 10})
    assert "still names 'Rueckerstattung', which is written 'Rückerstattung'" in made.notes


def test_also_names_a_class_by_its_usual_spelling(make: Maker, write: Callable[..., str]) -> None:
    """`rueckerstattung` stayed a class of its own, since `also` named it with a capital letter."""
    labels = ["Rückerstattung"] * 9 + ["Rueckerstattung"] * 3 + ["rueckerstattung"] + ["Konto"] * 9
    rows = [{"text": f"frage {n}", "label": label} for n, label in enumerate(labels)]
    also = {"kind": "label_spelling", "also": {"Rueckerstattung": "Rückerstattung"}}
    made = make(source={"kind": "jsonl", "path": write("r.jsonl", rows)}, ops=[also], split={"test": 0})
    assert made.summary.labels == ["Konto", "Rückerstattung"]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("One of: A, C, B.", "One of: A, B."),
        ("'A', 'B' or 'C'?", "'A' or 'B'?"),
        ("C or B", "A or B"),
        ("1. A\n2. C\n3. B\n", "1. A\n2. B\n"),
        ("- A\n- B\n- C", "- A\n- B"),
        ("A/B/C", "A/B"),
        ('"A", "B", and "C".', '"A", and "B".'),
        ("A: first\nC: third", "A: first\nC: third"),
        ("C is what it says", "C is what it says"),
    ],
)
def test_lists_keep_their_form(text: str, after: str) -> None:
    for one in reversed(edit_class_lists(text, {"C": "A"}, ["A", "B"])):
        text = text[: one.start] + one.after + text[one.end :]
    assert text == after

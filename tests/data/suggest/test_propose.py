"""A recipe for somebody's file: fitting, explained, and accepted by the step that it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from luthier.commands.recipe_text import render_recipe
from luthier.core.errors import DataError
from luthier.data.source import Source
from luthier.data.steps.augment import Augment
from luthier.data.steps.prepare import Prepare
from luthier.data.suggest.propose import RecipeProposal, propose_recipe
from luthier.data.suggest.survey import profile_path
from luthier.traces.logs import read_log_records

Make = Callable[..., Any]
Write = Callable[..., str]
SUPPORT = Path(__file__).resolve().parents[3] / "recipes" / "support" / "tickets.csv"


def _recipe(proposal: RecipeProposal) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load(render_recipe(proposal, "mine"))
    assert recipe["steps"]["data"] == proposal.prepare()
    Prepare.model_validate(recipe["steps"]["data"])
    assert recipe["steps"]["validate"] == {"kind": "validate", "data": "data"}
    return recipe


def test_tickets_as_classes() -> None:
    proposal = propose_recipe(SUPPORT)
    source = proposal.source
    assert proposal.task == "label"
    assert (source["prompt"], source["answer"]) == ("{subject}\n\n{message}", "category")
    assert (source["id"], source["group"]) == ("ticket_id", "customer")
    assert "refund" in source["system"]
    kinds = [one["kind"] for one in proposal.ops]
    assert kinds[:3] == ["normalize", "quoted_replies", "signatures"]
    assert kinds.index("label_spelling") < kinds.index("pii")
    assert {"language", "exact_dedup", "near_dedup"} <= set(kinds)
    assert proposal.profile.languages.keys() >= {"en", "de", "es"}
    recipe = _recipe(proposal)
    assert recipe["steps"]["report"]["metrics"] == ["accuracy", "macro_f1"]
    assert recipe["steps"]["gate"]["rules"] == ["macro_f1 > base"]
    text = render_recipe(proposal, "mine")
    for why in (
        "12 of 468 rows repeat",
        "names the row",
        "one customer stay",
        "to learn 'reply' instead",
        "personal data",
    ):
        assert why in text


def test_tickets_as_replies() -> None:
    proposal = propose_recipe(SUPPORT, task="text", shown="tickets.csv")
    assert proposal.source["answer"] == "reply"
    assert "system" not in proposal.source
    assert _recipe(proposal)["steps"]["report"]["metrics"] == ["rougeL", "chrf"]
    assert "a score from 0 to 100" in proposal.reasons["split.test"], "no accuracy is measured of texts"


def test_the_proposal_runs(make: Make) -> None:
    settings = {key: value for key, value in propose_recipe(SUPPORT).prepare().items() if key != "kind"}
    settings["source"] = {**settings["source"], "limit": 60}  # a model looks for names in each
    made = make(base=SUPPORT.parent, **settings)
    assert made.summary.rows_in == 60
    assert set(made.summary.labels) <= {
        "account",
        "billing",
        "cancellation",
        "damaged_item",
        "delivery",
        "product_question",
        "refund",
        "returns",
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_all_three_kinds_of_files(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame(
        {"question": [f"what is {n}+{n}?" for n in range(50)], "answer": [str(2 * n) for n in range(50)]}
    )
    path = tmp_path / f"sums.{ending}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[ending](path)
    proposal = propose_recipe(path)
    assert proposal.source["kind"] == ending
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("question", "answer")
    assert proposal.task == "text"
    assert _recipe(proposal)["steps"]["report"]["metrics"] == ["exact_match", "token_f1"]


def test_conversations(tmp_path: Path, write: Write) -> None:
    turns = [
        {"role": "user", "content": "hi there"},
        {"role": "assistant", "content": "Hello, how may I help you today?"},
    ]
    path = write("chat.jsonl", [{"messages": [*turns, *turns][: 2 + 2 * (n % 2)], "topic": n} for n in range(9)])
    proposal = propose_recipe(tmp_path / path)
    assert proposal.source["messages"] == "messages"
    assert "OpenAI" in proposal.reasons["source.messages"]
    _recipe(proposal)


def test_classes_far_down_the_file_are_seen(tmp_path: Path, write: Write) -> None:
    path = write("sorted.csv", "text,intent\n" + "".join(f"question number {n},class{n // 500}\n" for n in range(4000)))
    proposal = propose_recipe(tmp_path / path)
    assert "class7" in proposal.source["system"]
    assert proposal.profile.looked_at == 2000


def test_broken_rows_are_left_out_and_said(tmp_path: Path, write: Write) -> None:
    path = write("t.csv", "text,label\n" + "".join(f"question {n},{'ab'[n % 2]}\n" for n in range(20)) + "broken\n")
    proposal = propose_recipe(tmp_path / path)
    assert proposal.source["on_error"] == "drop"
    assert proposal.profile.broken == 1
    assert proposal.profile.rows == 21


def test_hostile_names_stay_inside_their_comments(tmp_path: Path, write: Write) -> None:
    header = '"text","label","x\nsteps: {}","a: b # c"\n'
    path = write("t.csv", header + "".join(f"question {n},{'ab'[n % 2]},1,2\n" for n in range(20)))
    recipe = _recipe(propose_recipe(tmp_path / path))
    assert recipe["steps"]["data"]["source"]["answer"] == "label"
    odd = propose_recipe(tmp_path / path, shown='we "ird: #1.csv')
    assert _recipe(odd)["steps"]["data"]["source"]["path"] == 'we "ird: #1.csv'


def test_more_rows_of_a_rare_class_are_proposed_and_not_switched_on(write: Write, tmp_path: Path) -> None:
    def text(rare: int) -> str:
        rows = [{"text": f"question number {n}", "class": "rare" if n < rare else "usual"} for n in range(60)]
        write("rows.jsonl", rows)
        return render_recipe(propose_recipe(tmp_path / "rows.jsonl"), "mine")

    assert "augment" not in text(30)
    lines = text(6).splitlines()
    assert any("The class rare has 6 rows, the most frequent one 54" in line for line in lines)
    commented = next(line for line in lines if line.startswith("  # more:"))
    assert "more" not in yaml.safe_load("\n".join(lines))["steps"]
    switched_on = yaml.safe_load(commented.replace("# ", ""))["more"]
    assert Augment.model_validate(switched_on).augmenters[0].kind == "balance"


def test_a_class_that_may_be_a_slip_is_asked_about(write: Write, tmp_path: Path) -> None:
    classes = [*["Billing"] * 30, *["Delivery"] * 30, "Bilings"]
    write("rows.jsonl", [{"text": f"question number {n}", "class": one} for n, one in enumerate(classes)])
    lines = render_recipe(propose_recipe(tmp_path / "rows.jsonl"), "mine").splitlines()
    at = lines.index("  # Is the class Bilings a slip? Then write among `ops`:")
    assert yaml.safe_load(lines[at + 1].replace("#", "")) == [
        {"kind": "label_spelling", "also": {"Bilings": "Billing"}}
    ]


def test_slips_of_another_case_are_brought_together_too(write: Write, tmp_path: Path) -> None:
    classes = [*["billing", "shipping"] * 40, "Biling", "Shiping"]
    write("rows.jsonl", [{"text": f"question number {n}", "class": one} for n, one in enumerate(classes)])
    (spelling,) = [one for one in propose_recipe(tmp_path / "rows.jsonl").ops if one["kind"] == "label_spelling"]
    assert spelling == {"kind": "label_spelling", "also": {"Biling": "billing", "Shiping": "shipping"}}


def test_a_slip_is_not_counted_as_a_class(write: Write, tmp_path: Path) -> None:
    classes = [*["billing", "shipping"] * 40, "biling"]
    write("rows.jsonl", [{"text": f"question number {n}", "class": one} for n, one in enumerate(classes)])
    reasons = propose_recipe(tmp_path / "rows.jsonl").reasons
    found = "3 different short values in 81 rows: 2 classes, for 'biling' looks like another spelling of 'billing'"
    assert reasons["source.answer"] == found
    assert reasons["task"] == "2 different short answers come again and again"


def test_rows_of_one_class_are_told_to_wait_for_another(write: Write, tmp_path: Path) -> None:
    write("rows.jsonl", [{"text": f"question number {n}", "class": "billing"} for n in range(60)])
    told = propose_recipe(tmp_path / "rows.jsonl", prompt="text", answer="class").reasons["task"]
    assert told == "all rows have the same answer: `luthier run` refuses them until another class is there"


def test_a_heading_is_no_class_beside_a_column_that_may_be(write: Write, tmp_path: Path) -> None:
    said = [f"{('Hello', 'A question')[n % 2]},how do I do thing {n}" for n in range(60)]
    both = [f"{row},{('red', 'blue')[n % 2]}" for n, row in enumerate(said)]
    for names, rows, answer in (("Subject,question,colour", both, "colour"), ("Subject,question", said, "Subject")):
        proposal = propose_recipe(tmp_path / write(f"{answer}.csv", "\n".join([names, *rows])))
        assert proposal.source["answer"] == answer


@pytest.mark.parametrize("name", ["team", "squad"])
def test_classes_are_found_beside_dates_and_names_that_come_again(tmp_path: Path, write: Write, name: str) -> None:
    rows = "".join(
        f"2026-10-{n % 9 + 1:02d},c{n % 20},how do I do thing number {n},{'Orders' if n % 3 else 'Refunds'}\n"
        for n in range(90)
    )
    proposal = propose_recipe(tmp_path / write("t.csv", f"day,customer,question,{name}\n{rows}"))
    assert (proposal.source["prompt"], proposal.source["answer"]) == ("question", name)
    assert proposal.source["group"] == "customer"


def test_where_several_columns_could_be_classes_they_are_named(tmp_path: Path, write: Write) -> None:
    rows = "".join(
        f"how do I do thing number {n},{'red' if n % 3 else 'blue'},{'up' if n % 2 else 'down'}\n" for n in range(60)
    )
    with pytest.raises(DataError, match="2 columns could be the answer: colour, way") as caught:
        propose_recipe(tmp_path / write("t.csv", f"question,colour,way\n{rows}"))
    assert "choose one, such as `--answer colour`" in caught.value.hint


def test_what_cannot_be_proposed_says_why(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="no such file"):
        propose_recipe(tmp_path / "no.csv")
    (tmp_path / "no.bin").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="what kind of file"):
        propose_recipe(tmp_path / "no.bin")
    with pytest.raises(DataError, match="no column looks like"):
        propose_recipe(tmp_path / write("n.csv", "a,b,c\n" + "1.5,2.5,3.5\n" * 5))
    with pytest.raises(DataError, match="the header has 2"):
        propose_recipe(tmp_path / write("b.csv", "a,b\n1\n2\n"))
    said = [f"where is parcel {number}" for number in range(40)]
    for classes, why in (
        (["late"] * 40, "'category' has the same value in every row"),
        (said, "'category' has 40 different values in 40 rows, too many to be classes"),
    ):
        table = "message,category\n" + "".join(f"{one},{two}\n" for one, two in zip(said, classes, strict=True))
        with pytest.raises(DataError, match=why):
            propose_recipe(tmp_path / write("c.csv", table))


def test_the_profile_counts(tmp_path: Path, write: Write) -> None:
    rows = [
        ("Where is it? Mail jo@example.com", "a"),
        ("Where is it? Mail jo@example.com", "a"),
        ("", "b"),
        ("Why  so", "b"),
    ]
    found = profile_path(tmp_path / write("t.jsonl", [{"text": text, "label": label} for text, label in rows]))
    assert found.rows == 4
    assert found.columns["text"].filled == 3
    assert found.columns["label"].common == {"a": 2, "b": 2}
    assert found.pii == {"email": 2}
    assert sum(found.trials["exact_dedup"].dropped.values()) == 1
    assert found.trials["normalize"].edited == 1


def test_no_plain_classifier_is_proposed_for_preferences(tmp_path: Path) -> None:
    """The preferred answers may be classes: a plain classifier would learn them without what they were preferred to."""
    asked = [f"{verb} {thing} {number}" for number in range(8) for verb in ("pay", "send") for thing in ("a", "b", "c")]
    rows = [{"prompt": text, "chosen": text.split()[0], "rejected": "I do not know"} for text in asked]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    proposal = propose_recipe(tmp_path / "pairs.jsonl")
    assert (proposal.task, proposal.objective) == ("label", "dpo")
    assert "technique" not in proposal.reasons


def test_pairs_of_answers_are_learnt_by_dpo_and_cleaned_alike(tmp_path: Path, make: Any) -> None:
    rows = [
        {
            "chosen": f"\n\nHuman: Is it  {n}?\n\nAssistant: yes,  it is <b>{n}</b>",
            "rejected": f"\n\nHuman: Is it  {n}?\n\nAssistant: no,  ask <b>ann{n}@example.com</b>",
        }
        for n in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    proposal = propose_recipe(tmp_path / "pairs.jsonl")
    assert (proposal.objective, proposal.metrics, proposal.rules) == ("dpo", ["accuracy"], ["accuracy > base"])
    assert {one["kind"] for one in proposal.ops} == {"normalize", "exact_dedup", "near_dedup", "pii"}
    made = make(**yaml.safe_load(render_recipe(proposal, "pairs"))["steps"]["data"])
    kept = "".join(map(str, made.all().rows()))
    assert "@" not in kept
    assert kept.count("no, ask [EMAIL]") == kept.count("yes, it is ") == 40


def test_thumbs_are_learnt_by_kto(tmp_path: Path) -> None:
    rows = [{"prompt": f"Is it {n}?", "completion": f"yes, {n}", "label": n % 2 == 0} for n in range(40)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert propose_recipe(tmp_path / "thumbs.jsonl").objective == "kto"


def test_near_copies_are_counted_as_they_will_be_once_personal_data_are_gone(tmp_path: Path, make: Any) -> None:
    streets = ["Grafton", "Hollins", "Marlowe", "Kingsley", "Thornbury", "Ashcombe", "Wexford", "Pemberton"]
    rows = [
        {"text": f"Would you send it to {number * 37} {street} Street, {place}{', ' * (number < 2)}.", "label": "a"}
        for number, (street, place) in enumerate(zip(streets, reversed(streets), strict=True), 1)
    ]
    rows += [{"text": text, "label": "b"} for text in ("When does the shop open?", "It never came back!")]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    copies = sum(sum(proposal.profile.trials[kind].dropped.values()) for kind in ("exact_dedup", "near_dedup"))
    made = make(**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"])
    assert copies == sum(made.summary.dropped.values()) == 7


def test_rows_that_will_be_dropped_are_neither_held_out_nor_trained_on(tmp_path: Path) -> None:
    """The length of the training and what its test can tell follow from the rows that operators leave."""
    subjects = ("the invoice", "a parcel", "my password", "the new app", "our contract", "a broken lamp")
    said = [f"{verb} {subject}" for subject in subjects for verb in ("Where can I find", "Who is able to change")]
    rows = [{"text": text, "topic": "other" if "find" in text else "change"} for text in said]
    pl.DataFrame(rows * 5).write_csv(tmp_path / "tickets.csv")
    proposal = propose_recipe(tmp_path / "tickets.csv")
    assert proposal.profile.trials["exact_dedup"].dropped == {"exact duplicate": 48}
    assert proposal.left == 12
    assert proposal.reasons["split.test"].startswith("about 3 rows"), "as many as the seed holds out"
    assert "one pass over about 10 rows" in render_recipe(proposal, "mine")


def test_near_copies_stay_where_a_class_would_be_gone_without_them(tmp_path: Path, make: Any) -> None:
    texts = {
        "late": "The parcel with the number {} is still not here, where is it?",
        "early": "The parcel with the number {} is here now, where is it from?",
        "lost": "The parcel with the number {} is still not here, where is it??",
    }
    rows = [
        {"text": text.format(number), "label": label} for number in range(100, 112) for label, text in texts.items()
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert next(one for one in proposal.ops if one["kind"] == "near_dedup")["action"] == "flag"
    assert "no row of 'lost'" in proposal.reasons["ops.near_dedup"]
    made = make(**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"])
    assert set(made.summary.labels) == set(texts)


def test_near_copies_with_other_answers_stay(tmp_path: Path) -> None:
    letter = "Dear customer, order number {} of the second of May {} with our carrier; write to us when you need help"
    states = {"shipped": "is out", "delayed": "is kept"}
    rows = [
        {"text": letter.format(number, state), "label": label}
        for number in range(100, 140)
        for label, state in states.items()
    ]
    unlike = [
        f"{two * 3} {two[::-1] * 4} {n} {two * 2}" for n, two in enumerate(map("".join, permutations("abcdefghijk", 2)))
    ]
    rows += [{"text": text, "label": "other"} for text in unlike]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert next(one for one in proposal.ops if one["kind"] == "near_dedup")["action"] == "flag"
    assert "with another answer" in proposal.reasons["ops.near_dedup"]
    told = [{"text": row["text"], "reply": f"We send the {n}th of our many letters."} for n, row in enumerate(rows)]
    pl.DataFrame(told).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert {"kind": "near_dedup"} in proposal.ops
    assert "with another answer (`of: both`" in proposal.reasons["ops.near_dedup"]
    same = [{**row, "label": "shipped" if row["text"].startswith("Dear") else "other"} for row in rows]
    pl.DataFrame(same).write_csv(tmp_path / "t.csv")
    assert {"kind": "near_dedup"} in propose_recipe(tmp_path / "t.csv").ops


@pytest.mark.parametrize("column", ["label", "reply"])
def test_near_copies_stay_where_most_rows_are_made_from_a_template(tmp_path: Path, make: Any, column: str) -> None:
    letter = "Dear team, this is about the {} of customer number {}; please look into it and write back to us soon"
    subjects = ["unpaid invoice and the reminder", "parcel that was never delivered", "password of the web account"]
    rows = [
        {"text": letter.format(subject, number), column: subject if column == "label" else f"{subject}, case {number}"}
        for subject in subjects
        for number in range(100, 130)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert next(one for one in proposal.ops if one["kind"] == "near_dedup") == {"kind": "near_dedup", "action": "flag"}
    assert "look templated" in proposal.reasons["ops.near_dedup"]
    assert proposal.left == len(rows)
    made = make(**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"])
    assert sum(made.summary.rows.values()) == len(rows)


def test_rows_that_were_left_to_train_on_are_not_foretold_as_test_rows(tmp_path: Path, write: Write, make: Any) -> None:
    write("t.jsonl", [{"text": f"question {n} about {n * 37}", "label": "ab"[n % 2]} for n in range(120)])
    made = make(source={"kind": "jsonl", "path": "t.jsonl"}, split={"test": 0.2}, ops=[])
    train = map(json.loads, made.split("train")["messages"])
    rows = [{"messages": [{"role": one["role"], "content": one["content"]} for one in turns]} for turns in train]
    back = propose_recipe(tmp_path / write("back.jsonl", rows))
    assert back.reasons["split.test"].startswith("only about 1 row: by the same seed")
    assert propose_recipe(tmp_path / "t.jsonl").reasons["split.test"].startswith("about 20 rows")


def test_conversations_have_an_id_and_a_group(tmp_path: Path, write: Write) -> None:
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    rows = [{"chat_id": f"c{n}", "customer": f"k{n % 25}", "topic": "ab"[n % 2], "messages": turns} for n in range(60)]
    proposal = propose_recipe(tmp_path / write("t.jsonl", rows))
    assert proposal.source | {"id": "chat_id", "group": "customer"} == proposal.source
    _recipe(proposal)
    few = propose_recipe(tmp_path / write("t.jsonl", [{**row, "customer": "x"} for row in rows]))
    assert few.source["id"] == "chat_id"
    assert "group" not in few.source


@pytest.mark.parametrize("answer", ["field_360001", "tags"])
def test_the_class_of_a_ticket_is_offered_beside_its_turns(
    tmp_path: Path, write: Write, make: Any, answer: str
) -> None:
    said = ("It broke again and nobody tells me why.", "Please try it once more.")
    tickets = [
        {
            "id": n,
            "subject": f"help {n}",
            "description": f"Order {n * 37}: {said[0]}",
            "requester_id": 7,
            "tags": [("billing", "delivery")[n % 2]],
            "custom_fields": [{"id": 360001, "value": ("billing", "delivery")[n % 2]}, {"id": 360002, "value": None}],
            "comments": [{"author_id": 7 + 2 * k, "body": text, "public": True} for k, text in enumerate(said)],
        }
        for n in range(40)
    ]
    proposal = propose_recipe(tmp_path / write("t.jsonl", tickets))
    assert "to learn a class instead (field_360001, tags)" in proposal.reasons["source.messages"]
    prompt = yaml.safe_load(proposal.reasons["source.messages"].split("prompt: ")[1].split("` and")[0])
    source = {"kind": "zendesk", "path": "t.jsonl", "prompt": prompt, "answer": answer, "id": "id"}
    assert set(make(source=source, ops=[]).summary.labels) == {"billing", "delivery"}


def test_rows_that_a_rule_does_not_fit_are_marked_and_stay(tmp_path: Path, make: Any) -> None:
    rows = [
        {"text": f"line {number} " + "error" + " error" * 40, "label": "net" if number % 3 else "disk"}
        for number in range(30)
    ]
    rows += [{"text": f"{word} failed on the way to the other host", "label": "net"} for word in ("disk", "fan", "cpu")]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert {"kind": "quality", "action": "flag"} in proposal.ops
    assert "30 of 33 rows" in proposal.reasons["ops.quality"]
    assert "skip: [distinct_words]" in proposal.reasons["ops.quality"]
    assert '"marked: quality distinct_words' in render_recipe(proposal, "mine").replace("→ ", "")
    assert proposal.profile.trials["near_dedup"].dropped, "rows that stay are seen by what comes after"
    made = make(**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"])
    assert "quality distinct_words" not in made.summary.dropped


def test_a_class_of_rows_that_say_nothing_stays(tmp_path: Path) -> None:
    words = [
        "late",
        "broken",
        "lost",
        "wet",
        "torn",
        "cold",
        "small",
        "red",
        "old",
        "dear",
        "slow",
        "loud",
        "thin",
        "sour",
    ]
    rows = [{"text": f"the parcel was {word} as it came", "label": "claim"} for word in words]
    rows += [{"text": "?" * number, "label": "nothing"} for number in (3, 5, 7)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert {"kind": "quality", "action": "flag"} in proposal.ops
    assert "no row of 'nothing'" in proposal.reasons["ops.quality"]


def test_headers_in_other_languages_are_understood(tmp_path: Path) -> None:
    rows = [
        {"Vorgangsnr": f"V{n}", "Betreff": f"Frage {n}", "Nachricht": f"Wo bleibt {n} mal das Paket?", "Kunde": n % 25,
         "Rückmeldung": f"Es kommt in {n} Tagen zu Ihnen.", "Kategorie": ("Versand", "Rückgabe")[n % 2]}
        for n in range(40)
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv", separator=";")
    source = propose_recipe(tmp_path / "t.csv").source
    assert source["prompt"] == "{Betreff}\n\n{Nachricht}"
    assert (source["answer"], source["id"], source["group"]) == ("Kategorie", "Vorgangsnr", "Kunde")
    assert propose_recipe(tmp_path / "t.csv", task="text").source["answer"] == "Rückmeldung"
    assert "Answer with one of: Rückgabe, Versand." in render_recipe(propose_recipe(tmp_path / "t.csv"), "mine")


def test_every_column_of_a_known_layout_is_read(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
    talk = [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "In the depot, I was told."}]
    files = {
        "openai": {"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}]},
        "sharegpt": {"conversations": talk, "system": "Be kind."},
        "alpaca": {"instruction": "Say it in French.", "input": "The parcel is late.", "output": "Le colis tarde."},
    }
    for name, row in files.items():
        more = {"tools": tools} if name == "openai" else {}
        rows = [{**row, **more, **({"output": f"Le colis {n} tarde."} if name == "alpaca" else {})} for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    read = {name: propose_recipe(tmp_path / f"{name}.jsonl").source for name in files}
    assert read["openai"]["tools"] == "tools"
    assert read["sharegpt"]["system_column"] == "system"
    glances = {name: Source.parse(source).glance(tmp_path)[0][1] for name, source in read.items()}
    assert glances["openai"].tools == tuple(tools)
    assert [turn.role for turn in glances["sharegpt"].messages] == ["system", "user", "assistant"]
    assert glances["alpaca"].messages[0].content == "Say it in French.\n\nThe parcel is late."


def test_rows_that_make_no_example_are_told_and_left_out(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": "On its way."}]
    rows: list[object] = [{"messages": turns}] * 8
    rows[4] = {"messages": []}
    rows[6] = {"messages": [{"role": "ghost", "content": "x"}]}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    proposal = propose_recipe(tmp_path / "t.jsonl")
    assert (proposal.profile.rows, proposal.profile.broken) == (8, 2)
    assert proposal.source["on_error"] == "drop"
    assert "2 rows cannot be read (the first, line 5: the list of messages is empty)" in render_recipe(proposal, "mine")
    (tmp_path / "t.jsonl").write_text("{\n" + "".join(json.dumps(row) + "\n" for row in rows))
    said = propose_recipe(tmp_path / "t.jsonl").profile
    assert said.broken == 3
    assert "; 2 of them make no example, the first line 6: the list of messages is empty" in said.first_broken
    (tmp_path / "t.jsonl").write_text(json.dumps({"messages": []}) + "\n")
    with pytest.raises(DataError, match="the list of messages is empty"):
        propose_recipe(tmp_path / "t.jsonl")


def test_values_that_stand_for_none_are_no_class(tmp_path: Path) -> None:
    labels = ["order"] * 20 + ["refund"] * 15 + ["N/A"] * 3 + ["-", "-", ""]
    rows = [{"message": f"where is number {n} of mine", "category": label} for n, label in enumerate(labels)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert sorted(proposal.source["null_values"]) == ["-", "N/A"]
    assert proposal.source["system"].endswith("Answer with one of: order, refund.")
    assert "3 × 'N/A', 2 × '-'" in render_recipe(proposal, "mine")
    assert "6 × empty answer" in proposal.profile.notes[-1]
    taught = [parts.messages[-1].content for _, parts in Source.parse(proposal.source).glance(tmp_path)]
    assert set(taught) == {"order", "refund", ""}


def test_answers_of_signs_alone_are_classes(tmp_path: Path) -> None:
    rows = [{"text": f"sentence number {n} without its end", "label": "?-"[n % 2]} for n in range(40)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    assert "null_values" not in propose_recipe(tmp_path / "t.csv").source


@pytest.mark.parametrize(
    ("customers", "why"),
    [
        ([f"k{n % 7}" for n in range(60)], "customer has 7 different values in 60 rows, too few"),
        (["us"] * 20 + [f"k{n}" for n in range(40)], "20 of 60 rows have 'us' as customer, too many"),
    ],
)
def test_groups_that_no_share_can_hold_out_are_left_out_and_told(
    tmp_path: Path, customers: list[str], why: str
) -> None:
    rows = [
        {"message": f"where is number {n}", "category": "ab"[n % 2], "customer": one} for n, one in enumerate(customers)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert "group" not in proposal.source
    assert f"# group: left out; {why}" in render_recipe(proposal, "mine")


def test_a_group_that_can_be_held_out_goes_before_one_that_cannot(tmp_path: Path) -> None:
    rows = [
        {
            "Ticket ID": n // 2,
            "sender": ("desk", f"c{n}")[n % 2],
            "message": f"number {n}",
            "category": "ab"[n % 4 // 2],
        }
        for n in range(80)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert proposal.source["group"] == "Ticket ID"
    assert "rows of one Ticket ID stay in one split" in proposal.reasons["source.group"]


@pytest.mark.parametrize("more", [{"replyToId": "m{}"}, {"response.role": "assistant"}])
def test_names_of_rows_and_what_is_always_the_same_are_no_texts(tmp_path: Path, more: dict[str, str]) -> None:
    row = {"id": "m{}", "messageType": "message", "request.model": "big", **more}
    rows = [{name: value.format(number) for name, value in row.items()} for number in range(40)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="no column looks like") as caught:
        propose_recipe(tmp_path / "t.csv")
    assert (
        "by `--prompt` and `--answer` (or in a recipe by `prompt:` and `answer:`), of id, messageType"
        in caught.value.hint
    )


def test_stars_are_classes_where_nothing_else_is(tmp_path: Path) -> None:
    rows = [{"review": f"it has {n} faults", "stars": 1 + n % 5, "answer": f"we mend all {n}"} for n in range(60)]
    pl.DataFrame(rows).drop("answer").write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").source["answer"] == "stars"
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").source["answer"] == "answer"


def test_several_classes_in_a_cell_are_told(tmp_path: Path) -> None:
    classes = ["billing; refund", "billing", "refund", "delivery; refund", "delivery", "billing; delivery"]
    rows = [{"message": f"number {n}", "labels": classes[n % 6]} for n in range(60)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    told = "; 30 of 60 rows hold several, such as 'billing; refund', each combination a class of its own"
    assert propose_recipe(tmp_path / "t.csv").reasons["source.answer"].endswith(told)
    whole = ["damaged, or late", "lost, or stolen", "other, not known"]
    pl.DataFrame([{**row, "labels": whole[n % 3]} for n, row in enumerate(rows)]).write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").reasons["source.answer"].endswith("classes")


def test_of_two_replies_the_first_one_is_taken(tmp_path: Path) -> None:
    rows = [{"question": f"where is {n}", "answer_en": f"here is {n}", "answer_de": f"da ist {n}"} for n in range(40)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").source["answer"] == "answer_en"


def test_the_language_of_most_rows_is_offered(tmp_path: Path) -> None:
    texts = ["Wo ist meine Bestellung mit der Nummer {}?", "Ich habe das Paket {} noch nicht bekommen."] * 20
    texts += ["Where is my order with the number {}?"] * 10
    rows = [{"message": text.format(n), "category": "ab"[n % 2]} for n, text in enumerate(texts)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    assert "add `keep: [de]` to keep one" in propose_recipe(tmp_path / "t.csv").reasons["ops.language"]


def test_a_document_that_stands_alone_is_cut_into_pieces(tmp_path: Path, make: Any) -> None:
    sections = "".join(f"## How to do {n}?\n\nTurn {n} to the left.\n\n" for n in range(20))
    (tmp_path / "faq.md").write_text(f"# Questions\n\n{sections}", encoding="utf-8")
    proposal = propose_recipe(tmp_path / "faq.md")
    assert proposal.source["chunk_by"] == "heading"
    assert proposal.reasons["source.chunk_by"].endswith("so it makes 21 rows")
    made = make(**{key: value for key, value in proposal.prepare().items() if key != "kind"})
    assert sum(made.summary.rows.values()) == 21
    (tmp_path / "long.txt").write_text("A sentence about lamps. " * 200, encoding="utf-8")
    assert {"chunk_by": "length", "chunk_size": 1000}.items() <= propose_recipe(tmp_path / "long.txt").source.items()
    (tmp_path / "short.txt").write_text("A sentence.", encoding="utf-8")
    proposal = propose_recipe(tmp_path / "short.txt")
    assert "chunk_by" not in proposal.source
    assert proposal.reasons["split.test"] == "1 row may leave none to measure on: give more"


@pytest.mark.parametrize("holder", ["", "tickets"])
def test_objects_under_names_of_their_own_are_refused_with_a_way(tmp_path: Path, holder: str) -> None:
    rows = {f"T-{n}": {"question": f"where is {n}", "answer": f"here is {n}"} for n in range(5)}
    (tmp_path / "t.json").write_text(json.dumps({holder: rows} if holder else rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"holds 5 objects by their names \(T-0, …\)") as caught:
        propose_recipe(tmp_path / "t.json")
    assert "to_entries[] | {id: .key} + .value]' t.json > rows.json" in caught.value.hint


@pytest.mark.parametrize("orient", ["list", "dict", "split"])
def test_columns_where_rows_are_wanted_are_refused_with_a_way(tmp_path: Path, orient: str) -> None:
    columns = {"message": [f"where is {n}" for n in range(9)], "category": list("abcabcabc")}
    told: dict[str, Any] = columns
    if orient == "dict":
        told = {name: dict(zip("012345678", values, strict=True)) for name, values in columns.items()}
    elif orient == "split":
        told = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
    (tmp_path / "t.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DataError, match="holds columns, and rows are wanted") as caught:
        propose_recipe(tmp_path / "t.json")
    assert "orient='records'" in caught.value.hint


def test_objects_name_no_rows_and_truths_are_classes(tmp_path: Path, write: Write) -> None:
    rows = [{"_id": {"$oid": f"{n:024x}"}, "text": f"offer number {n}", "is_spam": n % 3 == 0} for n in range(60)]
    source = propose_recipe(tmp_path / write("t.jsonl", rows)).source
    assert (source["prompt"], source["answer"]) == ("text", "is_spam")
    assert "id" not in source


def _chat() -> list[dict[str, object]]:
    """Forty conversations of two to six messages, in no order; every second one ends with the customer."""
    return [
        {
            "message_id": f"m{talk}-{turn}",
            "conversation_id": f"c{talk}",
            "sender": ("Customer", "Agent")[turn % 2],
            "text": f"words {turn} of conversation {talk}",
            "sent_at": f"2026-01-{1 + talk % 28:02d}T10:{turn:02d}:00",
            "customer": f"k{talk % 21}",
        }
        for talk in range(40)
        for turn in (3, 1, 0, 4, 2, 5)
        if turn < 2 + talk % 5
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_single_messages_are_proposed_as_the_conversations_that_they_make(tmp_path: Path, ending: str) -> None:
    write = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}
    getattr(pl.DataFrame(_chat()), write[ending])(tmp_path / f"t.{ending}")
    proposal = propose_recipe(tmp_path / f"t.{ending}")
    names = {"conversation": "conversation_id", "role": "sender", "content": "text", "order": "sent_at"}
    settings = {"turns": names, "id": "conversation_id", "group": "customer"}
    assert proposal.source == {"kind": ending, "path": f"t.{ending}", **settings}
    assert "those of one 'conversation_id' are one conversation" in proposal.reasons["source.turns"]
    assert (proposal.profile.rows, proposal.profile.broken) == (40, 0)
    assert proposal.profile.notes[-2] == f"{len(_chat())} messages make 40 conversations"
    assert proposal.profile.notes[-1].startswith("16 messages are left out")
    read = yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"]["source"]
    assert read == proposal.source
    talks = [parts for _, parts in Source.parse(read).glance(tmp_path)]
    assert [[turn.content[:7] for turn in parts.messages] for parts in talks[:3]] == [
        ["words 0", "words 1"],
        ["words 0", "words 1"],
        ["words 0", "words 1", "words 2", "words 3"],
    ]


def test_speakers_are_known_by_their_two_sides_whatever_their_column_is_called(tmp_path: Path) -> None:
    pl.DataFrame(_chat()).rename({"sender": "kind of line"}).write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").source["turns"]["role"] == "kind of line"
    rows = [{**row, "sender": ("bot", "agent")[n % 2]} for n, row in enumerate(_chat())]  # who handled it
    pl.DataFrame(rows).rename({"sender": "kind of line"}).write_csv(tmp_path / "t.csv")
    assert propose_recipe(tmp_path / "t.csv").source["answer"] == "kind of line"


def test_conversations_are_counted_as_such_in_a_file_that_is_too_large_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pl.DataFrame(_chat()).write_csv(tmp_path / "t.csv")
    assert profile_path(tmp_path / "t.csv").size_told == "t.csv: 40 conversations, 5 columns"
    monkeypatch.setattr("luthier.data.suggest.survey.WHOLE_BYTES", 100)
    found = profile_path(tmp_path / "t.csv")
    assert found.size_told == f"t.csv: about {found.rows} conversations, 5 columns"
    assert "# Made from t.csv: about" in render_recipe(propose_recipe(tmp_path / "t.csv"), "mine")
    assert profile_path(SUPPORT).size_told.endswith(" rows, 10 columns")


def test_a_speaker_that_is_unknown_is_told_and_left_out(tmp_path: Path) -> None:
    rows = _chat()
    rows[7]["sender"] = "Ghost"
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert proposal.source["turns"]["role"] == "sender"
    assert (proposal.profile.rows, proposal.profile.broken) == (40, 1)
    assert proposal.source["on_error"] == "drop"
    assert "line 9: role 'Ghost' is unknown, in conversation 'c2'" in proposal.reasons["source.on_error"]


def test_an_order_that_cannot_be_read_is_not_proposed(tmp_path: Path) -> None:
    rows = [{**row, "sent_at": f"Mon {number}"} for number, row in enumerate(_chat())]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    assert "order" not in proposal.source["turns"]
    assert "'sent_at' holds what is not read as times" in proposal.reasons["source.turns"]


@pytest.mark.parametrize("zone", [" UTC", " GMT", " +0000", "Z"])
def test_speakers_and_times_are_known_as_desks_write_them(tmp_path: Path, zone: str) -> None:
    names = {"Customer": "end_user", "Agent": "admin"}
    rows = [{**row, "sender": names[str(row["sender"])], "sent_at": f"{row['sent_at']}{zone}"} for row in _chat()]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    names = {"conversation": "conversation_id", "role": "sender", "content": "text", "order": "sent_at"}
    assert propose_recipe(tmp_path / "t.csv").source["turns"] == names


def test_what_is_called_a_reply_goes_before_few_values_of_an_unknown_name(tmp_path: Path) -> None:
    rows = [
        {"Case No.": f"T{n}", "message": f"Where is parcel {n}?", "resolution": f"It comes in {n} days.", **more(n)}
        for more in (lambda n: {"handled by": "abc"[n % 3]}, lambda n: {"shift": ("late", "early")[n % 2]})
        for n in range(40)
    ]
    for some in (rows[:40], rows[40:]):
        pl.DataFrame(some).write_csv(tmp_path / "t.csv")
        proposal = propose_recipe(tmp_path / "t.csv")
        assert proposal.source["answer"] == "resolution"
        assert proposal.source["id"] == "Case No."
        kept = next(line for line in render_recipe(proposal, "mine").splitlines() if "not mapped" in line)
        assert "Case No." not in kept
    assert propose_recipe(tmp_path / "t.csv", task="label").source["answer"] == "shift"


def test_lists_of_classes_are_told_with_what_learns_them(tmp_path: Path) -> None:
    rows = [{"text": f"where is my parcel {n} please", "labels": ["late", "lost"][: 1 + n % 2]} for n in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="'labels' holds lists, and one class a row is wanted") as refused:
        propose_recipe(path)
    assert 'answer: "{labels}"' in refused.value.hint


def _batch(n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = [{"role": "user", "content": f"Where is my parcel {n}, please?"}]
    said = {"role": "assistant", "content": f"It comes on day {n}."}
    answer = {"id": f"c-{n}", "created": 1_710_000_000 + n, "choices": [{"index": 0, "message": said}]}
    return {"model": "m", "messages": asked}, answer


def test_a_log_of_requests_is_told_with_what_takes_it_in(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [dict(zip(("request", "response"), _batch(n), strict=True)) for n in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="log of requests and responses") as refused:
        propose_recipe(path)
    assert "`luthier traces import log.jsonl`" in refused.value.hint
    assert len(list(read_log_records(path))) == 20  # it does take them in


@pytest.mark.parametrize("half", ["requests", "answers"])
def test_half_of_a_batch_is_told_with_what_puts_both_together(tmp_path: Path, half: str) -> None:
    path = tmp_path / "half.jsonl"
    batches = [(f"r{n}", *_batch(n)) for n in range(20)]
    asked = [{"custom_id": name, "url": "/v1/chat/completions", "body": request} for name, request, _ in batches]
    said = [
        {"id": f"b-{name}", "custom_id": name, "response": {"status_code": 200, "body": answer}, "error": None}
        for name, _, answer in batches
    ]
    path.write_text("\n".join(map(json.dumps, asked if half == "requests" else said)))
    with pytest.raises(DataError, match=f"holds the {half} of a batch without their") as refused:
        propose_recipe(path)
    assert "{request: .body, response}" in refused.value.hint
    both = [{"request": one["body"], "response": other["response"]} for one, other in zip(asked, said, strict=True)]
    path.write_text("\n".join(map(json.dumps, both)))
    assert len(list(read_log_records(path))) == 20


def test_files_with_other_columns_are_told_with_what_brings_them_together(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, header in (("a.csv", "text,label"), ("b.csv", "message,category")):
        rows = [f"where is my parcel {name} {n},{'late' if n % 2 else 'lost'}" for n in range(20)]
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    proposal = propose_recipe(folder)
    assert "mixed/b.csv has it: give all files the same columns" in proposal.reasons["source.on_error"]
    source = {"kind": "folder", "path": str(folder), "prompt": "text", "answer": "label"}
    with pytest.raises(DataError, match="the row has no 'text'") as refused:
        make(source=source, split={"test": 0})
    assert "a.csv has it" in refused.value.hint
    assert "by a step `mix`" in refused.value.hint


def _called(place: int, tool: str) -> dict[str, Any]:
    function = {"name": tool, "arguments": json.dumps({"city": f"{tool} {place}"})}
    answer = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    words = [f"word{place * step % 17}" for step in range(1, 9)]
    on_offer = [{"type": "function", "function": {"name": tool, "parameters": {"type": "object", "properties": {}}}}]
    return {"messages": [{"role": "user", "content": f"{' '.join(words)}?"}, answer], "tools": on_offer}


def test_rows_that_call_tools_are_told_apart_by_their_calls(tmp_path: Path) -> None:
    """They were proposed to be left out as copies, for their answers have no text."""
    rows = [_called(place, tool) for place in range(17) for tool in ("weather", "forecast")]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    proposal = propose_recipe(path)
    assert {"kind": "near_dedup", "of": "both"} in proposal.ops
    assert "exact_dedup" not in proposal.profile.trials
    recipe = _recipe(proposal)
    assert recipe["steps"]["report"]["metrics"] == ["tool_calls", "rougeL", "chrf"]
    assert recipe["steps"]["gate"]["rules"] == ["tool_calls > base"]


def test_rows_whose_answers_are_texts_are_measured_as_texts(tmp_path: Path) -> None:
    """Where tools are on offer and few answers call them, hardly any answer is wrong by its calls."""
    said = {"role": "assistant", "content": "It will rain in the morning, and the afternoon will be dry and windy."}
    rows = [_called(place, "weather") for place in range(17)]
    texts = [{**row, "messages": [row["messages"][0], said]} for row in rows[:12]]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, [*texts, *rows[12:]])), encoding="utf-8")
    proposal = propose_recipe(path)
    assert (proposal.profile.with_tools, proposal.profile.calling) == (17, 5)
    assert _recipe(proposal)["steps"]["report"]["metrics"][0] == "rougeL"


def test_numbers_of_tickets_name_their_rows_and_texts_of_tickets_do_not(tmp_path: Path) -> None:
    """`trace T-1000` found nothing, and the place of a row stood for its name."""
    said = [f"My parcel number {at} is late, and nobody of you answers me." for at in range(60)]
    rows = [{"Ticket": f"T-{1000 + at}", "Message": text, "Team": "ab"[at % 2]} for at, text in enumerate(said)]
    pl.DataFrame(rows).write_csv(tmp_path / "numbered.csv")
    assert propose_recipe(tmp_path / "numbered.csv").source["id"] == "Ticket"
    pl.DataFrame({"ticket": said, "team": list("ab") * 30}).write_csv(tmp_path / "told.csv")
    assert "id" not in propose_recipe(tmp_path / "told.csv").source


def test_of_a_file_that_was_seen_whole_the_rows_are_told_that_the_seed_holds_out(tmp_path: Path, make: Any) -> None:
    """36 were told where the seed held out 26."""
    said = [f"My parcel number {at * 37} is late, and nobody of you answers me." for at in range(90)]
    pl.DataFrame({"text": said, "team": list("ab") * 45}).write_csv(tmp_path / "t.csv")
    proposal = propose_recipe(tmp_path / "t.csv")
    steps = yaml.safe_load(render_recipe(proposal, "mine"))["steps"]
    steps["data"]["ops"] = []
    held = make(**steps["data"]).summary.rows["test"]
    assert held != round(90 * steps["data"]["split"]["test"])
    assert proposal.reasons["split.test"].startswith(f"about {held} rows")


def test_calls_that_differ_by_a_number_are_tried_as_they_would_be_run(tmp_path: Path) -> None:
    """By their prompts alone none of them is near another; with the calls, nearly all are, and a run left three."""
    rows = []
    for number in range(1000, 3200, 37):
        call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": f'{{"order": {number}}}'}}
        asked = f"Hello, could you please tell me where my order {number} is?"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
        rows.append(json.dumps({"messages": turns, "tools": tools}) + "\n")
    (tmp_path / "calls.jsonl").write_text("".join(rows))
    found = propose_recipe(tmp_path / "calls.jsonl")
    assert {"kind": "near_dedup", "action": "flag", "of": "both"} in found.ops
    assert "they look templated" in found.reasons["ops.near_dedup"]


def _talk(place: int, answers: int) -> list[dict[str, Any]]:
    """A conversation in which the assistant speaks so many times, unlike any other."""
    words = [f"word{place * step % 97}" for step in range(1, 9)]
    return [
        {"role": role, "content": f"{' '.join(words)} {role} {turn} {place}."}
        for turn in range(answers)
        for role in ("user", "assistant")
    ]


def _jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_answer_of_conversations_is_learnt_as_other_tuners_do(tmp_path: Path) -> None:
    proposal = propose_recipe(_jsonl(tmp_path / "t.jsonl", [{"messages": _talk(place, 2)} for place in range(40)]))
    assert _recipe(proposal)["steps"]["tune"]["objective"] == {"kind": "sft", "train_on": "all"}
    assert "40 of 40 rows hold several answers of the assistant" in proposal.reasons["objective.train_on"]
    assert "axolotl" in proposal.reasons["objective.train_on"]
    assert "turns" not in _recipe(proposal)["steps"]["report"]


def test_one_answer_a_row_needs_no_setting(tmp_path: Path) -> None:
    proposal = propose_recipe(_jsonl(tmp_path / "t.jsonl", [{"messages": _talk(place, 1)} for place in range(40)]))
    assert _recipe(proposal)["steps"]["tune"]["objective"] == "sft"
    assert "objective.train_on" not in proposal.reasons


def test_rows_that_go_on_from_one_another_are_learnt_by_their_last_answers(tmp_path: Path) -> None:
    """As in a log of requests: each answer is the last one of a row of its own."""
    rows = [{"messages": _talk(place, 3)[: 2 * turn]} for place in range(20) for turn in (1, 2, 3)]
    proposal = propose_recipe(_jsonl(tmp_path / "t.jsonl", rows))
    assert proposal.profile.going_on == 40
    assert _recipe(proposal)["steps"]["tune"]["objective"] == "sft"
    assert "go on from another row" in proposal.reasons["objective.train_on"]


def test_calls_in_mid_conversation_are_learnt_and_measured(tmp_path: Path) -> None:
    rows = []
    for place in range(30):
        asked, called = _called(place, "weather")["messages"]
        answer = {"role": "assistant", "content": f"It will be {place} degrees, and it will rain in the morning."}
        result = {"role": "tool", "content": f'{{"degrees": {place}}}'}
        rows.append({**_called(place, "weather"), "messages": [asked, called, result, answer]})
    proposal = propose_recipe(_jsonl(tmp_path / "t.jsonl", rows))
    assert (proposal.profile.calling, proposal.profile.called) == (0, 30)
    assert (proposal.profile.calls_in_all, proposal.profile.answers_in_all) == (30, 60)
    recipe = _recipe(proposal)
    assert recipe["steps"]["tune"]["objective"] == {"kind": "sft", "train_on": "all"}
    assert recipe["steps"]["report"] == {
        "kind": "evaluate", "data": "data", "model": "tune", "metrics": ["tool_calls", "rougeL", "chrf"], "turns": "all"
    }  # fmt: skip
    text = render_recipe(proposal, "mine")
    assert "`last` would leave out each call" in text
    assert "30 of 30 rows call tools or have them on offer" in proposal.reasons["objective.train_on"]


def test_answers_that_are_not_to_be_learnt_do_not_count(tmp_path: Path) -> None:
    rows = [{"messages": _talk(place, 2)} for place in range(40)]
    for row in rows:
        row["messages"][1]["weight"] = 0
    assert propose_recipe(_jsonl(tmp_path / "t.jsonl", rows)).learn == "last"

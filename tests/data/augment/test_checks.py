"""What is refused, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.data.augment.checks import DraftChecker, DraftChecks, TfidfLabelClassifier
from luthier.data.augment.words import swaps_speaker
from luthier.data.augmenter import AugmentedDraft, AugmentRequest, with_last_user_text
from luthier.data.dedup.near import NearDuplicateIndex, similarity
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.near_dedup import NearDedup
from luthier.data.row import Row
from tests.augmenting import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def _row(text: str, answer: str = "billing", name: str = "0") -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content=answer))
    return Row(0, name.rjust(16, "0"), "csv", "f.csv", 2, "label", messages)


def _inspector(bench: Bench, held: Sequence[Row] = (), **checks: Any) -> DraftChecker:
    told = DraftChecks.model_validate(checks)
    index = NearDuplicateIndex(told.held_out, iter(held), lambda place: held[place])
    classifier = TfidfLabelClassifier.learn(bench.train)
    assert classifier is not None
    space = None
    if told.meaning is not None:
        space = told.meaning.embedder.space([row.prompt for row in bench.train.rows()], recipe_dir=Path(), seed=0)
    return DraftChecker(told, bench.train, index, [row.id for row in held], classifier, space=space)


def _refused(inspector: DraftChecker, before: str, after: str, **draft: Any) -> str:
    parent = _row(before)
    made = replace(parent, messages=with_last_user_text(parent, after))
    found = inspector.refusals(
        [AugmentRequest(parent, 0, 1)], [AugmentedDraft(made.messages, ("x",), **draft)], [made]
    )[0]
    return found.reason if found else ""


MOVED = "My 4711 passwords need help since Monday again"
OLD = "Where is the invoice for order 4711, please?"


@pytest.mark.parametrize(
    ("after", "why", "checks", "draft"),
    [
        ("Where is my invoice for the order 4711?", "", {"label": "off"}, {}),
        ("  ", "empty", {}, {}),
        ("Where is the invoice", "cut off", {}, {"finished": False}),
        ("where IS the  invoice for order 4711, please?", "copy of its parent", {}, {}),
        ("Where is the invoice for order 4711, please??", "near copy of its parent", {"parent": 0.9}, {}),
        ("Where is the invoice for order 4712, please?", "lost or invented a number, a code or a tag", {}, {}),
        ("Where is the invoice for order 4712, please?", "", {"facts": False}, {}),
        ("Where is your invoice for order 4711, please?", "", {"label": "off"}, {}),
        ("The invoice? 4711", "too short", {}, {}),
        ("The invoice? 4711", "", {"shortest": 0.1}, {}),
        (OLD + " And so on and on it goes" * 5, "too long", {}, {}),
        (OLD + " And so on and on it goes" * 5, "", {"longest": 9, "label": "off"}, {}),
        ("Wo bleibt denn meine Rechnung zu der Bestellung 4711?", "other language: en became de", {}, {}),
        ("Wo bleibt denn meine Rechnung zu der Bestellung 4711?", "", {"language": False, "label": "off"}, {}),
        ("Where is the parcel from the courier 4711?", "label not kept: billing became delivery", {}, {}),
        ("Where is the parcel from the courier 4711?", "", {"label": "off"}, {}),
        ("Could I see an invoice?", "", {}, {"new": True}),
        ("Where is my invoice for the order 4711?", "", {"label": "off", "meaning": {"at_least": 0.3}}, {}),
        (MOVED, "", {"label": "off"}, {}),
        (MOVED, "left its parent's meaning", {"label": "off", "meaning": {"at_least": 0.3}}, {}),
        (MOVED, "", {"label": "off", "meaning": {"at_least": 0.3}}, {"new": True}),
    ],
)
def test_each_check_refuses_what_it_is_for(
    bench: Bench, after: str, why: str, checks: dict[str, Any], draft: dict[str, Any]
) -> None:
    assert _refused(_inspector(bench, **checks), OLD, after, **draft) == why


def test_a_near_copy_of_a_held_out_row_is_refused_with_its_twin(bench: Bench) -> None:
    held = _row("I have been waiting for the invoice since Monday and nobody answers", name="7")
    inspector = _inspector(bench, [held, _row("Something else entirely", name="8")])
    parent = _row("I have been waiting for the invoice since Tuesday and nobody answers me")
    near = replace(parent, messages=with_last_user_text(parent, held.prompt + "!"))
    found = inspector.refusals([AugmentRequest(parent, 0, 1)], [AugmentedDraft(near.messages, ("x",))], [near])[0]
    assert found is not None
    assert (found.reason, found.twin) == ("near copy of a held-out row", held.id)
    assert found.similarity == round(similarity(held, near), 6)


def test_what_stands_in_training_already_is_taken_once(bench: Bench) -> None:
    inspector = _inspector(bench)
    there = next(bench.train.rows())
    assert inspector.take(replace(there, id="f" * 16)) is not None
    fresh = _row("An invoice of quite another kind")
    assert inspector.take(fresh) is None
    assert inspector.take(replace(fresh, id="e" * 16)) is not None


def test_the_index_finds_what_near_dedup_finds() -> None:
    heads = ("the parcel has not come to my house yet", "please refund the second payment")
    tails = ("", "now", "today", "again and again and again", "for order 17 of my wife", "!")
    texts = [f"{head} {tail}" for head in heads for tail in tails]
    rows = [_row(text, name=str(at)) for at, text in enumerate(texts)]
    index = NearDuplicateIndex(0.6, iter(rows), lambda place: rows[place])
    operator = NearDedup(threshold=0.6, action="flag")
    for place, row in enumerate(rows):
        others = [other for at, other in enumerate(rows) if at != place]
        best = max(similarity(row, other) for other in others)
        twin = NearDuplicateIndex(0.6, iter(others), lambda at, own=others: own[at]).nearest(row)  # type: ignore[misc]
        assert (twin.similarity if twin else 0) == (round(best, 6) if best >= 0.6 else 0)
        own = index.nearest(row)
        assert own is not None
        assert (own.similarity, rows[own.row_index].prompt.casefold()) == (1.0, row.prompt.casefold())
    clusters = operator.settle(InMemoryRows(operator, rows)).attributes["cluster"]
    assert len({cluster for cluster in clusters if cluster}) == 2


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [  # what SmolLM2-135M made of tickets, and other ways to say them
        ("I would like to delete my account and all data you hold about me.",
         "I would like to delete your account and all personal data you hold about me.", True),
        ("I would like to delete my account.", "I would like to delete your account.", True),
        ("The search returns nothing when I type an umlaut.", "The search returns nothing when you type one.", True),
        ("How do I change the address of my delivery?", "You can change the address of your delivery there.", True),
        ("You charged 49.99 EUR for the plan.", "I only charged 49.99 EUR for the plan.", True),
        ("I want my money back", "Could you please refund me my money?", False),
        ("I want a refund", "Can you give me my money back?", False),
        ("Where is the parcel?", "Could you tell me where my parcel is?", False),
        ("You charged me twice", "I was charged twice", False),
        ("Our printer is broken, MINE too", "We have a broken printer", False),
        ("Mein Paket ist nicht da", "Dein Paket ist nicht da", False),
    ],
)  # fmt: skip
def test_another_speaks_only_where_sides_were_changed(before: str, after: str, changed: bool) -> None:
    assert swaps_speaker(before, after) is changed


def test_a_row_in_which_another_speaks_is_refused_unless_that_is_wanted(bench: Bench) -> None:
    old, new = "How do I change my address for order 4711?", "You can change your address for order 4711."
    assert _refused(_inspector(bench, label="off"), old, new) == "another speaks than in its parent"
    assert _refused(_inspector(bench, label="off", speaker=False), old, new) == ""
    assert _refused(_inspector(bench, label="off"), old, new, new=True) == ""

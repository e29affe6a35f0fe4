"""Near-duplicates: none missed above the threshold, none wrong below it, and the twin that the rule names stays."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.chat.messages import Message
from luthier.core.errors import DataError
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.near_dedup import NearDedup
from luthier.data.row import Row

Make = Callable[..., Any]
Write = Callable[..., str]
WORDS = [f"word{n}" for n in range(400)]


def _row(n: int, text: str, **meta: Any) -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content=f"answer {n}"))
    return Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages, meta=meta)


def _planted(seed: int) -> tuple[list[str], set[tuple[int, int]]]:
    """Texts, and every pair of them whose true Jaccard similarity reaches 0.8."""
    chance = random.Random(seed)
    texts: list[str] = []
    for _ in range(60):
        words = chance.sample(WORDS, 40)
        texts.append(" ".join(words))
        for _ in range(chance.randint(0, 2)):
            copy = list(words)
            for _ in range(chance.randint(0, 4)):
                copy[chance.randrange(len(copy))] = chance.choice(WORDS)
            texts.append(" ".join(copy))
    chance.shuffle(texts)
    sets = [{text[at : at + 5] for at in range(len(text) - 4)} for text in texts]
    pairs = {(i, j) for j in range(len(sets)) for i in range(j) if _true_jaccard(sets[i], sets[j]) >= 0.8}
    return texts, pairs


def _true_jaccard(one: Iterable[str], two: Iterable[str]) -> float:
    return len(set(one) & set(two)) / len(set(one) | set(two))


@pytest.mark.matrix
@pytest.mark.parametrize("measure", ["jaccard", "edit"])
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_two_processes_say_what_one_says(
    make: Make, write: Write, monkeypatch: pytest.MonkeyPatch, action: str, measure: str
) -> None:
    monkeypatch.setattr("luthier.data.dedup.duplicates._AHEAD", 8)  # many lists of pairs go to the workers
    texts, _ = _planted(5)
    path = write("t.jsonl", [{"prompt": text, "completion": f"answer {n}"} for n, text in enumerate(texts)])
    ops = [{"kind": "near_dedup", "action": action, "measure": measure, "keep": "longest"}]
    asked = {"source": {"kind": "jsonl", "path": path}, "ops": ops, "task": "text"}
    one = make(**asked)
    assert one.attributes("near_dedup")["cluster"].drop_nulls().len() > 0
    assert make(**asked, workers=2, batch_rows=16).files() == one.files()


@pytest.mark.parametrize("seed", range(4))
def test_none_missed_and_none_wrong(make: Make, write: Write, seed: int) -> None:
    texts, pairs = _planted(seed)
    path = write("t.jsonl", [{"prompt": text, "completion": f"answer {n}"} for n, text in enumerate(texts)])
    asked = {"source": {"kind": "jsonl", "path": path}, "split": {"test": 0}, "task": "text"}
    dropped = make(**asked, ops=["near_dedup"]).events
    kept: list[int] = []
    wanted: list[int] = []
    for place in range(len(texts)):
        twin = any((other, place) in pairs for other in kept)
        (wanted if twin else kept).append(place)
    assert [line - 1 for line in sorted(dropped["line"])] == wanted
    assert len(wanted) > 20

    flagged = make(**asked, ops=[{"kind": "near_dedup", "action": "flag"}])
    clusters = dict(zip(flagged.split("train")["line"], flagged.attributes("near_dedup")["cluster"], strict=True))
    assert {line - 1 for line, cluster in clusters.items() if cluster} == {place for pair in pairs for place in pair}
    assert all(clusters[i + 1] == clusters[j + 1] for i, j in pairs)


def _copies(chance: random.Random, length: int, count: int) -> list[str]:
    """A text and copies of it with more and more characters changed, taken out or put in, anywhere."""
    letters = "abcdefghijklmnop"
    text = "".join(chance.choices(letters, k=length))
    found = [text]
    for changes in range(1, count):
        copy = list(text)
        for _ in range(changes):
            at = chance.randrange(len(copy))
            copy[at : at + chance.randint(0, 1)] = chance.choices(letters, k=chance.randint(0, 1))
        found.append("".join(copy))
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.8, 0.9, 0.95]), length=st.integers(20, 60))
def test_pairs_just_above_and_below_an_edit_similarity(seed: int, threshold: float, length: int) -> None:
    chance = random.Random(seed)
    count = round(length * (1 - threshold)) + 4
    texts = [text for _ in range(4) for text in _copies(chance, length, count)]
    chance.shuffle(texts)
    operator = NearDedup(measure="edit", threshold=threshold)
    rows = [_row(n, text) for n, text in enumerate(texts)]
    found = operator.settle(InMemoryRows(operator, rows)).drops
    kept: list[int] = []
    for place, text in enumerate(texts):
        twins = [other for other in kept if _edit_similarity(texts[other], text) >= threshold]
        assert (place in found) == bool(twins)
        if twins:
            assert found[place].twin == rows[twins[0]].id
            assert found[place].similarity == pytest.approx(_edit_similarity(texts[twins[0]], text), abs=1e-6)
        else:
            kept.append(place)


def _edit_similarity(one: str, two: str) -> float:
    """1 - distance / length of the longer, by the textbook's table (Wagner and Fischer 1974)."""
    last = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
        last = row
    return 1 - last[-1] / max(len(one), len(two), 1)


def test_the_order_of_words_counts_for_edits_only() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(40)]
    one, two = " ".join(words), " ".join([*words[20:], *words[:20]])
    rows = [_row(0, one), _row(1, two)]
    assert SequenceMatcher(None, one, two).ratio() < 0.6
    jaccard, edit = NearDedup(), NearDedup(measure="edit")
    assert list(jaccard.settle(InMemoryRows(jaccard, rows)).drops) == [1]
    assert not edit.settle(InMemoryRows(edit, rows)).drops


TEXT = "my parcel arrived broken, the lid has a crack and the box was open when it came on {} in the morning"
DAYS = ["monday", "tuesday", "friday, finally,", "sunday"]
AGES: list[dict[str, Any]] = [
    {"at": "2026-03-01", "score": 2},
    {"at": "2026-03-01T08:00:00+00:00", "score": "9.5"},
    {"at": "2025-12-31", "score": 1},
    {"at": "", "score": None},
]


@pytest.mark.parametrize(
    ("rule", "stays"),
    [
        ({}, 0),
        ({"keep": "last"}, 3),
        ({"keep": "longest"}, 2),
        ({"keep": "newest", "by": "at"}, 1),
        ({"keep": "best", "by": "score"}, 1),
    ],
)
@pytest.mark.parametrize("action", ["drop", "flag"])
@pytest.mark.parametrize("copies", [1, 5])
def test_which_twin_stays_is_a_rule(rule: dict[str, Any], stays: int, action: str, copies: int) -> None:
    rows = [_row(n, TEXT.format(day), **age) for n, (day, age) in enumerate(zip(DAYS, AGES, strict=True))]
    rows = [_row(n * copies + copy, row.prompt, **row.meta) for n, row in enumerate(rows) for copy in range(copies)]
    stays = stays * copies + (copies - 1 if rule.get("keep") == "last" else 0)
    operator = NearDedup(action=action, threshold=0.7, **rule)
    outcome = operator.settle(InMemoryRows(operator, rows))
    assert set(outcome.attributes["cluster"]) == {rows[stays].id}
    if action == "drop":
        assert set(outcome.drops) == set(range(len(rows))) - {stays}
        assert {drop.twin for drop in outcome.drops.values()} == {rows[stays].id}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": "newest"}, "does not name the column"),
        ({"by": "at"}, "looks at no column"),
        ({"measure": "edit", "threshold": 0.7}, "from 0.8 on"),
        ({"measure": "edit", "size": 4}, "leave out `size`"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NearDedup(**settings)


@pytest.mark.parametrize(
    ("rule", "said"),
    [({"keep": "newest", "by": "when"}, "no column 'when'"), ({"keep": "newest", "by": "at"}, "expected a date")],
)
def test_a_column_that_cannot_be_compared_is_named_with_its_line(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        NearDedup(**rule).sketch([_row(7, "text", at="soon")])
    assert caught.value.where
    assert (caught.value.where.file, caught.value.where.line, caught.value.where.field) == ("f.csv", 9, rule["by"])


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_a_crowd_of_copies_and_near_copies_is_settled_quickly(make: Make, write: Write, action: str) -> None:
    text = "the same question over and over again, with many words that make it long enough to be compared, number {}"
    rows = [{"prompt": text.format(n % 300), "completion": f"answer {n}"} for n in range(3000)]
    ops = [{"kind": "near_dedup", "action": action}]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows)}
    made = make(source=source, ops=ops, split={"test": 0}, task="text")
    assert made.split("train").height == (1 if action == "drop" else 3000)
    assert made.attributes("near_dedup")["cluster"].n_unique() == 1
    assert isinstance(made.events, pl.DataFrame)
    if action == "flag":
        similarity = made.attributes("near_dedup")["similarity"][1:].to_numpy()
        assert np.all(similarity >= 0.8)
        assert json.loads(made.split("train")["messages"][0])[0]["content"] == rows[0]["prompt"]


def test_all_of_its_settings_written_out_make_the_same_operator() -> None:
    """As a worker process gets them."""
    for one in (NearDedup(measure="edit", threshold=0.9), NearDedup(unit="word", size=3)):
        assert NearDedup.model_validate(one.settings()) == one


def test_it_says_how_far_the_comparison_is() -> None:
    class Heard(InMemoryRows):
        def tick(self, done: int, total: int) -> None:
            said.append((done, total))

    said: list[tuple[int, int]] = []
    operator = NearDedup()
    rows = [_row(n, f"I want to cancel the order of my new garden chair, the number is {n}") for n in range(300)]
    operator.settle(Heard(operator, rows))
    assert [done for done, _ in said] == [0, 128, 256]
    assert len({total for _, total in said}) == 1

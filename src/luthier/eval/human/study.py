"""Create a blind rating study: sample rows, shuffle sides and orders, add attention checks.

`items.jsonl` is what people may see; `key.json` tells whose answers they are and which items are planted, and stays
apart; `sheets.json` has the items of each judge in the order in which they come.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from luthier.annotation.question import Question, QuestionItem, RatingQuestion
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.files import write_atomically
from luthier.core.former_names import FORMER_FORM_KINDS
from luthier.core.hashing import canonical_json, digest_of

JUDGE_NAME = r"^[\w.@-]{1,64}$"
ITEMS, KEY, SHEETS, ABOUT = "items.jsonl", "key.json", "sheets.json", "about.json"


class RatingItem(NamedTuple):
    """An annotator's view: a conversation, and one answer or two."""

    id: str
    prompt: tuple[dict[str, Any], ...]
    answers: tuple[str, ...]

    @property
    def shown(self) -> QuestionItem:
        """The item in the form of a question."""
        return QuestionItem(self.prompt, self.answers)


class BlindingKeyEntry(NamedTuple):
    """The hidden key of a blind item: its row, whose answers it shows, and whether it is an attention check."""

    row: str
    models: tuple[str, ...]
    """Models of the answers, in the displayed order; empty for an attention check."""
    planted: bool = False
    good: int | None = None
    """Index of the good answer of an attention check."""


@dataclass(frozen=True, kw_only=True)
class RatingCandidate:
    """One held-out row with each model's answer."""

    row: str
    prompt: tuple[dict[str, Any], ...]
    answers: Mapping[str, str]
    reference: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """All rating tasks of a study."""

    items: Mapping[str, RatingItem]
    key: Mapping[str, BlindingKeyEntry]
    sheets: Mapping[str, tuple[str, ...]]
    same: Mapping[str, tuple[str, ...]]
    """Rows with two equal answers, with the models: ties that are not shown."""
    overlap: int = 1
    """Number of annotators of each item."""

    @property
    def is_open(self) -> bool:
        """Whether anyone with the link can rate, without personal sheets."""
        return not self.sheets

    def may_judge(self, name: str) -> bool:
        """Return whether somebody of this name may rate."""
        return name in self.sheets or (self.is_open and 0 < len(name) <= 128)


def create_rating_assignment(
    candidates: Sequence[RatingCandidate],
    pairs: Sequence[tuple[str, ...]],
    *,
    rows: int | None,
    judges: Sequence[str],
    overlap: int,
    planted: int,
    seed: int,
) -> Assignment:
    """Draw rows, turn them into items, and give each item to `overlap` of the judges.

    `pairs` are the models whose answers are shown together: two names each, or one where answers are shown alone.
    Every judge has all planted items. Without judges, it is open: whoever comes is dealt items then.
    """
    drawn = sorted(candidates, key=lambda candidate: digest_of([seed, candidate.row]))
    chosen, rest = drawn[:rows], drawn[len(drawn[:rows]) :]
    items: dict[str, RatingItem] = {}
    key: dict[str, BlindingKeyEntry] = {}
    same: dict[str, tuple[str, ...]] = {}
    for number, pair in enumerate(pairs):
        for index, element in enumerate(chosen):
            models = pair if (index + number) % 2 == 0 else pair[::-1]
            texts = tuple(element.answers[model] for model in models)
            if len(set(texts)) < len(texts):
                same[_name(seed, element.row, *sorted(models))] = (element.row, *models)
                continue
            name = _name(seed, element.row, *models)
            items[name] = RatingItem(name, element.prompt, texts)
            key[name] = BlindingKeyEntry(element.row, models)
    shared = sorted(items)
    for item, entry in _plant(rest or chosen, drawn, planted, len(pairs[0]), seed):
        items[item.id], key[item.id] = item, entry
    sheets = _deal(shared, sorted(set(items) - set(shared)), judges, overlap, seed) if judges else {}
    return Assignment(items=items, key=key, sheets=sheets, same=same, overlap=overlap)


def _name(seed: int, *parts: str) -> str:
    return digest_of([seed, *parts])[:12]


def _plant(
    rows: Sequence[RatingCandidate], every: Sequence[RatingCandidate], count: int, sides: int, seed: int
) -> list[tuple[RatingItem, BlindingKeyEntry]]:
    """Items whose answer is known: a row's own reference against another row's, or another row's reference alone."""
    found = []
    for index, row in enumerate(rows[:count]):
        wrong = next((other.reference for other in reversed(every) if other.reference not in ("", row.reference)), None)
        if wrong is None or (sides == 2 and not row.reference):
            continue
        good = index % 2 if sides == 2 else None
        texts = (wrong,) if good is None else (row.reference, wrong) if good == 0 else (wrong, row.reference)
        name = _name(seed, "planted", row.row)
        found.append((RatingItem(name, row.prompt, texts), BlindingKeyEntry(row.row, (), True, good)))
    return found


def _deal(
    items: Sequence[str], planted: Sequence[str], judges: Sequence[str], overlap: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """Each judge's items in an order of their own; loads differ by one at most."""
    hands: dict[str, list[str]] = {judge: [] for judge in judges}
    for index, item in enumerate(items):
        for turn in range(overlap):
            hands[judges[(index * overlap + turn) % len(judges)]].append(item)
    sheets = {}
    for judge, hand in hands.items():
        chance = random.Random(digest_of([seed, judge]))
        chance.shuffle(hand)
        for number, item in enumerate(chance.sample(planted, len(planted))):
            span = len(hand) / max(1, len(planted))
            hand.insert(round(number * span + chance.random() * span) + number, item)
        sheets[judge] = tuple(hand)
    return sheets


def write_assignment(folder: Path, made: Assignment, about: Mapping[str, Any]) -> None:
    """Write all four files; `about` holds the question and the models."""
    lines = [canonical_json(made.items[name]._asdict()) for name in sorted(made.items)]
    write_atomically(folder / ITEMS, "".join(line + "\n" for line in lines).encode())
    key = {name: entry._asdict() for name, entry in made.key.items()}
    about = {**about, "overlap": made.overlap}
    for name, value in ((KEY, {"items": key, "same": made.same}), (SHEETS, made.sheets), (ABOUT, about)):
        write_atomically(
            folder / name, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
        )


def read_assignment(artifact: Artifact) -> Assignment:
    """Read an assignment back."""
    items = {}
    for line in artifact.path(ITEMS).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        items[record["id"]] = RatingItem(record["id"], tuple(record["prompt"]), tuple(record["answers"]))
    key = artifact.read_json(KEY)
    entries = {
        name: BlindingKeyEntry(record["row"], tuple(record["models"]), record["planted"], record["good"])
        for name, record in key["items"].items()
    }
    sheets = {judge: tuple(names) for judge, names in artifact.read_json(SHEETS).items()}
    return Assignment(
        items=items, key=entries, sheets=sheets, same={name: tuple(record) for name, record in key["same"].items()},
        overlap=artifact.read_json(ABOUT).get("overlap", 1),  # assignments of earlier versions do not say
    )  # fmt: skip


def read_rating_question(artifact: Artifact) -> RatingQuestion:
    """Read an assignment's question; also from earlier versions, where it was a form."""
    about = artifact.read_json(ABOUT)
    if "form" in about:
        kind = about["form"]["kind"]
        about = {"question": {**about["form"], "kind": FORMER_FORM_KINDS.get(kind, kind)}}
    return check_gives_points(Question.parse(about["question"]))


def check_gives_points(question: Question) -> RatingQuestion:
    """The question, which gives points; `ValueError` for one that gives none."""
    if isinstance(question, RatingQuestion):
        return question
    kinds = [kind for kind, entry in sorted(components_by_kind(Question).items()) if issubclass(entry, RatingQuestion)]
    raise ValueError(f"a question of kind {question.kind} gives no points; these do: {', '.join(kinds)}")

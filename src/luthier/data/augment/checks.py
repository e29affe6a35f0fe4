"""What a made row must be, beside its parent and beside the rows that are held out; a draft that is not is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.described import described
from luthier.data.augment.ask import choose_options
from luthier.data.augment.judge import Classifier
from luthier.data.augment.rows import Rows
from luthier.data.augment.words import changes_sides, facts
from luthier.data.augmenter import Draft, Wish
from luthier.data.row import Row
from luthier.data.twins.near import Index, similarity
from luthier.data.twins.text_keys import compared, digest8, normal, prompt_key
from luthier.models.embedder import Embedder, Space
from luthier.models.embedders.lsa import Lsa
from luthier.models.lm.base import LanguageModel
from luthier.text.languages import UNKNOWN, identify
from luthier.text.messages import Message

T = TypeVar("T")


class Meaning(BaseModel):
    """How near a made row must stay to its parent, as points of an embedder."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)

    at_least: float = Field(default=0.6, gt=0, lt=1)
    """Cosine below which a row has left its parent's meaning and is refused."""
    embedder: Embedder = Lsa()
    """What makes points; a paraphrase in other words is recognised by an `encoder` alone."""


class Checks(BaseModel):
    """What every made row is held to; a row that fails is refused, counted and listed with its reason."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)

    parent: float = Field(default=0.95, gt=0, le=1)
    """Similarity from which a row is a near copy of its parent and adds nothing (as `near_dedup` measures it). An equal
    row, but for case and white space, is refused at any value."""
    held_out: float = Field(default=0.8, ge=0.5, le=1)
    """Similarity from which a row is a near copy of one that is held out: training on it would flatter the measure."""
    label: Literal["classifier", "model", "off"] = "classifier"
    """Who must still see the row's class in it. `classifier`: TF-IDF with logistic regression, learnt from the real
    training rows; `model`: the step's model, asked which class it is. Of free text there is no class to keep."""
    meaning: Meaning | None = None
    """How near a row must stay to its parent's meaning, as `{at_least: 0.6, embedder: encoder}`; not asked by default,
    and never of rows that are meant to be new."""
    language: bool = True
    """Refuse rows in another language than their parent's, as far as both are long enough to tell."""
    facts: bool = True
    """Refuse rows that lost or invented a number, a code, an address or a tag (`[EMAIL]`) of their parent's."""
    speaker: bool = True
    """Refuse rows in which another speaks than in their parent: "you can change your address" for "how do I change my
    address?", as small models write. English words are looked at; rows that are meant to be new are not."""
    shortest: float = Field(default=0.4, ge=0, le=1)
    """Refuse rows shorter than this share of their parent's characters."""
    longest: float = Field(default=2.5, ge=1)
    """Refuse rows longer than so many times their parent's characters, and 20 more."""


class Refusal(NamedTuple):
    """Why a draft is not taken; what stands before a colon is what it is counted under."""

    reason: str
    twin: str | None = None
    similarity: float | None = None


_SLACK_CHARS = 20
_CERTAIN = 0.7
"""How sure the language of a text must be, and that of its parent, to refuse it for being another."""


@dataclass
class Inspector:
    """Applies the checks; remembers what was taken, so that nothing is taken twice."""

    checks: Checks
    train: Rows
    held_out: Index
    held_out_ids: Sequence[str]
    classifier: Classifier | None = None
    lm: LanguageModel | None = None
    space: Space | None = None
    """Where meanings lie, when they are checked."""
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._seen = {self._key(row) for row in self.train.rows()}

    def refusals(self, wishes: Sequence[Wish], drafts: Sequence[Draft], rows: Sequence[Row]) -> list[Refusal | None]:
        """Why each draft cannot be taken, whatever else is: None for those that can."""
        spoken = _other_languages(wishes, rows) if self.checks.language else [""] * len(rows)
        found = [
            _about_text(self.checks, wish.row, draft, row) or (Refusal(f"other language: {told}") if told else None)
            for wish, draft, row, told in zip(wishes, drafts, rows, spoken, strict=True)
        ]
        self._next(found, list(zip(wishes, drafts, rows, strict=True)), self._about_meaning)
        self._next(found, rows, self._about_held_out)
        self._next(found, rows, self._about_labels)
        return found

    @staticmethod
    def _next(
        found: list[Refusal | None], rows: Sequence[T], check: Callable[[Sequence[T]], Sequence[Refusal | None]]
    ) -> None:
        """Ask another check about the rows that no check has refused yet."""
        left = [place for place, refusal in enumerate(found) if refusal is None]
        for place, refusal in zip(left, check([rows[place] for place in left]), strict=True):
            found[place] = refusal

    def take(self, row: Row) -> Refusal | None:
        """Take a row, unless it has been there before."""
        key = self._key(row)
        if key in self._seen:
            return Refusal("copy of another training row")
        self._seen.add(key)
        return None

    def _key(self, row: Row) -> int:
        text = prompt_key(row) if self.train.classes else f"{prompt_key(row)}\x1f{normal(row.says)}"
        return digest8(text)

    def _about_meaning(self, made: Sequence[tuple[Wish, Draft, Row]]) -> list[Refusal | None]:
        """Rows that went too far from their parent."""
        from luthier.models.embedder import cosines

        limit = self.checks.meaning
        if limit is None or self.space is None or not made:
            return [None] * len(made)
        parents, rows = [wish.row for wish, _, _ in made], [row for _, _, row in made]
        old, new = (self.space.points([compared(row, "prompt") for row in some]) for some in (parents, rows))
        near = cosines(old, new).round(6).tolist()
        return [
            Refusal("left its parent's meaning", parent.id, like) if like < limit.at_least and not draft.new else None
            for parent, (_, draft, _), like in zip(parents, made, near, strict=True)
        ]

    def _about_held_out(self, rows: Sequence[Row]) -> list[Refusal | None]:
        twins = self.held_out.nearest_of(rows)
        reason, ids = "near copy of a held-out row", self.held_out_ids
        return [twin and Refusal(reason, ids[twin.place], twin.similarity) for twin in twins]

    def _about_labels(self, rows: Sequence[Row]) -> list[Refusal | None]:
        if self.checks.label == "off" or not self.train.classes or not rows:
            return [None] * len(rows)
        if self.checks.label == "model" and self.lm is not None:
            options = sorted(self.train.labels)
            seen = choose_options(self.lm, [_asked(row) for row in rows], options)
        elif self.classifier is not None:
            seen = self.classifier.label([row.prompt for row in rows])
        else:
            return [None] * len(rows)
        return [
            None if label == row.answer else Refusal(f"label not kept: {row.answer} became {label or 'none'}")
            for row, label in zip(rows, seen, strict=True)
        ]


def _asked(row: Row) -> tuple[Message, ...]:
    return row.messages[:-1]


def _about_text(checks: Checks, parent: Row, draft: Draft, row: Row) -> Refusal | None:
    """What a row says of itself, beside its parent."""
    text, old = row.prompt or row.answer, parent.prompt or parent.answer
    if not text.strip() or not row.answer.strip():
        return Refusal("empty")
    if not draft.finished:
        return Refusal("cut off")
    if draft.doubt:
        return Refusal(draft.doubt)
    if _same(parent, row):
        return Refusal("copy of its parent", parent.id, 1.0)
    both = "prompt" if normal(text) != normal(old) else "answer"
    alike = similarity(parent, row, both)
    if alike >= checks.parent:
        return Refusal("near copy of its parent", parent.id, round(alike, 6))
    return None if draft.new else _about_size(checks, old, text)


def _about_size(checks: Checks, old: str, text: str) -> Refusal | None:
    if len(text) < checks.shortest * len(old):
        return Refusal("too short")
    if len(text) > checks.longest * len(old) + _SLACK_CHARS:
        return Refusal("too long")
    if checks.facts and facts(old) != facts(text):
        return Refusal("lost or invented a number, a code or a tag")
    if checks.speaker and changes_sides(old, text):
        return Refusal("another speaks than in its parent")
    return None


def _same(one: Row, two: Row) -> bool:
    return normal(one.prompt) == normal(two.prompt) and normal(one.says) == normal(two.says)


def _other_languages(wishes: Sequence[Wish], rows: Sequence[Row]) -> list[str]:
    """From which language to which other a text went; empty where it stayed or is too short to tell."""
    texts = [
        (wish.row.prompt or wish.row.answer, row.prompt or row.answer) for wish, row in zip(wishes, rows, strict=True)
    ]
    before = identify([old for old, _ in texts], confidence=_CERTAIN)
    after = identify([new for _, new in texts], confidence=_CERTAIN)
    codes = ((old.code, new.code) for old, new in zip(before, after, strict=True))
    return [f"{old} became {new}" if UNKNOWN not in (old, new) and old != new else "" for old, new in codes]

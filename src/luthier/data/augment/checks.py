"""Checks of augmented drafts: duplicates, kept facts, semantic similarity and the predicted label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from luthier.chat.messages import Message
from luthier.core.component import add_field_descriptions
from luthier.data.augment.completions import choose_options
from luthier.data.augment.rows import SplitRows
from luthier.data.augment.words import facts_to_preserve, swaps_speaker
from luthier.data.augmenter import AugmentedDraft, AugmentRequest
from luthier.data.dedup.near import NearDuplicateIndex, similarity
from luthier.data.dedup.shingles import digest8, normalize_for_comparison, prompt_key, text_to_compare
from luthier.data.row import Row
from luthier.lang.detect import UNKNOWN, identify_languages
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder, EmbeddingSpace
from luthier.models.lm.base import LanguageModel

if TYPE_CHECKING:
    from luthier.data.augment.rows import SplitRows

MOST_ROWS = 50_000
"""Rows that the classifier learns from at most: more change little, and cost minutes."""
_C = 10.0
"""Inverse strength of regularisation, as the baseline of evaluations has it."""


class TfidfLabelClassifier:
    """TF-IDF of words and pairs of words with logistic regression, each class weighing the same."""

    def __init__(self, vectorizer: Any, model: Any) -> None:
        self._vectorizer, self._model = vectorizer, model

    @classmethod
    def learn(cls, train: SplitRows) -> TfidfLabelClassifier | None:
        """Learn from real training rows; None when there are no words or no classes to learn."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        real = [index for index in range(len(train)) if index not in train.made]
        chosen = sorted(sorted(real, key=lambda index: digest8(train.ids[index]))[:MOST_ROWS])
        rows = [train.row(index) for index in chosen]
        texts, labels = [row.prompt for row in rows], [train.classes[index] for index in chosen]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        analyse = vectorizer.build_analyzer()
        if len(set(labels)) < 2 or not any(analyse(text) for text in texts):
            return None
        features = vectorizer.fit_transform(texts)
        return cls(vectorizer, LogisticRegression(C=_C, max_iter=2000, class_weight="balanced").fit(features, labels))

    def label(self, texts: Sequence[str]) -> list[str | None]:
        """The class that is seen in each text."""
        return [str(label) for label in self._model.predict(self._vectorizer.transform(texts))]


T = TypeVar("T")


class SemanticSimilarityCheck(BaseModel):
    """The minimum embedding similarity between an augmented row and its parent."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    at_least: float = Field(default=0.6, gt=0, lt=1)
    """Cosine below which a row has left its parent's meaning and is refused."""
    embedder: Embedder = LsaEmbedder()
    """What makes points; a paraphrase in other words is recognised by an `encoder` alone."""


class DraftChecks(BaseModel):
    """What every made row is held to; a row that fails is refused, counted and listed with its reason."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    parent: float = Field(default=0.95, gt=0, le=1)
    """Similarity from which a row is a near copy of its parent and adds nothing (as `near_dedup` measures it). An equal
    row, but for case and white space, is refused at any value."""
    held_out: float = Field(default=0.8, ge=0.5, le=1)
    """Similarity from which a row is a near copy of one that is held out: training on it would flatter the measure."""
    label: Literal["classifier", "model", "off"] = "classifier"
    """Who must still see the row's class in it. `classifier`: TF-IDF with logistic regression, learnt from the real
    training rows; `model`: the step's model, asked which class it is. Of free text there is no class to keep."""
    meaning: SemanticSimilarityCheck | None = None
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


class DraftRejection(NamedTuple):
    """The reason why a draft is refused; the part before a colon is its category in counts."""

    reason: str
    twin: str | None = None
    similarity: float | None = None


_SLACK_CHARS = 20
_CERTAIN = 0.7
"""The probability that the detected languages of a row and its parent must both reach before a difference refuses the
row."""


@dataclass
class DraftChecker:
    """Applies the draft checks to augmented rows, and rejects drafts that repeat an accepted one."""

    checks: DraftChecks
    train: SplitRows
    held_out: NearDuplicateIndex
    held_out_ids: Sequence[str]
    classifier: TfidfLabelClassifier | None = None
    lm: LanguageModel | None = None
    space: EmbeddingSpace | None = None
    """Where meanings lie, when they are checked."""
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._seen = {self._key(row) for row in self.train.rows()}

    def refusals(
        self, requests: Sequence[AugmentRequest], drafts: Sequence[AugmentedDraft], rows: Sequence[Row]
    ) -> list[DraftRejection | None]:
        """Why each draft cannot be taken, whatever else is: None for those that can."""
        spoken = _other_languages(requests, rows) if self.checks.language else [""] * len(rows)
        draft_rejections = [
            _about_text(self.checks, request.row, draft, row)
            or (DraftRejection(f"other language: {record}") if record else None)
            for request, draft, row, record in zip(requests, drafts, rows, spoken, strict=True)
        ]
        self._next(draft_rejections, list(zip(requests, drafts, rows, strict=True)), self._about_meaning)
        self._next(draft_rejections, rows, self._about_held_out)
        self._next(draft_rejections, rows, self._about_labels)
        return draft_rejections

    @staticmethod
    def _next(
        found: list[DraftRejection | None],
        rows: Sequence[T],
        check: Callable[[Sequence[T]], Sequence[DraftRejection | None]],
    ) -> None:
        """Ask another check about the rows that no check has refused yet."""
        left = [row_index for row_index, refusal in enumerate(found) if refusal is None]
        for index, refusal in zip(left, check([rows[row_index] for row_index in left]), strict=True):
            found[index] = refusal

    def take(self, row: Row) -> DraftRejection | None:
        """Take a row, unless it has been there before."""
        key = self._key(row)
        if key in self._seen:
            return DraftRejection("copy of another training row")
        self._seen.add(key)
        return None

    def _key(self, row: Row) -> int:
        text = prompt_key(row) if self.train.classes else f"{prompt_key(row)}\x1f{normalize_for_comparison(row.says)}"
        return digest8(text)

    def _about_meaning(self, made: Sequence[tuple[AugmentRequest, AugmentedDraft, Row]]) -> list[DraftRejection | None]:
        """Rows that went too far from their parent."""
        from luthier.models.embeddings.base import paired_cosine_similarity

        limit = self.checks.meaning
        if limit is None or self.space is None or not made:
            return [None] * len(made)
        parents, rows = [request.row for request, _, _ in made], [row for _, _, row in made]
        old, new = (self.space.points([text_to_compare(row, "prompt") for row in some]) for some in (parents, rows))
        near = paired_cosine_similarity(old, new).round(6).tolist()
        return [
            DraftRejection("left its parent's meaning", parent.id, like)
            if like < limit.at_least and not draft.new
            else None
            for parent, (_, draft, _), like in zip(parents, made, near, strict=True)
        ]

    def _about_held_out(self, rows: Sequence[Row]) -> list[DraftRejection | None]:
        twins = self.held_out.nearest_of(rows)
        reason, ids = "near copy of a held-out row", self.held_out_ids
        return [twin and DraftRejection(reason, ids[twin.row_index], twin.similarity) for twin in twins]

    def _about_labels(self, rows: Sequence[Row]) -> list[DraftRejection | None]:
        if self.checks.label == "off" or not self.train.classes or not rows:
            return [None] * len(rows)
        if self.checks.label == "model" and self.lm is not None:
            options = sorted(self.train.labels)
            predicted = choose_options(self.lm, [_asked(row) for row in rows], options)
        elif self.classifier is not None:
            predicted = self.classifier.label([row.prompt for row in rows])
        else:
            return [None] * len(rows)
        return [
            None if label == row.answer else DraftRejection(f"label not kept: {row.answer} became {label or 'none'}")
            for row, label in zip(rows, predicted, strict=True)
        ]


def _asked(row: Row) -> tuple[Message, ...]:
    return row.messages[:-1]


def _about_text(checks: DraftChecks, parent: Row, draft: AugmentedDraft, row: Row) -> DraftRejection | None:
    """What a row says of itself, beside its parent."""
    text, old = row.prompt or row.answer, parent.prompt or parent.answer
    if not text.strip() or not row.answer.strip():
        return DraftRejection("empty")
    if not draft.finished:
        return DraftRejection("cut off")
    if draft.doubt:
        return DraftRejection(draft.doubt)
    if _same(parent, row):
        return DraftRejection("copy of its parent", parent.id, 1.0)
    both = "prompt" if normalize_for_comparison(text) != normalize_for_comparison(old) else "answer"
    alike = similarity(parent, row, both)
    if alike >= checks.parent:
        return DraftRejection("near copy of its parent", parent.id, round(alike, 6))
    return None if draft.new else _about_size(checks, old, text)


def _about_size(checks: DraftChecks, old: str, text: str) -> DraftRejection | None:
    if len(text) < checks.shortest * len(old):
        return DraftRejection("too short")
    if len(text) > checks.longest * len(old) + _SLACK_CHARS:
        return DraftRejection("too long")
    if checks.facts and facts_to_preserve(old) != facts_to_preserve(text):
        return DraftRejection("lost or invented a number, a code or a tag")
    if checks.speaker and swaps_speaker(old, text):
        return DraftRejection("another speaks than in its parent")
    return None


def _same(one: Row, two: Row) -> bool:
    return normalize_for_comparison(one.prompt) == normalize_for_comparison(two.prompt) and normalize_for_comparison(
        one.says
    ) == normalize_for_comparison(two.says)


def _other_languages(requests: Sequence[AugmentRequest], rows: Sequence[Row]) -> list[str]:
    """From which language to which other a text went; empty where it stayed or is too short to tell."""
    texts = [
        (request.row.prompt or request.row.answer, row.prompt or row.answer)
        for request, row in zip(requests, rows, strict=True)
    ]
    before = identify_languages([old for old, _ in texts], confidence=_CERTAIN)
    after = identify_languages([new for _, new in texts], confidence=_CERTAIN)
    codes = ((old.code, new.code) for old, new in zip(before, after, strict=True))
    return [f"{old} became {new}" if UNKNOWN not in (old, new) and old != new else "" for old, new in codes]

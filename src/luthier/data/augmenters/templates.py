"""Paraphrase by templates: slots that the data themselves show, and phrases around a text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from luthier.artifacts.dataset import MADE
from luthier.data.augment.words import are_english
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    AugmentTrainRows,
    last_user_text,
    with_last_user_text,
)
from luthier.data.dedup.shingles import digest8
from luthier.data.row import Row
from luthier.lang.demographics.words import replace_word_with_article, split_into_words, unprotected_word_indices

MOST_ROWS = 50_000
"""Rows that slots are looked for in."""
_MOST_FILLERS = 200
"""A slot with more fillers is no slot but a place where anything stands."""
_MOST_WORDS = 60
"""Longer texts are hardly ever the same around a slot, and would take a long time to look through."""
_AROUND = 2
"""The least number of words in a template outside its slot."""


class _Filler(NamedTuple):
    text: str
    row: str
    """The id of the first row that holds the filler."""


class _Gap(NamedTuple):
    """A stretch of a text that could be a slot."""

    start: int
    end: int
    """Places of pieces."""
    filler: str
    frame: int
    """A digest of the class and of what stands around it."""


@dataclass
class _Slots:
    """What may stand in the place of what: fillers of one class that share a template."""

    frames: dict[int, dict[str, str]] = field(default_factory=dict)
    """Fillers of each template with the row in which each was first seen."""
    templates: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """The templates in which a filler of a class stands."""

    def others(self, label: str, gap: _Gap) -> list[_Filler]:
        """Return fillers that occur in the same templates as this one elsewhere, and not yet in this template."""
        here = self.frames.get(gap.frame, {})
        found: dict[str, str] = {}
        for frame in self.templates.get((label, gap.filler), ()):
            for other, row in self.frames[frame].items():
                if other not in here and other != gap.filler:
                    found.setdefault(other, row)
        return [_Filler(text, row) for text, row in sorted(found.items())]


class TemplatesAugmenter(Augmenter):
    """Say a row by the template of another: fill its slots with what stands in that place elsewhere, or put a phrase
    around it.

    A slot is a place at which rows of one class differ while all around it is the same ("Where is my {parcel}"). What
    fills it may stand in other templates of the class that hold one of its fellows ("I need help with the {parcel}").
    So every word comes from the data, and no model is needed. Slots are looked for in the first 50,000 rows, in texts
    of up to 60 words. Phrases are for English texts.
    """

    kind: Literal["templates"] = "templates"

    slots: bool = True
    """Whether slots of the data are filled anew."""
    longest: Annotated[int, Field(ge=1, le=5)] = 2
    """Words in a slot at most."""
    phrases: tuple[str, ...] = ("Hello, {text}", "{text} Thanks!", "Could you help me? {text}", "{text} Please advise.")
    """What is put around a text where no slot can be filled, `{text}` standing for it; empty: nothing."""

    @field_validator("phrases")
    @classmethod
    def _hold_the_text(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in phrases:
            if phrase.count("{text}") != 1 or phrase.strip() == "{text}":
                raise ValueError(f"expected a phrase around {{text}}, got {phrase!r}")
        return phrases

    @model_validator(mode="after")
    def _does_something(self) -> TemplatesAugmenter:
        if not self.slots and not self.phrases:
            raise ValueError("neither slots nor phrases are wanted, so that nothing would be done; set one of them")
        return self

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """A slot filled anew, else a phrase."""
        slots = around.once(self, self._learn) if self.slots else _Slots()
        spoken = are_english([request.row for request in requests])
        return [
            self._filled(request, slots) or (self._phrased(request) if able else None)
            for request, able in zip(requests, spoken, strict=True)
        ]

    def _filled(self, request: AugmentRequest, slots: _Slots) -> AugmentedDraft | None:
        text, label = last_user_text(request.row)[1], _class(request.row)
        parts = split_into_words(text)
        able = [
            (gap, fillers)
            for gap in self._gaps(text, parts, label)
            if (label or gap.filler not in request.row.answer) and (fillers := slots.others(label, gap))
        ]
        if not able:
            return None
        chance = request.chance
        gap, fillers = chance.choice(able)
        other = chance.choice(fillers)
        made = replace_word_with_article([*parts[: gap.start], gap.filler, *parts[gap.end :]], gap.start, other.text)
        did = (f"put {other.text!r} in the place of {gap.filler!r}",)
        return AugmentedDraft(with_last_user_text(request.row, "".join(made)), did, parents=(other.row,))

    def _phrased(self, request: AugmentRequest) -> AugmentedDraft | None:
        if not self.phrases:
            return None
        phrase = request.chance.choice(self.phrases)
        text = last_user_text(request.row)[1].strip()
        if re.search(r"[,;:]\s*\{text\}", phrase) and re.match(r"[A-Z][a-z]", text):
            text = text[0].lower() + text[1:]
        return AugmentedDraft(
            with_last_user_text(request.row, phrase.replace("{text}", text)), (f"said as {phrase!r}",)
        )

    def _learn(self, train: AugmentTrainRows) -> _Slots:
        """Templates with several fillers, and for each filler its templates."""
        template_texts: defaultdict[int, dict[str, str]] = defaultdict(dict)
        where: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for row in islice((row for row in train.rows() if MADE not in row.meta), MOST_ROWS):
            text, label = last_user_text(row)[1], _class(row)
            for gap in self._gaps(text, split_into_words(text), label):
                if gap.filler not in template_texts[gap.frame]:
                    template_texts[gap.frame][gap.filler] = row.id
                    where[label, gap.filler].append(gap.frame)
        frames = {frame: fillers for frame, fillers in template_texts.items() if 1 < len(fillers) <= _MOST_FILLERS}
        kept = {key: [frame for frame in own if frame in frames] for key, own in where.items()}
        return _Slots(frames, {key: own for key, own in kept.items() if own})

    def _gaps(self, text: str, parts: list[str], label: str) -> Iterator[_Gap]:
        """Every run of words that could fill a slot."""
        words = unprotected_word_indices(text, parts)
        if len(words) > _MOST_WORDS:
            return
        for first, start in enumerate(words):
            for length in range(1, self.longest + 1):
                last = first + length - 1
                if last >= len(words) or len(words) - length < _AROUND:
                    break
                end = words[last] + 1
                if "".join(parts[start:end]).count(" ") != length - 1:
                    break
                before, after = "".join(parts[:start]).casefold(), "".join(parts[end:]).casefold()
                yield _Gap(start, end, "".join(parts[start:end]), digest8(f"{label}\x1f{before}\x1f{after}"))


def _class(row: Row) -> str:
    return row.answer if row.kind == "label" else ""

"""Question for labeled spans and their relations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from luthier.annotation.question import AnswerValue, InvalidAnswer, LabelQuestion, QuestionItem
from luthier.annotation.spans import find_span, spans_to_answer

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_TYPED = re.compile(r"(?P<label>[^\"]*)\"(?P<text>[^\"]+)\"")
_RELATION = re.compile(r"(?P<from>\d{1,5}) (?P<label>.*) (?P<to>\d{1,5})")


class SpansQuestion(LabelQuestion):
    """Labelled places in a text, and relations between them; a model learns to extract them.

    Places are counted in characters (Unicode code points) from 0; the end is not included.
    """

    kind: Literal["spans"] = "spans"
    widget: ClassVar[str] = "spans"
    level: ClassVar[Level] = "nominal"

    question: str = "What stands where?"
    """What people are asked."""
    relations: tuple[str, ...] = ()
    """Relations that people may draw from one span to another, by their names."""
    overlap: bool = True
    """Whether spans may overlap."""

    @field_validator("relations")
    @classmethod
    def _relations_differ(cls, relations: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(relations)) < len(relations):
            raise ValueError("a relation stands twice")
        return relations

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        related = f"; relations: 1 {self.relations[0]} 2 (of {', '.join(self.relations)})" if self.relations else ""
        return f'none, or spans such as: {self.labels[0].name} "the words"; labels: {self.key_legend}{related}'

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        if text.strip().lower() in ("none", "-"):
            return self.check({"spans": []}, item)
        spans: list[dict[str, Any]] = []
        relations: list[dict[str, Any]] = []
        for part in (entry.strip() for entry in text.split(";") if entry.strip()):
            if match := _TYPED.fullmatch(part):
                spans.append({"label": self.find_label(match["label"]), "text": match["text"]})
            elif match := _RELATION.fullmatch(part):
                relations.append({"from": int(match["from"]) - 1, "to": int(match["to"]) - 1, "label": match["label"]})
            else:
                raise InvalidAnswer(f"expected {self.legend}; got {part!r}")
        if not spans:
            raise InvalidAnswer(f"expected {self.legend}; got nothing")
        return self.check({"spans": spans, "relations": relations}, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        value = {"spans": value} if isinstance(value, list | tuple) else value
        if not isinstance(value, Mapping) or not isinstance(value.get("spans"), list | tuple):
            raise InvalidAnswer(f"expected a mapping with `spans`, got {value!r}")
        given = [self._span(entry, item) for entry in value["spans"]]
        spans = [dict(entry) for entry in sorted({tuple(entry.items()) for entry in given})]
        if not self.overlap:
            for element, after in pairwise(spans):
                if after["start"] < element["end"]:
                    raise InvalidAnswer(
                        f"expected spans that do not overlap; {element['text']!r} and {after['text']!r} do"
                    )
        index_of = [spans.index(entry) for entry in given]
        related = value.get("relations") or []
        if not isinstance(related, list | tuple):
            raise InvalidAnswer(f"expected a list of relations, got {related!r}")
        relations = sorted({self._relation(entry, index_of) for entry in related})
        return {
            "spans": spans,
            "relations": [dict(zip(("from", "to", "label"), relation, strict=True)) for relation in relations],
        }

    def _span(self, one: Any, item: QuestionItem) -> dict[str, Any]:
        found = find_span(one, item, "a span with a label and its place")
        return {**found, "label": self.check_label(one.get("label"))}

    def _relation(self, one: Any, index_of: list[int]) -> tuple[int, int, str]:
        ends = [one.get(name) for name in ("from", "to")] if isinstance(one, Mapping) else []
        known = [
            index_of[at] for at in ends if isinstance(at, int) and not isinstance(at, bool) and 0 <= at < len(index_of)
        ]
        if len(known) < 2:
            raise InvalidAnswer(f"expected a relation from one of {len(index_of)} spans to another, got {one!r}")
        start, end = known
        if one.get("label") not in self.relations or start == end:
            raise InvalidAnswer(
                f"expected a relation of {', '.join(self.relations) or 'none'} between two, got {one!r}"
            )
        return start, end, one["label"]

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"spans": value["spans"], "answer": spans_to_answer(value["spans"])}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return json.dumps([sorted(_places(value)), [list(entry.values()) for entry in value["relations"]]])

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        mine, theirs = _places(one), _places(other)
        return 2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine or theirs else 1.0


def _places(value: AnswerValue) -> set[tuple[int, int, str]]:
    return {(entry["start"], entry["end"], entry["label"]) for entry in value["spans"]}

"""Questions whose answers are labels: the labels, what they mean, and the keys that give them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem
from luthier.core.component import add_field_descriptions

LABEL_KEYS = "123456789abcdeghijklmnoprtvwxyz"
"""Keys of labels in their order; without f, q, s and u, which flag, leave, skip and undo."""


class LabelOption(BaseModel):
    """One label that people may give."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    name: str = Field(min_length=1, max_length=200, pattern=r"^\S(.*\S)?$")
    """The label as it is trained; the levels of a taxonomy are parted by ` / `."""
    about: str = ""
    """When it applies."""
    key: str = Field(default="", pattern=f"^[{LABEL_KEYS}]?$")
    """The key that gives it; left out, the next free one of 1 to 9 and a to z."""


def _name_alone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


LabelOptions = Annotated[
    tuple[Annotated[LabelOption, BeforeValidator(_name_alone, json_schema_input_type=str | LabelOption)], ...],
    Field(min_length=1, max_length=1000),
]


class LabelQuestion(Question):
    """A question about labels; it is between the role and its kinds."""

    labels: LabelOptions
    """The labels: their names, or each with what it means and its key."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[LabelOption, ...]) -> tuple[LabelOption, ...]:
        for what, said in (("label", [one.name for one in labels]), ("key", [one.key for one in labels if one.key])):
            if twice := next((one for one in said if said.count(one) > 1), None):
                raise ValueError(f"{what} {twice!r} stands twice")
        return labels

    @cached_property
    def key_of(self) -> Mapping[str, str]:
        """The key of each label that has one, by the label's name."""
        free = iter([key for key in LABEL_KEYS if key not in {one.key for one in self.labels}])
        return {one.name: key for one in self.labels if (key := one.key or next(free, ""))}

    @property
    def key_legend(self) -> str:
        """The keys with their labels, and the labels that have none."""
        return ", ".join(f"{self.key_of.get(one.name, '')} {one.name}".strip() for one in self.labels)

    def find_label(self, typed: str) -> str:
        """The label that was typed: its name, in capitals or not, or its key."""
        wanted = typed.strip()
        names = [one.name for one in self.labels]
        for test in (
            lambda name: name == wanted,
            lambda name: name.casefold() == wanted.casefold(),
            lambda name: self.key_of.get(name) == wanted.lower(),
        ):
            if found := next((name for name in names if test(name)), None):
                return found
        raise InvalidAnswer(f"expected one of {self.key_legend}; got {wanted!r}")

    def check_label(self, value: AnswerValue) -> str:
        """A label by its exact name, as it stands in values."""
        if isinstance(value, str) and any(one.name == value.strip() for one in self.labels):
            return value.strip()
        names = ", ".join(one.name for one in self.labels[:20])
        raise InvalidAnswer(f"expected one of {names}{', …' if len(self.labels) > 20 else ''}; got {value!r}")


def find_span(one: Any, item: QuestionItem, expected: str) -> dict[str, Any]:
    """The place of a span that is told by `start` and `end` (characters) or by `text` alone, where that stands first.

    Raises:
        InvalidAnswer: `one` is no mapping, or the item's text has no such place.
    """
    if not isinstance(one, Mapping):
        raise InvalidAnswer(f"expected {expected}, got {one!r}")
    shown, text = item.text, one.get("text")
    start = one.get("start", shown.find(text) if isinstance(text, str) else -1)
    end = one.get("end", start + len(text) if isinstance(text, str) and isinstance(start, int) else -1)
    whole = all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end))
    if not whole or not 0 <= start < end <= len(shown):
        raise InvalidAnswer(f"the text has no place {text or (start, end)!r}")
    return {"start": start, "end": end, "text": shown[start:end]}


def spans_to_answer(spans: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> str:
    """The texts of spans by their labels as JSON, in the order of the text: what extraction is trained to answer.

    Labels of which there is no span have an empty list, so that every answer has the same fields; `json_field_f1` with
    `ordered: false` counts what was found.
    """
    found: dict[str, list[str]] = {name: [] for name in labels}
    for one in sorted(spans, key=lambda one: (one["start"], one["end"])):
        texts = found.setdefault(str(one["label"]), [])
        if one["text"] not in texts:
            texts.append(one["text"])
    return json.dumps(found, ensure_ascii=False)

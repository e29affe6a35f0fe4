"""Questions whose answers are labels: the labels, what they mean, and the keys that give them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question
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
        for what, values in (
            ("label", [label.name for label in labels]),
            ("key", [label.key for label in labels if label.key]),
        ):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"{what} {twice!r} stands twice")
        return labels

    @cached_property
    def key_of(self) -> Mapping[str, str]:
        """The key of each label that has one, by the label's name."""
        free = iter([key for key in LABEL_KEYS if key not in {label.key for label in self.labels}])
        return {label.name: key for label in self.labels if (key := label.key or next(free, ""))}

    @property
    def key_legend(self) -> str:
        """The keys with their labels, and the labels that have none."""
        return ", ".join(f"{self.key_of.get(label.name, '')} {label.name}".strip() for label in self.labels)

    def find_label(self, typed: str) -> str:
        """The label that was typed: its name, in capitals or not, or its key."""
        typed_name = typed.strip()
        names = [label.name for label in self.labels]
        for test in (
            lambda name: name == typed_name,
            lambda name: name.casefold() == typed_name.casefold(),
            lambda name: self.key_of.get(name) == typed_name.lower(),
        ):
            if found := next((name for name in names if test(name)), None):
                return found
        raise InvalidAnswer(f"expected one of {self.key_legend}; got {typed_name!r}")

    def check_label(self, value: AnswerValue) -> str:
        """A label by its exact name, as it stands in values."""
        if isinstance(value, str) and any(label.name == value.strip() for label in self.labels):
            return value.strip()
        names = ", ".join(label.name for label in self.labels[:20])
        raise InvalidAnswer(f"expected one of {names}{', …' if len(self.labels) > 20 else ''}; got {value!r}")

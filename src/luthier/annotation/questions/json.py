"""Question for a JSON value of an agreed schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem
from luthier.metrics.text.structured import MISSING, JsonSchema, canonical_json_text, parse_json_answer

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_SCALARS = ("string", "number", "integer", "boolean")


class JsonQuestion(Question):
    """A JSON value that obeys a schema; a model learns to answer with it.

    An object whose properties are texts, numbers, yes or no, or one of a few values is asked for field by field.
    """

    kind: Literal["json"] = "json"
    widget: ClassVar[str] = "json"
    level: ClassVar[Level] = "nominal"

    question: str = "What does this say?"
    """What people are asked."""
    obeys: JsonSchema = Field(default={"type": "object"})
    """A JSON Schema (draft 2020-12 unless it names another); references only within it (`#/…`)."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return f"JSON that obeys {json.dumps(self.obeys, ensure_ascii=False)}"

    @property
    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        """The schema of each field that can be asked for by itself; empty where the whole is one text of JSON."""
        fields = self.obeys.get("properties") if self.obeys.get("type") == "object" else None
        if not isinstance(fields, dict) or not all(map(_is_plain, fields.values())):
            return {}
        return fields

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        value = parse_json_answer(text, fenced=False)
        if value is MISSING:
            raise InvalidAnswer(f"expected JSON, got {text[:60]!r}")
        return self.check(value, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        try:
            kept = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidAnswer(f"expected JSON: {error}") from error
        if wrong := next(self._validator.iter_errors(kept), None):
            path = ".".join(map(str, wrong.absolute_path))
            raise InvalidAnswer(f"expected what the schema says{f' at {path}' if path else ''}: {wrong.message[:200]}")
        return kept

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"answer": json.dumps(value, ensure_ascii=False)}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return canonical_json_text(value)

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.validators import validator_for

        return validator_for(self.obeys)(self.obeys)


def _is_plain(schema: Any) -> bool:
    return isinstance(schema, dict) and (schema.get("type") in _SCALARS or isinstance(schema.get("enum"), list))

"""Metrics of answers that are JSON or calls of tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Form, Metric
from luthier.metrics.text.structured import (
    MISSING,
    JsonSchema,
    count_json_leaves,
    parse_canonical_tool_calls,
    parse_json_answer,
    parse_json_reference,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class JsonValid(Metric):
    """Share of rows whose answer is JSON, and obeys a JSON Schema when one is given; references are not read."""

    kind: Literal["json_valid"] = "json_valid"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    proportion: ClassVar[bool] = True
    form: ClassVar[Form] = "json"
    fenced: bool = True
    """Whether JSON may stand in a fence (```), with words around it."""
    obeys: JsonSchema | None = None
    """A JSON Schema (draft 2020-12 unless it names another); references only within it (`#/…`)."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        obeyed = self._obeyed()
        right = [obeyed(parse_json_answer(text, fenced=self.fenced)) for text in answers.predictions]
        return np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def _obeyed(self) -> Any:
        if self.obeys is None:
            return lambda value: value is not MISSING
        from jsonschema.validators import validator_for

        validator = validator_for(self.obeys)(self.obeys)
        return lambda value: value is not MISSING and validator.is_valid(value)


class JsonFieldF1(Metric):
    """Mean F1 of fields: each leaf of the reference's JSON with its path and value, found or not; no JSON counts 0."""

    kind: Literal["json_field_f1"] = "json_field_f1"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    form: ClassVar[Form] = "json"
    fenced: bool = True
    """Whether JSON may stand in a fence (```), with words around it."""
    ordered: bool = True
    """Whether a value's place in a list counts."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        best = [
            max(self._f1(prediction, parse_json_reference(text, row, self.kind)) for text in references)
            for row, (prediction, references) in enumerate(zip(answers.predictions, answers.references, strict=True))
        ]
        return np.stack([np.array(best), np.ones(len(best))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def _f1(self, prediction: str, reference: Any) -> float:
        value = parse_json_answer(prediction, fenced=self.fenced)
        if value is MISSING:
            return 0.0
        predicted, real = (count_json_leaves(entry, ordered=self.ordered) for entry in (value, reference))
        return 2 * (predicted & real).total() / (predicted.total() + real.total())


class ToolCallMatch(Metric):
    """Share of rows whose answer calls just the tools of the reference, with the same arguments.

    A reference that calls nothing wants an answer that calls nothing; calls that cannot be read are wrong.
    """

    kind: Literal["tool_calls"] = "tool_calls"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    proportion: ClassVar[bool] = True
    form: ClassVar[Form] = "calls"
    order: bool = False
    """Whether calls must come in the reference's order."""
    arguments: bool = True
    """Whether arguments count; without them only the tools' names do."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        right = [
            self._select_calls(parse_canonical_tool_calls(prediction))
            in [self._wanted(text, row) for text in references]
            for row, (prediction, references) in enumerate(zip(answers.predictions, answers.references, strict=True))
        ]
        return np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def _select_calls(self, found: list[tuple[str, str]] | None) -> list[tuple[str, ...]] | None:
        if found is None:
            return None
        selected: list[tuple[str, ...]] = [call if self.arguments else call[:1] for call in found]
        return selected if self.order else sorted(selected)

    def _wanted(self, text: str, row: int) -> list[tuple[str, ...]]:
        expected = self._select_calls(parse_canonical_tool_calls(text))
        if expected is None:
            what = f"row {row + 1}: the reference's calls cannot be read: {text[:60]!r}"
            hint = 'write {"name": …, "arguments": {…}}, or a list of such'
            raise DataError(what, where=SourceLocation(field="reference"), hint=hint)
        return expected

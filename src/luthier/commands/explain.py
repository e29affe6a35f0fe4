"""Explain a model's answer to a text or a row, alone or beside another model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import list_splits, read_example_batches
from luthier.artifacts.explanation import ExplanationRecord
from luthier.chat.messages import Example, answer_of, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName
from luthier.core.files import write_atomically
from luthier.explain.explainer import Explainer
from luthier.explain.faithfulness import ORDERS
from luthier.metrics.files import parse_component_spec
from luthier.models.load import get_output_classes, get_training_data, is_endpoint, is_plain_classifier
from luthier.models.sequence_head import REWARD

if TYPE_CHECKING:
    from luthier.explain.subject import Dtype, ExplanationRequest, Units

METHOD, WITHOUT_WEIGHTS = "attnlrp", "leave_one_out"
"""The methods when none is named, the second where the weights are not here."""


class ExplainOptions(NamedTuple):
    """How an answer is explained."""

    answer: str | None = None
    """The answer or class to explain; the model's own when not given."""
    part: str = ""
    """The part of the answer to explain."""
    instead: str = ""
    """Explain why the answer and not this one."""
    methods: Sequence[str] = ()
    """Kinds of explainers, with settings as in `integrated_gradients:steps=100`."""
    units: Units = "auto"
    dtype: Dtype = "float32"
    seed: int = 0
    orders: int = ORDERS
    """Random orders of the units that the ranking is compared with; 0: faithfulness is not measured."""


@dataclass(frozen=True)
class AnswerExplanation:
    """Explanations of one answer, and of the same answer by another model."""

    records: tuple[ExplanationRecord, ...]
    against: tuple[ExplanationRecord, ...] = ()
    """By the same methods, in the same order."""

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `explain --json`."""
        found: dict[str, Any] = {"explanations": [record.model_dump(mode="json") for record in self.records]}
        if self.against:
            found["against"] = [record.model_dump(mode="json") for record in self.against]
        return found

    def lines(self) -> list[str]:
        """What a terminal shows."""
        from luthier.explain.heat_map import format_explanation

        rivals = self.against or (None,) * len(self.records)
        parts = [list(format_explanation(*pair)) for pair in zip(self.records, rivals, strict=True)]
        return [line for number, part in enumerate(parts) for line in (*([""] if number else []), *part)]

    def write(self, path: Path) -> None:
        """Write a heat map as one HTML page."""
        from luthier.explain.heat_map import render_heat_map

        check_heat_map_path(path)
        records = [*self.records, *self.against]
        write_atomically(path, render_heat_map(records, f"Why {records[0].model} answers so").encode())


def check_heat_map_path(path: Path) -> None:
    """`InputError` for a file that is no HTML page."""
    if path.suffix not in (".html", ".htm"):
        what = f"cannot write a heat map as {path.suffix or 'a file without an ending'}"
        raise InputError(what, where=SourceLocation(file=str(path)), hint="end its name in .html; --json prints data")


def explain(
    model: Artifact,
    *,
    text: str | None = None,
    row: str | None = None,
    against: Artifact | None = None,
    **options: Any,
) -> AnswerExplanation:
    """Explain a model's answer to a text, or to a row of its data by id; `options` are those of `ExplainOptions`.

    Raises:
        DataError: an empty answer, fewer than two units, a prompt that is too long, or no such row.
        ModelError: a method that needs weights which are not here, or a class that the model has not.
    """
    from luthier.explain.run import explain_question
    from luthier.explain.subject import SubjectBuilder

    request = ExplainOptions(**options)
    if (text is None) == (row is None):
        raise InputError("name either a text or a row", hint='--text "Where is my parcel?", or --row ID')
    explainers = [parse_component_spec(Explainer, word) for word in request.methods or (_usual_method(model, against),)]
    question = _question(model, text, row, request)
    how = {"faithful": request.orders > 0, "orders": request.orders}

    def by(one: Artifact, about: ExplanationRequest) -> tuple[ExplanationRecord, ...]:
        builder = SubjectBuilder(one, units=request.units, dtype=request.dtype, seed=request.seed)
        return tuple(explain_question(builder, about, explainers, **how))  # type: ignore[arg-type]

    records = by(model, question)
    if against is None:
        return AnswerExplanation(records)
    return AnswerExplanation(records, by(against, replace(question, answer=records[0].target.text)))


def _usual_method(*models: Artifact | None) -> str:
    remote = any(model is not None and (is_endpoint(model) or is_plain_classifier(model)) for model in models)
    return WITHOUT_WEIGHTS if remote else METHOD


def _question(model: Artifact, text: str | None, row: str | None, request: ExplainOptions) -> ExplanationRequest:
    from luthier.explain.subject import ExplanationRequest
    from luthier.recipe.predict import RowPromptSettings, read_answer_texts

    example = RowPromptSettings.of(model, None).example(text, 1) if text is not None else find_row(model, row or "")
    answer, classes = request.answer, get_output_classes(model)
    if answer is None and classes == (REWARD,) and row is not None:
        answer = answer_of(example)
    return ExplanationRequest(
        messages=prompt_of(example),
        tools=example.tools,
        answer=answer,
        part=request.part,
        against=request.instead,
        options=None if classes else read_answer_texts(model) or None,
        row=example.id if row is not None else "",
    )


def find_row(model: Artifact, row: str) -> Example:
    """The example of a model's data whose id begins so, in any split."""
    data = get_training_data(model)
    if data is None:
        what = "this model was not tuned here, so no data set is known in which a row could be"
        raise DataError(what, where=SourceLocation(field="row"), hint="give a text: --text TEXT")
    examples = [
        example
        for split in list_splits(data)
        for batch in read_example_batches(data, split)
        for example in batch
        if example.id.startswith(row)
    ]
    if len(examples) != 1 or not row:
        what = (
            f"no row has the id {row!r}"
            if not examples
            else f"{len(examples)} rows have an id that begins with {row!r}"
        )
        raise UnknownName(what, where=SourceLocation(field="row"), hint="ids stand in `luthier show` and in reports")
    return examples[0]

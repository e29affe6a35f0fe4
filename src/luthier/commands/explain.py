"""Explains a model's answer to a text, a row or a recorded request, alone or compared with another model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import list_splits, read_example_batches
from luthier.artifacts.explanation import ExplanationRecord
from luthier.chat.messages import Example, answer_of, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import write_atomically
from luthier.explain.explainer import Explainer
from luthier.explain.faithfulness import ORDERS
from luthier.metrics.files import parse_component_spec
from luthier.models.load import get_output_classes, get_training_data, is_endpoint, is_plain_classifier
from luthier.models.sequence_head import REWARD

if TYPE_CHECKING:
    from luthier.artifacts.explanation import PartKind
    from luthier.chat.messages import Message
    from luthier.explain.subject import Dtype, ExplanationRequest, SubjectBuilder, Units
    from luthier.models.lm.local import ModelCache
    from luthier.traces.record import Trace

METHOD, WITHOUT_WEIGHTS = "attnlrp", "leave_one_out"
"""The methods when none is named, the second where the weights are not here."""


class ExplainOptions(NamedTuple):
    """Options of an explanation."""

    answer: str | None = None
    """The answer or class to explain; the model's own when not given."""
    part: str = ""
    """The part of the answer to explain."""
    instead: str = ""
    """Explain why the answer and not this one."""
    methods: Sequence[str] = ()
    """Kinds of explainers, with settings as in `integrated_gradients:steps=100`."""
    units: Units = "auto"
    refine: PartKind | None = None
    """Units into which the strongest units are split."""
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
    answers: tuple[str, str] | None = None
    """The answers of both models, where there are two."""

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `explain --json`."""
        found: dict[str, Any] = {"explanations": [record.model_dump(mode="json") for record in self.records]}
        if self.against:
            found["against"] = [record.model_dump(mode="json") for record in self.against]
        if self.answers is not None:
            found["answers"] = list(self.answers)
        return found

    def lines(self) -> list[str]:
        """Return the lines for a terminal."""
        from luthier.explain.heat_map import format_explanation

        rivals = self.against or (None,) * len(self.records)
        parts = [list(format_explanation(*pair)) for pair in zip(self.records, rivals, strict=True)]
        if self.answers is not None:
            names = (self.records[0].model, self.against[0].model)
            sentences = [f"{name} answers {answer!r}" for name, answer in zip(names, self.answers, strict=True)]
            parts[0].insert(
                0, "; ".join(sentences) if len(set(self.answers)) > 1 else f"both answer {self.answers[0]!r}"
            )
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


def explain(  # noqa: PLR0913  # a question in one of four forms, and what a server or a terminal adds to it
    model: Artifact,
    *,
    text: str | None = None,
    row: str | None = None,
    trace: Trace | None = None,
    messages: Sequence[Message] | None = None,
    against: Artifact | None = None,
    cache: ModelCache | None = None,
    max_tokens: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> AnswerExplanation:
    """Explain a model's answer to a text, to a row of its data by id, to a kept request, or to a conversation as it is;
    `options` are those of `ExplainOptions`.

    With `against`, where that model answers otherwise, both explain why the answer and not the other one; `cache`
    keeps weights for the next call, `max_tokens` bounds the prompt with its answer, and `say` tells a person what is
    done now.

    Raises:
        DataError: an empty answer, fewer than two units, a prompt that is too long, or no such row.
        ModelError: a method that needs weights which are not here, or a class that the model has not.
    """
    from luthier.explain.run import explain_question
    from luthier.explain.subject import SubjectBuilder

    request = ExplainOptions(**options)
    if sum(entry is not None for entry in (text, row, trace, messages)) != 1:
        hint = '--text "Where is my parcel?", --row ID, or --trace ID'
        raise InputError("name either a text, a row or a trace", hint=hint)
    explainers = [parse_component_spec(Explainer, word) for word in request.methods or (_usual_method(model, against),)]
    if trace is not None:
        request = request._replace(answer=read_traced_answer(trace, request.answer))
        messages = trace.messages
    question = _question(model, text, row, messages, request)
    read_media = _find_media_reader(model) if row is not None else None
    builder, rival = (
        SubjectBuilder(
            one,
            units=request.units,
            dtype=request.dtype,
            seed=request.seed,
            cache=cache,
            max_tokens=max_tokens,
            read_media=read_media,
        )
        for one in (model, against or model)
    )

    def explain_by(builder: SubjectBuilder, question: ExplanationRequest) -> tuple[ExplanationRecord, ...]:
        return tuple(
            explain_question(
                builder, question, explainers, faithful=request.orders > 0, orders=request.orders,
                refine=request.refine, say=say,
            )
        )  # fmt: skip

    if against is None:
        return AnswerExplanation(explain_by(builder, question))
    answers = _both_answers(builder, rival, question)
    if answers is not None:
        other = answers[1] if answers[0] != answers[1] else ""
        question = replace(question, answer=answers[0], against=question.against or other)
    records = explain_by(builder, question)
    return AnswerExplanation(records, explain_by(rival, replace(question, answer=records[0].target.text)), answers)


def _both_answers(
    builder: SubjectBuilder, rival: SubjectBuilder, question: ExplanationRequest
) -> tuple[str, str] | None:
    """Return the answers of both models; None where they cannot be contrasted: a reward, an endpoint, or
    other classes.
    """
    if get_output_classes(builder.model) != get_output_classes(rival.model):
        return None
    if get_output_classes(builder.model) == (REWARD,) or is_endpoint(builder.model) or is_endpoint(rival.model):
        return None
    own = builder.build(question).target.text
    try:
        return own, rival.build(replace(question, answer=None, part="", against="")).target.text
    except DataError:  # it answers nothing
        return None


def read_traced_answer(trace: Trace, answer: str | None) -> str:
    """The answer of a kept request, unless another is to be explained."""
    if trace.operation == "embedding":
        raise DataError("a request for embeddings has no answer", where=SourceLocation(field="trace"))
    if answer is None and (trace.answer is None or not trace.answer.content.strip()):
        what = f"the request {trace.id} has no answer in words"
        raise DataError(what, where=SourceLocation(field="trace"), hint="give the answer to explain: --answer TEXT")
    return answer if answer is not None else trace.answer.content  # type: ignore[union-attr]  # checked above


def _find_media_reader(model: Artifact) -> Callable[[str], bytes] | None:
    """Return the reader of the images in a model's data."""
    from luthier.artifacts.media import MediaReader

    data = get_training_data(model)
    return None if data is None else MediaReader(data).read


def _usual_method(*models: Artifact | None) -> str:
    remote = any(model is not None and (is_endpoint(model) or is_plain_classifier(model)) for model in models)
    return WITHOUT_WEIGHTS if remote else METHOD


def _question(
    model: Artifact,
    text: str | None,
    row: str | None,
    messages: Sequence[Message] | None,
    request: ExplainOptions,
) -> ExplanationRequest:
    from luthier.explain.subject import ExplanationRequest
    from luthier.recipe.predict import RowPromptSettings, read_answer_texts

    answer, classes = request.answer, get_output_classes(model)
    options = None if classes else read_answer_texts(model) or None
    _check_class(request.instead, options)
    tools: tuple[dict[str, Any], ...] = ()
    if messages is None:
        example = RowPromptSettings.of(model, None).example(text, 1) if text is not None else find_row(model, row or "")
        messages, tools = prompt_of(example), example.tools
        if answer is None and classes == (REWARD,) and row is not None:
            answer = answer_of(example)
    return ExplanationRequest(
        messages=tuple(messages),
        tools=tools,
        answer=answer,
        part=request.part,
        against=request.instead,
        options=options,
        row=example.id if row is not None else "",
    )


def _check_class(instead: str, options: Mapping[str, str] | None) -> None:
    """`UnknownName` for a text that a model which chooses among classes never answers."""
    if instead and options and instead.strip() not in {*options, *(text.strip() for text in options.values())}:
        hint = did_you_mean(instead, options)
        raise UnknownName(f"{instead!r} is no class of this model", where=SourceLocation(field="instead"), hint=hint)


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

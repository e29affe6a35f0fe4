"""Predict new rows with a model: a class with its probability, or a completion.

A row is a text, a conversation, or a mapping with the columns of the training data. The prompt template and the system
message of the model's recipe turn it into a prompt, as they did with the training rows. Labels of feedback are checked
against the classes of the model that answered.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import DatasetSummary
from luthier.chat.messages import Example, ExampleOrigin, Message, answer_text_by_label
from luthier.core.artifact import Artifact
from luthier.core.errors import (
    DataError,
    InputError,
    LuthierError,
    ModelError,
    SourceLocation,
    UnknownName,
    did_you_mean,
)
from luthier.core.events import RunEventEmitter
from luthier.core.spreadsheet import escape_formula
from luthier.models.load import get_training_data
from luthier.recipe.models import get_training_system_message
from luthier.recipe.workspace import Workspace
from luthier.traces.record import Feedback, Trace, match_label_spelling

if TYPE_CHECKING:
    from luthier.data.ops.label_spelling import LabelSpelling
    from luthier.data.row import SourceRecord
    from luthier.data.source import Source
    from luthier.eval.task import Reply
    from luthier.traces.recorder import TraceRecorder

Row = str | Mapping[str, Any] | Sequence[Mapping[str, Any] | Message]
"""A model input: a text, the columns of a row, or the messages of a conversation."""
MAX_NEW_TOKENS = 128
"""Length of a written answer, as `evaluate` has it."""
FORMS = (".jsonl", ".csv")
"""Endings of files of predictions."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's prediction for one row."""

    prediction: str
    """The class, or the text."""
    probabilities: Mapping[str, float] | None = None
    """Class probabilities of a classifier, which sum to one."""
    finished: bool | None = None
    """Whether a generated answer ended by itself, rather than at the limit."""

    @property
    def probability(self) -> float | None:
        """The share of the predicted class; None for a written answer."""
        return None if self.probabilities is None else self.probabilities[self.prediction]


def predict(
    model: Artifact,
    rows: Iterable[Row],
    *,
    prompt: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    events: RunEventEmitter | None = None,
    kept: Path | None = None,
) -> list[Prediction]:
    """Ask a model about rows, in order.

    `prompt` names a column, or is a template such as `"{subject}\\n\\n{body}"`; left out, it is the template of the
    recipe that made the model. Answers are kept in the folder `kept`, when one is given, so that a stopped call goes
    on where it was. `DataError` names the row that cannot be asked.
    """
    asking = RowPromptSettings.of(model, prompt)
    examples = [asking.example(row, number) for number, row in enumerate(rows, start=1)]
    return _answers(model, examples, max_new_tokens, events or RunEventEmitter(), kept)


@dataclass(frozen=True, kw_only=True)
class RowPromptSettings:
    """How a row becomes a prompt."""

    prompt: str | None
    system: str | None
    system_column: str | None
    source: Source | None
    """The source of the training rows, where one recipe step read them."""
    spelling: LabelSpelling | None
    """How that step wrote classes."""

    @classmethod
    def of(cls, model: Artifact, prompt: str | None) -> RowPromptSettings:
        """Return the prompt settings of a model's training data; a base model gets the plain text."""
        source, spelling = _source_of(model)
        return cls(
            prompt=prompt or (source.prompt if source else None),
            system=get_training_system_message(model),
            system_column=source.system_column if source else None,
            source=source,
            spelling=spelling,
        )

    def example(self, row: Row, number: int, where: SourceLocation | None = None) -> Example:
        """The example to ask; its last turn is the user's."""
        location = where or SourceLocation(field=f"row {number}")
        messages = self._with_system(self._turns(row, location), row)
        if messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages or messages[-1].role == "system" or not messages[-1].content.strip():
            raise DataError("the row asks nothing", where=location, hint="give it a prompt, or leave it out")
        origin = ExampleOrigin(source="predict", file=location.file or "", line=location.line or number)
        return Example(id=f"{number:016x}", origin=origin, kind="chat", messages=messages)

    def _turns(self, row: Row, location: SourceLocation) -> tuple[Message, ...]:
        from luthier.data.columns.mapping import ColumnTemplate
        from luthier.data.columns.turns import cell_to_turns, parse_conversation_cell
        from luthier.data.row import UnusableRowError

        try:
            if isinstance(row, str):
                return (Message(role="user", content=row),)
            if not isinstance(row, Mapping):
                return parse_conversation_cell([_plain(turn) for turn in row], "messages")
            if self.prompt is not None:
                template = ColumnTemplate.parse(self.prompt, "prompt")
                if lacking := [name for name in template.columns if name not in row]:
                    raise DataError(
                        f"the row has no {lacking[0]!r}", where=location, hint=did_you_mean(lacking[0], row)
                    )
                if (column := template.column) is not None:
                    return cell_to_turns(row[column], "user", column)
                return (Message(role="user", content=template.fill(dict(row))),)
            return self._recognized(row, location)
        except UnusableRowError as error:
            raise DataError(error.problem, where=location, hint=error.hint) from error

    def _recognized(self, row: Mapping[str, Any], location: SourceLocation) -> tuple[Message, ...]:
        """The turns of a row in a layout that is known, or of its only column."""
        from luthier.data.columns.layouts import TEXT_NAMES, recognize_layout
        from luthier.data.columns.mapping import ColumnMapping
        from luthier.data.columns.turns import cell_to_turns

        layout = recognize_layout(list(row), [dict(row)])
        if layout is not None and (layout.prompt or layout.messages):
            return ColumnMapping(layout, system=None, group=None, key=None).parts(dict(row)).messages
        column = next((name for name in TEXT_NAMES if name in row), next(iter(row)) if len(row) == 1 else None)
        if column is None:
            columns = ", ".join(list(row)[:12])
            hint = f"name it by `prompt`; the columns are {columns}"
            raise DataError("cannot tell which column is the prompt", where=location, hint=hint)
        return cell_to_turns(row[column], "user", column)

    def _with_system(self, turns: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
        if any(turn.role == "system" for turn in turns):
            return turns
        own = row.get(self.system_column) if isinstance(row, Mapping) and self.system_column else None
        text = str(own) if own else self.system
        return (Message(role="system", content=text), *turns) if text else turns


def _plain(turn: Mapping[str, Any] | Message) -> dict[str, Any]:
    return turn.model_dump(exclude_defaults=True) | {"role": turn.role} if isinstance(turn, Message) else dict(turn)


def _source_of(model: Artifact) -> tuple[Source | None, LabelSpelling | None]:
    """The source of the rows that a model was trained on, and how classes were spelled, where a step of its data's
    lineage read them."""
    from luthier.artifacts.dataset import list_source_datasets
    from luthier.data.operator import Operator
    from luthier.data.ops.label_spelling import LabelSpelling
    from luthier.data.source import Source as AnySource

    data = get_training_data(model)
    for source_dataset in list_source_datasets(data) if data is not None else ():
        if isinstance(settings := source_dataset.manifest.settings.get("source"), dict):
            ops = source_dataset.manifest.settings.get("ops")
            named = (
                [op for op in ops if isinstance(op, dict) and op.get("kind") == "label_spelling"]
                if isinstance(ops, list)
                else []
            )
            spelling = Operator.parse(named[0]) if named else None
            return AnySource.parse(settings), spelling if isinstance(spelling, LabelSpelling) else None
    return None, None


def _answers(
    model: Artifact, examples: Sequence[Example], max_new_tokens: int, events: RunEventEmitter, kept: Path | None
) -> list[Prediction]:
    from luthier.core.step import StepContext
    from luthier.eval.evaluator import TUNED, build_evaluated_models
    from luthier.eval.local_model import InferenceSettings, collect_model_replies, open_answer_cache
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.eval.task import HeldOutTask
    from luthier.models.load import get_output_classes
    from luthier.models.sequence_head import REWARD

    if not examples:
        return []
    if get_output_classes(model) == (REWARD,):
        hint = "rank answers with a step `evaluate` over rows of `prompt`, `chosen` and `rejected`"
        raise ModelError("a reward model scores answers and predicts none", hint=hint)
    options = read_answer_texts(model)
    with tempfile.TemporaryDirectory(prefix="luthier.predict.") as scratch:
        folder = Path(scratch)
        work = StepContext(
            name="predict",
            inputs={},
            folder=folder,
            scratch=folder,
            recipe_dir=folder,
            seed=0,
            events=events.of("predict"),
        )
        usual = {name: Evaluate.model_fields[name].default for name in ("normalize", "dtype")}
        question = InferenceSettings(**usual, max_new_tokens=max_new_tokens, likelihood=False)
        eval_model = build_evaluated_models({TUNED: model}, question, work)[0]
        task = HeldOutTask(
            kind="label" if options else "text",
            split="test",
            examples=tuple(examples),
            available=len(examples),
            options=options,
        )
        replies = collect_model_replies(eval_model, task, open_answer_cache(kept or folder / "answers"), work.events)
    return [_prediction(reply) for reply in replies]


def read_answer_texts(model: Artifact) -> dict[str, str]:
    """Return a tuned model's classes, each with its answer text; empty for a generative one."""
    from luthier.artifacts.dataset import DatasetSummary, has_split, read_examples

    data = get_training_data(model)
    about = DatasetSummary.read(data) if data is not None else None
    if data is None or about is None or about.task != "label":
        return {}
    return answer_text_by_label(about.labels, read_examples(data, "train") if has_split(data, "train") else ())


def _prediction(reply: Reply) -> Prediction:
    shares = None
    if reply.scores is not None:
        highest = max(reply.scores.values())
        weights = {label: math.exp(score - highest) for label, score in reply.scores.items()}
        total = sum(weights.values())
        shares = {label: weight / total for label, weight in weights.items()}
    return Prediction(prediction=reply.prediction, probabilities=shares, finished=reply.finished)


@dataclass(frozen=True, kw_only=True)
class PredictedFile:
    """A file's rows with their predictions."""

    records: Sequence[SourceRecord]
    predictions: Sequence[Prediction]
    references: Sequence[str | None]
    """The right answer of each row, in the model's spelling, where the file has the recipe's column of answers and the
    row has one."""
    broken: int
    """Rows that could not be read, which were reported."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """One JSON object a row, as `luthier score` reads them."""
        for record, prediction, reference in zip(self.records, self.predictions, self.references, strict=True):
            line: dict[str, Any] = {"id": f"{record.file}:{record.line}", "prediction": prediction.prediction}
            if reference is not None:
                line["reference"] = reference
            if prediction.probabilities is not None:
                line["label_scores"] = {label: round(share, 6) for label, share in prediction.probabilities.items()}
            yield line

    def write(self, path: Path) -> None:
        """Write `.jsonl` for `luthier score`, or `.csv`: the columns of the file, then prediction and probability."""
        from luthier.core.files import translate_write_errors, write_atomically

        check_prediction_format(path)
        with translate_write_errors(path):
            if path.suffix == ".jsonl":
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines())
                write_atomically(path, text.encode())
            else:
                write_atomically(path, self._table().encode("utf-8-sig"))

    def _table(self) -> str:
        import io

        columns = list(dict.fromkeys(name for record in self.records for name in record.values))
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([*map(escape_formula, columns), "prediction", "probability"])
        for record, prediction in zip(self.records, self.predictions, strict=True):
            cells = [record.values.get(name, "") for name in columns]
            share = "" if prediction.probability is None else round(prediction.probability, 4)
            writer.writerow([escape_formula(cell) for cell in (*cells, prediction.prediction, share)])
        return file.getvalue()


def check_prediction_format(path: Path) -> None:
    """`InputError` for a file whose ending names no form of predictions."""
    if path.suffix not in FORMS:
        what = f"cannot write predictions as {path.suffix or 'a file without an ending'}"
        raise InputError(what, where=SourceLocation(file=str(path)), hint=f"end its name in {' or '.join(FORMS)}")


def predict_file(
    model: Artifact,
    path: Path,
    *,
    prompt: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    events: RunEventEmitter | None = None,
    kept: Path | None = None,
) -> PredictedFile:
    """Read a file of any kind that a source reads, and predict each row; rows that cannot be asked are named by a
    warning and left out."""
    from luthier.data.columns.recognize import build_source_for_path
    from luthier.data.row import BrokenRow, SourceRecord

    if not path.exists():
        raise DataError(
            "there is no such file", where=SourceLocation(file=str(path)), hint="name a file of rows to predict"
        )
    stream = (events or RunEventEmitter()).of("predict")
    asking = RowPromptSettings.of(model, prompt)
    records, examples, broken = list[SourceRecord](), list[Example](), 0
    reader, base = build_source_for_path(path)
    for entry in reader.read(base, stream.note):
        try:
            if isinstance(entry, BrokenRow):
                raise entry.error()
            where = SourceLocation(file=entry.file, line=entry.line)
            examples.append(asking.example(entry.values, len(examples) + 1, where))
            records.append(entry)
        except DataError as error:
            broken += 1
            stream.warning(f"left out: {error.where}: {error.message}")
    if not records:
        hint = "`--prompt` names the column, or a template such as '{subject} {body}'"
        raise DataError(f"none of {broken} rows can be asked", where=SourceLocation(file=str(path)), hint=hint)
    predictions = _answers(model, examples, max_new_tokens, events or RunEventEmitter(), kept)
    references = _references(records, asking.source)
    if asking.spelling is not None:
        references = _respelled(references, asking.spelling, read_answer_texts(model))
    return PredictedFile(records=records, predictions=predictions, references=references, broken=broken)


def _references(records: Sequence[SourceRecord], source: Source | None) -> list[str | None]:
    """The right answer of each row, where the rows bring it along in the column that the recipe names."""
    from luthier.data.source import LOOKED_AT

    nothing: list[str | None] = [None] * len(records)
    if source is None:
        return nothing
    try:
        mapping = source.mapping(list(records[:LOOKED_AT]))
    except DataError:
        return nothing
    parts = [mapping.try_parts(record.values) for record in records]
    answers = [part.messages[-1].content if part and part.messages[-1].role == "assistant" else "" for part in parts]
    return [answer if answer.strip() else None for answer in answers]


def _respelled(references: Sequence[str | None], spelling: LabelSpelling, classes: Collection[str]) -> list[str | None]:
    """Right answers in the spelling of the model's classes, as its training rows have them."""
    given = Counter(answer for answer in references if answer is not None)
    counts = given + Counter(dict.fromkeys(classes, given.total() + 1))  # a spelling of the model outweighs the file's
    spellings = spelling.wanted_spellings(counts)
    return [None if answer is None else spellings.get(answer, answer) for answer in references]


_SHOWN = 20
"""Classes that an error lists."""
_FLUSH_S = 5.0
"""Seconds that feedback waits at most for the traces of requests to be written."""


class UnknownClass(UnknownName):
    """A label that is no class of the model that answered."""


def check_label(workspace: Workspace, feedback: Feedback, trace: Trace, *, option: str) -> Feedback:
    """The same feedback with the label as the model writes it; `UnknownClass` for a label that is none of its classes.

    A correction of an answer that was chosen among classes is a label, too. `option` says how to add a new class.
    """
    field = "label" if feedback.label is not None else "correction"
    given = getattr(feedback, field)
    if given is None or (field == "correction" and trace.operation != "label"):
        return feedback
    classes = get_trace_classes(workspace, trace)
    meant = match_label_spelling(trace, given)
    if not classes or meant in classes or (trace.answer is not None and meant == trace.answer.content):
        return feedback if meant == given else feedback.model_copy(update={field: meant})
    raise UnknownClass(
        f"{given!r} is no class of {trace.model}",
        where=SourceLocation(field=field),
        hint=f"its classes: {format_similar_classes(given, classes)}. To add a new class, {option}",
    )


def get_trace_classes(workspace: Workspace, trace: Trace) -> Sequence[str]:
    """The classes among which the model that answered chooses; none where it writes text, or is not known."""
    if trace.scores:
        return sorted(trace.scores)
    try:
        artifact = workspace.find_digest(trace.release) if trace.release else None
    except LuthierError:
        return ()  # the model was removed, or answered elsewhere
    return _learnt_classes(artifact) if artifact is not None else ()


def _learnt_classes(artifact: Artifact) -> Sequence[str]:
    """The classes that a model was tuned on."""
    from luthier.models.load import get_output_classes, get_training_data

    if artifact.manifest.makes != "model":
        return ()
    if heads := get_output_classes(artifact):
        return heads
    data = get_training_data(artifact)
    dataset = DatasetSummary.read(data) if data is not None else None
    return dataset.labels if dataset is not None and dataset.task == "label" else ()


def format_similar_classes(given: str, classes: Sequence[str]) -> str:
    """Classes, the most similar to what was given first."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, given.casefold(), name.casefold()).ratio()

    ranked = sorted(classes, key=lambda name: (-likeness(name), name))
    more = f", and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    return ", ".join(ranked[:_SHOWN]) + more


def check_served_feedback(workspace: Workspace, recorder: TraceRecorder, feedback: Feedback) -> Feedback:
    """Check the label of feedback that came over HTTP; an unknown class is an `APIError` with status 422."""
    from luthier.serve.openai.protocol import APIError

    trace = _kept(recorder.folder, feedback.trace)
    if trace is None and recorder.flush(_FLUSH_S):  # it may have been answered just now
        trace = _kept(recorder.folder, feedback.trace)
    if trace is None:
        return feedback
    try:
        return check_label(workspace, feedback, trace, option='send "new_class": true')
    except UnknownClass as error:
        message = f"{error.message}; {error.hint}"
        raise APIError(message, param=error.where.field, code="unknown_class", status=422) from error


def _kept(folder: Path, id: str) -> Trace | None:
    from luthier.traces.store import read_trace_by_id

    try:
        return read_trace_by_id(folder, id).trace
    except InputError:
        return None

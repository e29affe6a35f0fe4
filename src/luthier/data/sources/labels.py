"""Judgments of annotators, with one label decided for each item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Columns
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.annotation.spans import spans_to_answer
from luthier.artifacts.annotation import Annotation
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.data.adjudicator import AdjudicationResult, Adjudicator
from luthier.data.adjudicators.votes import MajorityAdjudicator
from luthier.data.annotation.annotations import (
    JUDGMENTS,
    TOGETHER,
    AnnotatedItem,
    ClassSeparator,
    annotators_of,
    judgment_to_json,
    last_judgment_by_annotator,
    merge_items_by_key,
    to_agreement_table,
)
from luthier.data.annotation.read import BOOKS, ENDINGS, LABELS, read_annotated_items
from luthier.data.columns.choose import LayoutChoice, Task
from luthier.data.columns.layouts import TEXT_NAMES, Layout
from luthier.data.columns.mapping import ColumnMapping, columns_of, decide_mapping
from luthier.data.columns.recognize import build_source_for_file
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.label_format import LabelFormat
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say, SuggestedSettings
from luthier.data.suggest.profile import ColumnProfile

DECIDED = "label"
"""The column with what was decided."""
_OWN = ("id", "origin", "meta", "text", "turns", "tools", "between", "given", "proposal")
"""What a row that was given out brings back of itself."""


class AnnotationSource(FileSource):
    """What annotators judged, from Label Studio, Argilla, Doccano or a plain table, with one label for each item.

    The format is recognised. Every row keeps all judgments with annotator and time in `meta.judgments`; items without
    a decision are left out with the reason. Rows that `luthier export` gave out as questions keep their ids.
    """

    kind: Literal["labels"] = "labels"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    gathers: ClassVar[bool] = True
    format: LabelFormat | None = None
    """The format; left out, it is recognised."""
    question: str | None = None
    """Which of several questions to the annotators is meant; of one that asks for spans, the texts of the spans by
    their labels are the answer, as JSON."""
    rule: Adjudicator = MajorityAdjudicator()
    """How one label is decided from several judgments."""
    level: Literal["nominal", "ordinal", "interval", "ratio"] = "nominal"
    """What labels are, for the measure of agreement: names, or ordered, or numbers."""
    answer: str | None = DECIDED
    """What the model shall say: the decided label."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """JSON that only a tool for annotators writes."""
        rows = look.first_objects
        sure = bool(rows) and any(
            entry.model_validate({}).is_sure(rows) for entry in components_by_kind(LabelFormat).values()
        )
        return FormatMatch.EXACT if sure else FormatMatch.NO

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Read all judgments, decide, and yield every item once, in the order of the files."""
        found, broken = self._items(recipe_dir, say)
        yield from broken
        if not found:
            return
        verdicts = self.rule.decide([last_judgment_by_annotator(item.judgments) for item, _ in found])
        if verdicts.quality:
            ranked = sorted(verdicts.quality.items(), key=lambda verdict: (-verdict[1], verdict[0]))
            say("estimated share of right judgments: " + ", ".join(f"{name} {share:.2f}" for name, share in ranked))
        own = self.prompt is None and self.messages is None and all(item.is_own for item, _ in found)
        for decided in _decided(found, verdicts, self.rule.kind):
            if decided.label is None:
                yield BrokenRow(decided.file, decided.item.line, decided.why, left_out=True)
            else:
                values = decided.as_own() if own else decided.as_columns()
                yield SourceRecord(values, decided.file, decided.item.line)
        _say_agreement([item for item, _ in found], self.level, say)  # last: a glance at the first rows needs none

    def _items(self, recipe_dir: Path, say: Say) -> tuple[list[tuple[AnnotatedItem, str]], list[BrokenRow]]:
        """Every item with its file, judgments on the one question only; and what cannot be read."""
        whole, where, broken = self._given(recipe_dir, say)
        question = self._question(whole, say)
        marked = {span.question for item in whole for judgment in item.judgments for span in judgment.spans or ()}
        if question is not None and question in marked:
            annotated_items = [item._replace(judgments=_extracted(item.judgments, question)) for item in whole]
        else:
            annotated_items = [
                item._replace(
                    judgments=tuple(judgment for judgment in item.judgments if judgment.question in (None, question))
                )
                for item in whole
            ]
        return [(item, where[item.key]) for item in annotated_items], broken

    def _given(self, recipe_dir: Path, say: Say) -> tuple[list[AnnotatedItem], dict[str, str], list[BrokenRow]]:
        """Every item with all its judgments, the file of each by its key, and what cannot be read."""
        broken: list[BrokenRow] = []
        annotated_items: list[AnnotatedItem] = []
        where: dict[str, str] = {}
        first: dict[str, AnnotatedItem] = {}
        for file in self.files(recipe_dir):
            for name, found in read_annotated_items(file, self.format, say):
                if isinstance(found, BrokenRow):
                    broken.append(found)
                    continue
                if found.whole and first.setdefault(found.key, found).values != found.values:
                    found = found._replace(key=f"{name}:{found.key}")  # noqa: PLW2901  # tools count from 1 in each project
                annotated_items.append(found)
                where.setdefault(found.key, name)
        return merge_items_by_key(annotated_items), where, broken

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """The question that is judged most often, where annotators were asked several."""
        messages: list[str] = []
        annotated_items, _, _ = self._given(recipe_dir, messages.append)
        people = len(annotators_of(annotated_items))
        content = messages[0].rpartition(": read as ")[2] if messages else "judgments"
        description = f"{content} of {format_counted_noun(people, 'annotator')}"
        reasons = {"kind": f"{description}; each row gets one label, by {self.rule.kind} (`rule`)"}
        answers: dict[str, list[Any]] = {}
        for annotated_item in (judgment for item in annotated_items for judgment in item.judgments):
            if annotated_item.question is not None and annotated_item.value is not None:
                answers.setdefault(annotated_item.question, []).append(annotated_item.value)
        if len(answers) < 2:
            return SuggestedSettings({}, reasons)
        best = min(answers, key=lambda name: (-len(answers[name]), len(set(answers[name])), name))
        reasons["question"] = f"annotators were asked {', '.join(sorted(answers))}; this is answered most often"
        return SuggestedSettings({"question": best}, reasons)

    def choice(
        self, columns: Columns[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> LayoutChoice:
        """The judged text asks, and the decided label answers; rows that Luthier gave out say so themselves."""
        if self.prompt or self.answer != DECIDED:
            return self._chosen(columns, rows, name, task)
        if "messages" in columns:
            return LayoutChoice({}, {}, is_label=True)
        prompt, decided = _text_column(rows, name), columns[DECIDED]
        reasons = {"prompt": "the text that was judged", "answer": f"what was decided; {decided.distinct} different"}
        is_label = decided.is_class and not any(value.startswith("{") for value in decided.common)
        return LayoutChoice({"prompt": prompt, "answer": DECIDED}, reasons, is_label=is_label)

    def _question(self, found: Sequence[AnnotatedItem], say: Say) -> str | None:
        every = [judgment for item in found for judgment in item.judgments]
        marked = {span.question for annotation in every for span in annotation.spans or ()}
        judged = {annotation.question for annotation in every if annotation.question is not None} - marked
        questions = sorted(judged if judged or any(annotation.value is not None for annotation in every) else marked)
        if self.question is not None and self.question not in judged | marked:
            what = f"nobody answered a question {self.question!r}"
            hint = did_you_mean(self.question, sorted(judged | marked))
            raise DataError(what, where=SourceLocation(file=self.path, field="question"), hint=hint)
        if len(questions) > 1 and self.question is None:
            what = f"annotators were asked {len(questions)} questions: {', '.join(questions)}"
            hint = f"set `question`, for instance to {questions[0]}"
            raise DataError(what, where=SourceLocation(file=self.path, field="question"), hint=hint)
        return self.question or next(iter(questions), None)

    def mapping(self, good: list[SourceRecord]) -> ColumnMapping:
        """The text that was judged asks, and the decided label answers."""
        rows = [record.values for record in good]
        prompt = self.prompt
        if prompt is None and self.messages is None and "messages" not in rows[0]:
            prompt = _text_column(rows, good[0].file)
        note = f"judged texts (column {prompt!r}), answered by the decided label" if prompt and not self.prompt else ""
        answer = self.prompt if self.prompt_only else self.answer
        layout = Layout(prompt, answer if prompt else None, self.messages, self.system_column, self.tools, note)
        column_mapping = decide_mapping(layout, rows, good[0].file, system=self.system, group=self.group, key=self.id)
        return column_mapping.without(self.null_values)

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one file as they stand, before anything is decided."""
        return build_source_for_file(file, but=LABELS).read_file(file, say)

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The files that hold judgments: one, or all of a folder, such as one for each annotator."""
        return [file for file in super().files(recipe_dir) if file.path.name not in BOOKS]


def _extracted(judgments: Sequence[Annotation], question: str) -> tuple[Annotation, ...]:
    """Judgments whose label is what was marked for a question; who passed has no label, who marked nothing has `{}`."""
    found = {}
    for judgment in judgments:
        if judgment.spans is None and judgment.question not in (None, question):
            continue
        spans = [span for span in judgment.spans or () if span.question == question]
        passed = judgment.more.get("status", "submitted") != "submitted"
        value = None if passed else spans_to_answer(span._asdict() for span in spans)
        found[judgment.annotator, judgment.time, value] = judgment._replace(value=value, question=question, classes=())
    return tuple(found.values())


@dataclass(frozen=True)
class _Decided:
    """An item with what was decided."""

    item: AnnotatedItem
    file: str
    rule: str
    label: Any
    confidence: float | None
    why: str

    def _kept(self) -> dict[str, Any]:
        """What goes into `meta`."""
        decision = {"rule": self.rule, "confidence": self.confidence}
        return {JUDGMENTS: [judgment_to_json(judgment) for judgment in self.item.judgments], "adjudication": decision}

    def as_columns(self) -> dict[str, Any]:
        """A row of the item's own columns; one that is in the way is renamed."""
        taken = {DECIDED, *self._kept()}
        values = {f"given_{name}" if name in taken else name: value for name, value in self.item.values.items()}
        return {"item": self.item.key, **values, DECIDED: str(self.label), **self._kept()}

    def as_own(self) -> dict[str, Any]:
        """A row that was given out as a question, with its id and origin."""
        values = self.item.values
        meta = values.get("meta") or {}
        extra = {name: value for name, value in values.items() if name not in _OWN}
        turns = values.get("turns") or [{"role": "user", "content": values["text"]}]
        tools = values.get("tools")
        return {
            **{name: values[name] for name in ("id", "origin")},
            "kind": "chat",
            "messages": [*turns, {"role": "assistant", "content": self._answer()}],
            "label": None,
            **({"tools": tools} if tools else {}),
            "meta": {**meta, **extra, **self._kept()},
        }

    def _answer(self) -> str:
        """The label, with its classes written together as the row's own were."""
        label, mark = str(self.label), self.item.values.get("between")
        if not isinstance(mark, str):
            return label
        return ClassSeparator(mark).together(ClassSeparator(TOGETHER).apart(label), self.item.values.get("given"))


def _decided(found: Sequence[tuple[AnnotatedItem, str]], verdicts: AdjudicationResult, rule: str) -> Iterator[_Decided]:
    for (item, file), decision in zip(found, verdicts.decisions, strict=True):
        yield _Decided(item, file, rule, decision.label, decision.confidence, decision.why)


def _text_column(rows: Sequence[dict[str, Any]], file: str) -> str:
    """The column that was judged: the one with a text's name, else the longest text."""
    columns = [name for name in columns_of(rows) if name not in (DECIDED, JUDGMENTS, "adjudication", "item")]
    if named := next((name for name in TEXT_NAMES if name in columns), None):
        return named
    lengths = {name: sum(len(row[name]) for row in rows if isinstance(row.get(name), str)) for name in columns}
    if not any(lengths.values()):
        hint = f"set `prompt` to one of {', '.join(columns)}"
        raise DataError("cannot tell which column was judged", where=SourceLocation(file=file), hint=hint)
    return max(lengths, key=lengths.__getitem__)


def _say_agreement(found: Sequence[AnnotatedItem], level: Any, say: Say) -> None:
    from luthier.metrics.agreement import krippendorff_alpha

    people = annotators_of(found)
    judged = sum(1 for item in found for judgment in item.judgments if judgment.value is not None)
    description = f"{format_counted_noun(judged, 'judgment')} of {format_counted_noun(len(found), 'item')}"
    description = f"{format_counted_noun(len(people), 'annotator')}, {description}"
    try:
        alpha = krippendorff_alpha(to_agreement_table(found), level=level)
    except DataError as error:
        say(f"{description}; {error.message}")
        return
    say(f"{description}; Krippendorff's alpha ({level}) {alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f})")

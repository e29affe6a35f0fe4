"""The step that makes preference pairs of written rules: a model answers, criticises its answer, and revises it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from luthier.artifacts.dataset import dataset_spec_of, has_split, list_splits
from luthier.chat.messages import Message
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.hashing import digest_of
from luthier.core.step import ArtifactSpec, DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.augment.completions import choose_options, draw_completions
from luthier.data.engine.cache import DerivedDatasetWriter, read_rows
from luthier.data.row import Row, build_preference_row

if TYPE_CHECKING:
    from luthier.models.lm.base import LanguageModel, Response

CHUNK = 16
"""Rows that are asked together."""
_CRITIQUE = "Here is a rule: {rule}\nIn one or two sentences: how does your answer break it, and what should it say?"
_REVISE = "Now write your answer again, so that it keeps the rule. Write the answer only."

_BEYOND, _CUT = "not among the first", "was cut off"
"""How reasons begin and end for which a row makes no pair whatever the model is like."""


class _Draft(NamedTuple):
    """An answer on its way: what was asked, by which rule it is criticised, and what was said so far."""

    row: Row
    rule: str
    answer: str
    critique: str = ""
    revision: str = ""
    why_not: str = ""

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        return self.row.messages[:-1]


class ConstitutionalAi(Step):
    """Let a model answer each question, criticise its answer by a written rule, and revise it: the revision is
    preferred (RLAIF; Bai et al., 2022, "Constitutional AI").

    Every pair knows its rule, the critique, whose answer it was and which row it came from (`meta`). A revision that is
    empty, cut off, or the answer or the critique again makes no pair, and is counted. The pairs say what a model makes
    of the rules, not what people want: read some of them, and measure what is learnt from them on pairs of people's.
    """

    kind: Literal["constitution"] = "constitution"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step whose questions are answered."""
    model: ModelRef = None
    """The step whose model answers, criticises and revises; left out, the recipe's own. An endpoint serves as well."""
    rules: tuple[str, ...] = Field(min_length=1)
    """What an answer must keep, each as a sentence; each row is criticised by one of them, drawn by row and seed."""
    answers: Literal["model", "data"] = "model"
    """Whose answer is criticised: one that the model writes, or the one in the data."""
    rows: int | None = Field(default=None, ge=1)
    """At most so many rows of each split; all when not given."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer, critique and revision."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """How freely it writes; 0 is the likeliest answer."""
    chosen: bool = True
    """Whether a pair is kept only when the model, asked which of the two answers keeps the rule, in both orders, never
    names the first answer."""

    @field_validator("rules")
    @classmethod
    def _each_once(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(rules)) < len(rules) or not all(rule.strip() for rule in rules):
            raise ValueError("a rule is empty or stands twice")
        return rules

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Answer, criticise, revise and write the pairs, some rows at a time; what was written is kept."""
        from luthier.models.lm.cached import open_lm

        started, data = time.perf_counter(), work.inputs["data"]
        if not has_split(data, "train"):
            raise DataError("the data set has no training rows", where=SourceLocation(field="data"))
        lm, dataset_writer, done = (
            open_lm(work.inputs["model"], work.scratch / "asked"),
            DerivedDatasetWriter(work, data),
            0,
        )
        pairs = 0
        for split in list_splits(data):
            every = [row for batch in read_rows(data, split) for row in batch]
            rows = every[: self.rows]
            for row in every[len(rows) :]:
                dataset_writer.drop(row, f"{_BEYOND} {self.rows}")
            for start in range(0, len(rows), CHUNK):
                drafts = self._drafts(lm, rows[start : start + CHUNK], work.seed)
                pairs += self._write(dataset_writer, split, drafts, work)
                done += len(drafts)
                work.events.progress(done, len(rows), "rows")
        summary = dataset_writer.close(task="text", labels=[])
        if not summary.rows.get("train"):
            why = "; ".join(
                f"{format_counted_noun(count, 'row')}: {reason}" for reason, count in summary.dropped.items()
            )
            raise DataError(f"no pair was made of any training row ({why})", hint=self._remedy(summary.dropped))
        work.events.note(
            f"{format_counted_noun(pairs, 'pair')} of {format_counted_noun(done, 'answer')}, by "
            f"{format_counted_noun(len(self.rules), 'rule')}"
        )
        return {"rows_per_s": done / max(time.perf_counter() - started, 1e-9)}

    def _remedy(self, dropped: Mapping[str, int]) -> str:
        """More room where most was cut off, else another model."""
        cut = sum(count for reason, count in dropped.items() if reason.endswith(_CUT))
        if 2 * cut <= sum(count for reason, count in dropped.items() if not reason.startswith(_BEYOND)):
            return "take a model that can revise"
        return f"raise max_new_tokens ({self.max_new_tokens}), or ask for short answers by the source's `system`"

    def _drafts(self, lm: LanguageModel, rows: Sequence[Row], seed: int) -> list[_Draft]:
        """Answers, critiques, revisions, and what became of them."""
        rules = [self.rules[_stream(seed, row, "rule") % len(self.rules)] for row in rows]
        answers = [(row.answer, "") for row in rows] if self.answers == "data" else self._answers(lm, rows, seed)
        drafts = [
            _Draft(row, rule, answer, why_not=why)
            for row, rule, (answer, why) in zip(rows, rules, answers, strict=True)
        ]
        for name in ("critique", "revision"):
            drafts = self._filled(lm, drafts, name, seed)
        return self._chosen(lm, drafts) if self.chosen else drafts

    def _answers(self, lm: LanguageModel, rows: Sequence[Row], seed: int) -> list[tuple[str, str]]:
        prompts = [row.messages[:-1] for row in rows]
        return [
            _usable(response, "answer")
            for response in self._say(lm, prompts, [_stream(seed, row, "a") for row in rows])
        ]

    def _filled(self, lm: LanguageModel, drafts: Sequence[_Draft], name: str, seed: int) -> list[_Draft]:
        """The drafts with what the model says next, where all went well so far."""
        going = [draft for draft in drafts if not draft.why_not]
        completions = self._say(
            lm, [_talk(draft, name) for draft in going], [_stream(seed, draft.row, name) for draft in going]
        )
        found = iter(_usable(completion, name) for completion in completions)
        return [draft if draft.why_not else _with(draft, name, *next(found)) for draft in drafts]

    def _chosen(self, lm: LanguageModel, drafts: Sequence[_Draft]) -> list[_Draft]:
        """The drafts; a pair of which the model names the first answer is left out."""
        going = [draft for draft in drafts if not draft.why_not]
        first = choose_options(lm, [_question(draft, draft.answer, draft.revision) for draft in going], ("A", "B"))
        second = choose_options(lm, [_question(draft, draft.revision, draft.answer) for draft in going], ("A", "B"))
        wrong = iter([a == "A" and b == "B" for a, b in zip(first, second, strict=True)])
        why = "the model finds the first answer better by the rule"
        return [draft._replace(why_not=why) if not draft.why_not and next(wrong) else draft for draft in drafts]

    def _say(self, lm: LanguageModel, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[Response]:
        return draw_completions(lm, prompts, seeds, max_tokens=self.max_new_tokens, temperature=self.temperature)

    def _write(self, made: DerivedDatasetWriter, split: str, drafts: Sequence[_Draft], work: StepContext) -> int:
        pairs = []
        for draft in drafts:
            if draft.why_not:
                made.drop(draft.row, draft.why_not)
            else:
                pairs.append(self._pair(draft, work))
        made.keep(split, pairs, [None] * len(pairs))
        return len(pairs)

    def _pair(self, draft: _Draft, work: StepContext) -> Row:
        row, writer = draft.row, work.inputs["model"].digest[:12]
        meta = {name: value for name, value in row.meta.items() if name != "rejected"}
        meta |= {
            "rejected": draft.answer, "rule": draft.rule, "critique": draft.critique, "model": writer,
            "parents": {"row": row.id, "answer": writer if self.answers == "model" else "data", "revision": writer},
        }  # fmt: skip
        return build_preference_row(draft.prompt_messages, draft.revision, meta, (row.source, row.file, row.line))

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows and the speed of the last time."""
        row_counts = (plan_context.outline or self.outline(plan_context)).rows
        if row_counts is None:
            return StepCostEstimate(how="the data set is not made yet")
        if (speed := plan_context.history.get("measures", {}).get("rows_per_s")) is None:
            return StepCostEstimate(how="no model was asked here yet")
        rows = sum(row_counts.values())
        return StepCostEstimate(seconds=rows / speed, how=f"{rows:,} rows at the {speed:.2f} rows/s of the last time")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """At most so many pairs as rows are asked; the other answer is told to be as long."""
        before = dataset_spec_of(plan_context)
        rows = {split: min(count, self.rows or count) for split, count in (before.rows or {}).items()}
        pairs, how = [_with_another(example) for example in before.examples], "before any makes no pair"
        return replace(before, rows=rows or None, examples=pairs, task="text", answers=(), how=how)


def _with_another(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an outline knows of a row, with a second answer."""
    last = example["messages"][-1]
    if last["role"] != "assistant":
        return example
    return {**example, "meta": {**example.get("meta", {}), "rejected": f"{last.get('content', '')} …"}}


def _talk(draft: _Draft, name: str) -> tuple[Message, ...]:
    """What stands before a critique or a revision."""
    turns = [*draft.prompt_messages, Message(role="assistant", content=draft.answer)]
    turns.append(Message(role="user", content=_CRITIQUE.format(rule=draft.rule)))
    if name == "revision":
        turns += [Message(role="assistant", content=draft.critique), Message(role="user", content=_REVISE)]
    return tuple(turns)


def _question(draft: _Draft, first: str, second: str) -> tuple[Message, ...]:
    """Which of two answers keeps the rule?"""
    prompt_text = draft.prompt_messages[-1].content if draft.prompt_messages else ""
    shown = f"Question: {prompt_text}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nRule: {draft.rule}"
    instruction = "Which answer keeps the rule better? Answer with A or B."
    return (Message(role="user", content=f"{shown}\n\n{instruction}"),)


def _usable(completion: Response, name: str) -> tuple[str, str]:
    """A text, and why it cannot be used."""
    text = completion.text.strip()
    return text, "" if text and completion.finished else f"its {name} {_CUT if text else 'is empty'}"


def _with(draft: _Draft, name: str, text: str, why_not: str) -> _Draft:
    if name == "revision" and not why_not and text in (draft.answer, draft.critique):
        why_not = f"its revision is its {'answer' if text == draft.answer else 'critique'} again"
    draft = draft._replace(why_not=why_not)
    return draft._replace(critique=text) if name == "critique" else draft._replace(revision=text)


def _stream(seed: int, row: Row, what: str) -> int:
    return int(digest_of([seed, row.id, what])[:12], 16)

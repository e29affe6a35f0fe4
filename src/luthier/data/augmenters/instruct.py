"""New rows from seeds: a model sees a few rows and writes another, or makes one of them harder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.artifacts.dataset import MADE
from luthier.chat.messages import Message
from luthier.core.param_space import ParamDistribution
from luthier.data.augment.completions import choose_options, draw_completions, strip_answer_wrapping
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    AugmentTrainRows,
    last_user_text,
    with_last_user_text,
)
from luthier.data.dedup.near import NearDuplicateIndex
from luthier.data.row import Row
from luthier.models.lm.base import LanguageModel, Response

ALIKE = """Here are messages{about}:

{shown}

Write one more message of this kind{about}. It must ask for something else, in other words, and be as long as these. \
Answer with the message alone."""
WAYS = (
    ("added a condition", "adding one more condition or requirement"),
    ("went deeper", "asking for more depth about the same matter"),
    ("made it concrete", "putting something more concrete in the place of something general"),
    ("asked for more steps", "so that several steps are needed to deal with it"),
    ("moved it aside", "about a rarer case of the same kind"),
)
"""Evol-Instruct's four ways in depth and its way in breadth (Xu et al. 2023), in words of our own."""
EVOLVE = """Rewrite the message below, {way}. It must stay clear and be of about the same length. \
Answer with the new message alone.

{text}"""
JUDGE = """Is the message below clear, complete, and possible to deal with{about}? Answer yes or no.

{text}"""
JUDGE_ANSWER = """Here is a question and an answer to it. Is the answer right, complete, and of use? Answer yes or no.

Question: {text}

Answer: {answer}"""


class _Seeds(NamedTuple):
    """The training rows of each class, and an index of all of them."""

    indices_by_class: dict[str, list[int]]
    near: NearDuplicateIndex


class SelfInstruct(Augmenter):
    """Let the step's model write new rows out of training rows, with a judge and a filter of likeness.

    `self_instruct` shows `shots` rows (of one class, when there are classes) and asks for one more (Wang et al. 2023);
    `evolve` asks for a harder form of one row (Xu et al. 2023). Of free text, the model then answers what it asked.
    Rows that are like any training row, or that the judge does not pass, are refused.
    """

    kind: Literal["instruct"] = "instruct"
    asks: ClassVar[bool] = True

    style: Literal["self_instruct", "evolve"] = "self_instruct"
    """New rows in the manner of some, or harder forms of one."""
    shots: Annotated[int, Field(ge=1, le=20)] = 4
    """Rows that are shown for one new one (`self_instruct`)."""
    apart: Annotated[float, Field(ge=0.5, le=1)] = 0.7
    """Similarity to any training row, as `near_dedup` measures it, from which a row is not new."""
    judge: bool = True
    """Whether the model is asked, yes or no, if what it wrote is clear, fits its class, and is answered well."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.9
    """How freely words are drawn; 0 always takes the likeliest."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest message and longest answer; what is cut off there is refused."""

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """A new row for each wish."""
        lm, seeds = around.model(self), around.once(self, self._learn)
        shown = [self._shown(request, around.train, seeds) for request in requests]
        instructions = [
            self._asked(augment_request, rows) for augment_request, rows in zip(requests, shown, strict=True)
        ]
        prompts = [(Message(role="user", content=content),) for content, _ in instructions]
        completions = self._write(lm, prompts, [augment_request.seed for augment_request in requests])
        finished = [completion.finished for completion in completions]
        rows = [
            with_last_user_text(augment_request.row, strip_answer_wrapping(response.text))
            for augment_request, response in zip(requests, completions, strict=True)
        ]
        self._answer(lm, requests, rows, finished)
        doubts = self._doubts(lm, requests, rows, seeds)
        return [
            AugmentedDraft(messages, (did,), tuple(row.id for row in others), done, new=True, doubt=doubt)
            for messages, (_, did), others, done, doubt in zip(rows, instructions, shown, finished, doubts, strict=True)
        ]

    def _learn(self, train: AugmentTrainRows) -> _Seeds:
        indices_by_class: defaultdict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(train.rows()):
            if MADE not in row.meta:
                indices_by_class[_class(row)].append(index)
        return _Seeds(dict(indices_by_class), NearDuplicateIndex(self.apart, train.rows(), train.row))

    def _shown(self, request: AugmentRequest, train: AugmentTrainRows, seeds: _Seeds) -> list[Row]:
        """Return the rows that the prompt shows beside the request's own."""
        if self.style == "evolve":
            return []
        pool = seeds.indices_by_class.get(_class(request.row), [])
        drawn = [train.row(index) for index in request.chance.sample(pool, min(len(pool), self.shots))]
        return [row for row in drawn if row.id != request.row.id][: self.shots - 1]

    def _asked(self, request: AugmentRequest, others: Sequence[Row]) -> tuple[str, str]:
        """Return the prompt, and a description of how the row is written."""
        if self.style == "evolve":
            did, way = request.chance.choice(WAYS)
            return EVOLVE.replace("{way}", way).replace("{text}", last_user_text(request.row)[1]), did
        shown = "\n".join(f"- {' '.join(last_user_text(row)[1].split())}" for row in (request.row, *others))
        text = ALIKE.replace("{about}", _about(request.row)).replace("{shown}", shown)
        return text, f"written after {len(others) + 1} rows"

    def _answer(
        self,
        lm: LanguageModel,
        requests: Sequence[AugmentRequest],
        rows: list[tuple[Message, ...]],
        finished: list[bool],
    ) -> None:
        """Put the model's answer to its new question into rows of free text."""
        indices = [row_index for row_index, request in enumerate(requests) if _is_answered(request.row)]
        if not indices:
            return
        completions = self._write(
            lm, [rows[row_index][:-1] for row_index in indices], [requests[row_index].seed ^ 1 for row_index in indices]
        )
        for index, completion in zip(indices, completions, strict=True):
            rows[index] = (*rows[index][:-1], Message(role="assistant", content=completion.text.strip()))
            finished[index] = finished[index] and completion.finished

    def _doubts(
        self, lm: LanguageModel, requests: Sequence[AugmentRequest], rows: Sequence[tuple[Message, ...]], seeds: _Seeds
    ) -> list[str]:
        """Return the reason to refuse each new row: it resembles another, or the judge rejects it."""
        made = [replace(request.row, messages=messages) for request, messages in zip(requests, rows, strict=True)]
        near = seeds.near.nearest_of(made)
        doubts = ["" if twin is None else f"like a training row: {twin.similarity:.0%}" for twin in near]
        judged = [row_index for row_index, doubt in enumerate(doubts) if self.judge and not doubt]
        if judged:
            prompts = [(Message(role="user", content=_judged(made[row_index])),) for row_index in judged]
            ratings = choose_options(lm, prompts, ["yes", "no"])
            for index, verdict in zip(judged, ratings, strict=True):
                doubts[index] = "" if verdict == "yes" else "the judge says no"
        return doubts

    def _write(self, lm: LanguageModel, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[Response]:
        return draw_completions(lm, prompts, seeds, max_tokens=self.max_tokens, temperature=self.temperature)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, how freely words are drawn, and how new a row must be."""
        return {
            **super().search_space(),
            "temperature": ParamDistribution(0.5, 1.2),
            "apart": ParamDistribution(0.6, 0.9),
        }


def _class(row: Row) -> str:
    return row.answer if row.kind == "label" else ""


def _is_answered(row: Row) -> bool:
    """Return whether the row holds a question with a free-text answer, so that a new question needs a new answer."""
    return row.kind != "label" and len(row.messages) > 1


def _about(row: Row) -> str:
    return f" about `{row.answer}`" if row.kind == "label" else ""


def _judged(row: Row) -> str:
    """Return the judge's prompt for a row."""
    text = last_user_text(row)[1]
    if not _is_answered(row):
        about = f", and is it{_about(row)}" if _about(row) else ""
        return JUDGE.replace("{about}", about).replace("{text}", text)
    return JUDGE_ANSWER.replace("{text}", text).replace("{answer}", row.answer)

"""Evaluates a language model on rows: scores of label options, greedy answers, log-likelihoods of references.

Rows are processed in chunks of a fixed size in the data's order, and each finished chunk is stored, so that a killed
evaluation resumes and ends in the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.chat.messages import Message, answer_of, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError, RecipeError
from luthier.core.hashing import digest_of
from luthier.eval.model import EvalModel
from luthier.eval.task import FIRST, SECOND, AnswerPair, HeldOutTask, Reply, build_answer_pair, group_by_conversation
from luthier.models.lm.base import (
    DIGITS,
    ChoiceRequest,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Normalize,
    normalize_log_scores,
)
from luthier.models.lm.cached import AnswerCache
from luthier.models.lm.local import LocalLM, ModelCache
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.load import is_endpoint
from luthier.models.sequence_head import REWARD

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.core.events import StepEventEmitter

CHUNK = 32
"""Rows asked together."""
CHOOSING = 64
"""Chunk size of rows with label options, which are fast, and faster in larger batches."""
_CODE = ("luthier.eval.local_model", "luthier.eval.model")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How rows are evaluated."""

    normalize: Normalize
    max_new_tokens: int
    dtype: Literal["float32", "bfloat16", "auto"]
    likelihood: bool
    """Whether to compute the reference's log-likelihood as well (text tasks)."""
    verdict: dict[str, str] | None = None
    """Rubric of a generative judge for preference pairs; None for any other model."""


class LocalEvalModel(EvalModel):
    """A language model that answers the rows of an evaluation; its weights are loaded only when an answer is not
    cached."""

    lm: LanguageModel

    def __init__(self, lm: LanguageModel, digest: str, question: InferenceSettings, *, name: str, title: str) -> None:
        self.lm, self.name, self.title = lm, name, title
        self.digest = digest_of([digest, vars(question)])
        self._question = question

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        question: InferenceSettings,
        models: ModelCache | None = None,
        calls: Path | None = None,
        *,
        name: str,
        title: str,
        read_media: Callable[[str], bytes] | None = None,
    ) -> LocalEvalModel:
        """The model of an artifact; answers of an endpoint are kept in `calls`. `read_media` finds pictures."""
        lm: LanguageModel = (
            EndpointLM.of(artifact, calls)
            if is_endpoint(artifact)
            else LocalLM(artifact, question.dtype, models=models, enable_prefix_caching=True, read_media=read_media)
        )
        return cls(lm, artifact.digest, question, name=name, title=title)

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Answer some rows of a task; `ModelError` for a model whose probabilities are no numbers."""
        replies = self._reply(examples, task)
        scores = [score for reply in replies for score in (*(reply.scores or {}).values(), reply.logprob)]
        if not all(score is None or math.isfinite(score) for score in scores):
            hint = "its training has diverged: lower the learning rate"
            raise ModelError("the model's probabilities are no numbers", hint=hint)
        return replies

    def _reply(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        if task.pairs:
            return self._prefer(examples)
        if self.lm.classes == (REWARD,):
            hint = "evaluate it on rows of two answers (`prompt`, `chosen`, `rejected`)"
            raise DataError("a reward model ranks answers; it neither writes them nor names classes", hint=hint)
        return self._choose(examples, task) if task.kind == "label" else self._write(examples)

    def _choose(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        options = tuple(task.labels if self.lm.classes else task.options.values())
        requests = [
            ChoiceRequest(prompt=prompt_of(example), options=options, tools=example.tools) for example in examples
        ]
        chosen = self.lm.choose(requests, self._question.normalize)
        return [
            Reply(prediction=choice_response.label(task.labels), scores=choice_response.by_label(task.labels))
            for choice_response in chosen
        ]

    def _prefer(self, examples: Sequence[Example]) -> list[Reply]:
        """Return which of two answers has the higher reward, or log-likelihood."""
        offers = [build_answer_pair(example) for example in examples]
        if self.lm.classes == (REWARD,):
            found = self._rewards(offers, examples)
        elif self.lm.classes:
            what = "the model's head names classes and cannot tell which of two answers is better"
            raise DataError(what, hint="tune by `objective: reward`")
        elif "loglikelihood" not in self.lm.abilities:
            hint = "set `pairs: false` to have it write answers, or take a model whose weights are here"
            raise RecipeError("an endpoint cannot be asked how likely given answers are", hint=hint)
        elif self._question.verdict is not None:
            found = self._verdicts(offers, self._question.verdict)
        else:
            requests = [
                ChoiceRequest(prompt=offer.prompt, options=offer.answers, tools=row.tools)
                for offer, row in zip(offers, examples, strict=True)
            ]
            found = [
                choice_response.scores or [] for choice_response in self.lm.choose(requests, self._question.normalize)
            ]
        return [_preferred(row) for row in found]

    def _rewards(self, offers: Sequence[AnswerPair], examples: Sequence[Example]) -> list[list[float]]:
        """By the rewards of two answers, the log-probability that each is the better one (Bradley and Terry)."""
        assert isinstance(self.lm, LocalLM), "only weights that are here have a head"
        found = self.lm.reward(
            [(talk, example.tools) for offer, example in zip(offers, examples, strict=True) for talk in _talks(offer)]
        )
        return [normalize_log_scores(pair) for pair in zip(found[::2], found[1::2], strict=True)]

    def _verdicts(self, offers: Sequence[AnswerPair], verdict: dict[str, str]) -> list[list[float]]:
        """Return the preferences by the verdicts on two answers."""
        from luthier.models.reward_model import compute_verdict_log_odds

        found = compute_verdict_log_odds(self.lm, [talk for offer in offers for talk in _talks(offer)], verdict)
        return [normalize_log_scores(pair) for pair in zip(found[::2], found[1::2], strict=True)]

    def _write(self, examples: Sequence[Example]) -> list[Reply]:
        limit = self._question.max_new_tokens
        prompts = [(prompt_of(example), example.tools) for example in examples]
        written = self.lm.generate(
            [
                GenerateRequest(prompt=prompt, max_tokens=limit, tools=tools, truncate_prompt=False)
                for prompt, tools in prompts
            ]
        )
        likely: list[tuple[float | None, int | None]] = [(None, None)] * len(examples)
        if self._question.likelihood and "loglikelihood" in self.lm.abilities:
            responses = self.lm.loglikelihood(
                [
                    LoglikelihoodRequest(
                        prompt=prompt, continuation=answer_of(example), tools=tools, truncate_prompt=False
                    )
                    for (prompt, tools), example in zip(prompts, examples, strict=True)
                ]
            )
            likely = [(round(response.logprob or 0.0, DIGITS), response.tokens) for response in responses]
        return [
            Reply(
                prediction=response.text.strip(),
                tokens=response.tokens,
                finished=response.finished,
                logprob=logprob,
                reference_tokens=tokens,
            )
            for response, (logprob, tokens) in zip(written, likely, strict=True)
        ]


def _talks(offer: AnswerPair) -> list[tuple[Message, ...]]:
    """The conversation with either answer."""
    return [(*offer.prompt, Message(role="assistant", content=answer)) for answer in offer.answers]


def _preferred(scores: Sequence[float]) -> Reply:
    """The answer of two that has the higher score."""
    record = dict(zip((FIRST, SECOND), (round(score, DIGITS) for score in scores), strict=True))
    return Reply(prediction=max(record, key=record.__getitem__), scores=record)


def open_answer_cache(folder: Path) -> AnswerCache:
    """Open the cache of models' answers in a folder."""
    return AnswerCache(folder, *_CODE)


def collect_model_replies(
    model: EvalModel, task: HeldOutTask, kept: AnswerCache, events: StepEventEmitter
) -> list[Reply]:
    """A model's replies to every row, chunk by chunk; chunks that were answered before are read."""
    replies: list[Reply] = []
    for chunk in group_into_chunks(task.examples, CHUNK if task.kind == "text" else CHOOSING):
        replies += answer_chunk(model, chunk, task, kept, {"messages", "tools"})
        events.progress(len(replies), len(task.examples), "rows", model=model.name)
    return replies


def group_into_chunks(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Group rows into chunks of at most `size`; the turns of a conversation stay together, even above it, so that their
    prefix is computed once.
    """
    chunk: list[Example] = []
    for run in group_by_conversation(examples):
        if chunk and len(chunk) + len(run) > size:
            yield chunk
            chunk = []
        chunk += run
    if chunk:
        yield chunk


def answer_chunk(
    model: EvalModel, chunk: Sequence[Example], task: HeldOutTask, kept: AnswerCache, fields: set[str] | None = None
) -> list[Reply]:
    """Return answers to a chunk of rows: cached ones of rows with the same `fields` (None: all fields),
    else new ones.
    """
    rows = [example.model_dump(mode="json", include=fields) for example in chunk]
    requests = [model.digest, task.kind, dict(task.options), rows]
    record = kept.or_made(requests, lambda: [vars(reply) for reply in model.answer(chunk, task)])
    return [Reply(**values) for values in record]

"""Queries of evaluated models beyond the held-out rows, for probes.

Requests are sent in chunks, and each finished chunk is cached under a digest of model and requests, so that a killed
evaluation resumes and two probes with the same requests send them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from luthier.core.errors import ModelError
from luthier.core.events import StepEventEmitter
from luthier.eval import local_model
from luthier.eval.model import EvalModel, Verb
from luthier.eval.task import HeldOutTask, Reply
from luthier.models.lm.base import (
    DIGITS,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Request,
    Response,
    RollingLoglikelihoodRequest,
)
from luthier.models.lm.cached import AnswerCache, CachingLM

if TYPE_CHECKING:
    from luthier.chat.messages import Example, Message

    Messages = tuple[Message, ...]
Item = TypeVar("Item")
Answer = TypeVar("Answer")
TOGETHER: dict[type[Request], int] = {LoglikelihoodRequest: 512, RollingLoglikelihoodRequest: 16, GenerateRequest: 32}
"""Requests of a chunk, by kind."""


@dataclass(frozen=True, kw_only=True)
class CachedEvalModel:
    """A model under evaluation, asked chunk by chunk; finished chunks are cached in `kept`."""

    model: EvalModel
    task: HeldOutTask
    kept: AnswerCache
    events: StepEventEmitter

    @property
    def able(self) -> frozenset[Verb]:
        """The ways in which it can be asked."""
        return self.model.able

    @property
    def is_model(self) -> bool:
        """Whether it is a model rather than a plain baseline."""
        return self.model.is_model

    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        """Answers to rows of the same task that are not held out, such as changed ones."""
        if not self.is_model:  # a baseline learns anew for each call, so it is called once
            return self.model.answer(examples, self.task)
        return self._each(
            _chunks(examples), lambda chunk: local_model.answer_chunk(self.model, chunk, self.task, self.kept)
        )

    def loglikelihoods(self, requests: Sequence[tuple[str | Messages, Sequence[str]]]) -> list[list[Response]]:
        """For each prompt the log-likelihood of each of its continuations; after messages, to the end token."""
        return self._each(_chunks(requests), self._loglikelihoods)

    def generate(
        self, prompts: Sequence[Messages], max_tokens: int, *, continue_final_message: bool = False
    ) -> list[str]:
        """The greedy completion of each conversation."""
        requests = [
            GenerateRequest(
                prompt=prompt,
                max_tokens=max_tokens,
                continue_final_message=continue_final_message,
                truncate_prompt=False,
            )
            for prompt in prompts
        ]
        return [response.text for response in self.tell(requests)]

    def tell(self, requests: Sequence[Request], about: str = "questions") -> list[Response]:
        """Return a response to each request; `about` describes them for progress messages."""
        return self._each(_runs(requests), lambda chunk: _rounded(self._lm.ask(chunk)), about)

    @property
    def _lm(self) -> LanguageModel:
        if self.model.lm is None:
            what = f"{self.model.title} cannot be asked more than rows"
            raise ModelError(what, hint="ask only for what is in `able`")
        return CachingLM(self.model.lm, self.kept)

    def _loglikelihoods(self, prompts: Sequence[tuple[str | Messages, Sequence[str]]]) -> list[list[Response]]:
        requests = [
            LoglikelihoodRequest(prompt=prompt, continuation=continuation, truncate_prompt=False)
            for prompt, continuations in prompts
            for continuation in continuations
        ]
        responses = iter(_rounded(self._lm.loglikelihood(requests)))
        return [[next(responses) for _ in continuations] for _, continuations in prompts]

    def _each(
        self,
        chunks: Sequence[Sequence[Item]],
        verb: Callable[[Sequence[Item]], list[Answer]],
        about: str = "questions",
    ) -> list[Answer]:
        """Return the responses to all chunks in order."""
        found: list[Answer] = []
        for chunk in chunks:
            found += verb(chunk)
            self.events.progress(len(found), sum(map(len, chunks)), about, model=self.model.name)
        return found


def _chunks(requests: Sequence[Item]) -> list[Sequence[Item]]:
    return [requests[start : start + local_model.CHUNK] for start in range(0, len(requests), local_model.CHUNK)]


def _rounded(responses: Sequence[Response]) -> list[Response]:
    """Return responses as they are stored."""
    return [
        response if response.logprob is None else replace(response, logprob=round(response.logprob, DIGITS))
        for response in responses
    ]


def _runs(requests: Sequence[Request]) -> list[list[Request]]:
    """Return runs of requests of one kind, up to a maximum length."""
    found = []
    for kind, run in groupby(requests, key=type):
        every = list(run)
        found += [every[start : start + TOGETHER[kind]] for start in range(0, len(every), TOGETHER[kind])]
    return found

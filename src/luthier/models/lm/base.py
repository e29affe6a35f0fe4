"""The interface of language models, with its requests and responses.

A prompt is plain text, or the messages of a conversation, rendered by the model's chat template after the model's own
prompt. Requests are passed as lists: shared prefixes are computed once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from luthier.chat.messages import blank_last_user_turn
from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.messages import Message


Tools = tuple[dict[str, Any], ...]
"""JSON schemas of the offered tools."""
Ability = Literal[
    "generate", "complete", "continue", "loglikelihood", "loglikelihood_text", "loglikelihood_rolling", "embed"
]
"""What a model supports. `complete` continues plain text, `continue` a started answer; `loglikelihood` is that of an
answer to messages, `loglikelihood_text` that of a continuation of plain text."""
ABILITIES: frozenset[Ability] = frozenset(get_args(Ability))
"""All abilities."""
NO_LABEL = "(none of the labels)"
"""Label of an answer that names no label."""
DIGITS = 6
"""Stored decimals of log-probabilities: below any relevant difference, above floating-point noise."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A request to generate text after a prompt."""

    prompt: str | tuple[Message, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    """Strings at the first of which the completion ends, without it."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Cumulative probability of the likeliest tokens to sample from."""
    seed: int | None = None
    """Seed of the sampling; for local models, combined with the request's index among those with equal settings."""
    stream: int | None = None
    """Random stream of a local model, in place of the one that follows from seed and index."""
    tools: Tools = ()
    """Offered tools; not sent to an endpoint, which would call them."""
    continue_final_message: bool = False
    """Whether the last message is the start of the assistant's answer, to be continued."""
    truncate_prompt: bool = True
    """Whether a prompt that is too long loses its beginning; otherwise it is a `DataError`."""


@dataclass(frozen=True, kw_only=True)
class LoglikelihoodRequest:
    """A request for the log-likelihood of a continuation after a prompt; after messages, it is the assistant's whole
    answer.
    """

    prompt: str | tuple[Message, ...]
    continuation: str
    greedy: bool = False
    """Whether to report if greedy decoding would write the continuation."""
    end_token: bool = True
    """Whether, after messages, the end token counts."""
    tools: Tools = ()
    truncate_prompt: bool = True
    """Whether a prompt that is too long loses its beginning."""


@dataclass(frozen=True, kw_only=True)
class RollingLoglikelihoodRequest:
    """A request for the log-likelihood of a whole text of any length, without a prompt."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ChoiceRequest:
    """A request to choose among several answers to a conversation."""

    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    tools: Tools = ()


Request = LoglikelihoodRequest | RollingLoglikelihoodRequest | GenerateRequest


@dataclass(frozen=True, kw_only=True)
class Response:
    """A model's response to one request; unrequested fields are empty or None."""

    text: str = ""
    """The completion, without special tokens and stop strings."""
    tokens: int | None = None
    """Number of generated tokens, or of the tokens in `logprob`; None where an endpoint does not report it."""
    finish_reason: Literal["stop", "length"] | None = None
    """`stop` when the model ended by itself, `length` at the limit."""
    logprob: float | None = None
    """Natural log-likelihood of the continuation or the text."""
    is_greedy: bool | None = None
    """Whether greedy decoding would write the continuation."""
    truncated: int = 0
    """Prompt tokens that were dropped at the beginning, because of the context length."""

    @property
    def finished(self) -> bool:
        """Whether the model ended by itself."""
        return self.finish_reason == "stop"


@dataclass(frozen=True, kw_only=True)
class ChoiceResponse:
    """The option that a model chose."""

    index: int | None
    """Index of the option; None when the model named none."""
    scores: list[float] | None = None
    """Log-score of each option, comparable within the request; None when the model gives none."""

    def label(self, labels: Sequence[str]) -> str:
        """Return the label at the chosen option's index; `NO_LABEL` for none."""
        return NO_LABEL if self.index is None else labels[self.index]

    def by_label(self, labels: Sequence[str]) -> dict[str, float] | None:
        """Return the scores by label."""
        return None if self.scores is None else dict(zip(labels, self.scores, strict=True))


class LanguageModel(ABC):
    """A language model; `abilities` lists the supported requests."""

    name: str
    digest: str
    """Identifies everything that determines its responses."""
    abilities: frozenset[Ability]
    classes: tuple[str, ...] = ()
    """Classes of a model with a sequence head, which supports nothing else."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """Return the completion of each prompt."""

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Generate after one prompt, chunk by chunk where the model can stream."""
        yield self.generate([request])[0].text

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of each continuation."""
        raise self._build_unsupported_error("give the log-likelihood of a text")

    def loglikelihood_rolling(self, requests: Sequence[RollingLoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of each whole text."""
        raise self._build_unsupported_error("give the log-likelihood of a text")

    def embed(self, conversations: Sequence[tuple[Message, ...]], max_tokens: int) -> NDArray[np.float64]:
        """Return (conversations, width): the mean last hidden state over the last `max_tokens` tokens, at
        unit length.
        """
        raise self._build_unsupported_error("embed a conversation")

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """Return the likeliest option of each request, by log-likelihoods normalized by `how`."""
        totals = self._sums(requests)
        priors: Sequence[Sums] = [()] * len(requests)
        if how == "prior":
            priors = self._sums([replace(request, prompt=blank_last_user_turn(request.prompt)) for request in requests])
        rows = [normalize_option_scores(how, row, prior) for row, prior in zip(totals, priors, strict=True)]
        return [pick_best_option(row) for row in rows]

    def ask(self, requests: Sequence[Request]) -> list[Response]:
        """Return a response to each request; all are of one kind."""
        match requests[0]:
            case GenerateRequest():
                return self.generate(cast("Sequence[GenerateRequest]", requests))
            case LoglikelihoodRequest():
                return self.loglikelihood(cast("Sequence[LoglikelihoodRequest]", requests))
            case RollingLoglikelihoodRequest():
                return self.loglikelihood_rolling(cast("Sequence[RollingLoglikelihoodRequest]", requests))

    def _sums(self, requests: Sequence[ChoiceRequest]) -> list[Sums]:
        """Return for each request the log-likelihood and the number of tokens of each option."""
        prompts = [
            LoglikelihoodRequest(prompt=request.prompt, continuation=option, tools=request.tools, truncate_prompt=False)
            for request in requests
            for option in request.options
        ]
        responses = iter(get_loglikelihoods(self.loglikelihood(prompts)))
        return [[next(responses) for _ in request.options] for request in requests]

    def _build_unsupported_error(self, what: str) -> ModelError:
        return ModelError(f"{self.name} cannot {what}", hint="ask only for what is in `abilities`")


def find_ability(request: Request) -> Ability:
    """Return the ability that a request needs."""
    if isinstance(request, RollingLoglikelihoodRequest):
        return "loglikelihood_rolling"
    plain = isinstance(request.prompt, str)
    if isinstance(request, LoglikelihoodRequest):
        return "loglikelihood_text" if plain else "loglikelihood"
    return "complete" if plain else "continue" if request.continue_final_message else "generate"


def get_loglikelihoods(responses: Sequence[Response]) -> Sums:
    """Return the log-likelihood of each continuation, and its number of tokens."""
    return [(response.logprob or 0.0, response.tokens or 0) for response in responses]


def pick_best_option(scores: Sequence[float]) -> ChoiceResponse:
    """Return the option with the highest score; of equal ones the first."""
    kept = [round(score, DIGITS) for score in scores]
    return ChoiceResponse(index=max(range(len(kept)), key=kept.__getitem__), scores=kept)


def truncate_at_stop(text: str, ends: tuple[str, ...]) -> str:
    """Return a text up to the first of some stop strings."""
    for end in ends:
        text = text.split(end, 1)[0] if end else text
    return text


Normalize = Literal["sum", "mean", "prior"]
Sums = Sequence[tuple[float, int]]
"""For each option, its summed log-probability and its number of tokens."""


def normalize_option_scores(how: Normalize, row: Sums, prior: Sums = ()) -> list[float]:
    """Return a score for each option: the sum, the mean over tokens, or the sum minus that after an empty question
    (`prior`; Zhao et al. 2021, contextual calibration), shifted to log-probabilities.
    """
    match how:
        case "sum":
            return [score for score, _ in row]
        case "mean":
            return [score / tokens for score, tokens in row]
        case "prior":
            return normalize_log_scores([score - before for (score, _), (before, _) in zip(row, prior, strict=True)])


def normalize_log_scores(scores: Sequence[float]) -> list[float]:
    """Shift log-scores so that their probabilities sum to one."""
    most = max(scores)
    total = most + math.log(sum(math.exp(score - most) for score in scores))
    return [score - total for score in scores]

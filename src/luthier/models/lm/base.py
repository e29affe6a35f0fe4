"""The one interface for asking a language model, and the requests and responses that pass through it.

A prompt is plain text, read as it stands, or the messages of a conversation, read through the model's chat template
with the model's own prompt in front. Requests are given as whole lists: what they share is read once.
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
"""JSON schemas of the tools on offer."""
Ability = Literal[
    "generate", "complete", "continue", "loglikelihood", "loglikelihood_text", "loglikelihood_rolling", "embed"
]
"""What a model can be asked for. `complete` is to go on with plain text, `continue` with a begun answer;
`loglikelihood` is that of an answer to messages, `loglikelihood_text` that of what follows plain text."""
ABILITIES: frozenset[Ability] = frozenset(get_args(Ability))
"""All of them."""
NO_LABEL = "(none of the labels)"
"""What an answer that names no label counts as."""
DIGITS = 6
"""Decimals kept of log-probabilities: far below what could matter, far above float noise."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A request to generate text after a prompt."""

    prompt: str | tuple[Message, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    """Texts at the first of which the completion ends, without it."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this share are drawn from."""
    seed: int | None = None
    """What draws follow from; on this machine, with the request's place among those like it."""
    stream: int | None = None
    """The random stream to draw from on this machine, in place of the one that follows from seed and place."""
    tools: Tools = ()
    """Tools on offer in the conversation; an endpoint is offered none, since it would call them."""
    continue_final_message: bool = False
    """Whether the last message is the beginning of the assistant's answer, which is gone on with."""
    truncate_prompt: bool = True
    """Whether a prompt that is too long for the model loses its beginning; otherwise it is a `DataError`."""


@dataclass(frozen=True, kw_only=True)
class LoglikelihoodRequest:
    """A request for the log-likelihood of a continuation after a prompt; after messages, it is the assistant's whole
    answer. After messages, it is the assistant's whole answer."""

    prompt: str | tuple[Message, ...]
    continuation: str
    greedy: bool = False
    """Whether it is to be told if greedy decoding would write the continuation."""
    end_token: bool = True
    """Whether, after messages, the end of the answer counts."""
    tools: Tools = ()
    truncate_prompt: bool = True
    """Whether a prompt that is too long for the model loses its beginning."""


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
    """A model's answer to one request; what was not asked is empty or None."""

    text: str = ""
    """What was written, special tokens and the stop left out."""
    tokens: int | None = None
    """How many tokens were written, or over how many `logprob` is a sum; None where an endpoint does not count."""
    finish_reason: Literal["stop", "length"] | None = None
    """`stop` when the model ended by itself, `length` when it came to the limit."""
    logprob: float | None = None
    """Natural log-likelihood of the continuation or the text."""
    is_greedy: bool | None = None
    """Whether greedy decoding would write the continuation."""
    truncated: int = 0
    """Tokens of the prompt that were left out at its beginning, because the model reads no more at once."""

    @property
    def finished(self) -> bool:
        """Whether the model ended by itself."""
        return self.finish_reason == "stop"


@dataclass(frozen=True, kw_only=True)
class ChoiceResponse:
    """The option that a model chose."""

    index: int | None
    """Its place among the options; None when the model named none of them."""
    scores: list[float] | None = None
    """A log-score of each option, comparable within the request; None when the model gives none."""

    def label(self, labels: Sequence[str]) -> str:
        """The label that stands where the chosen option does; `NO_LABEL` for none of them."""
        return NO_LABEL if self.index is None else labels[self.index]

    def by_label(self, labels: Sequence[str]) -> dict[str, float] | None:
        """The scores by label."""
        return None if self.scores is None else dict(zip(labels, self.scores, strict=True))


class LanguageModel(ABC):
    """A language model that can be asked; `abilities` says for what."""

    name: str
    digest: str
    """Names all that decides its answers."""
    abilities: frozenset[Ability]
    classes: tuple[str, ...] = ()
    """The classes of a model with a sequence head, which chooses among them and does nothing else."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """What the model writes after each prompt."""

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Generate after one prompt, chunk by chunk where the model can stream."""
        yield self.generate([request])[0].text

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        """The log-likelihood of each continuation."""
        raise self._build_unsupported_error("give the log-likelihood of a text")

    def loglikelihood_rolling(self, requests: Sequence[RollingLoglikelihoodRequest]) -> list[Response]:
        """The log-likelihood of each whole text."""
        raise self._build_unsupported_error("give the log-likelihood of a text")

    def embed(self, conversations: Sequence[tuple[Message, ...]], max_tokens: int) -> NDArray[np.float64]:
        """(conversations, width): the mean last hidden state over the last `max_tokens` tokens, at unit length."""
        raise self._build_unsupported_error("embed a conversation")

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """The likeliest option of each, by log-likelihoods that are made alike as `how` says."""
        totals = self._sums(requests)
        priors: Sequence[Sums] = [()] * len(requests)
        if how == "prior":
            priors = self._sums([replace(request, prompt=blank_last_user_turn(request.prompt)) for request in requests])
        rows = [normalize_option_scores(how, row, prior) for row, prior in zip(totals, priors, strict=True)]
        return [pick_best_option(row) for row in rows]

    def ask(self, requests: Sequence[Request]) -> list[Response]:
        """A response to each request; all are of one kind."""
        match requests[0]:
            case GenerateRequest():
                return self.generate(cast("Sequence[GenerateRequest]", requests))
            case LoglikelihoodRequest():
                return self.loglikelihood(cast("Sequence[LoglikelihoodRequest]", requests))
            case RollingLoglikelihoodRequest():
                return self.loglikelihood_rolling(cast("Sequence[RollingLoglikelihoodRequest]", requests))

    def _sums(self, requests: Sequence[ChoiceRequest]) -> list[Sums]:
        """For each request, the log-likelihood of each option and its tokens."""
        prompts = [
            LoglikelihoodRequest(prompt=request.prompt, continuation=option, tools=request.tools, truncate_prompt=False)
            for request in requests
            for option in request.options
        ]
        found = iter(get_loglikelihoods(self.loglikelihood(prompts)))
        return [[next(found) for _ in request.options] for request in requests]

    def _build_unsupported_error(self, what: str) -> ModelError:
        return ModelError(f"{self.name} cannot {what}", hint="ask only for what is in `abilities`")


def find_ability(request: Request) -> Ability:
    """What a model must be able to do for a request."""
    if isinstance(request, RollingLoglikelihoodRequest):
        return "loglikelihood_rolling"
    plain = isinstance(request.prompt, str)
    if isinstance(request, LoglikelihoodRequest):
        return "loglikelihood_text" if plain else "loglikelihood"
    return "complete" if plain else "continue" if request.continue_final_message else "generate"


def get_loglikelihoods(responses: Sequence[Response]) -> Sums:
    """The log-likelihood of each continuation, and over how many tokens it is a sum."""
    return [(response.logprob or 0.0, response.tokens or 0) for response in responses]


def pick_best_option(scores: Sequence[float]) -> ChoiceResponse:
    """The option with the highest score, of equal ones the first."""
    kept = [round(score, DIGITS) for score in scores]
    return ChoiceResponse(index=max(range(len(kept)), key=kept.__getitem__), scores=kept)


def truncate_at_stop(text: str, ends: tuple[str, ...]) -> str:
    """A text up to the first of some ends, without it."""
    for end in ends:
        text = text.split(end, 1)[0] if end else text
    return text


Normalize = Literal["sum", "mean", "prior"]
Sums = Sequence[tuple[float, int]]
"""For each answer, its summed log-probability and how many tokens that is a sum over."""


def normalize_option_scores(how: Normalize, row: Sums, prior: Sums = ()) -> list[float]:
    """A score for each answer: the sum, the mean a token, or the sum less the answer's when the question is empty
    (`prior`; Zhao et al. 2021, contextual calibration), shifted to log-probabilities."""
    match how:
        case "sum":
            return [score for score, _ in row]
        case "mean":
            return [score / tokens for score, tokens in row]
        case "prior":
            return normalize_log_scores([score - before for (score, _), (before, _) in zip(row, prior, strict=True)])


def normalize_log_scores(scores: Sequence[float]) -> list[float]:
    """Log-scores shifted so that their shares add up to one: log-probabilities again."""
    most = max(scores)
    total = most + math.log(sum(math.exp(score - most) for score in scores))
    return [score - total for score in scores]

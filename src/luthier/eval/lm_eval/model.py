"""lm-evaluation-harness's `LM` class over Luthier's language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from luthier.chat.messages import Message
from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import canonical_json
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response, RollingLoglikelihoodRequest

MAX_TOKENS = 256
"""Maximum tokens of an answer where a task has no limit."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = frozenset({"temperature", "do_sample", "until", "top_p", *_LENGTHS})


class ChatPrompt(str):
    """The messages of a prompt, which the library hands on as the text that it takes them for."""

    messages: tuple[Message, ...]
    starts_answer: bool
    """Whether the last message is the start of the answer."""

    @classmethod
    def of(cls, history: Sequence[Mapping[str, str]], *, starts_answer: bool) -> ChatPrompt:
        """A conversation in the library's form."""
        chat_prompt = cls(canonical_json([dict(entry) for entry in history]))
        chat_prompt.messages = tuple(Message.model_validate(dict(entry)) for entry in history)
        chat_prompt.starts_answer = starts_answer
        return chat_prompt


class HarnessLM(LM):  # type: ignore[misc]  # the library is not typed
    """Answers the library's requests, each kind as one list: `ask` is `LanguageModel.ask`, or asks by way of a cache.

    With `greedy`, log-likelihoods tell whether greedy decoding would write the continuation; otherwise they say no.
    """

    def __init__(self, ask: Callable[[Sequence[Request]], list[Response]], *, greedy: bool = True) -> None:
        super().__init__()
        self._ask, self._greedy = ask, greedy
        self.truncated: set[tuple[str | None, int | None]] = set()
        """Task and row of each prompt that was too long and lost its beginning."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation after its context."""
        return [(float(answer.logprob or 0.0), bool(answer.is_greedy)) for answer in self._answers(requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """The log-likelihood of each whole text."""
        return [float(answer.logprob or 0.0) for answer in self._answers(requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the completion of each context."""
        return [answer.text for answer in self._answers(requests)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> ChatPrompt:
        """Return the conversation unchanged: the model applies its own template."""
        return ChatPrompt.of(chat_history, starts_answer=not add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Names the template in the library's request cache: requests hold messages, whatever the model."""
        return "messages"

    def _answers(self, instances: Sequence[Instance]) -> list[Response]:
        requests = [to_request(instance, greedy=self._greedy, draw=at) for at, instance in enumerate(instances)]
        responses = self._ask(requests) if requests else []
        self.truncated |= {
            (instance.task_name, instance.doc_id)
            for instance, answer in zip(instances, responses, strict=True)
            if answer.truncated
        }
        return responses


def to_request(instance: Instance, *, greedy: bool, draw: int = 0) -> Request:
    """A request of the library's as one of ours; `draw` tells apart what is drawn by chance.

    `DataError` for settings of generation that are not known here.
    """
    before = instance.args[0]
    if instance.request_type == "loglikelihood_rolling":
        return RollingLoglikelihoodRequest(text=before)
    starts_answer = isinstance(before, ChatPrompt) and before.starts_answer
    prompt = before.messages if isinstance(before, ChatPrompt) else before
    if instance.request_type == "loglikelihood":
        if starts_answer:
            what = "gen_prefix begins the answer whose log-likelihood is asked, which goes with plain prompts only"
            raise DataError(what, where=SourceLocation(field="gen_prefix"), hint="leave apply_chat_template out")
        ends = not isinstance(before, ChatPrompt)
        return LoglikelihoodRequest(prompt=prompt, continuation=instance.args[1], greedy=greedy, end_token=ends)
    settings = instance.args[1]
    temperature = 0.0 if settings.get("do_sample") is False else float(settings.get("temperature") or 0.0)
    return GenerateRequest(
        prompt=prompt,
        max_tokens=int(next((settings[name] for name in _LENGTHS if settings.get(name)), MAX_TOKENS)),
        stop=_stops(settings),
        temperature=temperature,
        top_p=float(settings.get("top_p") or 1.0),
        seed=draw if temperature else None,
        continue_final_message=starts_answer,
    )


def _stops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if unknown := sorted(set(settings) - _KNOWN):
        what = f"generation_kwargs: {unknown[0]} is not known here"
        raise DataError(what, where=SourceLocation(field="generation_kwargs"))
    until = settings.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(entry for entry in until if entry)

"""Trying a model: `luthier serve` in a process of its own, asked the same as its base model, token by token."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from luthier.commands.projects.command_process import CommandProcess, ProcessState
from luthier.commands.projects.workspace import load_made_plan
from luthier.core.errors import InputError, LuthierError, ModelError
from luthier.recipe.workspace import Workspace

_IDLE_S = 900.0
_MOST_CHARS = 20_000
_MOST_TURNS = 100
_ALTERNATIVES = 5


class TrialModel(NamedTuple):
    """A model of a project that can be tried."""

    step: str
    words: list[str]
    """What is served: the step, and its base model where it has one."""


class TrialToken(NamedTuple):
    """A token of an answer with its probability, and the likeliest tokens at its place with theirs."""

    text: str
    share: float
    alternatives: Sequence[tuple[str, float]]


class TrialPiece(NamedTuple):
    """What came next of an answer."""

    text: str
    tokens: Sequence[TrialToken]


@dataclass(frozen=True, kw_only=True)
class TrialQuestion:
    """What one model is asked: a conversation that ends with a question, and how it shall answer."""

    model: str
    messages: Sequence[Mapping[str, str]]
    temperature: float = 0.0
    max_tokens: int = 256

    @classmethod
    def parse(cls, model: str, conversation: str, temperature: str = "", max_tokens: str = "") -> TrialQuestion:
        """As a form sends it, the conversation as JSON; `InputError` where it is none."""
        try:
            turns = json.loads(conversation)
            heat, tokens = float(temperature or 0), int(max_tokens or 256)
        except ValueError as error:
            raise InputError("the form is not as expected", hint="load the page again") from error
        good = isinstance(turns, list) and 0 < len(turns) <= _MOST_TURNS and all(map(_is_turn, turns))
        if not good or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
            raise InputError("expected a question", hint=f"write at most {_MOST_CHARS:,} letters")
        if sum(len(turn["content"]) for turn in turns) > _MOST_CHARS:
            raise InputError("the conversation is too long", hint="begin a new one")
        if not 0 <= heat <= 2 or not 1 <= tokens <= 4096:
            raise InputError(
                "expected a temperature from 0 to 2 and 1 to 4,096 tokens", hint="change them under Settings"
            )
        return cls(model=model, messages=turns, temperature=heat, max_tokens=tokens)


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ("system", "user", "assistant")
        and isinstance(turn["content"], str)
    )


def list_trial_models(workspace: Workspace, file: Path) -> list[TrialModel]:
    """The tuned models of a recipe that are made, each with the base model that it can be compared with."""
    plan, word = load_made_plan(workspace, file, "model")
    recipe = plan.recipe
    found = []
    for planned in plan:
        if planned.step.kind in ("tune", "merge", "search") and planned.cached:
            base = recipe.references(planned.step).get("model") == "model" and "model" in recipe.all_steps()
            words = [f"{word}:{planned.name}", *([f"{word}:model"] if base else [])]
            found.append(TrialModel(planned.name, words))
    return found


class TrialServer:
    """One server at a time: it ends when nobody asked for a while, when another is tried, and with the studio."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        """`folder` is where its process prints."""
        self._workspace = workspace
        self._process = CommandProcess(folder)
        self._asked_at = 0.0
        self.words: list[str] = []
        """What is served."""

    @property
    def state(self) -> ProcessState:
        """How it stands."""
        return self._process.state

    @property
    def names(self) -> list[str]:
        """The models that answer, the tuned one first."""
        return [str(name) for name in self._process.facts().get("models", ())][: len(self.words)]

    @property
    def message(self) -> str:
        """What it said last, when it failed."""
        return self._process.message

    def start(self, model: TrialModel) -> None:
        """Serve a model and its base; what was served before ends."""
        if self.words == model.words and self.state in ("starting", "ready"):
            return
        self._process.start(
            self._workspace, ["serve", *model.words, "--port", "0", "--json", "--no-traces", "--no-jobs"]
        )
        self.words, self._asked_at = model.words, time.monotonic()

    async def answer(self, question: TrialQuestion) -> AsyncIterator[TrialPiece]:
        """An answer as it comes; `ModelError` where there is none."""
        import httpx

        if self.state != "ready" or question.model not in self.names:
            raise InputError("no such model is served", hint="start one first")
        self._asked_at = time.monotonic()
        body = {
            "model": question.model, "messages": question.messages, "temperature": question.temperature,
            "max_tokens": question.max_tokens, "stream": True, "logprobs": True, "top_logprobs": _ALTERNATIVES,
        }  # fmt: skip
        url = f"{self._process.facts()['url']}/chat/completions"
        try:
            async with (
                httpx.AsyncClient(timeout=300, trust_env=False) as client,
                client.stream("POST", url, json=body) as answer,
            ):
                if answer.is_error:
                    raise _refusal(question.model, await answer.aread())
                async for line in answer.aiter_lines():
                    if (piece := _read_piece(question.model, line)) is not None:
                        yield piece
        except httpx.HTTPError as error:
            raise ModelError(f"{question.model} did not answer: {error}", hint="start it again") from error

    def end_when_idle(self) -> None:
        """End it when nobody asked for a while: models take memory."""
        if self.words and time.monotonic() - self._asked_at > _IDLE_S:
            self.stop()

    def stop(self) -> None:
        """End it, also one that a studio which was killed left."""
        self.words = []
        self._process.stop()


def _read_piece(model: str, line: str) -> TrialPiece | None:
    """What a line of the stream says; None where it says nothing."""
    if not line.startswith("data: {"):
        return None
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise ModelError(f"{model} did not answer: {chunk['error']['message']}", hint="ask something else")
    for choice in chunk["choices"]:
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        text = choice["delta"].get("content") or ""
        if text or tokens:
            return TrialPiece(text, [_token(token) for token in tokens])
    return None


def _token(token: Mapping[str, Any]) -> TrialToken:
    others = [(str(entry["token"]), math.exp(entry["logprob"])) for entry in token.get("top_logprobs") or ()]
    return TrialToken(str(token["token"]), math.exp(token["logprob"]), others)


def _refusal(model: str, body: bytes) -> LuthierError:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    return ModelError(f"{model} did not answer: {message}", hint="write another question")

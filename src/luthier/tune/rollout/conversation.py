"""Multi-turn rollouts: the model writes a turn, the environment replies, until one of them ends the conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.chat.messages import Message, prompt_of
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import PluginCallFailed, call_plugin_with_timeout
from luthier.tune.environment import Environment, EnvironmentConversation
from luthier.tune.rollout.generate import RolloutCompletion, RolloutPrompt, create_random_stream

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer

Write = Callable[[Sequence[RolloutPrompt]], list[RolloutCompletion]]
"""Samples one turn after each prompt."""


def converse(
    environment: Environment, text: ChatTokenizer, recipe_dir: Path, prompts: Sequence[RolloutPrompt], write: Write
) -> list[RolloutCompletion]:
    """Sample a multi-turn conversation with an environment after each prompt; a truncated turn ends its
    conversation.
    """
    answers = write(prompts)
    for answer in answers:
        answer.turns = (_decode_turn(text, answer),)
    active = list(range(len(prompts)))
    for turn in range(1, environment.turns):
        active = [at for at in active if answers[at].ended]
        conversations = [_build_conversation(prompts[at], answers[at]) for at in active]
        replies = _reply_to_all(environment, conversations, recipe_dir) if conversations else []
        active = [at for at, reply in zip(active, replies, strict=True) if reply is not None]
        for at, reply in zip(active, (entry for entry in replies if entry is not None), strict=True):
            _append_reply(answers[at], prompts[at], environment, reply[: environment.longest], text)
        prompts_to_continue = write([_next(prompts[at], answers[at], turn) for at in active]) if active else []
        for at, written in zip(active, prompts_to_continue, strict=True):
            _go_on(answers[at], written, text)
    return answers


def _build_conversation(prompt: RolloutPrompt, answer: RolloutCompletion) -> EnvironmentConversation:
    assert prompt.example is not None, "an environment is told whose question it is"
    return EnvironmentConversation(prompt.example, answer.turns)


def _reply_to_all(
    environment: Environment, talks: Sequence[EnvironmentConversation], recipe_dir: Path
) -> list[str | None]:
    """Return the environment's replies; when it fails on all conversations together, those to one after another. Errors
    name it.
    """
    try:
        replies = call_plugin_with_timeout(environment.deadline_s, lambda: environment.answer(talks, recipe_dir))
    except PluginCallFailed as failed:
        if len(talks) > 1:
            return [reply for talk in talks for reply in _reply_to_all(environment, [talk], recipe_dir)]
        what = f"the environment {environment.kind} failed: {failed}"
        hint = f"mend it; it was asked after {talks[0].completion[:60]!r} (example {talks[0].example.id})"
        raise ModelError(what, where=SourceLocation(field="rollout.environment"), hint=hint) from failed
    if len(replies) != len(talks):
        what = f"the environment {environment.kind} gave {len(replies)} answers in {len(talks)} conversations"
        raise ModelError(what, where=SourceLocation(field="rollout.environment"))
    return replies


def _append_reply(
    answer: RolloutCompletion, prompt: RolloutPrompt, environment: Environment, reply: str, text: ChatTokenizer
) -> None:
    """Append the environment's reply, up to the start of the model's next turn."""
    assert prompt.example is not None, "an environment is told whose question it is"
    turn = Message(role=environment.speaks_as, content=reply)
    ids = text.going_on(prompt_of(prompt.example), turn, prompt.example.tools)
    answer.environment_spans.append((len(answer.ids), len(answer.ids) + len(ids)))
    answer.ids.extend(ids)
    answer.turns = (*answer.turns, turn)


def _next(prompt: RolloutPrompt, answer: RolloutCompletion, turn: int) -> RolloutPrompt:
    """Return the prompt of the next turn, with a random stream of its own."""
    stream = None if prompt.stream is None else create_random_stream(prompt.stream, turn)
    return RolloutPrompt([*prompt.ids, *answer.ids], stream, prompt.example)


def _go_on(answer: RolloutCompletion, written: RolloutCompletion, text: ChatTokenizer) -> None:
    answer.ids.extend(written.ids)
    answer.logprobs.extend(written.logprobs)
    answer.ended = written.ended
    answer.turns = (*answer.turns, _decode_turn(text, answer))


def _decode_turn(text: ChatTokenizer, answer: RolloutCompletion) -> Message:
    last = answer.last
    return Message(role="assistant", content=text.decode(last[:-1] if answer.ended else last, special=False))

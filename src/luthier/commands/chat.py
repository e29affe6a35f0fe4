"""A conversation with a model of a recipe, or with a base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from luthier.chat.messages import Message, join_user_turns
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.models.lm.base import GenerateRequest, LanguageModel
from luthier.recipe.models import find_model, get_training_system_message, is_classification_model

if TYPE_CHECKING:
    from luthier.models.text_classifier import TextClassifier
    from luthier.recipe.locate import CommandTarget

SHOWN = 3
"""Classes with which a plain classifier answers."""


class ChatBackend(Protocol):
    """The interface of a model that answers chat messages."""

    def say(self, turns: Sequence[Message]) -> Iterator[str]:
        """Yield the answer in chunks."""


@dataclass(frozen=True, kw_only=True)
class GenerativeChatModel:
    """A language model."""

    lm: LanguageModel
    max_tokens: int
    temperature: float

    def say(self, turns: Sequence[Message]) -> Iterator[str]:
        """The answer, token by token; that of an endpoint at once."""
        request = GenerateRequest(
            prompt=tuple(turns), max_tokens=self.max_tokens, temperature=self.temperature, truncate_prompt=False
        )
        return self.lm.stream(request)


@dataclass(frozen=True)
class ClassifierChatModel:
    """A plain classifier: it answers with the likeliest classes."""

    model: TextClassifier

    @classmethod
    def open(cls, artifact: Artifact) -> ClassifierChatModel:
        """The classifier of an artifact."""
        from luthier.models.text_classifier import TextClassifier

        return cls(TextClassifier.open(artifact.folder))

    def say(self, turns: Sequence[Message]) -> Iterator[str]:
        """The likeliest class, and the next ones with their probabilities."""
        (shares,) = self.model.probabilities([join_user_turns(turns)])
        ranked = sorted(zip(self.model.classes, shares.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        yield ", ".join(f"{name} ({share:.0%})" for name, share in ranked[:SHOWN])


@dataclass(kw_only=True)
class ChatSession:
    """A chat backend with the history of the conversation."""

    name: str
    speaker: ChatBackend
    notes: list[str]
    """Decisions made for the user, and why."""
    warnings: list[str] = field(default_factory=list)
    """Requested settings without effect."""
    turns: list[Message] = field(default_factory=list)
    alone: bool = False
    """Whether each question is answered without the earlier ones, as by a classifier."""

    def ask(self, words: str) -> str:
        """The whole answer to one turn."""
        return "".join(self.stream_answer(words))

    def stream_answer(self, words: str) -> Iterator[str]:
        """Yield the answer to one turn in chunks."""
        self.turns.append(Message(role="user", content=words))
        answer = ""
        for piece in self.speaker.say(self.turns):
            yield piece
            answer += piece
        if self.alone:
            self.turns.pop()
        else:
            self.turns.append(Message(role="assistant", content=answer))


def open_chat(target: CommandTarget, *, system: str | None, max_tokens: int, temperature: float) -> ChatSession:
    """Open a tuned step (`RECIPE:STEP`, or the recipe here), or a base model by name."""
    from luthier.models.load import get_output_classes, is_plain_classifier

    name, artifact = find_model(target)
    if is_plain_classifier(artifact):
        notes = [f"{name}: end with Ctrl-D", "each line is answered by itself, with the likeliest classes"]
        return ChatSession(name=name, speaker=ClassifierChatModel.open(artifact), notes=notes, alone=True)
    if outputs := get_output_classes(artifact):
        what = f"{name} names one of {len(outputs)} classes by a sequence head and writes no text"
        raise ModelError(what, hint="`evaluate` scores it; tune with `head: label` for a model to talk with")
    before = PromptPrefix.of(artifact)
    if system is not None:
        before = before.model_copy(update={"instruction": None})
    chooses = is_classification_model(artifact)
    speaker = _speaker(artifact, before, max_tokens, 0.0 if chooses else temperature)
    session = ChatSession(name=name, speaker=speaker, notes=[f"{name}: end with Ctrl-D"])
    if chooses and temperature:
        session.warnings.append(
            "--temperature changes nothing: this model was trained to answer with a class and is read greedily"
        )
    if before != PromptPrefix():
        shown = sum(message.role == "user" for message in before.shown)
        session.notes.append(f"in front, as chosen: {before.instruction or 'no instruction'!r} and {shown} examples")
    if system is None and (trained_system := get_training_system_message(artifact)):
        system = trained_system
        session.notes.append(f"system message, as in the training data: {trained_system!r}")
    if chooses:
        session.alone = True
        session.notes.append("each line is answered by itself, as in the training data")
    if system:
        session.turns.append(Message(role="system", content=system))
    return session


def _speaker(artifact: Artifact, before: PromptPrefix, max_tokens: int, temperature: float) -> ChatBackend:
    from luthier.models.lm.local import LocalLM
    from luthier.models.lm.openai_client import EndpointLM
    from luthier.models.load import is_endpoint

    lm = EndpointLM.of(artifact) if is_endpoint(artifact) else LocalLM(artifact)
    return GenerativeChatModel(lm=lm.with_prompt(before), max_tokens=max_tokens, temperature=temperature)

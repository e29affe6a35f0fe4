"""The prompt prefix of a prompted model: an instruction and few-shot examples.

`PromptPrefix.wrap` is the one way in which a prompt comes before a conversation. `Text` calls it for a model on this
machine, and whoever speaks with an endpoint calls it too, so that search, training, evaluation and chat see the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from luthier.chat.messages import Message, messages_to_openai
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of

PROMPT_FILE = "prompt.json"
"""Where a model's artifact holds its prompt."""


class PromptPrefix(BaseModel):
    """An instruction and examples; empty, it changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    instruction: str | None = None
    """The system message that takes the place of a conversation's own; empty: there is none; None: its own stays."""
    shown: tuple[Message, ...] = ()
    """Turns of examples, between the system message and the conversation."""

    def wrap(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A conversation with the prompt in front."""
        own = tuple(messages[:1]) if messages and messages[0].role == "system" else ()
        return (*self._system(own), *self.shown, *messages[len(own) :])

    def ahead(self, messages: Sequence[Message]) -> int:
        """How many messages of a wrapped conversation stand before what is its own, its system message included."""
        own = tuple(messages[:1]) if messages and messages[0].role == "system" else ()
        return len(self._system(own)) + len(self.shown)

    @property
    def digest(self) -> str:
        """Names what is put in front."""
        return digest_of(self.model_dump(mode="json"))

    def to_openai(self) -> dict[str, Any] | None:
        """The prompt for other programs: messages as OpenAI's chat API takes them, and what becomes of a conversation's
        own system message; None when it is empty."""
        if self == PromptPrefix():
            return None
        messages = messages_to_openai([*self._system(()), *self.shown])
        return {"messages": messages, "system": "kept" if self.instruction is None else "replaced"}

    def save(self, folder: Path) -> None:
        """Write `prompt.json`; settings that change nothing are left out."""
        settings = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomically(folder / PROMPT_FILE, (text + "\n").encode())

    @classmethod
    def of(cls, model: Artifact) -> PromptPrefix:
        """The prompt with which a model is asked: its own, else that of the model it was made from, else none."""
        if is_prompt_artifact(model):
            return cls.model_validate(model.read_json(PROMPT_FILE))
        return cls.of(model.parent("model")) if "model" in model.manifest.inputs else cls()

    def _system(self, own: tuple[Message, ...]) -> tuple[Message, ...]:
        if self.instruction is None:
            return own
        return (Message(role="system", content=self.instruction),) if self.instruction else ()


def is_prompt_artifact(model: Artifact) -> bool:
    """Whether the artifact is a prompt in front of another model, without weights of its own."""
    return any(entry.path == PROMPT_FILE for entry in model.manifest.files)

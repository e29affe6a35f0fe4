"""A writer draws the answers that a policy learns from in the model's place: an engine somewhere else.

What it draws is another model's, or the same one's in other numerics or with older weights: every token comes with how
likely it was to the writer, and counts by how much likelier it is to the model that learns (`correct`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luthier.core.component import Component

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.tune.rollout.generate import RolloutCompletion, RolloutPrompt


class RolloutGenerator(Component):
    """The base class of generators that sample rollout completions with another engine than the trained model
    itself."""

    role: ClassVar[str] = "writer"
    home: ClassVar[str] = "luthier.tune.rollout_generators"

    @abstractmethod
    def write(
        self, prompts: Sequence[RolloutPrompt], text: ChatTokenizer, max_new_tokens: int, kept: Path
    ) -> list[RolloutCompletion]:
        """An answer to each prompt, drawn at temperature 1 from the whole vocabulary, with the log-probability of each
        token; what was drawn is kept, so that a training that was killed goes on with the same."""

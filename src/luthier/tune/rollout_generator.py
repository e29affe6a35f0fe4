"""The role `writer`: an external engine that samples the completions of policy training.

Its completions come from another model, other numerics or older weights: every token has its log-probability under that
engine, and is weighted by the importance ratio to the trained model (`correct`).
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
    """The base class of generators that sample rollout completions with an engine other than the trained model."""

    role: ClassVar[str] = "writer"
    home: ClassVar[str] = "luthier.tune.rollout_generators"

    @abstractmethod
    def write(
        self, prompts: Sequence[RolloutPrompt], text: ChatTokenizer, max_new_tokens: int, kept: Path
    ) -> list[RolloutCompletion]:
        """Return a completion of each prompt, sampled at temperature 1 from the whole vocabulary, with the
        log-probability of each token.

        Completions are stored in `kept`, so that a killed training resumes with the same ones.
        """

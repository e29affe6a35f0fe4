"""How rude an answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class ToxicityReward(Reward):
    """Minus the share of an answer's words that stand on lists of swear words (the extra `toxicity`): 0 for none.

    A list knows no context: it finds an insult and the report of one alike, and nothing that is cruel in plain words.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages whose lists are used."""
    ignore: tuple[str, ...] = ()
    """Words that are no insult here."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """From 0 down to -1 for each answer."""
        from luthier.lang.lexicons import count_swear_words

        texts = [attempt.text for attempt in attempts]
        found = count_swear_words(texts, self.languages, self.ignore)
        return [-min(1.0, count / max(1, len(text.split()))) for count, text in zip(found, texts, strict=True)]

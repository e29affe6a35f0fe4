"""Values of prompts of models without weights here: texts are changed, and nothing else is possible."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from luthier.chat.messages import Message, join_user_turns
from luthier.core.errors import ModelError, did_you_mean
from luthier.explain.scorer import PromptScorer, Units
from luthier.explain.units import CutPrompt, remove_units

if TYPE_CHECKING:
    from luthier.models.lm.base import LanguageModel
    from luthier.models.text_classifier import TextClassifier

MAX_NEW_TOKENS = 128


class ClassifierPromptScorer(PromptScorer):
    """The log-probability of a class by a plain classifier, or the difference from another class's."""

    def __init__(
        self,
        classifier: TextClassifier,
        cut: CutPrompt,
        messages: Sequence[Message],
        chosen: str | None,
        against: str = "",
    ) -> None:
        super().__init__(cut, "contrast" if against else "class")
        self._classifier, self._messages = classifier, messages
        if chosen is None:
            chosen = max((scores := self._read([self.all_units])[0]), key=scores.__getitem__)
        for name in filter(None, (chosen, against)):
            if name not in classifier.classes:
                raise ModelError(f"the model has no class {name!r}", hint=did_you_mean(name, classifier.classes))
        self.chosen, self._against = chosen, against

    def _score(self, kept: Sequence[Units]) -> list[float]:
        found = self._read(kept)
        return [entry[self.chosen] - (entry[self._against] if self._against else 0.0) for entry in found]

    def build_key(self, kept: Units) -> Hashable:
        """The messages that are left."""
        return tuple(message.content for message in remove_units(self._messages, self.cut.units, kept))

    def _read(self, kept: Sequence[Units]) -> list[dict[str, float]]:
        texts = [join_user_turns(remove_units(self._messages, self.cut.units, entry)) for entry in kept]
        return self._classifier.scores(texts)


class EndpointPromptScorer(PromptScorer):
    """Similarity of an endpoint's answers with and without units: the F1 score of their words."""

    def __init__(self, lm: LanguageModel, cut: CutPrompt, messages: Sequence[Message], answer: str | None) -> None:
        super().__init__(cut, "likeness")
        self._lm, self._messages = lm, messages
        self.answer = self._generate_answers([self.all_units])[0] if answer is None else answer

    def _score(self, kept: Sequence[Units]) -> list[float]:
        return [compute_word_overlap(self.answer, text) for text in self._generate_answers(kept)]

    def build_key(self, kept: Units) -> Hashable:
        """The messages that are left."""
        return tuple(message.content for message in remove_units(self._messages, self.cut.units, kept))

    def _generate_answers(self, kept: Sequence[Units]) -> list[str]:
        from luthier.chat.prompt import PromptPrefix
        from luthier.models.lm.base import GenerateRequest
        from luthier.models.lm.openai_client import EndpointLM

        # the model's own prompt is among the messages, so that its units count
        lm = self._lm.with_prompt(PromptPrefix()) if isinstance(self._lm, EndpointLM) else self._lm
        requests = [
            GenerateRequest(prompt=remove_units(self._messages, self.cut.units, entry), max_tokens=MAX_NEW_TOKENS)
            for entry in kept
        ]
        return [response.text for response in lm.generate(requests)]


def compute_word_overlap(text: str, other: str) -> float:
    """The F1 score of the words that two texts have in common."""
    words, counts = Counter(text.casefold().split()), Counter(other.casefold().split())
    common = (words & counts).total()
    return 0.0 if not common else 2 * common / math.fsum((words.total(), counts.total()))

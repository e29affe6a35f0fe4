"""Asking a model with a prompt in front: weights on this machine, or an endpoint; the same questions to both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.metrics.answers import Answers
from luthier.models.load import Dtype
from luthier.models.options import Normalise, Sums, normalise
from luthier.text.messages import Example, Message, answer_of, as_openai, emptied, prompt_of
from luthier.text.prompt import Prompt

PROPOSAL_TOKENS = 120
DIGITS = 6
"""Decimals kept of log-probabilities: far below what could matter, far above float noise."""


class Asker(ABC):
    """Answers rows with a prompt in front; `options` is what is said for each label, empty for texts."""

    context: int | None = None
    """Tokens that the model reads at most, when that is known."""
    scores: bool = True
    """Whether every label of a row gets a score."""

    def __init__(self, options: Mapping[str, str], max_new_tokens: int) -> None:
        self.options = options
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    def answer(self, prompt: Prompt, examples: Sequence[Example]) -> Answers:
        """A model's answers beside the right ones, as metrics read them."""

    @abstractmethod
    def length(self, prompt: Prompt, examples: Sequence[Example]) -> int:
        """How long the longest of these rows is with the prompt in front: tokens, or characters of an endpoint."""

    def tokens(self, example: Example) -> int | None:
        """Tokens of a row as it is asked; None where nobody counts them."""
        return None

    @abstractmethod
    def write(self, messages: Sequence[Message], count: int, seed: int) -> list[str]:
        """Several drawn answers to one question."""

    def references(self, examples: Sequence[Example]) -> list[str]:
        """The right answers."""
        return [example.label or "" if self.options else answer_of(example) for example in examples]


class Local(Asker):
    """A model whose weights are here."""

    def __init__(
        self,
        artifact: Artifact,
        dtype: Dtype,
        options: Mapping[str, str],
        max_new_tokens: int,
        alike: Normalise = "sum",
    ) -> None:
        from luthier.models.describe import describe
        from luthier.models.load import load
        from luthier.text.ids import Text

        super().__init__(options, max_new_tokens)
        self._alike = alike
        self._loaded = load(artifact, dtype)
        self._text = Text.load(self._loaded.folder)
        self.context = describe(self._loaded.folder).context

    def answer(self, prompt: Prompt, examples: Sequence[Example]) -> Answers:
        """Labels by the log-probability of what is said for each; texts as the model writes them."""
        return self._choose(prompt, examples) if self.options else self._write(prompt, examples)

    def length(self, prompt: Prompt, examples: Sequence[Example]) -> int:
        """Tokens of the longest row, its answer included."""
        asked = [(prompt.wrap(prompt_of(example)), example.tools) for example in examples]
        longest = max(len(self._text.prompt(*one)) for one in asked)
        return longest + (self._longest_option() if self.options else self.max_new_tokens)

    def tokens(self, example: Example) -> int:
        """Tokens of a row as it is asked."""
        return len(self._text.prompt(prompt_of(example), example.tools))

    def write(self, messages: Sequence[Message], count: int, seed: int) -> list[str]:
        """Drawn at temperature 1, from the likeliest tokens that have 95 % together."""
        from luthier.models.decoder import Sampling
        from luthier.models.generate import generate

        sampling = Sampling(temperature=1.0, top_p=0.95, seed=seed)
        ids = [self._text.prompt(messages)] * count
        return [self._told(one) for one in generate(self._loaded, ids, PROPOSAL_TOKENS, self._ends, sampling=sampling)]

    def _choose(self, prompt: Prompt, examples: Sequence[Example]) -> Answers:
        asked = [(prompt_of(example), example.tools) for example in examples]
        totals = self._sums(prompt, asked)
        priors: Sequence[Sums] = [()] * len(asked)
        if self._alike == "prior":
            priors = self._sums(prompt, [(emptied(messages), tools) for messages, tools in asked])
        scores = [
            [round(score, DIGITS) for score in normalise(self._alike, row, prior)]
            for row, prior in zip(totals, priors, strict=True)
        ]
        told = [dict(zip(self.options, row, strict=True)) for row in scores]
        chosen = [max(self.options, key=row.__getitem__) for row in told]
        return Answers.of(chosen, self.references(examples), label_scores=told)

    def _sums(self, prompt: Prompt, asked: Sequence[tuple[tuple[Message, ...], Any]]) -> list[Sums]:
        """For each row, the summed log-probability of each option, and its tokens."""
        from luthier.models.generate import score_options

        said = list(self.options.values())
        pairs = [self._text.options(prompt.wrap(messages), said, tools) for messages, tools in asked]
        sums = score_options(self._loaded.model, [ids for ids, _ in pairs], [options for _, options in pairs])
        return [
            [(score, len(ids)) for score, ids in zip(row, options, strict=True)]
            for row, (_, options) in zip(sums, pairs, strict=True)
        ]

    def _write(self, prompt: Prompt, examples: Sequence[Example]) -> Answers:
        from luthier.models.generate import generate

        asked = [prompt.wrap(prompt_of(example)) for example in examples]
        ids = self._text.prompts(asked, [example.tools for example in examples])
        written = generate(self._loaded, ids, self.max_new_tokens, self._ends)
        return Answers.of([self._told(one) for one in written], self.references(examples))

    def _longest_option(self) -> int:
        return max(len(self._text.tokenizer.encode(text)) for text in self.options.values()) + 2

    def _told(self, ids: Sequence[int]) -> str:
        return self._text.decode([one for one in ids if one not in self._ends], special=False).strip()

    @property
    def _ends(self) -> frozenset[int]:
        return self._text.end_ids


class Distant(Asker):
    """A model behind an endpoint."""

    def __init__(self, artifact: Artifact, kept: Path, options: Mapping[str, str], max_new_tokens: int) -> None:
        from luthier.models.endpoint import Client

        super().__init__(options, max_new_tokens)
        self._client = Client.of(artifact, kept)
        self.scores = self._client.settings.labels == "logprobs"

    def answer(self, prompt: Prompt, examples: Sequence[Example]) -> Answers:
        """Labels by what is written, or by the shares of first tokens; texts as the model writes them."""
        asked = [as_openai(prompt.wrap(prompt_of(example))) for example in examples]
        references = self.references(examples)
        if not self.options:
            return Answers.of([one.text.strip() for one in self._client.write(asked, self.max_new_tokens)], references)
        labels = list(self.options)
        picked = self._client.pick(asked, list(self.options.values()))
        scores = [told for one in picked if (told := one.by_label(labels))]
        return Answers.of([one.label(labels) for one in picked], references, label_scores=scores or None)

    def length(self, prompt: Prompt, examples: Sequence[Example]) -> int:
        """Characters of the longest row."""
        return max(sum(len(turn.content) for turn in prompt.wrap(prompt_of(example))) for example in examples)

    def write(self, messages: Sequence[Message], count: int, seed: int) -> list[str]:
        """Drawn at temperature 1; each request has a seed of its own."""
        turns = as_openai(messages)
        told = [self._client.write([turns], PROPOSAL_TOKENS, temperature=1.0, seed=seed + at) for at in range(count)]
        return [one.text.strip() for (one,) in told]

"""Queries a language model under a candidate prompt: local weights or an endpoint, with the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.chat.messages import Example, Message, answer_of, prompt_of
from luthier.chat.prompt import PromptPrefix
from luthier.metrics.metric import EvalPredictions
from luthier.models.describe import describe_model_folder
from luthier.models.lm.base import ChoiceRequest, GenerateRequest, Normalize
from luthier.models.lm.local import LocalLM
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.load import find_base_folder

PROPOSAL_TOKENS = 120
PROPOSAL_TOP_P = 0.95
"""Nucleus of the sampling of proposals from a local model."""


class PromptTrialClient:
    """Answers rows with a language model under a candidate prompt."""

    def __init__(
        self, lm: LocalLM | EndpointLM, options: Mapping[str, str], max_new_tokens: int, alike: Normalize = "sum"
    ) -> None:
        self.options, self.max_new_tokens = options, max_new_tokens
        self._lm, self._alike = lm.with_prompt(PromptPrefix()), alike

    @property
    def context(self) -> int | None:
        """Context length of the model, when it is known."""
        return (
            describe_model_folder(find_base_folder(self._lm.artifact)).context
            if isinstance(self._lm, LocalLM)
            else None
        )

    @property
    def scores(self) -> bool:
        """Whether every label of a row gets a score."""
        return isinstance(self._lm, LocalLM) or self._lm.settings.labels == "logprobs"

    def answer(self, prompt: PromptPrefix, examples: Sequence[Example]) -> EvalPredictions:
        """Return a model's answers with the references, as metrics read them."""
        lm, references = self._lm.with_prompt(prompt), self.references(examples)
        prompts = [(prompt_of(example), example.tools) for example in examples]
        if not self.options:
            limit = self.max_new_tokens
            requests = [
                GenerateRequest(prompt=messages, max_tokens=limit, tools=tools, truncate_prompt=False)
                for messages, tools in prompts
            ]
            return EvalPredictions.of([response.text.strip() for response in lm.generate(requests)], references)
        labels, options = list(self.options), tuple(self.options.values())
        choices = [ChoiceRequest(prompt=messages, options=options, tools=tools) for messages, tools in prompts]
        chosen = lm.choose(choices, self._alike)
        scores = [record for choice_response in chosen if (record := choice_response.by_label(labels))]
        return EvalPredictions.of(
            [choice_response.label(labels) for choice_response in chosen], references, label_scores=scores or None
        )

    def length(self, prompt: PromptPrefix, examples: Sequence[Example]) -> int:
        """Return the length of the longest of these rows with the prompt: tokens, or characters for an endpoint."""
        lm = self._lm.with_prompt(prompt)
        if isinstance(lm, EndpointLM):
            return max(sum(len(turn.content) for turn in prompt.wrap(prompt_of(example))) for example in examples)
        longest = max(lm.count_tokens(prompt_of(example), example.tools) for example in examples)
        return longest + (self._longest_option(lm) if self.options else self.max_new_tokens)

    def tokens(self, example: Example) -> int | None:
        """Return the tokens of a row's question; None where they cannot be counted."""
        return self._lm.count_tokens(prompt_of(example), example.tools) if isinstance(self._lm, LocalLM) else None

    def write(self, messages: Sequence[Message], count: int, seed: int) -> list[str]:
        """Return several answers to one question, sampled at temperature 1; an endpoint gets a seed for each."""
        far = isinstance(self._lm, EndpointLM)
        requests = [
            GenerateRequest(
                prompt=tuple(messages),
                max_tokens=PROPOSAL_TOKENS,
                temperature=1.0,
                top_p=1.0 if far else PROPOSAL_TOP_P,
                seed=seed + number if far else seed,
                truncate_prompt=False,
            )
            for number in range(count)
        ]
        return [response.text.strip() for response in self._lm.generate(requests)]

    def references(self, examples: Sequence[Example]) -> list[str]:
        """Return the right answers."""
        return [example.label or "" if self.options else answer_of(example) for example in examples]

    def _longest_option(self, lm: LocalLM) -> int:
        return max(len(lm.text.tokenizer.encode(text)) for text in self.options.values()) + 2

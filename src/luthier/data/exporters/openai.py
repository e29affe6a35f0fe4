"""OpenAI's fine-tuning files: chat rows, or pairs of a preferred and another answer."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import OPENAI, ProviderRules
from luthier.data.provider_export import PreferenceProviderExporter


class OpenaiExporter(PreferenceProviderExporter):
    """OpenAI fine-tuning JSONL, checked against OpenAI's rules; beside each file an index with what it cannot hold.

    `SPLIT.jsonl` holds `messages` (and `tools`), or `input`, `preferred_output` and `non_preferred_output`; line by
    line beside it, `SPLIT.index.jsonl` keeps `id`, `origin` and `meta`. Reasoning is left out.
    """

    kind: Literal["openai"] = "openai"

    @property
    def rules(self) -> ProviderRules:
        """What OpenAI takes."""
        return OPENAI

"""Together's fine-tuning files."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import TOGETHER, ProviderRules
from luthier.data.provider_export import PreferenceProviderExporter


class TogetherExporter(PreferenceProviderExporter):
    """Together fine-tuning JSONL, in OpenAI's form and within Together's rules; beside each file an index."""

    kind: Literal["together"] = "together"

    @property
    def rules(self) -> ProviderRules:
        """What Together takes."""
        return TOGETHER

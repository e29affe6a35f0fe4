"""Azure OpenAI's fine-tuning files."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import AZURE, ProviderRules
from luthier.data.provider_export import PreferenceProviderExporter


class AzureExporter(PreferenceProviderExporter):
    """Azure OpenAI fine-tuning JSONL, in OpenAI's form; beside each file an index with what it cannot hold."""

    kind: Literal["azure"] = "azure"

    @property
    def rules(self) -> ProviderRules:
        """What Azure OpenAI takes."""
        return AZURE

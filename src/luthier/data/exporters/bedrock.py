"""Amazon Bedrock's fine-tuning files."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import BEDROCK, ProviderRules
from luthier.data.provider_export import ProviderExporter


class BedrockExporter(ProviderExporter):
    """Amazon Bedrock conversation JSONL (`bedrock-conversation-2024`), by the rules for Nova; an index beside it."""

    kind: Literal["bedrock"] = "bedrock"

    @property
    def rules(self) -> ProviderRules:
        """What Amazon Bedrock takes."""
        return BEDROCK

"""Fireworks' fine-tuning files."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import FIREWORKS, ProviderRules
from luthier.data.provider_export import PreferenceProviderExporter


class FireworksExporter(PreferenceProviderExporter):
    """Fireworks fine-tuning JSONL, in OpenAI's form and within Fireworks' rules; beside each file an index."""

    kind: Literal["fireworks"] = "fireworks"

    @property
    def rules(self) -> ProviderRules:
        """What Fireworks takes."""
        return FIREWORKS

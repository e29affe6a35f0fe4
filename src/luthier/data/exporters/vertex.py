"""Vertex AI's files for tuning Gemini."""

from __future__ import annotations

from typing import Literal

from luthier.chat.provider_rules import VERTEX, ProviderRules
from luthier.data.provider_export import ProviderExporter


class VertexExporter(ProviderExporter):
    """Vertex AI's JSONL for the supervised tuning of Gemini (`contents`); beside each file an index."""

    kind: Literal["vertex"] = "vertex"

    @property
    def rules(self) -> ProviderRules:
        """What Vertex AI takes."""
        return VERTEX

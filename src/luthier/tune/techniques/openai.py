"""OpenAI's fine-tuning API, and that of compatible servers such as `luthier serve --tune`."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from luthier.chat.provider_rules import OPENAI, ProviderRules
from luthier.tune.hosted.openai import OpenaiShapedTechnique
from luthier.tune.hosted.technique import EnvVarName

_HOST = "api.openai.com"


class OpenaiTechnique(OpenaiShapedTechnique):
    """A model that OpenAI, or a server of the same API, tunes on uploaded rows; asked there afterwards.

    Follows OpenAI's API reference of 2025 (`/v1/files`, `/v1/fine_tuning/jobs`, methods `supervised` and `dpo`).
    """

    kind: Literal["openai"] = "openai"

    url: str = f"https://{_HOST}/v1"
    """Where the API begins: OpenAI's, or that of any server of its shape. `http://` only on this machine."""
    key_env: EnvVarName = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key, never the key itself; null for servers without keys."""

    @property
    def rules(self) -> ProviderRules:
        """OpenAI's limits; another server may take fewer rows."""
        return OPENAI if urlsplit(self.url).hostname == _HOST else OPENAI._replace(provider="the server", least_rows=1)

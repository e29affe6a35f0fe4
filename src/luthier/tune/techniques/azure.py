"""Azure OpenAI's fine-tuning API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from luthier.chat.provider_rules import AZURE, ProviderRules
from luthier.tune.hosted.client import ProviderClient
from luthier.tune.hosted.openai import OpenaiShapedTechnique
from luthier.tune.hosted.technique import EnvVarName, HostedJob


class AzureTechnique(OpenaiShapedTechnique):
    """A model that Azure OpenAI tunes on uploaded rows; asked there once you have deployed it.

    Follows Azure OpenAI's REST reference (`files`, `fine_tuning/jobs`, the header `api-key`, `api-version`). The
    finished model answers once a deployment of it stands: make one in the portal, and name it in `deployment`.
    """

    kind: Literal["azure"] = "azure"

    url: str
    """Where the API begins: `https://RESOURCE.openai.azure.com/openai/v1`. `http://` only on this machine."""
    key_env: EnvVarName = "AZURE_OPENAI_API_KEY"
    """Name of the environment variable that holds the key, never the key itself; null for servers without keys."""
    api_version: str | None = None
    """The query `api-version` of each request: the addresses without `/v1` want one, such as `2024-10-21`."""
    deployment: str | None = None
    """The name of the deployment at which the tuned model is asked; the model's own name when not given."""

    @property
    def rules(self) -> ProviderRules:
        """Azure's limits."""
        return AZURE

    def open_client(self, say: Callable[[str], None]) -> ProviderClient:
        """Send the key in a header of its own, and the API version in each URL."""
        return ProviderClient(
            self.url, self.key_env, say, patience_s=self.patience_s, timeout_s=self.timeout_s, key_header="api-key",
            params={"api-version": self.api_version} if self.api_version else {},
        )  # fmt: skip

    def get_served_name(self, job: HostedJob) -> str:
        """Return the name of the deployment."""
        return self.deployment or job.model

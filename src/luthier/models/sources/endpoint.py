"""A model behind an OpenAI-compatible endpoint; its weights are not downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.hashing import digest_of
from luthier.models.load import ENDPOINT
from luthier.models.source import ModelProvenance, ModelSource, Say, write_json


class EndpointModelSource(ModelSource):
    """A model that any server with `/v1/chat/completions` gives out (OpenAI, vLLM, llama.cpp, Ollama, others)."""

    kind: Literal["endpoint"] = "endpoint"
    weights: ClassVar[bool] = False
    url: str
    """Where the API begins, as in `https://api.openai.com/v1`; `/chat/completions` is added. No password in it."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name there. What answers under one name may change from day to day; a dated name changes least."""
    key_env: str | None = None
    """Name of the environment variable that holds the key (never the key itself); none for servers without one."""
    labels: Literal["text", "logprobs"] = "text"
    """How one of several classes is read from an answer. `text`: what is written, compared without case, blanks and
    punctuation around it; anything else counts as wrong. `logprobs`: the likeliest class by the shares of the first
    token (`top_logprobs`), for servers that give them and classes that differ there."""
    label_tokens: int = Field(default=32, ge=1)
    """Maximum tokens of an answer that is read for a label's name (`labels: text`); reasoning models need far more."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the longest answer is called in a request: newer models of OpenAI's take only `max_completion_tokens`, many
    other servers only `max_tokens`."""
    temperature: bool = True
    """Whether requests say a temperature (0: the likeliest answer). Some models that reason refuse any; their answers
    then change from call to call."""
    echo: bool = False
    """Whether the server's `/v1/completions` reads prompts back with their log-probabilities (`echo: true`,
    `max_tokens: 0`), as vLLM's and Luthier's do. The model can then go on with plain texts, and be asked how likely
    they are."""
    prefix_token_id: int | None = Field(default=None, ge=0)
    """With `echo`, the token that is read before a text which nothing stands before, where the tokenizer puts none
    there itself: BOS, or else EOS. Without it such a tokenizer's first token has no probability."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for one response."""
    retries: int = Field(default=5, ge=0)
    """Number of retries after 429, 5xx, a lost connection or a timeout; each wait is twice the last, or as long as the
    server's `Retry-After`."""
    max_concurrency: int = Field(default=4, ge=1)
    """Maximum concurrent calls."""

    @field_validator("url")
    @classmethod
    def _an_address_and_no_password(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s@?#]+", url):
            raise ValueError("expected an address as in https://api.openai.com/v1, without a password or a query")
        return url

    @field_validator("key_env")
    @classmethod
    def _a_name_and_no_key(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch("[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError("expected the name of an environment variable in capitals, never the key itself")
        return name

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Write the endpoint's settings; it is not called yet."""
        write_json(folder / ENDPOINT, self.settings())
        say(f"{self.model} is asked at {self.url}; what it answers may change from day to day")
        return ModelProvenance(self.model, None, f"endpoint {self.url}, model {self.model}")

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the address and the model's name; what answers there is unknown."""
        return digest_of([self.url, self.model])

    def size(self, recipe_dir: Path) -> int | None:
        """Return 0: nothing is read."""
        return 0

"""Sample completions from an OpenAI-compatible endpoint: vLLM, `luthier serve`, or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.sources.endpoint import EndpointModelSource as Address
from luthier.tune.rollout_generator import RolloutGenerator

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.tune.rollout.generate import RolloutCompletion, RolloutPrompt

_ID = "token_id:"
_WHERE = SourceLocation(field="objective.rollout.writer")


class EndpointRolloutGenerator(RolloutGenerator):
    """Ask `/v1/completions` with prompts as token ids, which come back as ids with their log-probabilities.

    vLLM and `luthier serve` name tokens by id (`return_tokens_as_token_ids`). The engine must give out the model that
    is tuned, or one near to it, over the same vocabulary; it keeps the weights that it has, so that its answers grow
    old while the model learns: `written_apart` in the log says how far, and `correct` bounds what an answer counts.
    """

    kind: Literal["endpoint"] = "endpoint"

    url: str
    """Base URL of the API, such as `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    key_env: str | None = None
    """Name of the environment variable that holds the key (never the key itself)."""
    extra: dict[str, Any] = Field(default={})
    """Further fields of each request, such as `{top_k: -1}` where the engine would cut the vocabulary by default."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds to wait for one response."""
    retries: int = Field(default=5, ge=0)
    """Number of retries of a failed call, with the wait doubled each time."""
    max_concurrency: int = Field(default=16, ge=1)
    """Maximum concurrent calls."""

    @model_validator(mode="after")
    def _an_address(self) -> EndpointRolloutGenerator:
        self._address()
        return self

    def write(
        self, prompts: Sequence[RolloutPrompt], text: ChatTokenizer, max_new_tokens: int, kept: Path
    ) -> list[RolloutCompletion]:
        """Return a completion of each prompt; the random stream of a prompt is its seed."""
        usual = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 1.0, "top_p": 1.0, "logprobs": 0}
        usual |= {"return_tokens_as_token_ids": True, **self.extra}
        bodies = [{**usual, "prompt": list(prompt.ids), "seed": prompt.stream} for prompt in prompts]
        responses = EndpointLM(self._address(), kept).complete(bodies)
        return [self._read_completion(*pair, text) for pair in zip(prompts, responses, strict=True)]

    def _address(self) -> Address:
        settings = {
            name: getattr(self, name) for name in ("url", "model", "key_env", "retries", "timeout_s", "max_concurrency")
        }
        return Address(kind="endpoint", **settings)

    def _read_completion(
        self, prompt: RolloutPrompt, choice: Mapping[str, Any], text: ChatTokenizer
    ) -> RolloutCompletion:
        from luthier.tune.rollout.generate import RolloutCompletion

        response_logprobs = choice.get("logprobs") or {}
        logprobs, names = response_logprobs.get("token_logprobs") or [], response_logprobs.get("tokens") or []
        if not logprobs or len(logprobs) != len(names) or None in logprobs:
            raise self._build_error(
                "gives no log-probabilities", "a policy learns only from answers of which they are known"
            )
        if not all(str(name).startswith(_ID) for name in names):
            raise self._build_error(
                f"names tokens by their text ({names[0]!r})", "take an engine that names them by id"
            )
        ids = [int(str(name).removeprefix(_ID)) for name in names]
        if beyond := next((id_ for id_ in ids if id_ >= text.vocabulary), None):
            raise self._build_error(
                f"wrote token {beyond} of another vocabulary", "let it give out the model that is tuned"
            )
        ended = choice.get("finish_reason") == "stop"
        if ended and ids[-1] not in text.end_ids:
            what = f"ended an answer with token {ids[-1]}, which ends no turn of this model"
            raise self._build_error(what, "does it tell the end token, and is it the same model?")
        return RolloutCompletion(prompt.ids, ids, [float(logprob) for logprob in logprobs], ended)

    def _build_error(self, what: str, hint: str) -> ModelError:
        return ModelError(f"{self.url} {what}", where=_WHERE, hint=f"{hint} (vLLM and `luthier serve` do)")

"""A cache of language model responses by request, so that no request is sent twice.

A list of requests is cached as a whole: a number never depends on which of its neighbours were cached.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json, digest_of
from luthier.core.revision import code_revision
from luthier.models.lm.base import (
    ChoiceRequest,
    ChoiceResponse,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Normalize,
    Response,
    RollingLoglikelihoodRequest,
)
from luthier.models.lm.local import LocalLM
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.load import is_endpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.messages import Message

_CODE = tuple(f"luthier.models.lm.{name}" for name in ("base", "local", "openai_client"))


class AnswerCache:
    """A folder cache of responses, keyed by model and request; `code` names further modules that determine them."""

    made: int = 0
    """Number of computed responses."""
    seconds: float = 0.0
    """Seconds of computing them."""
    cpu_s: float = 0.0
    """Processor seconds of computing them."""

    def __init__(self, folder: Path, *code: str) -> None:
        self._folder = folder
        self._by = digest_of([code_revision(*_CODE, *code), version("torch"), version("transformers")])

    def or_made(self, request: Any, make: Callable[[], list[Any]]) -> list[Any]:
        """Return the responses to a request (a JSON value), from the cache or computed and stored."""
        path = self._folder / f"{digest_of([self._by, request])}.json"
        known = _read_cache_file(path) if path.is_file() else None
        if known is None:
            started, started_cpu = time.perf_counter(), time.process_time()
            known = make()
            self.seconds += time.perf_counter() - started
            self.cpu_s += time.process_time() - started_cpu
            self.made += len(known)
            write_atomically(path, canonical_json(known).encode())
        return known


class CachingLM(LanguageModel):
    """A model whose responses to each list of requests are cached."""

    def __init__(self, lm: LanguageModel, cache: AnswerCache) -> None:
        self.lm, self._cache = lm, cache
        self.name, self.digest, self.abilities, self.classes = lm.name, lm.digest, lm.abilities, lm.classes

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """As the wrapped model."""
        return self._responses(self.lm.generate, requests)

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """As the wrapped model; streams are not cached."""
        return self.lm.stream(request)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        """As the wrapped model."""
        return self._responses(self.lm.loglikelihood, requests)

    def loglikelihood_rolling(self, requests: Sequence[RollingLoglikelihoodRequest]) -> list[Response]:
        """As the wrapped model."""
        return self._responses(self.lm.loglikelihood_rolling, requests)

    def embed(self, conversations: Sequence[tuple[Message, ...]], max_tokens: int) -> NDArray[np.float64]:
        """As the wrapped model; embeddings are not cached."""
        return self.lm.embed(conversations, max_tokens)

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """As the wrapped model."""
        return [
            ChoiceResponse(**entry)
            for entry in self._get_or_compute(["choose", how], partial(self.lm.choose, how=how), requests)
        ]

    def _responses(self, verb: Callable[[Any], Sequence[Any]], requests: Sequence[Any]) -> list[Response]:
        return [Response(**entry) for entry in self._get_or_compute([], verb, requests)]

    def _get_or_compute(
        self, settings: list[str], verb: Callable[[Any], Sequence[Any]], requests: Sequence[Any]
    ) -> list[dict[str, Any]]:
        if not requests:
            return []
        prompts = [self.digest, *settings, [_record(request) for request in requests]]
        return self._cache.or_made(prompts, lambda: [vars(entry) for entry in verb(requests)])


def open_lm(artifact: Artifact, kept: Path, **local: Any) -> LanguageModel:
    """Open the language model of an artifact, with its responses cached in a folder; `local` is for local weights."""
    if is_endpoint(artifact):
        return EndpointLM.of(artifact, kept)
    return CachingLM(LocalLM(artifact, **local), AnswerCache(kept))


def _record(value: Any) -> Any:
    """Return a request as JSON: its kind and settings, messages without defaults, tuples as lists."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, tuple | list):
        return [_record(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, {field.name: _record(getattr(value, field.name)) for field in fields(value)}]
    return value


def _read_cache_file(path: Path) -> list[Any] | None:
    """Read a cache file; None when it is incomplete, so that it is computed again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return record if isinstance(record, list) else None

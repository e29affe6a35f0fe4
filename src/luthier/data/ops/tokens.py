"""Operator that counts tokens and drops rows that do not fit the context window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row

_BYTES_PER_TOKEN = 4
"""About what byte-pair vocabularies need for English; used only when no tokenizer is named."""
_FILE = "tokenizer.json"


class TokenCountOperator(RowOperator):
    """Count the tokens of all turns, and leave out rows outside a window.

    Marks that a chat template adds are not counted. Without a tokenizer, four bytes are taken for a token: good enough
    to find rows that are far too long, and no more. It never suggests itself: a file tells nothing of the model, and
    `sft` leaves rows out that are longer than its `max_length`.
    """

    kind: Literal["tokens"] = "tokens"
    reads: ClassVar[tuple[Reads, ...]] = ("system", "prompt", "answer")
    writes: ClassVar[dict[str, Column]] = {"tokens": "count"}

    tokenizer: PathText | None = None
    """A `tokenizer.json`, or a model's folder that holds one."""
    min: int = Field(default=0, ge=0)
    """Rows with fewer tokens are dropped."""
    max: int | None = Field(default=None, ge=1)
    """Rows with more tokens are dropped; no limit by default."""

    @model_validator(mode="after")
    def _is_a_window(self) -> TokenCountOperator:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) lies below min ({self.min})")
        return self

    def at(self, recipe_dir: Path, kept: Path | None = None) -> TokenCountOperator:
        """The operator with its tokenizer's place written out."""
        if self.tokenizer is None:
            return self
        return self.model_copy(update={"tokenizer": str(_place(self.tokenizer, recipe_dir))})

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the tokenizer's file."""
        if self.tokenizer is None:
            return None
        path = _place(self.tokenizer, recipe_dir)
        return file_digest(path) if path.is_file() else None

    @cached_property
    def _loaded(self) -> Any:
        from tokenizers import Tokenizer

        assert self.tokenizer is not None
        path = _place(self.tokenizer, Path())
        try:
            written = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        try:
            return Tokenizer.from_buffer(written)
        except ValueError as error:
            raise _unreadable(path, str(error)) from error

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Count, and say what falls outside."""
        counts = self._counts(["\n".join(message.content for message in row.messages) for row in rows])
        outcome = OperatorResult(attributes={"tokens": counts})
        for index, count in enumerate(counts):
            if count < self.min:
                outcome.drops[index] = Drop(f"too few tokens: {count}, expected at least {self.min}")
            elif self.max is not None and count > self.max:
                outcome.drops[index] = Drop(f"too many tokens: {count}, expected at most {self.max}")
        return outcome

    def _counts(self, texts: Sequence[str]) -> list[int]:
        if self.tokenizer is None:
            return [-(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN) for text in texts]
        whole = [text.encode("utf-8", "replace").decode() for text in texts]
        return [len(found.ids) for found in self._loaded.encode_batch(whole, add_special_tokens=False)]

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Limits around the lengths that models are tuned at."""
        most = tuple(value for value in (256, 512, 1024, 2048) if value > self.min)
        return {"max": ParamDistribution(values=list_unique_values((self.max, None, *most)))}


def _unreadable(path: Path, why: str) -> RecipeError:
    hint = f"name a `{_FILE}`, or the folder of a model that has one"
    return RecipeError(
        f"cannot read a tokenizer: {why}", where=SourceLocation(file=str(path), field="tokenizer"), hint=hint
    )


def _place(tokenizer: str, recipe_dir: Path) -> Path:
    path = resolve_path(tokenizer, recipe_dir)
    return path / _FILE if path.is_dir() else path

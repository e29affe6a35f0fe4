"""Rows that say the same, and prompts that are answered in two ways."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from luthier.data.operator import Column, Corpus, Drop, Outcome, Reads, SetOperator, Suggestion
from luthier.data.row import Row
from luthier.data.twins.keep import Keep, check, preferences, ranks
from luthier.data.twins.text_keys import digest16, normal, prompt_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.profile import Profile


class ExactDedup(SetOperator):
    """Keep one of rows that are equal but for case, white space and compatibility forms.

    Rows with one prompt and several answers are flagged (`conflict`), and dropped when asked.
    """

    kind: Literal["exact_dedup"] = "exact_dedup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 50
    writes: ClassVar[dict[str, Column]] = {"conflict": "flag", "copies": "count"}

    of: Literal["row", "prompt"] = "row"
    """Equal when prompt and answer are, or when the prompt is (one answer stays)."""
    conflict: Literal["keep", "drop"] = "keep"
    """What becomes of all rows of a prompt that has several answers, as wrong labels have."""
    keep: Keep = "first"
    """Which copy stays: the `first` or `last` in the source, the `longest`, the `newest` or `best` by a column."""
    by: str | None = None
    """The column with the date (`newest`) or the number (`best`)."""

    @model_validator(mode="after")
    def _rule_is_whole(self) -> ExactDedup:
        check(self.keep, self.by)
        return self

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """Digests of the prompt, and of prompt and answer, and what the row is preferred by."""
        found: list[bytes] = []
        for row, preferred in zip(rows, preferences(rows, self.keep, self.by), strict=True):
            prompt = prompt_key(row)
            whole = digest16(f"{prompt}\x1f{normal(row.answer)}")
            found.append(digest16(prompt) + whole + struct.pack("<d", preferred))
        return found

    def settle(self, corpus: Corpus) -> Outcome:
        """Find equal rows and contested prompts."""
        prompts, wholes = _numbered(corpus.sketches[:, :16]), _numbered(corpus.sketches[:, 16:32])
        contested = _contested(prompts, wholes)
        keys = wholes if self.of == "row" else prompts
        stays = _staying(keys, ranks(_preferred(corpus)))
        outcome = Outcome()
        going = (stays != np.arange(len(stays))) | (contested & (self.conflict == "drop"))
        for place in np.flatnonzero(going).tolist():
            if self.conflict == "drop" and contested[place]:
                outcome.drops[place] = Drop("conflicting answers")
            else:
                outcome.drops[place] = Drop("exact duplicate", twin=corpus.id(int(stays[place])), similarity=1.0)
        copies = np.bincount(keys)[keys] if len(keys) else keys
        outcome.attributes.update(conflict=contested.tolist(), copies=copies.tolist())
        if contested.any():
            what = "dropped" if self.conflict == "drop" else "kept and flagged; set `conflict: drop` to leave them out"
            outcome.notes.append(
                f"{int(contested.sum())} rows share a prompt with a row that has another answer ({what})"
            )
        return outcome

    @classmethod
    def trial(cls) -> ExactDedup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Always: it costs next to nothing, and a test row that was trained on spoils the measure."""
        if profile.duplicates or profile.conflicts:
            why = f"{profile.duplicates} of {profile.looked_at} rows repeat an earlier one"
            more = f"; {profile.conflicts} share a prompt and not the answer (`conflict: drop` leaves them out)"
            return Suggestion({}, why + (more if profile.conflicts else ""))
        return Suggestion({}, "a copy in both training and test would spoil the measure; none was seen so far")


def _preferred(corpus: Corpus) -> NDArray[np.float64]:
    return np.ascontiguousarray(corpus.sketches[:, 32:]).view(np.float64).reshape(-1)


def _staying(keys: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, the row with the same key that stays."""
    order = np.lexsort((ranks, keys))
    best = order[np.searchsorted(keys[order], np.arange(keys.max() + 1))] if len(keys) else order
    return best[keys]


def _numbered(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Equal digests as equal numbers from 0."""
    if len(digests) == 0:
        return np.zeros(0, dtype=np.int64)
    keys = np.ascontiguousarray(digests).view(np.uint64).reshape(len(digests), -1)
    order = np.lexsort(keys.T)
    new = np.concatenate([[False], (keys[order][1:] != keys[order][:-1]).any(axis=1)])
    found = np.empty(len(keys), dtype=np.int64)
    found[order] = np.cumsum(new)
    return found


def _contested(prompts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows whose prompt stands with more than one answer."""
    if len(prompts) == 0:
        return np.zeros(0, dtype=bool)
    pairs = np.unique(np.stack([prompts, wholes], axis=1), axis=0)
    return (np.bincount(pairs[:, 0]) > 1)[prompts]

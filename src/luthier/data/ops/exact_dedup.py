"""Rows that say the same, and prompts that are answered in two ways."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from luthier.core.events import format_counted_noun, format_rows_affected
from luthier.core.hashing import canonical_json
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.data.decisions import DropReasons, Drops, SparseColumn
from luthier.data.dedup.duplicates import DedupReport
from luthier.data.dedup.exact import ExactCopies, find_exact_copies
from luthier.data.dedup.exact import find_conflicting_rows as contested_rows
from luthier.data.dedup.keep import Keep, check_keep_column, keep_preferences, rank_by_preference
from luthier.data.dedup.shingles import digest16, normalize_for_comparison, prompt_key
from luthier.data.engine.columns import build_text_column, to_arrow_column
from luthier.data.engine.columns import to_arrow_indices as rows_at
from luthier.data.operator import Column, Reads, RowCorpus, SetOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.suggest.profile import SourceProfile


class ExactDedup(SetOperator):
    """Keep one of rows that are equal but for case, white space and compatibility forms.

    Tools on offer are a part of the prompt, and calls of the answer.
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
        check_keep_column(self.keep, self.by)
        return self

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """Digests of the prompt, and of prompt and answer, and what the row is preferred by."""
        found: list[bytes] = []
        for row, preferred in zip(rows, keep_preferences(rows, self.keep, self.by), strict=True):
            prompt = prompt_key(row)
            if row.tools:
                prompt = f"{prompt}\x1e{canonical_json(row.tools)}"
            whole = digest16(f"{prompt}\x1f{normalize_for_comparison(row.says)}")
            found.append(digest16(prompt) + whole + struct.pack("<d", preferred))
        return found

    def settle(self, corpus: RowCorpus) -> DedupReport:
        """Find equal rows and contested prompts."""
        sketches = np.ascontiguousarray(corpus.sketches).view(_SKETCH).reshape(-1)
        order = rank_by_preference(sketches["preferred"])
        prompts, wholes = (find_exact_copies(sketches[name], order) for name in ("prompt", "whole"))
        contested = contested_rows(prompts, wholes)
        stays = wholes if self.of == "row" else prompts
        report = DedupReport(self._drops(stays, contested, corpus), _columns(stays, contested, len(corpus)))
        if len(contested):
            what = "dropped" if self.conflict == "drop" else "kept and flagged; set `conflict: drop` to leave them out"
            rows = format_counted_noun(len(contested), "row shares", "rows share")
            report.notes.append(f"{rows} a prompt with a row that has another answer ({what})")
        return report

    def _drops(self, stays: ExactCopies, contested: NDArray[np.int64], corpus: RowCorpus) -> Drops:
        """Contested rows, where they are dropped, and the copies among the others."""
        import pyarrow as pa

        refused = contested if self.conflict == "drop" else contested[:0]
        is_copy = ~np.isin(stays.indices, refused)
        heads, which = np.unique(stays.firsts[is_copy], return_inverse=True)  # what stands together is read together
        names = build_text_column(corpus.id, heads).take(rows_at(which))
        why = DropReasons(
            [gettext_noop("conflicting answers")] * len(refused) + [gettext_noop("exact duplicate")] * len(which),
            pa.concat_arrays([to_arrow_column([None] * len(refused), names.type), names]),
            [*[None] * len(refused), *[1.0] * len(which)],
        )
        return Drops(np.concatenate([refused, stays.indices[is_copy]]), why)

    @classmethod
    def trial(cls) -> ExactDedup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Always: it costs next to nothing, and a test row that was trained on spoils the measure."""
        tried = profile.trials.get("exact_dedup")
        if tried is None:
            return Suggestion(
                {}, gettext_noop("removes rows that would be in both training and test; none was seen so far")
            )
        dropped, rows = sum(tried.dropped.values()), profile.looked_at
        why = gettext_noop(f"{format_rows_affected(dropped, rows, 'repeats an earlier one', 'repeat an earlier one')}")
        contested = tried.flagged.get("conflict", 0)
        more = "; " + gettext_noop(
            f"{contested} have the same prompt but different answers (`conflict: drop` leaves them out)"
        )
        return Suggestion({}, why + (more if contested else ""))

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Whether rows whose answers contradict each other are learnt."""
        return {"conflict": ParamDistribution(values=("keep", "drop"))}


def _columns(stays: ExactCopies, contested: NDArray[np.int64], rows: int) -> dict[str, SparseColumn]:
    """Which rows are contested, and how many rows are equal to each, itself counted."""
    members = stays.members()
    which, counts = np.unique(stays.first_of(members), return_inverse=True, return_counts=True)[1:]
    return {
        "conflict": SparseColumn(rows, False, contested, [True] * len(contested), "flag"),
        "copies": SparseColumn(rows, 1, members, counts[which].tolist(), "count"),
    }


_SKETCH = np.dtype([("prompt", "<u8", 2), ("whole", "<u8", 2), ("preferred", "<f8")])

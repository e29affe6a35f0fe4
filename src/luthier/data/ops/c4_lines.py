"""Lines of web pages that C4 leaves out, taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.data.cleaning.quality_measures import is_c4_line_kept
from luthier.data.cleaning.spans import edits_removing_spans, find_unwanted_lines
from luthier.data.operator import OperatorResult, Reads, RowOperator
from luthier.data.row import Row


class C4Lines(RowOperator):
    """Keep only lines of web text that end like sentences, as C4 did: no menus, no notices about scripts and cookies.

    Lines need five words and an end mark (Raffel et al. 2020, section 2.2). For pages; it would ruin chats and lists,
    and therefore never suggests itself.
    """

    kind: Literal["c4_lines"] = "c4_lines"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")

    roles: tuple[Literal["user", "assistant"], ...] = ("assistant",)
    """Whose turns are cleaned; a page without a prompt is the assistant's."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say which lines go; a text without any good line is left to `quality`."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(self.roles):
                unwanted = find_unwanted_lines(text, lambda line: not is_c4_line_kept(line))
                if text_edits := edits_removing_spans(field, text, unwanted, "no sentence of a page"):
                    outcome.edits.setdefault(index, []).extend(text_edits)
        return outcome

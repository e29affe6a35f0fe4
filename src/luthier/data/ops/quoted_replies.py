"""Operator that removes quoted replies from e-mails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.events import format_rows_affected
from luthier.data.cleaning.quoted import quoted_spans
from luthier.data.cleaning.spans import diff_to_edits, edits_removing_spans
from luthier.data.engine.batch import apply_edits
from luthier.data.operator import OperatorResult, Reads, RowOperator, Suggestion, TextEdit
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_REASON = "quoted reply"
_ROUNDS = 8


class QuotedReplies(RowOperator):
    """Take out what mails repeat: lines marked with `>`, "On Monday Ann wrote:", "-----Original Message-----".

    English, German, French, Spanish, Dutch, Italian, Portuguese, Polish and Scandinavian mail programs are known. A
    text that holds nothing else is left as it is.
    """

    kind: Literal["quoted_replies"] = "quoted_replies"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 2
    is_private: ClassVar[bool] = True

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say which lines go."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(("user", "assistant")):
                if "\n" in text and (text_edits := _found(field, text)):
                    outcome.edits.setdefault(index, []).extend(text_edits)
        return outcome

    @classmethod
    def trial(cls) -> QuotedReplies:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when mails of the sample repeat earlier ones."""
        tried = profile.trials.get("quoted_replies")
        if tried is None:
            return None
        return Suggestion(
            {}, format_rows_affected(tried.edited, profile.looked_at, "repeats earlier mails", "repeat earlier mails")
        )


def _found(field: str, text: str) -> list[TextEdit]:
    """What goes; where the rest of a text looks quoted only now, that goes, too."""
    first = edits_removing_spans(field, text, quoted_spans(text), _REASON)
    if not first:
        return []
    rest = apply_edits(text, first)
    clean = rest
    for _ in range(_ROUNDS):
        more = edits_removing_spans(field, clean, quoted_spans(clean), _REASON)
        if not more:
            break
        clean = apply_edits(clean, more)
    return first if clean == rest else diff_to_edits(field, text, clean, _REASON)

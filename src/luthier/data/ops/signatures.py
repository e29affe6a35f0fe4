"""Signatures at the end of messages, taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.events import format_rows_affected
from luthier.data.cleaning.quoted import QuoteSpan
from luthier.data.cleaning.signature import signature_span
from luthier.data.cleaning.spans import edits_removing_spans
from luthier.data.operator import OperatorResult, Reads, RowOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_ROUNDS = 8
"""A notice below a signature below a closing phrase: so many layers are looked for."""


def _without_names(signature: str) -> str:
    """A signature as events may show it: below its first line, every letter and digit is a star."""
    blank = signature[: len(signature) - len(signature.lstrip())]
    first, *rest = signature[len(blank) :].split("\n")
    return blank + "\n".join([first, *("".join("*" if char.isalnum() else char for char in line) for line in rest)])


class EmailSignatures(RowOperator):
    """Take out signatures: what stands below `-- ` or a closing phrase, "Sent from my …", confidentiality notices.

    Closing phrases are known in fourteen languages. A text that holds nothing else is left as it is, and so is a letter
    with a name to be filled in. Events and examples show a signature's first line, and stars for what stands below.
    """

    kind: Literal["signatures"] = "signatures"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 4
    is_private: ClassVar[bool] = True

    closings: bool = True
    """Take closing phrases ("Kind regards" and the name below) for the beginning of a signature, too."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say what goes."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(("user", "assistant")):
                for edit in edits_removing_spans(field, text, [QuoteSpan(self._end(text), len(text))], "signature"):
                    outcome.edits.setdefault(index, []).append(edit._replace(hidden=_without_names(edit.before)))
        return outcome

    def _end(self, text: str) -> int:
        """Where the message ends and its signatures begin."""
        end = len(text)
        if "\n" not in text:
            return end
        for _ in range(_ROUNDS):
            quote_span = signature_span(text[:end], closings=self.closings)
            if quote_span is None or not text[: quote_span.start].strip():
                break
            end = quote_span.start
        return end

    @classmethod
    def trial(cls) -> EmailSignatures:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when messages of the sample are signed."""
        tried = profile.trials.get("signatures")
        if tried is None:
            return None
        return Suggestion(
            {}, format_rows_affected(tried.edited, profile.looked_at, "ends in a signature", "end in a signature")
        )

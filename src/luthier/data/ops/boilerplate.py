"""Lines that stand in many rows, taken out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.events import format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.data.cleaning.quoted import QuoteSpan
from luthier.data.cleaning.spans import FENCE, edits_removing_spans, line_spans
from luthier.data.dedup.shingles import digest8, normalize_for_comparison
from luthier.data.engine.batch import apply_edits
from luthier.data.operator import OperatorResult, Reads, RowCorpus, SetOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_DIGITS = re.compile(r"\d+")
_WORDS = re.compile(r"\S\s+\S+\s+\S|[\u2e80-\U0003ffff]{4}")
"""Three words, or four signs of a script without spaces."""
_CODE_LINE = re.compile(
    r"[;{}]$|\w\([^()\n]{0,200}\)(?: ?:)?$|\s(?:==?|=>|->|:=|\+=)\s"
    r"|^(?:#include\b|import [\w.]+(?: as \w+)?$|from [\w.]+ import |def \w+\(|class \w+\s?[:({]"
    r"|for \w+ in .{1,200}:$|with .{1,200} as \w+:$|if .{0,200}[=<>()\[\]_].{0,200}:$)"
)
"""What programs say again and again: ends of statements, calls, assignments, heads of blocks."""
_GREETING_ENDS = (",", "!", "，", "！")
_LOOKED_AT = 500
"""No line of code is told by more characters."""
_BUCKETS = 1 << 22
"""Lines are first counted in so many buckets (16 MB), which bounds memory; what is frequent is then counted exactly."""


class Boilerplate(SetOperator):
    """Take out lines that come back in many rows: banners, footers, "Please do not reply to this e-mail".

    Lines are compared without case, white space and digits. Code stays, be it fenced or told by its marks. A turn of
    which nothing or a greeting would be left is left as it is: then the lines are what it says ("Hello," and "my order
    1000 has not arrived").
    """

    kind: Literal["boilerplate"] = "boilerplate"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 8
    rewrites: ClassVar[bool] = True

    share: float = Field(default=0.05, gt=0, le=1)
    """A line of at least this share of the rows is boilerplate."""
    min: int = Field(default=10, ge=2)
    """And of at least so many rows."""
    min_chars: int = Field(default=20, ge=1)
    """Shorter lines stay: greetings and thanks are no boilerplate."""
    of: tuple[Literal["user", "assistant"], ...] | None = None
    """Whose turns are looked at. When not given: what people ask, and texts that answer nobody (documents). In an
    answer, a line that comes back is most often what is to be learnt: a step of a list, the way in which help is
    offered."""

    def settle(self, corpus: RowCorpus) -> OperatorResult:
        """Count lines by rows, then say which go."""
        least = max(self.min, int(np.ceil(self.share * len(corpus))))
        frequent = self._frequent(corpus, least)
        outcome = OperatorResult()
        if not frequent:
            return outcome
        for index, row in enumerate(corpus.rows()):
            for field, text in self._said(row):
                spans = [span for span, key in self._lines(text) if key in frequent]
                text_edits = edits_removing_spans(field, text, spans, "boilerplate") if spans else []
                if text_edits and _says(apply_edits(text, text_edits)):
                    outcome.edits.setdefault(index, []).extend(text_edits)
        if outcome.edits:
            lines = "1 line that stands" if len(frequent) == 1 else f"{len(frequent)} lines that stand"
            outcome.notes.append(f"boilerplate: {lines} in {least} rows or more taken out")
        return outcome

    def _frequent(self, corpus: RowCorpus, least: int) -> set[int]:
        """Digests of lines that stand in enough rows."""
        buckets = np.zeros(_BUCKETS, dtype=np.uint32)
        for row in corpus.rows():
            buckets[list({key % _BUCKETS for key in self._keys(row)})] += 1
        if not (buckets >= least).any():
            return set()
        counts: Counter[int] = Counter()
        for row in corpus.rows():
            counts.update(key for key in self._keys(row) if buckets[key % _BUCKETS] >= least)
        return {key for key, count in counts.items() if count >= least}

    def _keys(self, row: Row) -> set[int]:
        return {key for _, text in self._said(row) for _, key in self._lines(text)}

    def _said(self, row: Row) -> Iterator[tuple[str, str]]:
        """The texts that are looked at, each with its field."""
        if self.of is not None:
            return row.texts_with_rejected(self.of)
        return row.texts_with_rejected(
            ("user",) if any(message.role == "user" for message in row.messages) else ("assistant",)
        )

    def _lines(self, text: str) -> Iterator[tuple[QuoteSpan, int]]:
        """Lines of texts that have several, with their digests."""
        if "\n" not in text.strip():
            return
        is_fenced = False
        for span in line_spans(text):
            raw = text[span.start : span.end]
            is_border = raw.count(FENCE) % 2 == 1
            is_code = is_fenced or is_border
            is_fenced ^= is_border
            line = normalize_for_comparison(raw)
            if len(line) >= self.min_chars and not (is_code or _CODE_LINE.search(raw[:_LOOKED_AT].strip())):
                yield span, digest8(_DIGITS.sub("0", line))

    @classmethod
    def trial(cls) -> Boilerplate:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when lines of the sample come back in many rows."""
        tried = profile.trials.get("boilerplate")
        if tried is None:
            return None
        return Suggestion(
            {},
            gettext_noop(
                f"{format_rows_affected(tried.edited, profile.looked_at, 'holds', 'hold')} lines that come back in "
                "many rows"
            ),
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """From how many rows on a line is boilerplate."""
        return {"share": ParamDistribution(0.01, 0.2, log=True)}


def _says(text: str) -> bool:
    """Whether a text has more than greetings: a line of some words that none ends like."""
    lines = map(str.rstrip, text.splitlines())
    return any(_WORDS.search(line) and not line.endswith(_GREETING_ENDS) for line in lines)

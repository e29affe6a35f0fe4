"""How many answers hold personal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.monitor.estimate import share
from luthier.monitor.signal import Reading, Row, Signal, Span, answer_text
from luthier.text.pii.found import PATTERN_KINDS, PiiKind
from luthier.traffic.record import Feedback, Trace


class Personal(Signal):
    """The part of answers in which personal data stands that the question did not hold, by the data room's finders."""

    kind: Literal["pii"] = "pii"
    kinds: tuple[PiiKind, ...] = Field(default=PATTERN_KINDS, min_length=1)
    """What counts; names of people need a recogniser and are not looked for here."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.text.pii.scan import find

        text = answer_text(trace)
        if text is None:
            return None
        asked = "\n".join(turn.content for turn in trace.messages)
        return float(any(found.text not in asked for found in find(text, self.kinds)))

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        return {self.called: share(rows, span)}

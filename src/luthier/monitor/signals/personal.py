"""How many answers hold personal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.pii.span import PATTERN_KINDS, PiiKind
from luthier.traces.record import Feedback, Trace


class PersonalDataSignal(Signal):
    """The part of answers in which personal data stands that the question did not hold, by the data room's finders."""

    kind: Literal["pii"] = "pii"
    shares: ClassVar[bool] = True
    kinds: tuple[PiiKind, ...] = Field(default=PATTERN_KINDS, min_length=1)
    """What counts; names of people need a recogniser and are not looked for here."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.pii.detect import find_pii

        text = answer_text(trace)
        if text is None:
            return None
        prompt = "\n".join(turn.content for turn in trace.messages)
        return float(any(found.text not in prompt for found in find_pii(text, self.kinds)))

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_share(rows, span)}

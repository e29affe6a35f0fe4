"""How many answers decline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from luthier.lang.lexicons import is_refusal
from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.traces.record import Feedback, Trace


class Refusals(Signal):
    """The part of answers that decline to do what was asked, told from their first sentences, in English.

    The same look as the probe `refusal` of an evaluation; a phrase is a weak sign, so watch its change, not its height.
    """

    kind: Literal["refusal_rate"] = "refusal_rate"
    shares: ClassVar[bool] = True

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        return None if text is None else float(is_refusal(text))

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_share(rows, span)}

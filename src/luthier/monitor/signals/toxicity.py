"""How many answers swear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.traces.record import Feedback, Trace


class ToxicitySignal(Signal):
    """The part of answers with a word on a list of swear words (the package `badwords-py`, extra `toxicity`).

    A list finds an insult and the report of one alike; a model that judges (`judge` with a rubric of yours) knows more.
    """

    kind: Literal["toxicity"] = "toxicity"
    shares: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages whose lists are used."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.lang.lexicons import count_swear_words

        text = answer_text(trace)
        return None if text is None else float(count_swear_words([text], self.languages)[0] > 0)

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_share(rows, span)}

"""How many answers swear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.monitor.estimate import share
from luthier.monitor.signal import Reading, Row, Signal, Span, answer_text
from luthier.traffic.record import Feedback, Trace


class Toxicity(Signal):
    """The part of answers with a word on a list of swear words (the package `badwords-py`, extra `toxicity`).

    A list finds an insult and the report of one alike; a model that judges (`judge` with a rubric of yours) knows more.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages whose lists are used."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.text.swearing import swear_words

        text = answer_text(trace)
        return None if text is None else float(swear_words([text], self.languages)[0] > 0)

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        return {self.called: share(rows, span)}

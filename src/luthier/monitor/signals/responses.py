"""Signals of a response's text: length, refusals, toxicity, personal data and schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.lang.lexicons import is_refusal
from luthier.metrics.counts import CountGroup, Counts, list_bins
from luthier.monitor.counts import (
    build_bin_group,
    build_share_group,
    count_in_bins,
    count_share,
    measure_mean,
    measure_quantile,
    measure_share,
)
from luthier.monitor.evaluator import estimate_mean, estimate_quantile
from luthier.monitor.signal import ShareSignal, Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.pii.span import PATTERN_KINDS, PiiKind
from luthier.traces.record import Feedback, Trace


class LengthSignal(Signal):
    """Words of an answer: their mean and median, and the part of the answers that stopped at the limit of tokens."""

    kind: Literal["length"] = "length"

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.{part}" for part in ("mean", "median", "cut")]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        return None if text is None else (len(text.split()), trace.finish_reason == "length")

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        from luthier.metrics.intervals import wilson_interval

        words, cut = zip(*(row.value for row in rows), strict=True)
        part = SignalValue(sum(cut) / len(cut), *wilson_interval(sum(cut), len(cut)), span.events)
        return dict(
            zip(
                self.numbers(),
                (estimate_mean(words, span), estimate_quantile(sorted(words), 0.5, span), part),
                strict=True,
            )
        )

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [float(row.value[0]) for row in rows]

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Answers by their words, and those that stopped at the limit."""
        return [build_bin_group(f"{self.called}/words", list_bins()), build_share_group(f"{self.called}/cut")]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows."""
        return {
            f"{self.called}/words": count_in_bins((row.value[0] for row in rows), list_bins()),
            f"{self.called}/cut": count_share(row.value[1] for row in rows),
        }

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        words, ends = counts[f"{self.called}/words"], list_bins()
        found = (
            measure_mean(words, ends),
            measure_quantile(words, ends, 0.5),
            measure_share(counts[f"{self.called}/cut"]),
        )
        return dict(zip(self.numbers(), found, strict=True))


class Refusals(ShareSignal):
    """The part of answers that decline to do what was asked, told from their first sentences, in English.

    The same look as the probe `refusal` of an evaluation; a phrase is a weak sign, so watch its change, not its height.
    """

    kind: Literal["refusal_rate"] = "refusal_rate"

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        return None if text is None else float(is_refusal(text))


class ToxicitySignal(ShareSignal):
    """The part of answers with a word on a list of swear words (the package `badwords-py`, extra `toxicity`).

    A list finds an insult and the report of one alike; a model that judges (`judge` with a rubric of yours) knows more.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages whose lists are used."""

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.lang.lexicons import count_swear_words

        text = answer_text(trace)
        return None if text is None else float(count_swear_words([text], self.languages)[0] > 0)


class PersonalDataSignal(ShareSignal):
    """The part of answers in which personal data stands that the question did not hold, by the data room's finders."""

    kind: Literal["pii"] = "pii"
    kinds: tuple[PiiKind, ...] = Field(default=PATTERN_KINDS, min_length=1)
    """What counts; names of people need a recogniser and are not looked for here."""

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.pii.detect import find_pii

        text = answer_text(trace)
        if text is None:
            return None
        prompt = "\n".join(turn.content for turn in trace.messages)
        return float(any(found.text not in prompt for found in find_pii(text, self.kinds)))


class SchemaSignal(ShareSignal):
    """The part of answers that are JSON and keep a JSON schema (draft 2020-12 where it names none)."""

    kind: Literal["schema_validity"] = "schema_validity"
    form: dict[str, Any] = Field(default={})
    """The JSON schema; by default, any JSON will do."""

    @field_validator("form")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(value).check_schema(value)
        except SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from None
        return value

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        if text is None or trace.finish_reason == "tool_calls":
            return None
        try:
            return float(self._validator.is_valid(json.loads(text)))
        except (ValueError, RecursionError):
            return 0.0

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.validators import validator_for

        return validator_for(self.form)(self.form)

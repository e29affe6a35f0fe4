"""Compare a release with the stable model: canary requests unpaired, shadow requests paired.

A canary answers other users than the stable model; a shadow answers the same requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.metrics.unpaired import MeanDifference, Observation, compare_unpaired
from luthier.traces.filter import TraceFilter
from luthier.traces.record import Feedback, Trace, Variant, list_decisive, match_label_spelling
from luthier.traces.releases import Release
from luthier.traces.store import TraceWithFeedback, read_traces_with_feedback

if TYPE_CHECKING:
    pass

SHADOW_OF = "shadow_of"
"""Where the trace of a shadow says which request it is a copy of (`Trace.meta`)."""


def _right(trace: Trace, feedback: Sequence[Feedback]) -> float | None:
    labels = list_decisive(feedback, "label")
    if not labels or trace.answer is None:
        return None
    return float(trace.answer.content == match_label_spelling(trace, labels[-1]))


def _rating(trace: Trace, feedback: Sequence[Feedback]) -> float | None:
    ratings = list_decisive(feedback, "rating")
    return sum(ratings) / len(ratings) if ratings else None


_Measure = Callable[[Trace, Sequence[Feedback]], float | None]
_MEASURES: dict[str, _Measure] = {
    "rating": _rating,
    "accuracy": _right,
    "corrected": lambda trace, feedback: float(any(entry.correction for entry in feedback)) if feedback else None,
    "errors": lambda trace, feedback: float(trace.status >= 400),
    "latency_s": lambda trace, feedback: trace.latency_s if trace.status < 400 else None,
    "first_token_s": lambda trace, feedback: trace.first_token_s,
    "completion_tokens": lambda trace, feedback: float(trace.completion_tokens) if trace.status < 400 else None,
}
"""What is compared: of a rating and of accuracy more is better, of all others less, or neither."""
_PAIRED = ("accuracy", "errors", "latency_s", "completion_tokens")
"""What is known of a shadow, whose answers nobody sees."""


@dataclass(frozen=True, kw_only=True)
class VariantComparison:
    """The measures of a canary or shadow model minus those of the stable model."""

    variant: Variant
    requests: tuple[int, int]
    """Of this arm, and of the stable model; of a shadow, the requests that both answered."""
    measures: Mapping[str, MeanDifference] = field(default_factory=dict)
    same: float | None = None
    """The share of requests that a shadow answered in the same words."""

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        measures = {name: measure.as_json() for name, measure in self.measures.items()}
        return {"variant": self.variant, "requests": list(self.requests), "measures": measures, "same": self.same}


def compare_with_stable(folder: Path, release: Release, since: datetime | None = None) -> list[VariantComparison]:
    """Compare the canary or shadow of an alias with its stable model on traffic since it started."""
    arms: dict[Variant, list[TraceWithFeedback]] = defaultdict(list)
    condition = TraceFilter(f"model = '{release.alias}'")
    for with_feedback in read_traces_with_feedback(folder, since or release.at, None, condition):
        if with_feedback.trace.variant == "shadow" or _is_of(with_feedback.trace, release):
            arms[with_feedback.trace.variant].append(_light(with_feedback))
    comparisons = [_unpaired(arms["canary"], arms["stable"])] if release.canary else []
    return [*comparisons, _paired(arms["shadow"], arms["stable"])] if release.shadow else comparisons


def _is_of(trace: Trace, release: Release) -> bool:
    """Whether the model that is meant answered: none that stood there before, in the second after the switch."""
    meant = release.canary if trace.variant == "canary" else release.stable
    return meant is not None and trace.release in ("", meant.digest)


def _light(one: TraceWithFeedback) -> TraceWithFeedback:
    """Without what was asked, which is not compared: a week of requests is held at once."""
    return TraceWithFeedback(one.trace.model_copy(update={"messages": (), "parameters": {}}), one.feedback)


def _unpaired(tried: Sequence[TraceWithFeedback], stable: Sequence[TraceWithFeedback]) -> VariantComparison:
    measures = {
        name: compare_unpaired(_seen(tried, measure), _seen(stable, measure)) for name, measure in _MEASURES.items()
    }
    known = {name: found for name, found in measures.items() if found is not None}
    return VariantComparison(variant="canary", requests=(len(tried), len(stable)), measures=known)


def _seen(requests: Iterable[TraceWithFeedback], measure: _Measure) -> list[Observation]:
    values = ((measure(request.trace, request.feedback), request.trace.user) for request in requests)
    return [Observation(value, user) for value, user in values if value is not None]


def _paired(shadows: Sequence[TraceWithFeedback], stable: Sequence[TraceWithFeedback]) -> VariantComparison:
    by_id = {with_feedback.trace.id: with_feedback for with_feedback in stable}
    pairs = [(shadow, by_id[of]) for shadow in shadows if (of := shadow.trace.meta.get(SHADOW_OF, "")) in by_id]
    measures = {name: _gain(pairs, _MEASURES[name]) for name in _PAIRED}
    words = [_words(a.trace) == _words(b.trace) for a, b in pairs]
    return VariantComparison(
        variant="shadow",
        requests=(len(pairs), len(pairs)),
        measures={name: found for name, found in measures.items() if found is not None},
        same=sum(words) / len(words) if words else None,
    )


def _words(trace: Trace) -> str | None:
    return trace.answer.content.strip() if trace.answer else None


def _gain(pairs: Sequence[tuple[TraceWithFeedback, TraceWithFeedback]], measure: _Measure) -> MeanDifference | None:
    """A shadow against the stable model on the same requests; what was said of the request holds for both."""
    both = [(measure(a.trace, b.feedback), measure(b.trace, b.feedback)) for a, b in pairs]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known:
        return None
    from luthier.metrics.unpaired import compare_paired_requests

    return compare_paired_requests([a for a, _ in known], [b for _, b in known])

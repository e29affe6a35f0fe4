"""Results of a review queue: unbiased accuracy and failure rates, by slice and release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from luthier.commands.projects.workspace import find_project_file
from luthier.commands.review.queues import ReviewQueue
from luthier.commands.review.verdicts import ReviewedItem, iterate_reviewed_items
from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.metrics.sampling import SampledItem, ShareEstimate, estimate_weighted_share
from luthier.recipe.workspace import Workspace

_FEWEST = 5
"""A slice with fewer answers is not shown."""
_MOST_SLICES = 40
_MOST_VALUES = 20
"""A column with more values is no slice."""


class SliceResult(NamedTuple):
    """The figures of a part of the requests."""

    column: str
    value: str
    accuracy: ShareEstimate
    failures: tuple[tuple[str, ShareEstimate], ...]
    """The commonest types of failure."""


class FedAlert(NamedTuple):
    """An alert of the project's monitor that reads what reviewers say."""

    name: str
    expr: str
    signal: str


class ReviewResults(NamedTuple):
    """All figures of a queue."""

    drawn: int
    answered: int
    unsure: int
    disputed: int
    accuracy: ShareEstimate | None
    """None while nothing is answered."""
    failures: tuple[tuple[str, ShareEstimate], ...]
    """The share of all requests with each type of failure, the commonest first."""
    releases: tuple[SliceResult, ...]
    slices: tuple[SliceResult, ...]
    speaks_of_all: bool
    """Whether every request had a chance to be drawn."""

    def as_json(self) -> dict[str, Any]:
        """As other programs read it."""
        accuracy = None if self.accuracy is None else self.accuracy._asdict()
        return {
            "drawn": self.drawn, "answered": self.answered, "unsure": self.unsure, "disputed": self.disputed,
            "speaks_of_all": self.speaks_of_all, "accuracy": accuracy, "failures": _as_json(self.failures),
            "releases": [_slice_as_json(release) for release in self.releases],
            "slices": [_slice_as_json(slice_result) for slice_result in self.slices],
        }  # fmt: skip


def _as_json(failures: Sequence[tuple[str, ShareEstimate]]) -> dict[str, Any]:
    return {name: share._asdict() for name, share in failures}


def _slice_as_json(one: SliceResult) -> dict[str, Any]:
    shares = {"accuracy": one.accuracy._asdict(), "failures": _as_json(one.failures)}
    return {"column": one.column, "value": one.value, **shares}


def compute_review_results(ledger: Ledger, queue: ReviewQueue) -> ReviewResults:
    """The figures of a queue as it stands."""
    items = list(iterate_reviewed_items(ledger, queue))
    outcomes = [item.outcome for item in items]
    types = [name for name, _ in Counter(t for outcome in outcomes if outcome for t in outcome.types).most_common()]
    releases = [slice_result for slice_result in _slices(items, types) if slice_result.column == "release"]
    slices = [slice_result for slice_result in _slices(items, types[:3]) if slice_result.column != "release"]
    return ReviewResults(
        drawn=len(items),
        answered=sum(outcome is not None and outcome.value is not None for outcome in outcomes),
        unsure=sum(outcome is not None and outcome.value is None for outcome in outcomes),
        disputed=sum(item.is_disputed for item in items if item.opinions),
        accuracy=_estimate(items, _is_right),
        failures=_failures(items, types),
        releases=tuple(releases),
        slices=tuple(slices[:_MOST_SLICES]),
        speaks_of_all=queue.settings.speaks_of_all,
    )


def _is_right(item: ReviewedItem) -> float | None:
    outcome = item.outcome
    return None if outcome is None else outcome.value


def _has_type(name: str) -> Callable[[ReviewedItem], float | None]:
    def value(item: ReviewedItem) -> float | None:
        outcome = item.outcome
        return None if outcome is None or outcome.value is None else float(name in outcome.types)

    return value


def _estimate(items: Sequence[ReviewedItem], value: Callable[[ReviewedItem], float | None]) -> ShareEstimate | None:
    """The share over all requests; those that the same rules drew are answered in random order."""
    return estimate_weighted_share(
        SampledItem(item.probability, value(item), "\0".join(item.rules), item.trace.user or "") for item in items
    )


def _failures(items: Sequence[ReviewedItem], types: Sequence[str]) -> tuple[tuple[str, ShareEstimate], ...]:
    found = [(name, share) for name in types if (share := _estimate(items, _has_type(name))) is not None]
    return tuple(sorted(found, key=lambda entry: -entry[1].value))


def _slices(items: Sequence[ReviewedItem], types: Sequence[str]) -> list[SliceResult]:
    """The parts of the requests of which enough are answered, the worst first."""
    groups: dict[tuple[str, str], list[ReviewedItem]] = {}
    for item in items:
        for pair in _about(item):
            groups.setdefault(pair, []).append(item)
    values = Counter(column for column, _ in groups)
    found = []
    for (column, value), reviewed_items in groups.items():
        accuracy = _estimate(reviewed_items, _is_right)
        is_one_of_few = column == "release" or 1 < values[column] <= _MOST_VALUES
        if accuracy is not None and accuracy.answered >= _FEWEST and is_one_of_few:
            found.append(SliceResult(column, value, accuracy, _failures(reviewed_items, types)))
    return sorted(
        found, key=lambda slice_result: (slice_result.accuracy.value, slice_result.column, slice_result.value)
    )


def _about(item: ReviewedItem) -> list[tuple[str, str]]:
    """What a request can be sliced by."""
    trace = item.trace
    pairs = [("release", trace.release or trace.model), ("model", trace.model), ("variant", trace.variant)]
    pairs += [("finish_reason", trace.finish_reason), ("key", trace.key or "")]
    if trace.scores and trace.answer is not None:
        pairs.append(("answer", trace.answer.content))
    return [*pairs, *sorted((f"meta.{name}", value) for name, value in trace.meta.items() if len(value) <= 60)]


def list_fed_alerts(workspace: Workspace, queue: ReviewQueue) -> list[FedAlert]:
    """The alerts of the project's recipe that read a signal of what reviewers say; none where it cannot be read."""
    from luthier.monitor.plan import parse_alert_rules
    from luthier.monitor.signals.feedback import Reviewed
    from luthier.monitor.steps.monitor import Monitor
    from luthier.recipe.schema import Recipe

    try:
        file = find_project_file(workspace, queue.project)
        recipe = Recipe.load(file, (), workspace.with_folder(file.parent))
    except LuthierError:
        return []
    found = []
    for step in recipe.all_steps().values():
        if isinstance(step, Monitor):
            names = {signal.called for signal in step.signals if isinstance(signal, Reviewed)}
            rules = parse_alert_rules(step.alerts, step.signals, {})
            found += [FedAlert(rule.name, rule.alert.expr, rule.when.name) for rule in rules if rule.when.name in names]
    return found


def format_result_lines(found: ReviewResults) -> Iterator[str]:
    """The figures as a terminal shows them."""
    yield f"{found.answered:,} of {found.drawn:,} requests reviewed; {found.unsure} unsure, {found.disputed} disputed"
    if not found.speaks_of_all:
        yield "no request is drawn by chance: the figures speak of the requests that the rules mean, not of all"
    if found.accuracy is not None:
        yield f"right: {format_share(found.accuracy)} of about {found.accuracy.size:,.0f} requests"
        if found.accuracy.unseen > 0:
            yield f"nothing is known of {100 * found.accuracy.unseen:.0f} % of them yet"
    for name, share in found.failures:
        yield f"{name}: {format_share(share)}"
    for release in (*found.releases, *found.slices):
        accuracy = release.accuracy
        yield f"{release.column} {release.value}: {format_share(accuracy)} right, {accuracy.answered} reviewed"


def format_share(share: ShareEstimate) -> str:
    """A share in percent with its interval."""
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"

"""Measure a labeling project: agreement, pace, drift, anchoring, and the value of more labels.

Everything but agreement beyond chance and the learning curve is counted without scipy and scikit-learn, so that a page
can show it at once.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from luthier.annotation.project import get_project
from luthier.annotation.queue import AnnotationQueue, Answer
from luthier.annotation.results import AnsweredItem, read_answered_items
from luthier.commands.labeling.create import run_in_other_process
from luthier.commands.labeling.order import known_label
from luthier.core.db import Ledger
from luthier.core.errors import DataError
from luthier.recipe.workspace import Workspace

_FEWEST = 40
"""Labels below which no curve can be drawn."""
_MORE = 100


class Proportion(NamedTuple):
    """A share with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class PersonMeasures:
    """Measures of one person."""

    annotator: str
    answers: int
    skips: int
    flags: int
    median_seconds: float | None
    gold: Proportion | None
    """Known answers that were found."""
    agreement: Proportion | None
    """Answers with which another person's about the same item agrees, pair by pair."""
    earlier: Proportion | None
    """Agreement in the first half of the person's answers."""
    later: Proportion | None
    """Agreement in the second half."""

    @property
    def drifts(self) -> bool:
        """Whether agreement differs clearly between the halves: the intervals do not overlap."""
        one, other = self.earlier, self.later
        return one is not None and other is not None and (one.low > other.high or other.low > one.high)


@dataclass(frozen=True)
class ProjectMeasures:
    """Measures of a project."""

    people: list[PersonMeasures]
    agreement: Proportion | None
    """Pairs of answers about one item that agree."""
    with_proposal_shown: Proportion | None
    """Answers that are what the model proposed, where people saw the proposal."""
    with_proposal_hidden: Proportion | None
    """The same, where they did not: the difference is the proposal's influence."""
    disagreements: int
    """Items with different answers and no decision."""


def _proportion(hits: Sequence[bool]) -> Proportion | None:
    from luthier.metrics.intervals import wilson_interval

    if not hits:
        return None
    return Proportion(sum(hits) / len(hits), *wilson_interval(sum(hits), len(hits)), len(hits))


def measure_project(ledger: Ledger, project_id: str) -> ProjectMeasures:
    """Count what can be counted at once."""
    settings = get_project(ledger, project_id).settings
    given: dict[str, list[Answer]] = defaultdict(list)
    agreed: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    pairs: list[bool] = []
    proposal: dict[bool, list[bool]] = {True: [], False: []}
    open_disagreements = 0
    for answered_item in read_answered_items(ledger, project_id):
        for answer in answered_item.answers:
            given[answer.annotator].append(answer)
        answers = [answer for answer in answered_item.answers if answer.kind == "answer"]
        differ = False
        for index, first in enumerate(answers):
            for second in answers[index + 1 :]:
                same = settings.agrees(first.values, second.values, answered_item.item.shown)
                if same is not None:
                    pairs.append(same)
                    agreed[first.annotator][answered_item.item.id].append(same)
                    agreed[second.annotator][answered_item.item.id].append(same)
                    differ = differ or not same
            if answered_item.item.proposal is not None:
                same = settings.agrees(first.values, answered_item.item.proposal, answered_item.item.shown)
                if same is not None:
                    proposal[first.proposal_shown].append(same)
        open_disagreements += differ and answered_item.decision is None and answered_item.item.gold is None
    people = [_measure_person(name, answers_of, agreed[name]) for name, answers_of in sorted(given.items())]
    return ProjectMeasures(
        people, _proportion(pairs), _proportion(proposal[True]), _proportion(proposal[False]), open_disagreements
    )


def _measure_person(name: str, answers_of: Sequence[Answer], agreed: Mapping[int, list[bool]]) -> PersonMeasures:
    answers_of = sorted(answers_of, key=lambda answer: answer.given_at)
    answers = [answer for answer in answers_of if answer.kind == "answer"]
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    half = len(answers) // 2
    halves = [
        [hit for answer in part for hit in agreed.get(answer.item, ())] for part in (answers[:half], answers[half:])
    ]
    return PersonMeasures(
        name,
        len(answers),
        sum(answer.kind == "skip" for answer in answers_of),
        sum(answer.kind == "flag" for answer in answers_of),
        statistics.median(seconds) if seconds else None,
        _proportion([answer.gold_right for answer in answers if answer.gold_right is not None]),
        _proportion([hit for hits in agreed.values() for hit in hits]),
        *map(_proportion, halves),
    )


class MeasuredAgreement(NamedTuple):
    """Krippendorff's alpha of the answers to one question."""

    question: str
    value: float | None
    low: float | None
    high: float | None
    items: int
    note: str


@dataclass(frozen=True)
class SlowMeasures:
    """Measures that need scipy and scikit-learn."""

    agreement: list[MeasuredAgreement]
    labels: int
    error: float | None
    """Error of a plain classifier with the labels so far."""
    gain: float | None
    """Predicted reduction of the error by a hundred more labels."""
    gain_low: float | None
    gain_high: float | None
    note: str


def measure_slowly(ledger: Ledger, project_id: str) -> SlowMeasures:
    """Agreement beyond chance, and what more labels would bring; loads scipy and scikit-learn."""
    answered_items = list(read_answered_items(ledger, project_id))
    settings = get_project(ledger, project_id).settings
    agreement = [_alpha(name, question, answered_items) for name, question in settings.questions.items()]
    return SlowMeasures(agreement, *_more_labels(settings, answered_items))


def _alpha(name: str, question: Any, found: Sequence[AnsweredItem]) -> MeasuredAgreement:
    from luthier.metrics.agreement import krippendorff_alpha

    people = sorted({person for answered_item in found for person in answered_item.values(name)})
    table = []
    for answered_item in found:
        values = answered_item.values(name)
        if len(values) > 1:
            compared = {
                person: question.to_comparable(value, answered_item.item.shown) for person, value in values.items()
            }
            table.append([compared.get(person) for person in people])
    try:
        alpha = krippendorff_alpha(table, level=question.level)
    except DataError as error:
        return MeasuredAgreement(name, None, None, None, len(table), error.message)
    return MeasuredAgreement(name, alpha.value, alpha.low, alpha.high, alpha.items, alpha.note)


def _more_labels(
    settings: Any, found: Sequence[AnsweredItem]
) -> tuple[int, float | None, float | None, float | None, float | None, str]:
    """On how many a plain classifier with the labels so far errs, and what a hundred more should take off."""
    name, question = next(iter(settings.questions.items()))
    texts, labels = [], []
    for answered_item in found:
        if (label := known_label(answered_item, name)) is not None:
            texts.append(answered_item.item.shown.text)
            labels.append(label)
    if any(answered_item.item.shown.media for answered_item in found):
        return len(texts), None, None, None, None, "for texts alone, which a plain classifier reads"
    if question.kind not in ("choice", "tree") or len(texts) < _FEWEST or len(set(labels)) < 2:
        return len(texts), None, None, None, None, f"from {_FEWEST} labels of two classes on"
    return len(texts), *_fit(texts, labels), ""


def _fit(texts: Sequence[str], labels: Sequence[str]) -> tuple[float, float, float, float]:
    """Error, gain, and the ends of the gain's 95 % interval."""
    import numpy as np

    from luthier.metrics.learning_curve import forecast_errors
    from luthier.models.text_classifier import build_logistic_regression, compute_tfidf_features

    random = np.random.default_rng(0)
    order = random.permutation(len(texts))
    ask, learn = order[: max(20, len(order) // 3)], order[max(20, len(order) // 3) :]
    codes = np.array([sorted(set(labels)).index(label) for label in labels])
    matrix = compute_tfidf_features(texts)
    counts = sorted({max(2, round(share * len(learn))) for share in (0.25, 0.5, 0.75, 1.0)})
    wrong = np.zeros((len(counts), 3, len(ask)))
    for draw in range(3):
        added = random.permutation(learn)
        for index, count in enumerate(counts):
            chosen = added[:count]
            known = np.unique(codes[chosen])
            predicted = known[:1].repeat(len(ask))
            if len(known) > 1:
                predicted = build_logistic_regression().fit(matrix[chosen], codes[chosen]).predict(matrix[ask])
            wrong[index, draw] = predicted != codes[ask]
    forecast_number = forecast_errors(np.array(counts, float), wrong, seed=0).drop(counts[-1] + _MORE)
    return float(wrong[-1].mean()), forecast_number.value, forecast_number.low, forecast_number.high


def measure_in_other_process(workspace: Workspace, project_id: str) -> SlowMeasures:
    """Compute the measures in a separate process, so that this one stays small."""
    known = run_in_other_process(workspace, "label", "measure", project_id)["slow"]
    return SlowMeasures(**{**known, "agreement": [MeasuredAgreement(**entry) for entry in known["agreement"]]})


def measures_to_json(measures: ProjectMeasures, slow: SlowMeasures) -> dict[str, Any]:
    """Both as JSON."""
    plain = asdict(measures)
    return {**plain, "slow": {**asdict(slow), "agreement": [agreement._asdict() for agreement in slow.agreement]}}


def format_measures(measures: ProjectMeasures, slow: SlowMeasures) -> Iterator[str]:
    """Both as lines for a terminal."""
    for agreement in slow.agreement:
        text = (
            agreement.note
            if agreement.value is None
            else f"{agreement.value:.2f} ({agreement.low:.2f} to {agreement.high:.2f})"
        )
        what = f"{agreement.items} items answered by two people or more"
        yield f"Krippendorff's alpha of {agreement.question}: {text}; {what}"
    for name, share in (
        ("pairs of answers that agree", measures.agreement),
        ("answers like the proposal, which was shown", measures.with_proposal_shown),
        ("answers like the proposal, which was hidden", measures.with_proposal_hidden),
    ):
        if share is not None:
            yield f"{name}: {_in_percent(share)}"
    for person in measures.people:
        pace = "" if person.median_seconds is None else f", {person.median_seconds:.1f} s each"
        gold = "" if person.gold is None else f", known answers found {_in_percent(person.gold)}"
        drift = ", drifts" if person.drifts else ""
        yield f"{person.annotator}: {person.answers} answers{pace}{gold}{drift}"
    if slow.error is None or slow.gain is None:
        yield f"what {_MORE} more labels would bring: {slow.note}"
    else:
        yield (
            f"with {slow.labels} labels a plain classifier errs on {100 * slow.error:.1f} %; {_MORE} more should take "
            f"off {100 * slow.gain:.1f} points ({100 * (slow.gain_low or 0):.1f} to {100 * (slow.gain_high or 0):.1f})"
        )


def _in_percent(share: Proportion) -> str:
    return f"{100 * share.share:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f}) of {share.rows}"


def count_progress(ledger: Ledger, project_id: str) -> dict[str, int]:
    """Return the number of items in each state."""
    return AnnotationQueue(ledger, project_id).progress()._asdict()

"""Results of a human evaluation: scores, differences, strengths, agreement, and whether to continue.

`human_eval.json` holds the summary, `judgments.jsonl` every judgment with the models whose answers were judged, and
`extract_preference_pairs.jsonl` the preferred and the rejected answer of each row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from luthier.annotation.project import are_sides_swapped
from luthier.annotation.question import QuestionItem, RatingQuestion
from luthier.artifacts.annotation import Annotation
from luthier.artifacts.findings import FindingNumber, FindingTable
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.eval.human.study import Assignment

if TYPE_CHECKING:
    from luthier.eval.human.tally import RatingTally
    from luthier.metrics.bradley_terry import PairwiseComparison, Strength


class ScoredRating(NamedTuple):
    """One rating with its points, models and answers."""

    rating: Annotation
    row: str
    models: tuple[str, ...]
    shown: QuestionItem
    points: tuple[float, ...]


def score_ratings(
    assignment: Assignment, question: RatingQuestion, judgments: Sequence[Annotation]
) -> list[ScoredRating]:
    """The judgments of items that were not planted, without those in which the judge passed."""
    found = []
    for rating in judgments:
        entry = assignment.key[rating.item]
        if not entry.planted and rating.value is not None:
            shown = assignment.items[rating.item].shown
            found.append(ScoredRating(rating, entry.row, entry.models, shown, question.points(rating.value, shown)))
    return found


def count_attention_checks(
    assignment: Assignment, question: RatingQuestion, judgments: Sequence[Annotation]
) -> dict[str, tuple[int, int]]:
    """For each judge, how many planted items were judged rightly, and how many judged."""
    found: dict[str, tuple[int, int]] = {}
    for rating in judgments:
        entry = assignment.key[rating.item]
        if entry.planted:
            right, rated = found.get(rating.annotator, (0, 0))
            passed = rating.value is not None and question.passes(
                rating.value, assignment.items[rating.item].shown, entry.good
            )
            found[rating.annotator] = right + passed, rated + 1
    return found


def compute_row_points(
    assignment: Assignment,
    question: RatingQuestion,
    ratings: Sequence[ScoredRating],
    *,
    between: tuple[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """The mean points of each model in each row: over the judges of a pair, then over the pairs.

    With `between`, only what was said of these two models, where answers were judged in pairs.
    """
    requested = set(between or ()) if question.sides == 2 else set()
    by_pair: dict[tuple[str, tuple[str, ...], str], list[float]] = defaultdict(list)
    for scored in ratings:
        if requested and set(scored.models) != requested:
            continue
        for model, points in zip(scored.models, scored.points, strict=True):
            by_pair[scored.row, tuple(sorted(scored.models)), model].append(points)
    for row, *pair in assignment.same.values():
        for model in pair if not requested or set(pair) == requested else ():
            by_pair[row, tuple(sorted(pair)), model].append(sum(question.bounds) / 2)
    by_model: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (row, _, model), found in by_pair.items():
        by_model[row][model].append(sum(found) / len(found))
    return {
        row: {model: sum(found) / len(found) for model, found in sorted(models.items())}
        for row, models in sorted(by_model.items())
    }


def extract_preference_pairs(
    assignment: Assignment, question: RatingQuestion, ratings: Sequence[ScoredRating], margin: float
) -> list[dict[str, Any]]:
    """What was preferred to what: for each row and two models whose mean points differ by more than `margin`.

    `prompt` are messages, `chosen` and `rejected` texts, `margin` the points between them, `judges` how many judged.
    """
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    judges: dict[str, set[str]] = defaultdict(set)
    prompts: dict[str, Any] = {}
    for scored in ratings:
        answers[scored.row] |= dict(zip(scored.models, scored.shown.answers, strict=True))
        judges[scored.row].add(scored.rating.annotator)
        prompts[scored.row] = assignment.items[scored.rating.item].prompt
    found = []
    for row, model_points in compute_row_points(assignment, question, ratings).items():
        ranked = sorted(
            (name for name in model_points if name in answers.get(row, {})),
            key=lambda name: (-model_points[name], name),
        )
        for index, better in enumerate(ranked):
            for worse in ranked[index + 1 :]:
                if model_points[better] - model_points[worse] > margin:
                    found.append(
                        {
                            "row": row,
                            "prompt": list(prompts[row]),
                            "chosen": answers[row][better],
                            "rejected": answers[row][worse],
                            "margin": round(model_points[better] - model_points[worse], 6),
                            "judges": len(judges[row]),
                        }
                    )
    return found


PEOPLE, JUDGED, PREFERENCES = "human_eval.json", "judgments.jsonl", "preferences.jsonl"


class HumanEvalSummary(BaseModel):
    """The summary of a human evaluation: the preferred model, statistics, comments and excluded judges."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    kind: str = Field(validation_alias=AliasChoices("kind", "form"))
    """The kind of question; files of earlier versions call it `form`."""
    question: str
    sentence: str
    """Whose answers people liked better, and how sure that is."""
    stop: str
    """Whether more judgments are needed."""
    subject: str
    rival: str | None
    items: int
    judgments: int
    numbers: dict[str, FindingNumber]
    tables: tuple[FindingTable, ...]
    left_out: dict[str, str] = {}
    """Judges whose judgments do not count, and why."""
    comments: tuple[tuple[str, str, str], ...] = ()
    """Row, model (or both) and what was said, the first of them."""


def read_human_summary(judgments: Artifact) -> HumanEvalSummary:
    """Read the summary of a human evaluation from its artifact."""
    return HumanEvalSummary.model_validate(judgments.read_json(PEOPLE))


def summarize_ratings(
    assignment: Assignment,
    question: RatingQuestion,
    models: Sequence[str],
    judgments: Sequence[Annotation],
    *,
    least_right: float,
    seed: int,
) -> HumanEvalSummary:
    """Take the judgments together; judges who were right in less than `least_right` of the planted items are left out.

    Points are averaged over the judges of an answer first, so that a row counts once; pairs of equal answers are ties.
    """
    from luthier.eval.human.tally import RatingTally

    planted = count_attention_checks(assignment, question, judgments)
    left_out = {
        judge: f"right in {right} of {rated} planted items"
        for judge, (right, rated) in sorted(planted.items())
        if right < least_right * rated
    }
    ratings = [
        scored for scored in score_ratings(assignment, question, judgments) if scored.rating.annotator not in left_out
    ]
    if not ratings and not assignment.same:
        raise DataError(
            "no judgment counts" + (": every judge failed the planted items" if left_out else ""),
            hint="let somebody judge",
        )
    tally = RatingTally(assignment, question, models, min_attention_checks=least_right)
    tally.extend(judgments)
    subject, rival = models[0], models[1] if len(models) > 1 else None
    table = compute_row_points(assignment, question, ratings)
    numbers = _numbers(assignment, question, ratings, table, models, seed)
    numbers |= _quality(assignment, question, ratings, planted, seed)
    tables = [_standings(question, table, models, seed)]
    if question.sides == 2:
        tables += _strengths(assignment, ratings, models)
    tables.append(_judges(question, ratings, judgments, planted))
    return HumanEvalSummary(
        kind=question.kind,
        question=question.question_text,
        sentence=_sentence(question, numbers, subject, rival, len(left_out)),
        stop=describe_stop(tally, assignment, models),
        subject=subject,
        rival=rival,
        items=len({scored.rating.item for scored in ratings}),
        judgments=len(ratings),
        numbers=numbers,
        tables=tuple(tables),
        left_out=left_out,
        comments=tuple(_comments(ratings)[:20]),
    )


def _numbers(
    assignment: Assignment,
    question: RatingQuestion,
    ratings: Sequence[ScoredRating],
    table: Mapping[str, Mapping[str, float]],
    models: Sequence[str],
    seed: int,
) -> dict[str, FindingNumber]:
    subject = models[0]
    mine = [row[subject] for row in table.values() if subject in row]
    what = "share of comparisons won, ties half" if question.sides == 2 else f"points by people ({question.kind})"
    found = {}
    if mine:
        found["people.points"] = _mean(mine, question.bounds, f"{subject}: {what}", seed)
    width = question.bounds[1] - question.bounds[0]
    for rival in models[1:]:
        pair = compute_row_points(assignment, question, ratings, between=(subject, rival)).values()
        apart = [row[subject] - row[rival] for row in pair if subject in row and rival in row]
        if apart:
            name = "people.difference" if rival == models[1] else f"people.difference.{rival}"
            found[name] = _mean(apart, (-width, width), f"{subject} minus {rival} on the same rows: {what}", seed)
    return found


def _mean(values: Sequence[float], span: tuple[float, float], about: str, seed: int) -> FindingNumber:
    """A mean over rows with its bootstrap interval."""
    import numpy as np

    from luthier.metrics.intervals import IntervalJob, compute_intervals

    block = np.stack([np.asarray(values), np.ones(len(values))], axis=1)
    job = IntervalJob(blocks=(block,), value=lambda sums: sums[0][:, 0] / np.maximum(sums[0][:, 1], 1), span=span)
    interval = compute_intervals([job], seed=seed)[0]
    low, high = max(interval.low, span[0]), min(interval.high, span[1])
    return FindingNumber(value=interval.value, low=low, high=high, rows=len(values), about=about)


def _quality(
    assignment: Assignment,
    question: RatingQuestion,
    ratings: Sequence[ScoredRating],
    planted: Mapping[str, tuple[int, int]],
    seed: int,
) -> dict[str, FindingNumber]:
    """Agreement, planted items, ties, and whether what is shown first is preferred."""
    from luthier.metrics.agreement import krippendorff_alpha
    from luthier.metrics.intervals import wilson_interval

    found = {}
    names = sorted({scored.rating.annotator for scored in ratings})
    values_by_item: dict[str, dict[str, str | float]] = defaultdict(dict)
    for scored in ratings:
        values_by_item[scored.rating.item][scored.rating.annotator] = _comparable(question, scored)
    shared = [[values.get(name) for name in names] for values in values_by_item.values() if len(values) > 1]
    if (
        len({value for values in shared for value in values if value is not None}) > 1
    ):  # else there is no chance to take out
        agreed = krippendorff_alpha(shared, level=question.level, seed=seed)
        about = f"agreement of people, Krippendorff's alpha ({question.level})"
        found["people.agreement"] = FindingNumber(
            value=agreed.value, low=agreed.low, high=agreed.high, rows=len(shared), about=about
        )
    if rated := sum(counts[1] for counts in planted.values()):
        right = sum(counts[0] for counts in planted.values())
        found["people.attention_checks"] = _share(
            right, rated, wilson_interval(right, rated), "planted items judged rightly"
        )
    if question.sides == 2 and ratings:
        first = [scored.points[_first_seen(assignment, scored.rating)] for scored in ratings]
        ties, decided = first.count(0.5), len(first) - first.count(0.5)
        found["people.ties"] = _share(ties, len(first), wilson_interval(ties, len(first)), "judgments that are ties")
        if decided:
            wins = first.count(1.0)
            about = "decided judgments that prefer what is shown first; a half is fair"
            found["people.first_shown"] = _share(wins, decided, wilson_interval(wins, decided), about)
    return found


def _first_seen(assignment: Assignment, rating: Annotation) -> int:
    """The place of the answer that the judge saw first; where it is open, each judge has an order of their own."""
    return int(assignment.is_open and are_sides_swapped(rating.item, rating.annotator))


def _comparable(question: RatingQuestion, scored: ScoredRating) -> str | float:
    """Return ratings in a form independent of the displayed order."""
    if question.sides != 2:
        return question.to_comparable(scored.rating.value, scored.shown)
    one, other = scored.points
    return "tie" if one == other else scored.models[one < other]


def _share(right: int, rows: int, ends: tuple[float, float], about: str) -> FindingNumber:
    return FindingNumber(value=right / rows, low=ends[0], high=ends[1], rows=rows, about=about, share=True)


def _standings(
    question: RatingQuestion, table: Mapping[str, Mapping[str, float]], models: Sequence[str], seed: int
) -> FindingTable:
    rows = []
    for model in models:
        mine = [row[model] for row in table.values() if model in row]
        if mine:
            mean = _mean(mine, question.bounds, "", seed)
            rows.append((model, len(mine), _round(mean.value), _round(mean.low), _round(mean.high)))
    title = "Share of comparisons won, ties half" if question.sides == 2 else "Points"
    return FindingTable(title=title, columns=("model", "rows", "mean", "low", "high"), rows=tuple(rows))


def _strengths(assignment: Assignment, ratings: Sequence[ScoredRating], models: Sequence[str]) -> list[FindingTable]:
    """Bradley and Terry's strengths, plain and among answers of one length and mark-up, and what these two add."""
    from luthier.metrics.bradley_terry import fit_bradley_terry
    from luthier.metrics.style import STYLE

    comparisons = list_comparisons(assignment, ratings)
    if len({name for comparison in comparisons for name in comparison[:2]}) < 2:
        return []
    plain = fit_bradley_terry(comparisons, against=models[-1])
    styled = fit_bradley_terry(comparisons, against=models[-1], covariates=STYLE)
    names = sorted(plain.of, key=lambda name: (-plain.of[name].value, name))
    columns = ("log-strength", "low", "high")
    strengths = FindingTable(
        title=f"Strengths above {plain.against} (Bradley–Terry, with Davidson's ties)",
        columns=("model", *columns, *(f"{column}, of answers alike in length and mark-up" for column in columns)),
        rows=tuple((name, *_strength(plain.of[name]), *_strength(styled.of[name])) for name in names),
    )
    effects = FindingTable(
        title="What length and mark-up add to the log-strength of an answer",
        columns=("what", "twice as much adds", "low", "high"),
        rows=tuple((name, *_strength(effect, 1 / 3)) for name, effect in styled.effects.items()),
    )
    return [strengths, effects]


def list_comparisons(assignment: Assignment, ratings: Sequence[ScoredRating]) -> list[PairwiseComparison]:
    """Judgments of pairs as strengths are fitted to them; equal answers are ties."""
    from luthier.metrics.bradley_terry import PairwiseComparison
    from luthier.metrics.style import style_difference

    return [
        PairwiseComparison(a, b, scored.points[0], scored.row, style_difference(*scored.shown.answers))
        for scored in ratings
        for a, b in [scored.models]
    ] + [PairwiseComparison(pair[0], pair[1], 0.5, row, (0.0, 0.0)) for row, *pair in assignment.same.values()]


def _strength(found: Strength, scale: float = 1.0) -> tuple[float | None, ...]:
    return tuple(_round(value * scale) for value in (found.value, found.low, found.high))


def _judges(
    question: RatingQuestion,
    ratings: Sequence[ScoredRating],
    judgments: Sequence[Annotation],
    planted: Mapping[str, tuple[int, int]],
) -> FindingTable:
    """Return for each annotator: number of ratings, time, attention checks, and agreement with the others."""
    values_by_item: dict[str, dict[str, str | float]] = defaultdict(dict)
    for scored in ratings:
        values_by_item[scored.rating.item][scored.rating.annotator] = _comparable(question, scored)
    rows = []
    for judge in sorted({judgment.annotator for judgment in judgments}):
        annotations = [judgment for judgment in judgments if judgment.annotator == judge]
        took = [annotation.seconds for annotation in annotations if annotation.seconds is not None]
        alike = [
            sum(values[judge] == other for name, other in values.items() if name != judge) / (len(values) - 1)
            for values in values_by_item.values()
            if judge in values and len(values) > 1
        ]
        right = planted.get(judge)
        rows.append(
            (
                judge,
                len(annotations),
                sum(annotation.value is None for annotation in annotations),
                _round(median(took)) if took else None,
                f"{right[0]} of {right[1]}" if right else None,
                _round(sum(alike) / len(alike)) if alike else None,
            )
        )
    columns = ("judge", "judged", "passed", "median seconds", "planted right", "as others said")
    return FindingTable(title="Who judged", columns=columns, rows=tuple(rows))


def _sentence(
    question: RatingQuestion, numbers: Mapping[str, FindingNumber], subject: str, rival: str | None, left_out: int
) -> str:
    difference = numbers.get("people.difference")
    failed = gettext_noop(f"{left_out} of the judges failed the planted items and do not count.")
    without = f" {failed}" if left_out else ""
    if difference is None or rival is None:
        finding_number = numbers.get("people.points")
        if finding_number is None:
            return gettext_noop(f"People have not judged {subject} yet.") + without
        points, ends = f"{finding_number.value:.2f}", _ends(finding_number)
        return gettext_noop(f"People give {subject} {points} points ({ends}).") + without
    sure = difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)
    if question.sides == 2:
        low, high = ((1 + end) / 2 for end in difference.ends)
        share = f"{(1 + difference.value) / 2:.0%}"
        won = gettext_noop(
            f"{subject} is preferred in {share} of the rows, ties half (95 % interval {low:.0%} to {high:.0%})"
        )
    else:
        points, (low, high) = f"{difference.value:+.2f}", difference.ends
        won = gettext_noop(f"{subject} has {points} points beside {rival} (95 % interval {low:.2f} to {high:.2f})")
    if not sure:
        return gettext_noop(f"No clear preference between {subject} and {rival}: {won}.") + without
    better, worse = (subject, rival) if difference.value > 0 else (rival, subject)
    return gettext_noop(f"People prefer {better} to {worse}: {won}.") + without


def _ends(number: FindingNumber) -> str:
    low, high = number.ends
    return f"{low:.2f} to {high:.2f}"


def describe_stop(tally: RatingTally, assignment: Assignment, models: Sequence[str]) -> str:
    """Return whether anytime-valid bounds decide the order, and what remains."""
    from luthier.eval.human.tally import describe_advice

    if len(models) < 2:
        return gettext_noop("One model was judged; go on until its interval is as narrow as you need.")
    advice, rows = tally.ranking.advise(), tally.ranking.rows
    if not rows:
        first, second = models[0], models[1]
        return gettext_noop(f"{first} and {second} have no row in common yet; go on.")
    if advice.stop:
        return describe_advice(advice, rows)
    same = len({row for row, *_ in assignment.same.values()})
    counting = {judge: sheet for judge, sheet in assignment.sheets.items() if judge not in tally.left_out}
    left = sum(
        (judge, item) not in tally.ratings
        for judge, sheet in counting.items()
        for item in sheet
        if not assignment.key[item].planted
    )
    more = gettext_noop(f"{left} judgments are still to come" if left > 0 else "assign more rows to decide")
    if assignment.is_open:
        more = gettext_noop("let more people judge")
    elif not counting:
        more = gettext_noop("nobody's judgments count, for every judge failed the planted items: let others judge")
    return f"{describe_advice(advice, rows, same)}; {more}."


def _comments(ratings: Sequence[ScoredRating]) -> list[tuple[str, str, str]]:
    return [
        (scored.row, " / ".join(scored.models), scored.rating.comment) for scored in ratings if scored.rating.comment
    ]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

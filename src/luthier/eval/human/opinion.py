"""What people's judgments come to: points, differences, strengths, agreement, who read, and whether to go on asking.

`people.json` holds it in words and numbers, `judgments.jsonl` every judgment with whose answers they were, and
`preferences.jsonl` what was preferred to what, row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.described import described
from luthier.core.errors import DataError
from luthier.eval.form import Form
from luthier.eval.human.assign import Assignment
from luthier.eval.human.judgment import Judgment
from luthier.eval.human.points import Voice, gains, planted_right, row_points, voices
from luthier.text.findings import Number, Table

PEOPLE, JUDGED, PREFERENCES = "people.json", "judgments.jsonl", "preferences.jsonl"


class Opinion(BaseModel):
    """What people said, taken together."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)

    form: str
    question: str
    sentence: str
    """Whose answers people liked better, and how sure that is."""
    stop: str
    """Whether more judgments are needed."""
    subject: str
    rival: str | None
    items: int
    judgments: int
    numbers: dict[str, Number]
    tables: tuple[Table, ...]
    left_out: dict[str, str] = {}
    """Judges whose judgments do not count, and why."""
    comments: tuple[tuple[str, str, str], ...] = ()
    """Row, model (or both) and what was said, the first of them."""


def read_opinion(judgments: Artifact) -> Opinion:
    """What people's judgments came to."""
    return Opinion.model_validate(judgments.read_json(PEOPLE))


def opinion(
    asked: Assignment,
    form: Form,
    models: Sequence[str],
    judgments: Sequence[Judgment],
    *,
    least_right: float,
    seed: int,
) -> Opinion:
    """Take the judgments together; judges who were right in less than `least_right` of the planted items are left out.

    Points are averaged over the judges of an answer first, so that a row counts once; pairs of equal answers are ties.
    """
    planted = planted_right(asked, form, judgments)
    left_out = {
        judge: f"right in {right} of {seen} planted items"
        for judge, (right, seen) in sorted(planted.items())
        if right < least_right * seen
    }
    heard = [voice for voice in voices(asked, form, judgments) if voice.said.judge not in left_out]
    if not heard and not asked.same:
        raise DataError(
            "no judgment counts" + (": every judge failed the planted items" if left_out else ""),
            remedy="let somebody judge",
        )
    subject, rival = models[0], models[1] if len(models) > 1 else None
    table = row_points(asked, form, heard)
    numbers = _numbers(asked, form, heard, table, models, seed)
    numbers |= _quality(asked, form, heard, planted, seed)
    tables = [_standings(form, table, models, seed)]
    if form.sides == 2:
        tables += _strengths(asked, heard, models)
    tables.append(_judges(form, heard, judgments, planted))
    return Opinion(
        form=form.kind,
        question=form.asked,
        sentence=_sentence(form, numbers, subject, rival, len(left_out)),
        stop=_stop(form, heard, asked, subject, rival, left_out),
        subject=subject,
        rival=rival,
        items=len({voice.said.item for voice in heard}),
        judgments=len(heard),
        numbers=numbers,
        tables=tuple(tables),
        left_out=left_out,
        comments=tuple(_comments(heard)[:20]),
    )


def _numbers(
    asked: Assignment,
    form: Form,
    heard: Sequence[Voice],
    table: Mapping[str, Mapping[str, float]],
    models: Sequence[str],
    seed: int,
) -> dict[str, Number]:
    subject = models[0]
    mine = [row[subject] for row in table.values() if subject in row]
    what = "share of comparisons won, ties half" if form.sides == 2 else f"points by people ({form.kind})"
    found = {}
    if mine:
        found["people.points"] = _mean(mine, form.bounds, f"{subject}: {what}", seed)
    width = form.bounds[1] - form.bounds[0]
    for rival in models[1:]:
        pair = row_points(asked, form, heard, between=(subject, rival)).values()
        apart = [row[subject] - row[rival] for row in pair if subject in row and rival in row]
        if apart:
            name = "people.difference" if rival == models[1] else f"people.difference.{rival}"
            found[name] = _mean(apart, (-width, width), f"{subject} minus {rival} on the same rows: {what}", seed)
    return found


def _mean(values: Sequence[float], span: tuple[float, float], about: str, seed: int) -> Number:
    """A mean over rows with its bootstrap interval."""
    import numpy as np

    from luthier.metrics.resample import Job, intervals

    block = np.stack([np.asarray(values), np.ones(len(values))], axis=1)
    job = Job(blocks=(block,), value=lambda sums: sums[0][:, 0] / np.maximum(sums[0][:, 1], 1), span=span)
    found = intervals([job], seed=seed)[0]
    low, high = max(found.low, span[0]), min(found.high, span[1])
    return Number(value=found.value, low=low, high=high, rows=len(values), about=about)


def _quality(
    asked: Assignment,
    form: Form,
    heard: Sequence[Voice],
    planted: Mapping[str, tuple[int, int]],
    seed: int,
) -> dict[str, Number]:
    """Agreement, planted items, ties, and whether what is shown first is preferred."""
    from luthier.metrics.agreement import krippendorff
    from luthier.metrics.resample import wilson

    found = {}
    names = sorted({voice.said.judge for voice in heard})
    said: dict[str, dict[str, str | float]] = defaultdict(dict)
    for voice in heard:
        said[voice.said.item][voice.said.judge] = form.said(voice.said.value, voice.answers, voice.models)
    shared = [[told.get(name) for name in names] for told in said.values() if len(told) > 1]
    if len({one for told in shared for one in told if one is not None}) > 1:  # else there is no chance to take out
        agreed = krippendorff(shared, level=form.level, seed=seed)
        about = f"agreement of people, Krippendorff's alpha ({form.level})"
        found["people.agreement"] = Number(
            value=agreed.value, low=agreed.low, high=agreed.high, rows=len(shared), about=about
        )
    if seen := sum(told[1] for told in planted.values()):
        right = sum(told[0] for told in planted.values())
        found["people.planted_right"] = _share(right, seen, wilson(right, seen), "planted items judged rightly")
    if form.sides == 2 and heard:
        first = [voice.points[0] for voice in heard]
        ties, decided = first.count(0.5), len(first) - first.count(0.5)
        found["people.ties"] = _share(ties, len(first), wilson(ties, len(first)), "judgments that are ties")
        if decided:
            wins = first.count(1.0)
            about = "decided judgments that prefer what is shown first; a half is fair"
            found["people.first_shown"] = _share(wins, decided, wilson(wins, decided), about)
    return found


def _share(right: int, rows: int, ends: tuple[float, float], about: str) -> Number:
    return Number(value=right / rows, low=ends[0], high=ends[1], rows=rows, about=about, share=True)


def _standings(form: Form, table: Mapping[str, Mapping[str, float]], models: Sequence[str], seed: int) -> Table:
    rows = []
    for model in models:
        mine = [row[model] for row in table.values() if model in row]
        if mine:
            told = _mean(mine, form.bounds, "", seed)
            rows.append((model, len(mine), _round(told.value), _round(told.low), _round(told.high)))
    title = "Share of comparisons won, ties half" if form.sides == 2 else "Points"
    return Table(title=title, columns=("model", "rows", "mean", "low", "high"), rows=tuple(rows))


def _strengths(asked: Assignment, heard: Sequence[Voice], models: Sequence[str]) -> list[Table]:
    """Bradley and Terry's strengths, where more than two models met; of two they say no more than the share does."""
    from luthier.metrics.strength import Duel, strengths

    duels = [Duel(voice.models[0], voice.models[1], voice.points[0], voice.row) for voice in heard]
    duels += [Duel(pair[0], pair[1], 0.5, row) for row, *pair in asked.same.values()]
    if len({name for duel in duels for name in duel[:2]}) < 3:
        return []
    found = strengths(duels, against=models[-1])
    rows = sorted(
        ((name, _round(one.value), _round(one.low), _round(one.high)) for name, one in found.of.items()),
        key=lambda row: (-float(row[1] or 0), row[0]),
    )
    title = f"Strengths above {found.against} (Bradley–Terry, with Davidson's ties)"
    return [Table(title=title, columns=("model", "log-strength", "low", "high"), rows=tuple(rows))]


def _judges(
    form: Form, heard: Sequence[Voice], judgments: Sequence[Judgment], planted: Mapping[str, tuple[int, int]]
) -> Table:
    """Each judge: how many judgments, how long, planted items, and how often as the others said."""
    said: dict[str, dict[str, str | float]] = defaultdict(dict)
    for voice in heard:
        said[voice.said.item][voice.said.judge] = form.said(voice.said.value, voice.answers, voice.models)
    rows = []
    for judge in sorted({one.judge for one in judgments}):
        mine = [one for one in judgments if one.judge == judge]
        took = [one.seconds for one in mine if one.seconds is not None]
        alike = [
            sum(told[judge] == other for name, other in told.items() if name != judge) / (len(told) - 1)
            for told in said.values()
            if judge in told and len(told) > 1
        ]
        right = planted.get(judge)
        rows.append(
            (
                judge,
                len(mine),
                sum(one.value is None for one in mine),
                _round(median(took)) if took else None,
                f"{right[0]} of {right[1]}" if right else None,
                _round(sum(alike) / len(alike)) if alike else None,
            )
        )
    columns = ("judge", "judged", "passed", "median seconds", "planted right", "as others said")
    return Table(title="Who judged", columns=columns, rows=tuple(rows))


def _sentence(form: Form, numbers: Mapping[str, Number], subject: str, rival: str | None, left_out: int) -> str:
    told = numbers.get("people.difference")
    without = f" {left_out} of the judges failed the planted items and do not count." if left_out else ""
    if told is None or rival is None:
        mine = numbers.get("people.points")
        if mine is None:
            return f"People have not judged {subject} yet.{without}"
        return f"People give {subject} {mine.value:.2f} points ({_ends(mine)}).{without}"
    sure = told.low is not None and told.high is not None and (told.low > 0 or told.high < 0)
    if form.sides == 2:
        low, high = ((1 + end) / 2 for end in told.ends)
        won = f"{subject} is preferred in {(1 + told.value) / 2:.0%} of the rows, ties half"
        range_ = f"95 % interval {low:.0%} to {high:.0%}"
    else:
        won = f"{subject} has {told.value:+.2f} points beside {rival}"
        range_ = f"95 % interval {_ends(told)}"
    if not sure:
        return f"No clear preference between {subject} and {rival}: {won} ({range_}).{without}"
    better, worse = (subject, rival) if told.value > 0 else (rival, subject)
    return f"People prefer {better} to {worse}: {won} ({range_}).{without}"


def _ends(number: Number) -> str:
    low, high = number.ends
    return f"{low:.2f} to {high:.2f}"


def _stop(
    form: Form,
    heard: Sequence[Voice],
    asked: Assignment,
    subject: str,
    rival: str | None,
    left_out: Mapping[str, str],
) -> str:
    """Whether a sequence of bounds that holds at every look is clear of a draw."""
    from luthier.metrics.sequential import confidence_sequence

    if rival is None:
        return "One model was judged; go on until its interval is as narrow as you need."
    values = gains(asked, form, heard, subject, rival)
    if not values:
        return f"{subject} and {rival} have no row in common yet; go on."
    last = confidence_sequence(values)[-1]
    judged = {(voice.said.judge, voice.said.item) for voice in heard}
    counting = {judge: sheet for judge, sheet in asked.sheets.items() if judge not in left_out}
    wanted = [(judge, item) for judge, sheet in counting.items() for item in sheet if not asked.key[item].planted]
    left = sum(one not in judged for one in wanted)
    if last.low > 0.5 or last.high < 0.5:
        better = subject if last.low > 0.5 else rival
        return f"You may stop: {better} is better by bounds that hold however often one looks ({len(values)} rows)."
    more = f"{left} judgments are still to come" if left > 0 else "assign more rows to decide"
    if not counting:
        more = "nobody's judgments count, for every judge failed the planted items: let others judge"
    return f"Not decided after {len(values)} rows by bounds that hold however often one looks; {more}."


def _comments(heard: Sequence[Voice]) -> list[tuple[str, str, str]]:
    return [(voice.row, " / ".join(voice.models), voice.said.comment) for voice in heard if voice.said.comment]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

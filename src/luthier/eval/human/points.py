"""From judgments to points: whose answer was judged, and what it earned in each row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from luthier.eval.form import Form
from luthier.eval.human.assign import Assignment
from luthier.eval.human.judgment import Judgment


class Voice(NamedTuple):
    """One judgment beside what was shown."""

    said: Judgment
    row: str
    models: tuple[str, ...]
    answers: tuple[str, ...]
    points: tuple[float, ...]


def voices(asked: Assignment, form: Form, judgments: Sequence[Judgment]) -> list[Voice]:
    """The judgments of items that were not planted, without those in which the judge passed."""
    found = []
    for said in judgments:
        entry = asked.key[said.item]
        if not entry.planted and said.value is not None:
            answers = asked.items[said.item].answers
            found.append(Voice(said, entry.row, entry.models, answers, form.points(said.value, answers)))
    return found


def planted_right(asked: Assignment, form: Form, judgments: Sequence[Judgment]) -> dict[str, tuple[int, int]]:
    """For each judge, how many planted items were judged rightly, and how many judged."""
    found: dict[str, tuple[int, int]] = {}
    for said in judgments:
        entry = asked.key[said.item]
        if entry.planted:
            right, seen = found.get(said.judge, (0, 0))
            passed = said.value is not None and form.passes(said.value, asked.items[said.item].answers, entry.good)
            found[said.judge] = right + passed, seen + 1
    return found


def row_points(
    asked: Assignment, form: Form, heard: Sequence[Voice], *, between: tuple[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """The mean points of each model in each row: over the judges of a pair, then over the pairs.

    With `between`, only what was said of these two models, where answers were judged in pairs.
    """
    wanted = set(between or ()) if form.sides == 2 else set()
    by_pair: dict[tuple[str, tuple[str, ...], str], list[float]] = defaultdict(list)
    for voice in heard:
        if wanted and set(voice.models) != wanted:
            continue
        for model, points in zip(voice.models, voice.points, strict=True):
            by_pair[voice.row, tuple(sorted(voice.models)), model].append(points)
    for row, *pair in asked.same.values():
        for model in pair if not wanted or set(pair) == wanted else ():
            by_pair[row, tuple(sorted(pair)), model].append(sum(form.bounds) / 2)
    by_model: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (row, _, model), found in by_pair.items():
        by_model[row][model].append(sum(found) / len(found))
    return {
        row: {model: sum(found) / len(found) for model, found in sorted(models.items())}
        for row, models in sorted(by_model.items())
    }


def gains(asked: Assignment, form: Form, heard: Sequence[Voice], subject: str, rival: str) -> list[float]:
    """For each row: how far the subject is above the rival, from 0 to 1, ½ a draw; in the order of last judgments.

    A row counts when both models' answers have been judged in it. Equal answers, which nobody is asked about, are draws
    and come first.
    """
    table = row_points(asked, form, heard, between=(subject, rival))
    order = dict.fromkeys([row for row, *_ in asked.same.values()])
    for voice in heard:
        order.pop(voice.row, None)
        order[voice.row] = None
    width = form.bounds[1] - form.bounds[0]
    rows = (table[row] for row in order if row in table)
    return [0.5 + (row[subject] - row[rival]) / (2 * width) for row in rows if subject in row and rival in row]


def preferences(asked: Assignment, form: Form, heard: Sequence[Voice], margin: float) -> list[dict[str, Any]]:
    """What was preferred to what: for each row and two models whose mean points differ by more than `margin`.

    `prompt` are messages, `chosen` and `rejected` texts, `margin` the points between them, `judges` how many judged.
    """
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    judges: dict[str, set[str]] = defaultdict(set)
    prompts: dict[str, Any] = {}
    for voice in heard:
        answers[voice.row] |= dict(zip(voice.models, voice.answers, strict=True))
        judges[voice.row].add(voice.said.judge)
        prompts[voice.row] = asked.items[voice.said.item].prompt
    found = []
    for row, told in row_points(asked, form, heard).items():
        ranked = sorted((name for name in told if name in answers.get(row, {})), key=lambda name: (-told[name], name))
        for place, better in enumerate(ranked):
            for worse in ranked[place + 1 :]:
                if told[better] - told[worse] > margin:
                    found.append(
                        {
                            "row": row,
                            "prompt": list(prompts[row]),
                            "chosen": answers[row][better],
                            "rejected": answers[row][worse],
                            "margin": round(told[better] - told[worse], 6),
                            "judges": len(judges[row]),
                        }
                    )
    return found

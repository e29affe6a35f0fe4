"""Judgments that cannot be read as such, and labels that nobody can give."""

from __future__ import annotations

from typing import Any

from tests.broken.case import Case, json_lines

RUN = ("run",)
JUDGED = [{"text": f"text {n}", "annotator": who, "label": "ab"[n % 2]} for n in range(20) for who in ("ann", "bob")]
TWICE = [
    {
        "id": f"a{n}",
        "fields": {"text": f"text {n}"},
        "responses": {name: [{"value": "x", "user_id": "u"}] for name in ("tone", "topic")},
    }
    for n in range(4)
]
TEXTS = json_lines([{"text": f"a text about thing {n}"} for n in range(20)])
PLAIN = "  data:\n    kind: prepare\n    source: {kind: jsonl, path: texts.jsonl, answer: text}\n    split: {test: 0}\n"


def _judged(name: str, at: str, says: str, do: str, rows: list[Any], more: str = "") -> Case:
    recipe = f"luthier: 1\nsteps:\n  data:\n    kind: prepare\n    source: {{kind: labels, path: judged.jsonl{more}}}\n"
    return Case(name, at, says, do, RUN, recipe, {"judged.jsonl": json_lines(rows)}, kind="DataError")


def _made(name: str, at: str, says: str, do: str, step: str, **more: Any) -> Case:
    recipe = f"luthier: 1\nsteps:\n{PLAIN}  more: {step}\n"
    return Case(name, at, says, do, RUN, recipe, {"texts.jsonl": TEXTS}, leaves=frozenset({"prepare"}), **more)


CASES = (
    _judged(
        "nobody judged",
        "judged.jsonl",
        "cannot tell who judged what",
        "set `format`",
        [{"text": "a", "label": "b"}] * 9,
    ),
    _judged("two questions", "judged.jsonl (question)", "asked 2 questions: tone, topic", "set `question`", TWICE),
    _judged(
        "a question near a name",
        "judged.jsonl (question)",
        "nobody answered a question 'tonne'",
        "did you mean 'tone'?",
        TWICE,
        ", question: tonne",
    ),
    _judged(
        "line 17 by nobody",
        "judged.jsonl:17 (annotator)",
        "nobody is named as annotator",
        "mend the row, or set `on_error: drop`",
        [*JUDGED[:16], {**JUDGED[16], "annotator": ""}, *JUDGED[17:]],
    ),
    _judged(
        "a column that is not there",
        "judged.jsonl:1 (annotator)",
        "there is no column 'who'",
        "known: annotator, label, text",
        JUDGED,
        ", format: {kind: table, annotator: who}",
    ),
    _made(
        "rules that never speak",
        "recipe.yaml:7 (steps.more.functions)",
        "no row is labelled: no judgment",
        "loosen the rules",
        "{kind: label, data: data, functions: [{kind: keywords, label: a, words: [zebra]}]}",
        kind="DataError",
    ),
    _made(
        "chosen by doubts that nobody has",
        "texts.jsonl:1 (by)",
        "a row has no proposal",
        "put the step `prelabel` before this one",
        "{kind: sample_for_labeling, data: data, by: uncertainty}",
        kind="DataError",
    ),
)

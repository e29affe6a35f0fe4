"""Files of predictions that cannot be scored or compared."""

from __future__ import annotations

from typing import Any

from tests.broken.case import Case, json_lines, with_line_17

GOOD = [{"id": str(n), "prediction": "ab"[n % 2], "reference": "ab"[n % 3 % 2]} for n in range(30)]
PLAIN = [{"prediction": "a", "reference": "a"} for _ in range(30)]
SURE = [{**row, "label_scores": {"a": 0.5, "b": 0.5}} for row in PLAIN]
FORM = "one JSON object a line is expected"


def _score(name: str, at: str, says: str, do: str, content: str | bytes, *metrics: str) -> Case:
    options = tuple(word for metric in metrics for word in ("--metric", metric))
    return Case(name, at, says, do, ("score", "p.jsonl", *options), files={"p.jsonl": content}, kind="DataError")


def _line(name: str, field: str, says: str, do: str, row: Any, *metrics: str, rows: list[Any] = GOOD) -> Case:
    at = f"p.jsonl:17 ({field})" if field else "p.jsonl:17"
    return _score(name, at, says, do, json_lines(with_line_17(rows, row)), *metrics)


def _compare(name: str, at: str, says: str, do: str, a: list[Any], b: list[Any], kind: str = "DataError") -> Case:
    files = {"a.jsonl": json_lines(a), "b.jsonl": json_lines(b)}
    return Case(name, at, says, do, ("compare", "a.jsonl", "b.jsonl"), files=files, kind=kind)


CASES = (
    _line("line 17 cut off", "", "is not JSON: Expecting", FORM, '{"prediction": "a"'),
    _line("line 17 too deep", "", "it is too large", FORM, f'{{"prediction": {"[" * 100_000}{"]" * 100_000}}}'),
    _line("line 17 an array", "", "expected a JSON object, got an array", FORM, [1]),
    _line("no prediction", "", 'lacks "prediction"', "each row needs", {"id": "16", "reference": "a"}),
    _line("near a prediction", "", 'lacks "prediction"', "'predicton'", {"predicton": "a", "reference": "a"}),
    _line("no reference", "", 'lacks "reference"', "each row needs", {"id": "16", "prediction": "a"}),
    _line("near a reference", "", 'lacks "reference"', "'refrence'", {"prediction": "a", "refrence": "a"}),
    _line(
        "both references",
        "",
        'has both "reference" and "references"',
        "keep one",
        {"prediction": "a", "reference": "a", "references": ["a"]},
    ),
    _line(
        "a number for an answer",
        "prediction",
        "expected text, got 3",
        "may be empty",
        {"prediction": 3, "reference": "a"},
    ),
    _line(
        "text for references",
        "references",
        "expected a valid list, got 'a'",
        "Several accepted answers",
        {"prediction": "a", "references": "a"},
    ),
    _line(
        "id twice",
        "id",
        "stands already on line 4",
        "an id of its own",
        {"id": "3", "prediction": "a", "reference": "a"},
    ),
    _line("id left out", "id", "lacks 'id', which other rows have", "in every row, or in none", PLAIN[0]),
    _line(
        "scores in words",
        "label_scores.a",
        "expected a valid number, got 'x'",
        "A score for each label",
        {**PLAIN[0], "label_scores": {"a": "x"}},
        rows=SURE,
    ),
    _line(
        "scores as a list",
        "label_scores",
        "expected a valid dictionary, got [1]",
        "A score for each label",
        {**PLAIN[0], "label_scores": [1]},
        rows=SURE,
    ),
    _score(
        "one score",
        "p.jsonl (label_scores)",
        "row 17",
        FORM,
        json_lines(with_line_17(SURE, {**PLAIN[0], "label_scores": {"a": 1.0}})),
    ),
    _line(
        "infinite likelihood",
        "logprob",
        "expected a finite number, got nan",
        "log-likelihood",
        '{"prediction": "a", "reference": "b", "logprob": NaN, "tokens": 3}',
    ),
    Case(
        "unknown metric",
        "metric",
        "metric 'acuracy' is unknown",
        "'accuracy'",
        ("score", "p.jsonl", "--metric", "acuracy"),
        files={"p.jsonl": json_lines(GOOD)},
        kind="UnknownName",
    ),
    _score(
        "metric without its column",
        "p.jsonl (label_scores)",
        "ece needs label_scores",
        "leave the metric out",
        json_lines(GOOD),
        "ece",
    ),
    _score(
        "labels of several kinds",
        "p.jsonl (references)",
        "row 17: macro_f1 compares with one label",
        "use accuracy or exact_match",
        json_lines(with_line_17(PLAIN, {"prediction": "a", "references": ["a", "b"]})),
        "macro_f1",
    ),
    _score("empty", "p.jsonl", "holds no rows", FORM, ""),
    _score("UTF-16", "p.jsonl", "is not UTF-8 text", "save it as UTF-8", json_lines(GOOD).encode("utf-16")),
    Case(
        "no such file", "q.jsonl", "No such file", "JSON lines with predictions", ("score", "q.jsonl"), kind="DataError"
    ),
    Case(
        "a folder",
        "tiny-model",
        "Is a directory",
        "JSON lines with predictions",
        ("score", "tiny-model"),
        kind="DataError",
    ),
    Case("CSV", "tickets.csv:1", "is not JSON", FORM, ("score", "tickets.csv"), kind="DataError"),
    _compare(
        "no row in common",
        "a.jsonl (id)",
        "no id is in b.jsonl",
        "the same rows",
        GOOD,
        [{**row, "id": f"x{row['id']}"} for row in GOOD],
        "UnknownName",
    ),
    _compare(
        "other references",
        "a.jsonl (reference)",
        "'0' has other references in b.jsonl",
        "the same rows",
        GOOD,
        [{**row, "reference": "c"} for row in GOOD],
    ),
    _compare(
        "lengths that differ",
        "a.jsonl",
        "30 rows cannot be paired with 20 rows",
        'give every row an "id"',
        PLAIN,
        PLAIN[:20],
    ),
    _compare("ids in one only", "a.jsonl (id)", "has no ids, the other file has", "or neither", PLAIN, GOOD),
    Case(
        "no second file",
        "b.jsonl",
        "No such file",
        "JSON lines with predictions",
        ("compare", "a.jsonl", "b.jsonl"),
        files={"a.jsonl": json_lines(GOOD)},
        kind="DataError",
    ),
    Case(
        "a file and a recipe",
        "a.jsonl",
        "is a file of predictions, and recipe.yaml is not",
        "two steps as RECIPE:STEP",
        ("compare", "a.jsonl", "recipe.yaml"),
        files={"a.jsonl": json_lines(GOOD)},
        kind="InputError",
    ),
    Case(
        "two files of data",
        "tickets.csv",
        "cannot be compared",
        "two files of predictions",
        ("compare", "tickets.csv", "tickets.csv"),
        kind="InputError",
    ),
)

"""Scores of files of predictions: the documented shape, every fault with its line, and comparison by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, UnknownName
from luthier.metrics.files import compare_prediction_files, score_prediction_file
from luthier.metrics.metric import Metric

ROWS: list[dict[str, Any]] = [
    {
        "id": number,
        "prediction": "yes" if number % 3 else "no",
        "reference": "yes",
        "group": "web" if number % 2 else "mail",
    }
    for number in range(30)
]


def written(path: Path, rows: list[Any]) -> Path:
    """A JSONL file; strings are written as they are."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_documented_shape(tmp_path: Path) -> None:
    found = score_prediction_file(written(tmp_path / "p.jsonl", ROWS), ["accuracy", "macro_f1"])
    assert found["rows"] == 30
    assert set(found["metrics"]) == {"accuracy", "macro_f1"}
    accuracy = found["metrics"]["accuracy"]
    assert set(accuracy) == {"value", "low", "high", "signature"}
    assert accuracy["value"] == pytest.approx(20 / 30)
    assert {name: group["rows"] for name, group in found["groups"].items()} == {"mail": 15, "web": 15}
    json.dumps(found, allow_nan=False)


def test_metrics_that_fit_are_chosen(tmp_path: Path) -> None:
    labels = [{**row, "label_scores": {"yes": 0.7, "no": 0.3}} for row in ROWS]
    texts = [{"prediction": f"answer {n} was given", "references": [f"answer {n}", "none"]} for n in range(20)]
    assert set(score_prediction_file(written(tmp_path / "l.jsonl", labels))["metrics"]) == {
        "accuracy",
        "macro_f1",
        "mcc",
        "ece",
        "brier",
    }
    assert set(score_prediction_file(written(tmp_path / "t.jsonl", texts))["metrics"]) == {
        "exact_match",
        "token_f1",
        "rougeL",
        "chrf",
    }
    likely = [{**row, "logprob": -2.0, "tokens": 2} for row in texts]
    assert score_prediction_file(written(tmp_path / "p.jsonl", likely))["metrics"]["perplexity"][
        "value"
    ] == pytest.approx(2.718281828)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{not json", "is not JSON"),
        ("[1]", "expected a JSON object"),
        ({"predicton": "x", "reference": "y"}, 'lacks "prediction"'),
        ({"prediction": "x"}, 'lacks "reference"'),
        ({"prediction": "x", "reference": "y", "references": ["y"]}, "both"),
        ({"prediction": 3, "reference": "y"}, "expected text, got 3"),
        ({"prediction": "x", "references": []}, "at least 1"),
        ('{"prediction": "x", "reference": "y", "id": "z", "group": "a", "label_scores": {"a": NaN}}', "finite"),
        ({"prediction": "x", "reference": "y", "group": "web"}, "lacks 'id'"),
        ({"prediction": "x", "reference": "y", "group": "web", "id": 4}, "already on line 5"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, bad: Any, said: str) -> None:
    path = written(tmp_path / "p.jsonl", [*ROWS[:16], bad, *ROWS[16:]])
    with pytest.raises(DataError, match=said) as caught:
        score_prediction_file(path, ["accuracy"])
    assert (caught.value.where.file, caught.value.where.line) == (str(path), 17)


def test_unreadable_files(tmp_path: Path) -> None:
    utf16 = tmp_path / "utf16.jsonl"
    utf16.write_bytes('{"prediction": "é"}'.encode("utf-16"))
    for path in (tmp_path / "none.jsonl", utf16, written(tmp_path / "empty.jsonl", []), tmp_path):
        with pytest.raises(DataError):
            score_prediction_file(path)


def test_unknown_metric_is_answered_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="macro_f1"):
        score_prediction_file(written(tmp_path / "p.jsonl", ROWS), ["macro_f2"])


def test_scores_that_are_no_probabilities(tmp_path: Path) -> None:
    rows = [{**row, "label_scores": {"yes": 3.0, "no": -1.0}} for row in ROWS]
    with pytest.raises(DataError, match="neither probabilities"):
        score_prediction_file(written(tmp_path / "p.jsonl", rows), ["ece"])


def test_too_many_classes_are_texts(tmp_path: Path) -> None:
    rows = [{"prediction": f"a{n}", "reference": f"b{n}"} for n in range(1500)]
    with pytest.raises(DataError, match="3,000 different answers"):
        score_prediction_file(written(tmp_path / "p.jsonl", rows), ["macro_f1"])


def test_compare_pairs_by_id(tmp_path: Path) -> None:
    better = [{**row, "prediction": "yes"} for row in reversed(ROWS[5:])]
    found = compare_prediction_files(
        written(tmp_path / "a.jsonl", better), written(tmp_path / "b.jsonl", ROWS), ["accuracy"]
    )
    assert (found["rows"], found["only_a"], found["only_b"]) == (25, 0, 5)
    comparison = found["comparisons"][0]
    assert comparison["difference"] == pytest.approx(8 / 25)
    assert (comparison["fixed"], comparison["broken"], comparison["metric"]) == (8, 0, "accuracy")
    json.dumps(found, allow_nan=False)


def test_compare_refuses_other_rows(tmp_path: Path) -> None:
    a = written(tmp_path / "a.jsonl", ROWS)
    other = written(tmp_path / "b.jsonl", [{**row, "id": f"x{row['id']}"} for row in ROWS])
    with pytest.raises(UnknownName, match="no id"):
        compare_prediction_files(a, other)
    with pytest.raises(DataError, match="other references"):
        compare_prediction_files(a, written(tmp_path / "c.jsonl", [{**row, "reference": "no"} for row in ROWS]))
    plain = [{key: value for key, value in row.items() if key != "id"} for row in ROWS]
    with pytest.raises(DataError, match="no ids"):
        compare_prediction_files(a, written(tmp_path / "d.jsonl", plain))
    with pytest.raises(DataError, match="cannot be paired"):
        compare_prediction_files(written(tmp_path / "e.jsonl", plain), written(tmp_path / "f.jsonl", plain[1:]))


def test_metric_objects_are_taken(tmp_path: Path) -> None:
    metric = Metric.parse({"kind": "exact_match", "rules": "exact"})
    assert (
        "rules:exact"
        in score_prediction_file(written(tmp_path / "p.jsonl", ROWS), [metric])["metrics"]["exact_match"]["signature"]
    )

"""Harness files: what is read, what is refused and how that is said, groups, data of every form, filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError
from luthier.eval.lm_eval.grade import build_filter_chains, choice_scores, exact_match
from luthier.eval.task import BenchmarkTask, TaskContext
from luthier.eval.tasks.lm_eval import LmEvalTask
from luthier.models.lm.base import LoglikelihoodRequest, Response

ROWS = [{"q": f"how much is {n} and {n}", "right": str(2 * n), "wrong": str(2 * n + 1)} for n in range(1, 7)]
TASK = {
    "task": "sums",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "{{[right, wrong]}}",
    "doc_to_target": 0,
}


def write(folder: Path, name: str = "sums", **changes: Any) -> Path:
    """A task's file, with its rows as JSON lines beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    file = folder / f"{name}.yaml"
    told = {key: value for key, value in {**TASK, "task": name, **changes}.items() if value is not None}
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    return file


def exams(file: Path, **settings: Any) -> list[BenchmarkTask]:
    settings = {"data": str(file.parent), **settings}
    return LmEvalTask(path=str(file), **settings).exams(TaskContext(base=file.parent, examples=()))


def refused(file: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        exams(file, **settings)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_questions(tmp_path: Path) -> None:
    (exam,) = exams(write(tmp_path), limit=4)
    assert (exam.name, len(exam.items), len(exam.questions)) == ("sums", 4, 8)
    wanted = LoglikelihoodRequest(prompt="Question: how much is 3 and 3\nAnswer:", continuation=" 7")
    assert exam.items[2].questions[1] == wanted
    assert exam.items[2].reference == "6"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process_docs": "x"}, "process_docs rewrites rows by code"),
        ({"output_type": "riddle"}, "output_type"),
        ({"doc_to_txt": "x"}, "doc_to_text"),
        ({"metric_list": [{"metric": "bleurt"}]}, "bleurt is not measured"),
        ({"metric_list": [{"metric": "acc", "aggregation": "median"}]}, "put together by mean"),
        ({"metric_list": [{"metric": "bleu"}]}, "bleu is not measured for tasks of the type multiple_choice"),
        ({"metric_list": [{"metric": "mcc"}], "doc_to_target": [0, 1]}, "mcc compares with one right answer"),
        ({"metric_list": [{"metric": "f1"}], "doc_to_choice": ["a", "b", "c"]}, "f1 is of two choices"),
        ({"repeats": 3}, "repeats"),
        ({"num_fewshot": 2, "fewshot_split": "train"}, "no split 'train'"),
        ({"num_fewshot": 7}, "rows to draw shots from"),
        ({"doc_to_choice": "{{right}"}, "cannot be filled"),
        ({"doc_to_choice": "{{wanted}}"}, "'wanted' is undefined"),
        ({"doc_to_choice": "{{right}} or so"}, "gives no list"),
        ({"doc_to_target": 2}, "none of the 2 choices"),
        ({"doc_to_text": "{{ q.__class__.__mro__ }}"}, "cannot be filled"),
        ({"test_split": None}, "neither a test nor a validation split"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "magic"}]}]}, "filter 'magic' is not known"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    told = write(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        exams(told)
    assert said in str(caught.value)


def test_code_is_refused_unless_it_is_overridden(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "_common").write_text(
        "test_split: test\ndoc_to_text: !function utils.text\noutput_type: multiple_choice\n"
    )
    file = tmp_path / "coded.yaml"
    own = "include: _common\ntask: coded\ndoc_to_choice: '{{[right, wrong]}}'\ndoc_to_target: 0\n"
    file.write_text(own)
    said = refused(file)
    assert "doc_to_text calls for code (utils.text)" in said
    assert "never run" in said
    file.write_text(own + "doc_to_text: '{{q}}'\n")
    assert exams(file)[0].items[0].questions[0].prompt == ROWS[0]["q"]


def test_include_may_not_go_round(tmp_path: Path) -> None:
    file = write(tmp_path, include="sums.yaml")
    assert "includes itself" in refused(file)


def test_groups_hold_tasks_tags_and_changes(tmp_path: Path) -> None:
    write(tmp_path, "sums")
    write(tmp_path / "more", "halves", tag="maths")
    write(tmp_path / "more", "doubles", tag="maths")
    group = tmp_path / "group.yaml"
    group.write_text(
        yaml.safe_dump({"group": "all-sums", "task": [{"task": "sums", "doc_to_text": "{{q}}?"}, "maths"]})
    )
    found = exams(group)
    assert [exam.name for exam in found] == ["sums", "doubles", "halves"]
    assert {exam.groups for exam in found} == {("all_sums",)}
    assert found[0].items[0].questions[0].prompt.endswith("?")
    group.write_text(yaml.safe_dump({"group": "all", "task": ["sum"]}))
    assert "did you mean 'sums'?" in refused(group)
    group.write_text(
        yaml.safe_dump({"group": "all", "task": ["sums"], "aggregate_metric_list": [{"weight_by_size": False}]})
    )
    assert "all its rows together" in refused(group)


def test_rows_of_every_form(tmp_path: Path) -> None:
    import polars as pl
    from datasets import Dataset, DatasetDict

    file = write(tmp_path)
    wanted = exams(file)[0].questions
    frame = pl.DataFrame(ROWS)
    forms = {name: tmp_path / name for name in ("csv", "parquet", "sharded", "saved", "folders")}
    for folder in forms.values():
        folder.mkdir()
    frame.write_csv(forms["csv"] / "test.csv")
    frame.write_parquet(forms["parquet"] / "test.parquet")
    frame[:2].write_parquet(forms["sharded"] / "test-00000-of-00002.parquet")
    frame[2:].write_parquet(forms["sharded"] / "test-00001-of-00002.parquet")
    DatasetDict({"test": Dataset.from_list(ROWS)}).save_to_disk(forms["saved"])
    (forms["folders"] / "test").mkdir()
    (forms["folders"] / "test" / "part.json").write_text(json.dumps(ROWS))
    for folder in [*forms.values(), tmp_path / "test.jsonl"]:
        found = exams(file, data=str(folder))[0].questions
        assert found == wanted, folder


def test_data_that_is_not_here(tmp_path: Path) -> None:
    file = write(tmp_path, dataset_path="allenai/ai2_arc")
    assert "on the Hugging Face hub" in refused(file, data=None)
    with pytest.raises(InputError, match="is not there"):
        exams(file, data=str(tmp_path / "nowhere"))
    (tmp_path / "test.jsonl").write_text('{"q": 1}\n{"q": \n')
    with pytest.raises(InputError, match=r"test.jsonl:2: is not JSON"):
        exams(file)
    with pytest.raises(InputError, match="is not there"):
        exams(tmp_path / "other.yaml")


def test_fingerprint_follows_files_and_rows(tmp_path: Path) -> None:
    file = write(tmp_path)
    task = LmEvalTask(path=file.name, data=".")
    first = task.fingerprint(tmp_path)
    assert first == task.fingerprint(tmp_path)
    (tmp_path / "test.jsonl").write_text(json.dumps(ROWS[0]))
    second = task.fingerprint(tmp_path)
    write(tmp_path, doc_to_text="{{q}}")
    assert len({first, second, task.fingerprint(tmp_path)}) == 3


def test_filters() -> None:
    told = [
        {"name": "last", "filter": [{"function": "regex", "regex_pattern": r"(-?\d+)|(x)", "group_select": -1}]},
        {
            "name": "clean",
            "filter": [{"function": "remove_whitespace"}, {"function": "uppercase"}, {"function": "take_first"}],
        },
    ]
    found = build_filter_chains(told, Path("task.yaml"))
    assert [one("3 then 14 x") for one in found["last"]] == ["x"]
    assert found["last"][0]("none") == "[invalid]"
    text = " ab "
    for one in found["clean"]:
        text = one(text)
    assert text == "AB"


def test_exact_match_ignores_what_it_is_told_to() -> None:
    settings = {"regexes_to_ignore": [",", r"\$"], "ignore_case": True, "ignore_punctuation": True}
    assert exact_match("$1,200 Apples!", "1200 apples", settings)
    assert not exact_match("1200 apples", "1201 apples", settings)
    assert exact_match("a1", "a2", {"ignore_numbers": True})


def test_choice_scores() -> None:
    told = [Response(logprob=one, is_greedy=one == -5.0) for one in (-4.0, -5.0, -9.0)]
    scores = choice_scores(told, ["ab", "abcdefghij", "é"], [1])
    assert (scores["acc"], scores["acc_norm"], scores["exact_match"]) == (0.0, 1.0, 1.0)
    assert scores["brier_score"] == pytest.approx(0.7303**2 + (1 - 0.2687) ** 2 + 0.0049**2, abs=1e-2)
    again = [*told, Response(logprob=-0.1), Response(logprob=-5.0), Response(logprob=-9.0)]
    assert choice_scores(again, ["ab", "abcdefghij", "é"], 1)["acc_mutual_info"] == 1.0

"""Tasks of lm-evaluation-harness: what is refused and how that is said, groups, data of every form, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError, MissingExtra
from luthier.eval.evaluator import EvaluationResults
from luthier.eval.task import AskModel, BenchmarkTask, TaskContext, TaskResult
from luthier.eval.tasks.lm_eval import LmEvalTask
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response, RollingLoglikelihoodRequest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (`lm-eval`)")

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


def benchmarks(file: Path, **settings: Any) -> list[BenchmarkTask]:
    settings = {"data": str(file.parent), **settings}
    return LmEvalTask(path=str(file), **settings).benchmarks(TaskContext(recipe_dir=file.parent, examples=()))


def refused(file: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        benchmarks(file, **settings)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_questions(tmp_path: Path) -> None:
    (benchmark,) = benchmarks(write(tmp_path), limit=4)
    assert (benchmark.name, len(benchmark.items), len(benchmark.questions)) == ("sums", 4, 8)
    wanted = LoglikelihoodRequest(prompt="Question: how much is 3 and 3\nAnswer:", continuation=" 7")
    assert benchmark.items[2].questions[1] == wanted
    assert benchmark.items[2].reference == "6"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_type": "riddle"}, "riddle"),
        ({"doc_to_txt": "x"}, "doc_to_txt"),
        ({"metric_list": [{"metric": "aac"}]}, "did you mean 'acc'?"),
        ({"num_fewshot": 2, "fewshot_split": "train"}, "no split 'train'"),
        ({"num_fewshot": 7}, "lm-evaluation-harness cannot use it"),
        ({"doc_to_choice": "{{right}"}, "TemplateSyntaxError"),
        ({"doc_to_choice": "{{wanted}}"}, "'wanted' is undefined"),
        ({"test_split": None}, "must have valid or test docs"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "magic"}]}]}, "magic"),
        ({"unsafe_code": True}, "runs code that models write"),
        ({"output_type": "generate_until", "generation_kwargs": {"num_beams": 4}}, "num_beams is not known"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    told = write(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        benchmarks(told)
    assert said in str(caught.value)


def test_code_beside_a_file_runs(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "utils.py").write_text("def text(doc):\n    return doc['q'].upper()\n")
    (tmp_path / "_common").write_text(
        "test_split: test\ndoc_to_text: !function utils.text\noutput_type: multiple_choice\n"
    )
    file = tmp_path / "coded.yaml"
    file.write_text("include: _common\ntask: coded\ndoc_to_choice: '{{[right, wrong]}}'\ndoc_to_target: 0\n")
    assert benchmarks(file)[0].items[0].questions[0].prompt == ROWS[0]["q"].upper()
    task = LmEvalTask(path=file.name, data="test.jsonl")
    first = task.fingerprint(tmp_path)
    (tmp_path / "utils.py").write_text("def text(doc):\n    return doc['q']\n")
    second = task.fingerprint(tmp_path)
    (tmp_path / "_common").write_text("test_split: test\ndoc_to_text: q\noutput_type: multiple_choice\n")
    assert len({first, second, task.fingerprint(tmp_path)}) == 3


def test_a_task_that_is_a_class(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "own.py").write_text(
        "from lm_eval.api.task import MultipleChoiceTask\n"
        "class Sums(MultipleChoiceTask):\n"
        "    VERSION, DATASET_PATH = 1, 'far/away'\n"
        "    has_training_docs = has_validation_docs = lambda self: False\n"
        "    has_test_docs = lambda self: True\n"
        "    def test_docs(self):\n"
        "        return [{**one, 'choices': [one['wrong'], one['right']], 'gold': 1} for one in self.dataset['test']]\n"
        "    def doc_to_text(self, doc):\n"
        "        return doc['q']\n"
        "    def construct_requests(self, doc, ctx, **more):\n"
        "        return super().construct_requests(doc, ctx, metadata=more['metadata'])\n"
        "    def fewshot_context(self, doc, num_fewshot, **more):\n"
        "        return self.doc_to_text(doc)\n"
    )
    file = tmp_path / "classy.yaml"
    file.write_text("task: classy\nclass: !function own.Sums\n")
    (benchmark,) = benchmarks(file, limit=2)
    assert (benchmark.name, benchmark.items[0].questions[1].continuation) == ("classy", f" {ROWS[0]['right']}")
    assert benchmark.run(right_at({0})).columns["acc"].each == (0.0, 1.0)


def test_include_may_not_go_round(tmp_path: Path) -> None:
    file = write(tmp_path, include="sums.yaml")
    assert "Include cycle" in refused(file)


def test_a_task_by_its_name(tmp_path: Path) -> None:
    write(tmp_path)
    task_context = TaskContext(recipe_dir=tmp_path, examples=())
    (benchmark,) = LmEvalTask(task="sums", include_path=".", data="test.jsonl").benchmarks(task_context)
    assert benchmark.name == "sums"
    with pytest.raises(ValueError, match="name either a `task`"):
        LmEvalTask(task="sums", path="sums.yaml")
    with pytest.raises(ValueError, match="name either a `task`"):
        LmEvalTask()


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.core.system.packages.find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as caught:
        LmEvalTask(path="sums.yaml").fingerprint(tmp_path)
    assert "luthier[lm-eval]" in str(caught.value)


def test_groups_hold_tasks_tags_and_changes(tmp_path: Path) -> None:
    write(tmp_path, "sums")
    write(tmp_path / "more", "halves", tag="maths")
    write(tmp_path / "more", "doubles", tag="maths")
    group = tmp_path / "group.yaml"
    group.write_text(
        yaml.safe_dump({"group": "all-sums", "task": [{"task": "sums", "doc_to_text": "{{q}}?"}, "maths"]})
    )
    found = benchmarks(group)
    assert [benchmark.name for benchmark in found] == ["sums", "doubles", "halves"]
    assert {benchmark.groups for benchmark in found} == {("all_sums",)}
    assert found[0].items[0].questions[0].prompt.endswith("?")


def test_a_group_that_counts_its_tasks_alike(tmp_path: Path) -> None:
    """Two of six rows are right in the one task, and the only row of the other: on the average two thirds."""
    many, few = tmp_path / "data/many", tmp_path / "data/few"
    for folder in (many, few):
        write(tmp_path, folder.name)
        folder.mkdir(parents=True)
    (many / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (few / "test.jsonl").write_text(json.dumps(ROWS[0]))
    group = tmp_path / "both.yaml"
    told = {"group": "both", "task": ["many", "few"]}
    for alike, wanted in ((True, (2 / 6 + 1) / 2), (False, 3 / 7)):
        summing = [{"metric": "acc", "aggregation": "mean", "weight_by_size": not alike}]
        group.write_text(yaml.safe_dump({**told, "aggregate_metric_list": summing}))
        found = benchmarks(group, data=str(tmp_path / "data"))
        grades = {benchmark.name: benchmark.run(right_at({0, 1})) for benchmark in found}
        results = EvaluationResults(benchmarks=found, grades={"tuned": grades, "base": grades}, seed=1)
        assert results.columns("tuned")["both.acc"].measured(1).value == pytest.approx(wanted)
        assert len(list(results.measures())) > 0


def right_at(rows: set[int]) -> AskModel:
    """Answers that hold the first of two choices for the likelier in some rows, the second in the others."""
    return lambda asked: [Response(logprob=-1.0 - ((at % 2 == 0) != (at // 2 in rows))) for at in range(len(asked))]


def test_rows_of_every_form(tmp_path: Path) -> None:
    import polars as pl
    from datasets import Dataset, DatasetDict

    file = write(tmp_path, doc_to_choice="{{[right | string, wrong | string]}}")
    wanted = benchmarks(file)[0].questions
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
        found = benchmarks(file, data=str(folder))[0].questions
        assert found == wanted, folder


def test_data_that_is_not_here(tmp_path: Path) -> None:
    file = write(tmp_path, dataset_path="allenai/ai2_arc")
    assert "its rows cannot be read" in refused(file, data=None)
    with pytest.raises(InputError, match="is not there"):
        benchmarks(file, data=str(tmp_path / "nowhere"))
    (tmp_path / "test.jsonl").write_text('{"q": 1}\n{"q": \n')
    with pytest.raises(InputError, match="its rows cannot be read"):
        benchmarks(file)
    with pytest.raises(InputError, match="is not there"):
        benchmarks(tmp_path / "other.yaml")


def test_fingerprint_follows_files_and_rows(tmp_path: Path) -> None:
    file = write(tmp_path)
    task = LmEvalTask(path=file.name, data=".")
    first = task.fingerprint(tmp_path)
    assert first == task.fingerprint(tmp_path)
    (tmp_path / "test.jsonl").write_text(json.dumps(ROWS[0]))
    second = task.fingerprint(tmp_path)
    write(tmp_path, doc_to_text="{{q}}")
    assert len({first, second, task.fingerprint(tmp_path)}) == 3


def answered(benchmark: BenchmarkTask, responses: Sequence[Response]) -> TaskResult:
    asked: list[Request] = []

    def ask(requests: Sequence[Request]) -> list[Response]:
        asked.extend(requests)
        return list(responses)

    found = benchmark.run(ask)
    assert asked == benchmark.questions
    return found


def test_written_answers_are_filtered_and_compared(tmp_path: Path) -> None:
    changes = {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": "right",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match", "ignore_punctuation": True}],
        "filter_list": [
            {"name": "last-number", "filter": [{"function": "regex", "regex_pattern": "(\\d+)", "group_select": -1}]},
            {"name": "as_it_is", "filter": [{"function": "take_first"}]},
        ],
    }
    changes["filter_list"][0]["filter"].append({"function": "take_first"})
    (benchmark,) = benchmarks(write(tmp_path, **changes), limit=3)
    assert benchmark.questions[0] == GenerateRequest(
        prompt=f"Question: {ROWS[0]['q']}\nAnswer:", max_tokens=9, stop=("\n",)
    )
    found = answered(benchmark, [Response(text=one) for one in ("1 then 2", "4.", "none")])
    assert found.columns["exact_match.last_number"].each == (1.0, 1.0, 0.0)
    assert found.columns["exact_match.as_it_is"].each == (0.0, 1.0, 0.0)
    assert list(found.predictions) == ["1 then 2", "4.", "none"]


def test_drawn_answers_are_told_apart(tmp_path: Path) -> None:
    how = {"do_sample": True, "temperature": 0.5, "until": ["\n"]}
    file = write(
        tmp_path,
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="right",
        generation_kwargs=how,
        repeats=3,
        filter_list=[{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}],
    )
    (benchmark,) = benchmarks(file, limit=2)
    asked: list[Request] = []

    def ask(requests: Sequence[Request]) -> list[Response]:
        asked.extend(requests)
        return [Response(text=text) for text in ("2", "2", "7", "4", "9", "9")]

    found = benchmark.run(ask)
    assert {(one.seed, one.temperature) for one in asked if isinstance(one, GenerateRequest)} == {
        (at, 0.5) for at in range(6)
    }
    assert found.columns["exact_match"].each == (1.0, 0.0)


def test_choices_are_scored(tmp_path: Path) -> None:
    metrics = ("acc", "acc_norm", "exact_match", "brier_score")
    (benchmark,) = benchmarks(write(tmp_path, metric_list=[{"metric": name} for name in metrics]), limit=2)
    told = [Response(logprob=one, is_greedy=one == -0.5, truncated=int(one == -3)) for one in (-1.0, -2.0, -3.0, -0.5)]
    found = answered(benchmark, told)
    assert found.columns["acc"].each == (1.0, 0.0)
    assert found.columns["exact_match"].each == (0.0, 0.0)
    assert found.columns["brier_score"].each[0] == pytest.approx(2 * 0.2689**2, abs=1e-3)
    assert found.columns["brier_score"].lower_is_better
    assert (list(found.predictions), found.cut) == ([ROWS[0]["right"], ROWS[1]["wrong"]], 1)


def test_texts_are_read(tmp_path: Path) -> None:
    (benchmark,) = benchmarks(
        write(tmp_path, output_type="loglikelihood_rolling", doc_to_choice=None, doc_to_target="q"), limit=2
    )
    assert benchmark.questions[0] == RollingLoglikelihoodRequest(text=ROWS[0]["q"])
    found = answered(benchmark, [Response(logprob=-7.0), Response(logprob=-14.0)])
    assert found.columns["word_perplexity"].measured(1).value == pytest.approx(math.exp(21 / 12))


def test_scores_by_code_of_their_own(tmp_path: Path) -> None:
    """A metric that is the median of what a function gives, lower being better, and that one row has not."""
    (tmp_path / "own.py").write_text(
        "def score(doc, results):\n    return {'miss': len(results)} if doc['q'][-1] != '3' else {}\n"
    )
    file = write(tmp_path, metric_list=[{"metric": "miss", "aggregation": "median", "higher_is_better": False}])
    file.write_text(file.read_text() + "process_results: !function own.score\n")
    (benchmark,) = benchmarks(file)
    column = answered(benchmark, [Response(logprob=-1.0, is_greedy=True)] * 12).columns["miss"]
    assert column.lower_is_better
    assert column.measured(1).value == pytest.approx(2.0)
    assert column.against("sums.miss", column, 1).difference == 0


def test_chat_templates_get_messages(tmp_path: Path) -> None:
    (benchmark,) = benchmarks(write(tmp_path, num_fewshot=1, fewshot_split="test"), apply_chat_template=True, limit=1)
    (question, _) = benchmark.questions
    assert isinstance(question, LoglikelihoodRequest)
    assert not isinstance(question.prompt, str)
    assert [one.role for one in question.prompt] == ["user", "assistant", "user"]
    assert question.prompt[-1].content == f"Question: {ROWS[0]['q']}\nAnswer:"
    assert (question.continuation, question.end_token) == (ROWS[0]["right"], False)


def test_the_library_asks_the_same_way(tmp_path: Path) -> None:
    """`HarnessLM` is a model for the library's own evaluation, too."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from luthier.eval.lm_eval.model import HarnessLM

    files = {"test": str(tmp_path / "test.jsonl")}
    file = write(tmp_path, dataset_path="json", dataset_kwargs={"data_files": files, "cache_dir": str(tmp_path)})
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(HarnessLM(right_at({0, 2})), tasks=[str(file)], task_manager=manager, bootstrap_iters=0)
    assert found["results"]["sums"]["acc,none"] == pytest.approx(2 / 6)

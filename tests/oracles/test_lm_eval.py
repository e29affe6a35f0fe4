"""Our models in lm-evaluation-harness beside its own: equal prompts and equal scores, row by row."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.evaluations import base_model
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.eval.task import BenchmarkTask, TaskContext
from luthier.eval.tasks.lm_eval import LmEvalTask
from luthier.models.lm.base import LoglikelihoodRequest
from luthier.models.lm.local import LocalLM

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (`lm-eval`)")

WORDS = [
    "billing",
    "delivery",
    "account",
    "parcel",
    "refund",
    "password",
    "late",
    "broken",
    "please",
    "thanks",
    "order",
    "invoice",
]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions of a few words, four choices of unequal length, and a passage."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        choices = [" ".join(draw.sample(WORDS, draw.randint(1, 3))) for _ in range(4)]
        found.append(
            {
                "question": f"{' '.join(draw.sample(WORDS, 4))} {number}?",
                "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
                "options": choices,
                "answerKey": "ABCD"[draw.randint(0, 3)],
                "answer": draw.randint(0, 3),
                "passage": " ".join(draw.choices(WORDS, k=draw.randint(3, 40))),
                "aliases": [draw.choice(WORDS), draw.choice(WORDS)],
                "said": draw.choice(WORDS),
            }
        )
    return found


ARC = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "doc_to_choice": "{{choices.text}}",
    "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes", "exact_match", "brier_score")],
}
TASKS: dict[str, dict[str, Any]] = {
    "arc": ARC,
    "arc_two_shots": {**ARC, "num_fewshot": 2},
    "from_the_same_split": {**ARC, "num_fewshot": 3, "fewshot_split": "test"},
    "first_n": {
        **ARC,
        "num_fewshot": 3,
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "description": "The following are questions about {{answerKey}}.\n\n",
    },
    "letters": {
        "output_type": "multiple_choice",
        "num_fewshot": 1,
        "doc_to_text": "{{question.strip()}}\nA. {{options[0]}}\nB. {{options[1]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_mutual_info"}],
    },
    "inputs": {
        "output_type": "multiple_choice",
        "num_fewshot": 2,
        "doc_to_text": "answer",
        "doc_to_choice": "{{['the ' + said + ' and', 'a ' + said + ' or', said, 'no ' + said]}}",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "acc"}],
    },
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{passage.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+passage.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "reading": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{passage | regex_replace('late', 'early')}}",
    },
    "writing": {
        "output_type": "generate_until",
        "num_fewshot": 2,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{aliases}}",
        "fewshot_delimiter": "\n",
        "target_delimiter": " -> ",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
        "filter_list": [
            {
                "name": "strict",
                "filter": [{"function": "regex", "regex_pattern": "([a-d])"}, {"function": "take_first"}],
            },
            {"name": "loose", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
        ],
    },
    "pairs": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} {{said}}?",
        "doc_to_choice": ["no", "yes"],
        "doc_to_target": "{{answer % 2}}",
        "metric_list": [{"metric": "acc"}, {"metric": "f1"}],
    },
    "sorts": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}],
    },
    "translating": {
        "output_type": "generate_until",
        "doc_to_text": "{{passage}} =>",
        "doc_to_target": "{{passage[:60]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "bleu"}, {"metric": "chrf"}, {"metric": "ter"}],
    },
    "prefixed": {**ARC, "num_fewshot": 1, "gen_prefix": "The answer is", "target_delimiter": "\n"},
}

OVER_ALL = {"brier_score", "f1", "mcc", "bleu", "chrf", "ter"}
"""Scores of which the harness keeps no number a row."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return base_model(Store(tmp_path_factory.mktemp("store")))


def written(folder: Path, name: str) -> Path:
    """A task's YAML file with its rows beside it."""
    for split, (count, seed) in {"train": (9, 1), "test": (12, 2)}.items():
        text = "\n".join(map(json.dumps, rows(count, seed)))
        (folder / f"{split}.jsonl").write_text(text)
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    told = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "train",
        "test_split": "test",
        **TASKS[name],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    return file


def ours(file: Path, model: Artifact, **how: Any) -> tuple[BenchmarkTask, dict[str, Sequence[float]], dict[str, float]]:
    """Our questions, the scores of each row, and those of all."""
    brief = TaskContext(recipe_dir=file.parent, examples=())
    (benchmark,) = LmEvalTask(path=file.name, **how).benchmarks(brief)
    graded = benchmark.run(LocalLM(model, "float32", enable_prefix_caching=True).ask)
    totals = {name: column.measured(0).value for name, column in graded.columns.items()}
    return benchmark, {name: column.each for name, column in graded.columns.items()}, totals


def theirs(file: Path, model: Artifact, **how: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The harness' samples and results."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=str(model.folder), dtype="float32", device="cpu", batch_size=4),
        tasks=[str(file)],
        task_manager=TaskManager(include_path=str(file.parent), include_defaults=False),
        bootstrap_iters=0,
        **how,
    )
    return found["samples"][file.stem], found["results"][file.stem]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_equal_row_by_row(name: str, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = written(tmp_path, name)
    benchmark, columns, totals = ours(file, model)
    samples, results = theirs(file, model)
    chains = {sample["filter"] for sample in samples}
    for sample in samples:
        item = benchmark.items[sample["doc_id"]]
        if name not in {"reading", "writing", "translating"}:
            asked = [tuple(one)[:2] for one in sample["arguments"]]
            found = [one for one in item.questions if isinstance(one, LoglikelihoodRequest)]
            assert [(one.prompt, one.continuation) for one in found] == asked
        for metric in TASKS[name].get("metric_list", ()):
            key = metric["metric"] if len(chains) == 1 else f"{metric['metric']}.{sample['filter']}"
            value = sample[metric["metric"]]
            if metric["metric"] not in OVER_ALL:
                assert columns[key][sample["doc_id"]] == pytest.approx(value, abs=1e-4)
    for key, value in results.items():
        metric, _, chain = key.partition(",")
        if chain and not metric.endswith("_stderr"):
            mine = totals[metric if len(chains) == 1 else f"{metric}.{chain}"]
            assert mine == pytest.approx(value, rel=1e-4), metric


@pytest.mark.parametrize("name", ["arc_two_shots", "letters", "writing"])
def test_chats_equal_row_by_row(name: str, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = written(tmp_path, name)
    _, _, totals = ours(file, model, apply_chat_template=True)
    _, results = theirs(file, model, apply_chat_template=True, fewshot_as_multiturn=True)
    for key, value in results.items():
        metric, _, chain = key.partition(",")
        if chain and not metric.endswith("_stderr"):
            assert totals.get(metric, totals.get(f"{metric}.{chain}")) == pytest.approx(value, rel=1e-4), metric

"""Asking models beside their peers: a five-shot task beside lm-evaluation-harness, generation beside transformers.

    python benchmarks/eval.py --only harness_shared_shots harness_drawn_shots generation generation_short

SmolLM2-135M in float32 on one thread. Ours and the peer are asked the same rows in one process, one after the other,
and the answers must be the same: scores row by row, and texts token by token. CPU time counts, the opening of the model
does not. The questions are those of `forgetting`, with five of them shown before each, and problems of GSM8K
(`../shared/data`).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
GSM8K = Path(__file__).parent.parent.parent / "shared" / "data" / "gsm8k"
SHOTS = 5


def harness_shared_shots(quick: bool) -> Iterator[dict[str, Any]]:
    """The same five shots before every question (`first_n`, as in MMLU), four written answers."""
    yield _beside_harness("harness_shared_shots_ratio", quick, 6, fewshot_config={"sampler": "first_n"})


def harness_drawn_shots(quick: bool) -> Iterator[dict[str, Any]]:
    """Five shots drawn anew for every question, as the harness does by default; four written answers."""
    yield _beside_harness("harness_drawn_shots_ratio", quick, None)


def harness_letters(quick: bool) -> Iterator[dict[str, Any]]:
    """The same five shots, answers A to D: the harness itself reads each prompt once for all of them."""
    listed = "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
    yield _beside_harness(
        "harness_letters_ratio",
        quick,
        None,
        fewshot_config={"sampler": "first_n"},
        doc_to_text=listed,
        doc_to_choice=["A", "B", "C", "D"],
    )


def generation(quick: bool) -> Iterator[dict[str, Any]]:
    """Sixteen problems of GSM8K with five worked ones before each, 48 greedy tokens at most, against `generate`."""
    if not GSM8K.is_dir():
        sys.exit(f"the real data is not beside the repository: {GSM8K}")
    rows = [json.loads(line) for path in sorted(GSM8K.glob("*.jsonl")) for line in path.open(encoding="utf-8")][:21]
    shown = "".join(f"Question: {one['question']}\nAnswer: {one['answer']}\n\n" for one in rows[:SHOTS])
    asked = [f"{shown}Question: {one['question']}\nAnswer:" for one in rows[SHOTS:]]
    yield _beside_generate("generation_ratio", asked, quick)


def generation_short(quick: bool) -> Iterator[dict[str, Any]]:
    """Sixteen plain questions, five before each that take 90 tokens in all: hardly anything is shared."""
    from luthier.eval.tasks.forgetting import load_forgetting_questions

    every = load_forgetting_questions()
    shown = "".join(f"Question: {one.question}\nAnswer: {one.right}\n\n" for one in every[:SHOTS])
    asked = [f"{shown}Question: {one.question}\nAnswer:" for one in every[20:132:7]]
    yield _beside_generate("generation_short_ratio", asked, quick)


def _beside_generate(name: str, asked: list[str], quick: bool) -> dict[str, Any]:
    """CPU time of `generate` over ours for the same batch, and whether every text is the same."""
    print(f"\n{name}", flush=True)
    _one_thread()
    from luthier.models.generate import generate
    from luthier.models.load import load_model

    loaded = load_model(_artifact(), dtype="float32")
    prompts, stop = _ids(asked, loaded.folder)
    for warm in (generate, _by_transformers):  # finds out how the model is read
        warm(loaded, [one[-9:] for one in prompts[:2]], 2, stop)
    ratios = []
    for turn in range(1 if quick else 3):
        ours, mine = _cpu(lambda: generate(loaded, prompts, 48, stop))
        theirs, its = _cpu(lambda: _by_transformers(loaded, prompts, 48, stop))
        ratios.append(theirs / ours)
        same = sum(one == other for one, other in zip(mine, its, strict=True))
        print(
            f"  round {turn + 1}: ours {ours:.1f} CPU-s, transformers {theirs:.1f}: {ratios[-1]:.1f}x; "
            f"{same} of {len(its)} texts the same",
            flush=True,
        )
        if same < len(its):
            sys.exit("the texts differ")
    return _figure(name, ratios, 2, f"transformers {version('transformers')}")


FIGURES = (harness_shared_shots, harness_drawn_shots, harness_letters, generation, generation_short)


def _beside_harness(name: str, quick: bool, goal: float | None, **changes: Any) -> dict[str, Any]:
    """CPU time of the harness over ours on one task, and whether every row has the same scores."""
    print(f"\n{name}", flush=True)
    _one_thread()
    from lm_eval.models.huggingface import HFLM

    from luthier.models.lm.local import LocalLM

    artifact = _artifact()
    ours = LocalLM(artifact, "float32", enable_prefix_caching=True)
    theirs = HFLM(pretrained=str(artifact.folder), dtype="float32", device="cpu", batch_size=8)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        file = _task(Path(folder), **changes)
        _ask_ours(file, ours, rows=2)  # opens the model, and finds out how it is read
        for turn in range(1 if quick else 3):
            mine, scores = _cpu(lambda: _ask_ours(file, ours))
            its, wanted = _cpu(lambda: _ask_harness(file, theirs))
            ratios.append(its / mine)
            right = sum(one == other for one, other in zip(scores, wanted, strict=True))
            print(
                f"  round {turn + 1}: ours {mine:.1f} CPU-s, lm-eval {its:.1f}: {ratios[-1]:.1f}x; "
                f"{right} of {len(wanted)} rows with equal acc and acc_norm",
                flush=True,
            )
            if right < len(wanted):
                sys.exit("rows differ")
    return _figure(name, ratios, goal, f"lm-eval {version('lm-eval')}")


def _task(folder: Path, **changes: Any) -> Path:
    """The questions of `forgetting` as a task of the harness, five of each kind to draw shots from."""
    import yaml

    from luthier.eval.tasks.forgetting import load_forgetting_questions

    rows = []
    for number, one in enumerate(load_forgetting_questions()):
        place = number % 4
        choices = [*one.wrong[:place], one.right, *one.wrong[place:]]
        rows.append({"question": one.question, "choices": choices, "right": place})
    for split, own in {"train": rows[::7], "test": [row for at, row in enumerate(rows) if at % 7][:60]}.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, own)))
    told = {
        "task": "plain_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}},
        "training_split": "train",
        "fewshot_split": "train",
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": SHOTS,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **changes,
    }
    file = folder / "plain_questions.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    return file


def _ask_ours(file: Path, model: Any, rows: int | None = None) -> list[tuple[float, float]]:
    from luthier.eval.task import TaskContext
    from luthier.eval.tasks.lm_eval import LmEvalTask

    (benchmark,) = LmEvalTask(path=str(file), limit=rows).benchmarks(TaskContext(recipe_dir=file.parent, examples=()))
    graded = benchmark.run(model.ask)
    return list(zip(graded.columns["acc"].each, graded.columns["acc_norm"].each, strict=True))


def _ask_harness(file: Path, model: Any) -> list[tuple[float, float]]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(file.parent), include_defaults=False)
    found = simple_evaluate(model=model, tasks=[str(file)], task_manager=manager, bootstrap_iters=0)
    rows = sorted(found["samples"][file.stem], key=lambda sample: sample["doc_id"])
    return [(row["acc"], row["acc_norm"]) for row in rows]


def _ids(texts: list[str], folder: Path) -> tuple[list[list[int]], list[int]]:
    """Ids of texts, and the id that ends an answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts], [tokenizer.eos_token_id]


def _by_transformers(loaded: Any, prompts: list[list[int]], limit: int, stop: list[int]) -> list[list[int]]:
    """The same batch by `generate`, padded at the left; what follows an end token is left out."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[stop[0]] * (longest - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    with torch.no_grad():
        out = loaded.model.generate(
            ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
        )
    written = [row[longest:].tolist() for row in out]
    return [row[: row.index(stop[0]) + 1] if stop[0] in row else row for row in written]


def _artifact() -> Any:
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace

    return open_base_model(Workspace.open_current(), MODEL)


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    done = work()
    return time.process_time() - begun, done


def _figure(name: str, ratios: list[float], goal: float | None, peer: str) -> dict[str, Any]:
    value = statistics.median(ratios)
    line: dict[str, Any] = {"figure": name, "value": round(value, 2), "unit": "x", "peer": peer}
    if goal is not None:
        line |= {"goal": goal, "reached": value >= goal}
    pairs = f"pairs from {min(ratios):.1f} to {max(ratios):.1f}"
    return {**line, "device": f"{platform.machine()}, one thread, float32", "pairs": pairs}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", LMEVAL_LOG_LEVEL="ERROR")

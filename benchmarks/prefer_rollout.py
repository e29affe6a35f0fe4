"""Learning from own answers beside TRL's GRPOTrainer: called by `prefer.py`, and each side a process of its own.

Real questions (GSM8K), 8 answers to each, at most 64 new tokens at temperature 1, one verifiable reward (that a sum is
written out), LoRA r 16 on all linear layers, bf16, no reference. Speed is answers per CPU-second on one thread, from
questions to moved weights; what writing takes of it is told for both sides. The first step is warm-up.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tune import DATA, SEED, _Watch, cpu_s, model_folder, peak_bytes

PROMPTS, SAMPLES, NEW_TOKENS = 4, 8, 64
SUM = r"\d\s*[-+*/x×]\s*\$?\d"
"""What is rewarded: an operation between two numbers."""


def main() -> None:
    """Train for some steps and tell of all of them but the first."""
    side, steps = json.loads(sys.argv[2])
    print(json.dumps({"ours": ours, "ours in fp32": lambda steps: ours(steps, "float32"), "trl": theirs}[side](steps)))


def questions(count: int) -> list[str]:
    """Questions, in the order of the file."""
    lines = (DATA / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines[:count]]


def ours(steps: int, precision: str = "bfloat16") -> dict[str, Any]:
    """Tune by the step that recipes use."""
    import torch

    from luthier.chat.messages import Example, ExampleOrigin, Message
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace
    from luthier.tune.rollout.sampler import RolloutSampler
    from luthier.tune.steps.tune import Tune
    from tuning import make_env

    torch.set_num_threads(1)
    writing = _timed(RolloutSampler, "answer")
    rows = [
        Example(id=str(at), origin=ExampleOrigin(source="benchmark", file="gsm8k", line=at), kind="chat",
                messages=(Message(role="user", content=text), Message(role="assistant", content="-")))
        for at, text in enumerate(questions(PROMPTS * steps))
    ]  # fmt: skip
    watch = _Watch()
    with tempfile.TemporaryDirectory() as scratch:
        env = replace(make_env(Path(scratch), rows), heard=watch)
        objective = {"kind": "grpo", "rewards": [{"kind": "regex", "pattern": SUM}], "shown": 0,
                     "rollout": {"num_generations": SAMPLES, "max_completion_length": NEW_TOKENS}}  # fmt: skip
        step = Tune.model_validate(
            {"data": "data", "technique": {"kind": "lora", "r": 16}, "objective": objective, "warmup_ratio": 0,
             "batch_size": PROMPTS, "learning_rate": 5e-5, "dtype": precision}
        )  # fmt: skip
        made = env.tune(step, SEED, open_base_model(Workspace.open_current(), "smollm2-135m-instruct"))
        log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    told = _told([one for one, _ in watch.times], writing, [one["length"] for one in log])
    return {**told, "apart": max(one.get("written_apart", 0.0) for one in log)}


def theirs(steps: int) -> dict[str, Any]:
    """TRL's trainer at its best settings on a CPU; read all at once, its logits alone would take over 12 GB."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    writing = _timed(GRPOTrainer, "_generate")
    times: list[float] = []
    lengths: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(cpu_s())

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            lengths.extend([logs["completions/mean_length"]] if logs and "completions/mean_length" in logs else [])

    def worth(completions: list[Any], **_: Any) -> list[float]:
        return [float(re.search(SUM, one[0]["content"]) is not None) for one in completions]

    data = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions(PROMPTS * steps)])
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=SAMPLES, gradient_accumulation_steps=PROMPTS,
            num_generations=SAMPLES,  # all answers of a step are written at once, and read prompt by prompt
            max_completion_length=NEW_TOKENS, max_steps=steps, report_to="none", save_strategy="no", use_cpu=True,
            bf16=False, gradient_checkpointing=False, logging_steps=1, learning_rate=5e-5, disable_tqdm=True,
            model_init_kwargs={"dtype": "bfloat16"}, shuffle_dataset=False, beta=0.0,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = GRPOTrainer(
            model=str(model_folder()), reward_funcs=worth, args=settings, train_dataset=data, peft_config=lora,
            callbacks=[Watch()],
        )  # fmt: skip
        trainer.train()
    return _told(times, writing, lengths)


def _timed(owner: Any, name: str) -> list[float]:
    """CPU-seconds of each call of a method, from now on."""
    taken: list[float] = []
    once = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        begun = cpu_s()
        found = once(*arguments, **named)
        taken.append(cpu_s() - begun)
        return found

    setattr(owner, name, timed)
    return taken


def _told(times: list[float], writing: list[float], lengths: list[float]) -> dict[str, Any]:
    """Answers per CPU-second after the first step, and the share of writing."""
    counted, steps = times[-1] - times[0], len(times) - 1
    return {
        "answers_per_cpu_s": PROMPTS * SAMPLES * steps / counted,
        "writing": sum(writing[1:]) / counted,
        "tokens": sum(lengths[1:]) / max(1, len(lengths) - 1),
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    main()

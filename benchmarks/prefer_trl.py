"""The peer of `prefer.py`: TRL's DPOTrainer and RewardTrainer with PEFT at their best settings on a CPU.

The same real pairs in each step, in the order of ours; weights in bf16, no gradient checkpointing, the reference read
once before training (`precompute_ref_log_probs`, which is quicker than reading it at each step from the second epoch on
and as quick in the first) and counted, as ours is.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from prefer import MAX_TOKENS, PAIRS_PER_STEP, drawn
from tune import cpu_s, model_folder, peak_bytes


def main() -> None:
    """Train for some steps and tell of all of them but the first."""
    print(json.dumps(theirs(*json.loads(sys.argv[2]))))


def theirs(objective: str, steps: int) -> dict[str, Any]:
    """Pairs per CPU-second, peak of memory and the losses."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    data = Dataset.from_list([_row(*pair, apart=objective == "dpo") for pair in drawn(steps)])
    times: list[float] = []
    losses: list[float] = []
    reading: list[float] = []
    read = DPOTrainer._precompute_ref_logps

    def timed(*arguments: Any, **named: Any) -> Any:
        before = cpu_s()
        found = read(*arguments, **named)
        reading.append(cpu_s() - before)
        return found

    DPOTrainer._precompute_ref_logps = timed

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(cpu_s())

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            losses.extend([float(logs["loss"])] if logs and "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": PAIRS_PER_STEP, "max_length": MAX_TOKENS,
            "max_steps": steps, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False,
            "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "logging_steps": 1,
            "learning_rate": 5e-5, "disable_tqdm": True, "model_init_kwargs": {"dtype": "bfloat16"},
        }  # fmt: skip
        lora: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
        told: dict[str, Any] = {"model": str(model_folder()), "train_dataset": data, "callbacks": [Watch()]}
        if objective == "dpo":
            settings = DPOConfig(**common, precompute_ref_log_probs=True, beta=0.1)
            trainer = DPOTrainer(**told, args=settings, peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"))
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(model_folder()))
            settings = RewardConfig(**common)
            told["processing_class"] = tokenizer
            trainer = RewardTrainer(
                **told, args=settings, peft_config=LoraConfig(**lora, task_type="SEQ_CLS", modules_to_save=["score"])
            )
        trainer.train()
    return {
        "pairs_per_cpu_s": PAIRS_PER_STEP / _each(times, sum(reading), steps),
        "train_pairs_per_cpu_s": PAIRS_PER_STEP * (len(times) - 1) / (times[-1] - times[0]),
        "reading_s": sum(reading),
        "peak_bytes": peak_bytes(),
        "loss": losses,
    }


def _each(times: list[float], reading: float, steps: int) -> float:
    """CPU-seconds of a step: a later one, and its share of what was read before training."""
    return (times[-1] - times[0]) / (len(times) - 1) + reading / steps


def _row(prompt: list[dict[str, str]], chosen: str, rejected: str, *, apart: bool) -> dict[str, Any]:
    answers = {
        name: [{"role": "assistant", "content": said}] for name, said in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": prompt, **answers} if apart else {name: [*prompt, *said] for name, said in answers.items()}


if __name__ == "__main__":
    main()

"""The peer of `tune.py` and `outcome.py`: TRL's SFTTrainer with PEFT.

For `tune.py` at its best settings on a CPU, on the same rows in each step: bf16 weights, no gradient checkpointing, no
packing and no padding-free batches (on a CPU these do not pay), rows in the order of ours, answers learnt alone. (TRL
also learns the line break that the template writes after the answer's end, an easy token: its printed losses are lower
for that.) For `outcome.py` with the defaults of both.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tune import Work, conversations, cpu_s, model_folder, order, peak_bytes


def main() -> None:
    """Do the work that was asked for, and print what is told of it."""
    name, _, arguments = sys.argv[2].partition(" ")
    print(json.dumps(WORKERS[name](*json.loads(arguments))))


def theirs(work: list[Any], steps: int, threads: int) -> dict[str, Any]:
    """Rows per CPU-second, peak of memory and the losses of the first steps."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    job = Work(*work)
    rows = conversations(job.rows)
    chosen = [rows[at] for at in order(len(rows), steps, job.batch_size)]
    data = Dataset.from_list([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in chosen])
    times: list[tuple[float, float]] = []
    losses: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append((cpu_s(), time.perf_counter()))

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            losses.extend([float(logs["loss"])] if logs and "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=job.batch_size,
            max_length=1024,
            max_steps=steps,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,  # weights in bf16 are quicker here than autocast
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            learning_rate=2e-4,
            disable_tqdm=True,
            model_init_kwargs={"dtype": job.precision},
        )
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=str(model_folder()),
            args=settings,
            train_dataset=data,
            peft_config=lora if job.technique == "lora" else None,
            callbacks=[Watch()],
        )
        trainer.train()
    cpu, wall = (times[-1][at] - times[0][at] for at in (0, 1))
    seen = job.batch_size * (len(times) - 1)
    return {"rows_per_cpu_s": seen / cpu, "rows_per_s": seen / wall, "peak_bytes": peak_bytes(), "loss": losses}


def defaults(rows: str, folder: str, allowed_cpu_s: float, seed: int) -> dict[str, Any]:
    """Train on a file of rows as TRL and PEFT do when nothing is said, until the CPU-seconds are used up, and save the
    adapter."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    warnings.filterwarnings("ignore")

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
            control.should_training_stop |= cpu_s() - begun >= allowed_cpu_s

    data = Dataset.from_list([json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()])
    with tempfile.TemporaryDirectory() as spare:
        settings = SFTConfig(
            output_dir=spare, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, seed=seed
        )
        lora = LoraConfig(task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=str(model_folder()), args=settings, train_dataset=data, peft_config=lora, callbacks=[Stop()]
        )
        begun = cpu_s()
        trainer.train()
        used = cpu_s() - begun
        trainer.model.save_pretrained(folder)
    return {"steps": trainer.state.global_step, "planned": trainer.state.max_steps, "cpu_s": used}


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {"trl": theirs, "defaults": defaults}

if __name__ == "__main__":
    main()

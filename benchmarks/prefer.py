"""Learning from pairs beside TRL with PEFT, on the same pairs in each optimizer step, interleaved in one run.

    python benchmarks/prefer.py [--quick] [--only FIGURE …]

SmolLM2-135M with LoRA r 16 on all linear layers, on real human preferences (hh-rlhf, harmless), 8 pairs a step, in
bf16. The peer is TRL's `DPOTrainer` or `RewardTrainer` at its best settings on a CPU (see `prefer_trl.py`). Every
measurement is a process of its own; ours and the peer's take turns; the first steps are warm-up and do not count. Speed
is pairs per CPU-second on one thread, with the reading of the reference counted to both. Needs `../shared/data`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune import DATA, HERE, SEED, WARM, _figure, _peer, _Watch, cpu_s, model_folder, order, peak_bytes

PAIRS_PER_STEP = 8
MAX_TOKENS = 512
"""Longer pairs are left out of both."""
GOALS = {"dpo": 5.0, "reward": 4.0}
GRPO_GOAL = 3.0
APART_GOAL = 1e-3
"""Nats by which the two readings of a written token may differ in fp32."""
STEPS, PEER_STEPS = 8, 3
ROLLOUT_STEPS = 2
MEMORY_GOAL = 1 / 3


def main() -> None:
    """Measure what was asked for, print every round, and one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: within five minutes")
    parser.add_argument("--only", nargs="+", help="these figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(ours(*json.loads(options.work))))
        return
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    wanted = options.only or ["dpo_ratio", "dpo_memory_ratio", "reward_ratio", "grpo_ratio", "logp_apart"]
    for objective in GOALS:
        if any(name.startswith(objective) for name in wanted):
            for figure in compare(objective, 1 if options.quick else options.rounds):
                if figure["figure"] in wanted:
                    print(json.dumps(figure), flush=True)
    if "grpo_ratio" in wanted:
        print(json.dumps(rollouts(1 if options.quick else options.rounds)), flush=True)
    if "logp_apart" in wanted:
        print(json.dumps(apart()), flush=True)


def rollouts(rounds: int) -> dict[str, Any]:
    """Answers per CPU-second of ours over the peer's, from questions to moved weights: the median over rounds."""
    print("\ngrpo: 4 questions a step, 8 answers each, at most 64 new tokens", flush=True)
    ratios = []
    for turn in range(rounds):
        mine, its = (_run("prefer_rollout.py", side, ROLLOUT_STEPS) for side in ("ours", "trl"))
        ratios.append(mine["answers_per_cpu_s"] / its["answers_per_cpu_s"])
        sides = (
            f"{name} {one['answers_per_cpu_s']:.3f} answers/CPU-s, {one['writing']:.0%} of it writing, "
            f"{one['tokens']:.0f} tokens an answer, {one['peak_bytes'] / 1e9:.2f} GB"
            + (f", writing and learning {one['apart']:.2g} nats apart" if "apart" in one else "")
            for name, one in (("ours", mine), ("trl", its))
        )
        print(f"  round {turn + 1}: {'; '.join(sides)}: {ratios[-1]:.1f}x", flush=True)
    told = f"rounds from {min(ratios):.1f} to {max(ratios):.1f}"
    return _figure("grpo_ratio", statistics.median(ratios), GRPO_GOAL, "x", _peer(), told)


def apart() -> dict[str, Any]:
    """By how much a token's log-probability while it is written and while it is learnt differ, at most, in fp32."""
    found = _run("prefer_rollout.py", "ours in fp32", ROLLOUT_STEPS)["apart"]
    line = _figure("logp_apart", found, APART_GOAL, "nats, mean over a step's tokens", "none", lower=True)
    return {**line, "value": float(f"{found:.3g}")}


def compare(objective: str, rounds: int) -> list[dict[str, Any]]:
    """Pairs per CPU-second of ours over the peer's, and memory: medians over rounds."""
    print(f"\n{objective}: {PAIRS_PER_STEP} pairs a step, at most {MAX_TOKENS} tokens a row", flush=True)
    ratios, memory = [], []
    for turn in range(rounds):
        mine = _run("prefer.py", objective, STEPS)
        its = _run("prefer_trl.py", objective, PEER_STEPS)
        ratios.append(mine["pairs_per_cpu_s"] / its["pairs_per_cpu_s"])
        memory.append(mine["peak_bytes"] / its["peak_bytes"])
        print(
            f"  round {turn + 1}: ours {mine['pairs_per_cpu_s']:.2f} pairs/CPU-s ({mine['peak_bytes'] / 1e9:.2f} GB), "
            f"trl {its['pairs_per_cpu_s']:.3f} ({its['peak_bytes'] / 1e9:.2f} GB): {ratios[-1]:.1f}x; without the "
            f"reference's reading {mine['train_pairs_per_cpu_s'] / its['train_pairs_per_cpu_s']:.1f}x; first losses "
            f"{mine['loss'][0]:.4f} and {its['loss'][0]:.4f}",
            flush=True,
        )
    told = f"rounds from {min(ratios):.1f} to {max(ratios):.1f}"
    found = [_figure(f"{objective}_ratio", statistics.median(ratios), GOALS[objective], "x", _peer(), told)]
    share = statistics.median(memory)
    name = f"{objective}_memory_ratio"
    return [*found, _figure(name, share, MEMORY_GOAL, "of the peer's peak", _peer(), lower=True)]


def _run(script: str, objective: str, steps: int) -> dict[str, Any]:
    """One measurement in a process of its own, on one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": "1000"}
    command = [sys.executable, str(HERE / script), "--work", json.dumps([objective, steps])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script} {objective} failed:\n{done.stderr[-4000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def pairs() -> list[tuple[list[dict[str, str]], str, str]]:
    """Prompt, preferred answer and the other one, of pairs that both sides can read whole."""
    from luthier.chat.preference import parse_hh_transcript
    from luthier.chat.tokenizer import ChatTokenizer

    text = ChatTokenizer.load(model_folder())
    found = []
    for line in (DATA / "hh_rlhf" / "harmless_base.jsonl").read_text(encoding="utf-8").splitlines():
        chosen, rejected = (parse_hh_transcript(json.loads(line)[name]) or () for name in ("chosen", "rejected"))
        if not chosen or chosen[:-1] != rejected[:-1] or not (chosen[-1].content and rejected[-1].content):
            continue
        if chosen[-1] != rejected[-1] and max(len(text.encode(one).ids) for one in (chosen, rejected)) <= MAX_TOKENS:
            turns = [{"role": turn.role, "content": turn.content} for turn in chosen[:-1]]
            found.append((turns, chosen[-1].content, rejected[-1].content))
        if len(found) == 400:
            break
    return found


def drawn(steps: int) -> list[tuple[list[dict[str, str]], str, str]]:
    """The pairs of some steps, one after another."""
    every = pairs()
    return [every[at] for at in order(len(every), steps, PAIRS_PER_STEP)]


def ours(objective: str, steps: int) -> dict[str, Any]:
    """Tune by the step that recipes use, and tell of what came after the warm-up."""
    import torch

    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace
    from luthier.tune.steps.tune import Tune
    from tuning import make_env

    torch.set_num_threads(1)
    watch = _Reading()
    with tempfile.TemporaryDirectory() as scratch:
        rows = _examples()
        env = replace(make_env(Path(scratch), rows), heard=watch)
        step = Tune.model_validate(
            {
                "data": "data", "technique": {"kind": "lora", "r": 16}, "objective": {"kind": objective},
                "epochs": steps * PAIRS_PER_STEP / len(rows), "batch_size": PAIRS_PER_STEP, "learning_rate": 5e-5,
                "warmup_ratio": 0, "dtype": "bfloat16", "loss_spike": 1e9,
            }
        )  # fmt: skip
        made = env.tune(step, SEED, open_base_model(Workspace.open_current(), "smollm2-135m-instruct"))
        log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    counted = watch.times[-1][0] - watch.times[WARM - 1][0]
    reading = watch.reading if objective == "dpo" else 0.0
    assert reading or objective != "dpo", (
        "the note that the reference is read was not heard: its time would be left out"
    )
    each = counted / (steps - WARM) + reading / steps
    return {
        "pairs_per_cpu_s": PAIRS_PER_STEP / each,
        "train_pairs_per_cpu_s": PAIRS_PER_STEP * (steps - WARM) / counted,
        "reading_s": reading,
        "peak_bytes": peak_bytes(),
        "loss": [one["loss"] for one in log],
    }


class _Reading(_Watch):
    """Also notes the CPU time between the word that the reference is read and the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = 0.0
        self._since: float | None = None

    def append(self, event: Any) -> None:
        if self._since is not None:
            self.reading, self._since = cpu_s() - self._since, None
        if event.kind == "note" and "reference log-probabilities" in event.text:
            self._since = cpu_s()
        super().append(event)


def _examples() -> list[Any]:
    from luthier.chat.messages import Example, ExampleOrigin, Message

    found = []
    for at, (prompt, chosen, rejected) in enumerate(pairs()):
        messages = [Message.model_validate(turn) for turn in (*prompt, {"role": "assistant", "content": chosen})]
        origin = ExampleOrigin(source="benchmark", file="hh_rlhf", line=at)
        meta = {"rejected": rejected}
        found.append(Example(id=str(at), origin=origin, kind="preference", messages=tuple(messages), meta=meta))
    return found


if __name__ == "__main__":
    main()

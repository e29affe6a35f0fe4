"""Tuning speed and memory beside TRL with PEFT, on the same rows in each optimizer step, interleaved in one run.

    python benchmarks/tune.py [--quick] [--only FIGURE …]

SmolLM2-135M with LoRA r 16 on all linear layers, or full fine-tuning. The peer is TRL's `SFTTrainer` at its best
settings on a CPU (bf16 weights, no checkpointing, no packing; see `tune_trl.py`). Every measurement is a process of its
own; ours and the peer's take turns; the first steps are warm-up and do not count. Speed is rows per CPU-second on one
thread, which stays steady when the machine is not quiet. Needs `../shared/data` (BANKING77 and GSM8K).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
DATA = HERE.parent.parent / "shared" / "data"
SEED = 0
WARM = 2
"""Steps at the start that are not counted."""


class Work(NamedTuple):
    """What is tuned: rows, how many a step, in which numbers, and which weights."""

    rows: str
    batch_size: int
    precision: str = "bfloat16"
    technique: str = "lora"


class Figure(NamedTuple):
    """A figure that compares ours with the peer's on one work."""

    work: Work
    goal: float
    steps: int
    peer_steps: int


SPEED = {
    "shared_prefix_ratio": Figure(Work("banking", 8), 15, 12, 3),
    "shared_prefix_32_ratio": Figure(Work("banking", 32), 25, 6, 2),
    "mixed_ratio": Figure(Work("gsm8k", 8), 3, 6, 3),
    "fp32_ratio": Figure(Work("banking", 8, "float32"), 8, 8, 2),
    "full_ratio": Figure(Work("gsm8k", 8, technique="full"), 2.5, 5, 3),
}
TWO_CORES = {"two_cores_ratio": Work("gsm8k", 32), "two_cores_shared_ratio": Work("banking", 8)}
MEMORY = {"memory_ratio_shared": ("shared_prefix_ratio", 0.25), "memory_ratio_mixed": ("mixed_ratio", 0.5)}


def main() -> None:
    """Measure what was asked for, print every round, and one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, the first figures only: within five minutes")
    parser.add_argument("--only", nargs="+", help="these figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(WORKERS[options.work.partition(" ")[0]](*json.loads(options.work.partition(" ")[2]))))
        return
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    rounds = 1 if options.quick else options.rounds
    wanted = options.only or [*(("shared_prefix_ratio", "mixed_ratio", "peak_share") if options.quick else ALL)]
    for figure in _figures(wanted, rounds):
        print(json.dumps(figure), flush=True)


def _figures(wanted: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    peaks: dict[str, tuple[float, float]] = {}
    for name, figure in SPEED.items():
        depending = [memory for memory, (source, _) in MEMORY.items() if source == name]
        if name in wanted or any(memory in wanted for memory in depending):
            result, peaks[name] = _compare(name, figure, rounds)
            yield result
    for name, (source, goal) in MEMORY.items():
        if source in peaks and name in wanted:
            ours, theirs = peaks[source]
            told = f"{ours / 1e9:.2f} GB against {theirs / 1e9:.2f} GB"
            yield _figure(name, ours / theirs, goal, "of the peer's peak", _peer(), told, lower=True)
    if "peak_share" in wanted:
        yield _peak_share(rounds)
    for name, work in TWO_CORES.items():
        if name in wanted:
            yield _two_cores(name, work, rounds)
    if "label_scoring_ratio" in wanted:
        yield _label_scoring(rounds)
    if "growth" in wanted:
        yield from _growth()


def _compare(name: str, figure: Figure, rounds: int) -> tuple[dict[str, Any], tuple[float, float]]:
    """Rows per CPU-second of ours over the peer's: the median over pairs, and both peaks of memory."""
    print(f"\n{name}: {figure.work}", flush=True)
    ratios, peaks, spread = [], ([], []), []
    for turn in range(rounds):
        ours = _run("ours", figure.work, figure.steps + WARM, 1)
        theirs = _run("trl", figure.work, figure.peer_steps + 1, 1)
        ratios.append(ours["rows_per_cpu_s"] / theirs["rows_per_cpu_s"])
        for peak, told in zip(peaks, (ours, theirs), strict=True):
            peak.append(told["peak_bytes"])
        spread.append(theirs["loss"][0] - ours["loss"][0])
        print(
            f"  round {turn + 1}: ours {ours['rows_per_cpu_s']:.2f} rows/CPU-s ({ours['peak_bytes'] / 1e9:.2f} GB), "
            f"trl {theirs['rows_per_cpu_s']:.2f} ({theirs['peak_bytes'] / 1e9:.2f} GB): {ratios[-1]:.1f}x; "
            f"first losses {ours['loss'][0]:.4f} and {theirs['loss'][0]:.4f}",
            flush=True,
        )
    told = f"pairs from {min(ratios):.1f} to {max(ratios):.1f}"
    return _figure(name, statistics.median(ratios), figure.goal, "x", _peer(), told), (
        statistics.median(peaks[0]),
        statistics.median(peaks[1]),
    )


def _peak_share(rounds: int) -> dict[str, Any]:
    """Matrix products that training needs, over what this processor's own bf16 product gives on one thread: step by
    step, beside products before and after it, since a shared machine gives now three times of what it gives then."""
    print("\npeak_share", flush=True)
    shares: list[float] = []
    for turn in range(rounds):
        told = _run("share", Work("gsm8k", 8), 12 + WARM, 1)
        mine = [step["flops_per_cpu_s"] / step["peak"] for step in told["steps"]]
        shares += mine
        least, most = min(told["steps"], key=_peak_of), max(told["steps"], key=_peak_of)
        print(
            f"  round {turn + 1}: {statistics.median(mine):.0%} (steps from {min(mine):.0%} to {max(mine):.0%}); "
            + ", ".join(f"{one['flops_per_cpu_s'] / 1e9:.0f} of {one['peak'] / 1e9:.0f}" for one in (least, most))
            + " GFLOP/s where the processor gave least and most"
        )
    unit, told_of = "of the bf16 matrix peak", f"steps from {min(shares):.0%} to {max(shares):.0%}"
    return _figure("peak_share", statistics.median(shares), 0.6, unit, "this processor", told_of)


def _peak_of(step: dict[str, float]) -> float:
    return step["peak"]


def _two_cores(name: str, work: Work, rounds: int) -> dict[str, Any]:
    """Rows per second of wall time with two threads over one, the same steps in turns, each at its best since others on
    a shared machine take of either core what they like; beside it, what two such trainings of one thread gain that run
    at once and know nothing of each other: no way to share the work can gain more from this machine."""
    print(f"\n{name}: {work}", flush=True)
    steps = (4 if work.batch_size == 32 else 8) + WARM
    ways: dict[str, Callable[[], float]] = {
        "one core": lambda: _run("ours", work, steps, 1)["rows_per_s"],
        "two cores": lambda: _run("ours", work, steps, 2)["rows_per_s"],
        "two trainings at once": lambda: _at_once(work, steps),
    }
    best = dict.fromkeys(ways, 0.0)
    for turn in range(rounds):
        for way, measure in ways.items():
            best[way] = max(best[way], found := measure())
            print(f"  round {turn + 1}: {way}: {found:.2f} rows/s", flush=True)
    one, two, allowed = best.values()
    told = f"two trainings at once {allowed / one:.2f}x"
    print(f"  at their best: {two / one:.2f}x; {told}", flush=True)
    return _figure(name, two / one, 1.8, "x", "one core", told)


def _at_once(work: Work, steps: int) -> float:
    """Rows per second of two trainings of one thread each, together."""
    with ThreadPoolExecutor(2) as pool:
        return sum(told["rows_per_s"] for told in pool.map(lambda _: _run("ours", work, steps, 1), range(2)))


def _label_scoring(rounds: int) -> dict[str, Any]:
    """CPU time of 77 labels scored under one prompt, against one row for each label read by transformers."""
    print("\nlabel_scoring_ratio", flush=True)
    ratios = []
    for turn in range(rounds):
        told = _run("labels", 1)
        ratios.append(told["separate_cpu_s"] / told["ours_cpu_s"])
        print(f"  round {turn + 1}: {told}: {ratios[-1]:.0f}x", flush=True)
    return _figure("label_scoring_ratio", statistics.median(ratios), 70, "x", "separate rows in transformers")


def _growth() -> Iterator[dict[str, Any]]:
    """Rows per CPU-second as rows a step, length and the shared part grow (made rows, no peer)."""
    print("\ngrowth: rows a step, tokens a row, share of them in common: rows/CPU-s", flush=True)
    for rows, tokens, shared in (
        (8, 128, 0.0),
        (32, 128, 0.0),
        (8, 512, 0.0),
        (8, 512, 0.5),
        (8, 512, 0.9),
        (32, 512, 0.9),
    ):
        told = _run("ours", Work(f"made {tokens} {shared}", rows), 2 + WARM, 1)
        print(f"  {rows:3d} {tokens:5d} {shared:4.0%}: {told['rows_per_cpu_s']:.2f}", flush=True)
        value = told["rows_per_cpu_s"]
        yield {
            "figure": f"rows_per_cpu_s_{rows}x{tokens}_{shared:.0%}",
            "value": round(value, 2),
            "unit": "rows/CPU-s",
            "device": _device(),
        }


def _figure(
    name: str, value: float, goal: float, unit: str, peer: str, told: str = "", *, lower: bool = False
) -> dict[str, Any]:
    reached = value <= goal if lower else value >= goal
    line = {"figure": name, "value": round(value, 3), "goal": goal, "reached": reached, "unit": unit, "peer": peer}
    return {**line, "device": _device()} | ({"pairs": told} if told else {})


def _peer() -> str:
    from importlib.metadata import version

    return f"trl {version('trl')}, peft {version('peft')}"


def _device() -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), platform.machine()
    )
    return f"{model.partition(':')[2].strip()}, {os.cpu_count()} cores, torch {torch.__version__}{gpu}"


def _run(worker: str, *arguments: Any) -> dict[str, Any]:
    """One measurement in a process of its own."""
    threads = str(arguments[-1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": "1000",
    }
    script = "tune_trl.py" if worker == "trl" else "tune.py"
    command = [sys.executable, str(HERE / script), "--work", f"{worker} {json.dumps(arguments)}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{worker} {arguments} failed:\n{done.stderr[-4000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def conversations(name: str) -> list[list[dict[str, str]]]:
    """The rows of a work: messages of which the last one is learnt."""
    if name == "banking":
        categories = json.loads((DATA / "banking77" / "categories.json").read_text())
        labels = ", ".join(label.replace("_", " ").lower() for label in categories)
        system = (
            "You are a bank's support router. Read the customer's message and answer with exactly one of these "
            f"labels: {labels}."
        )
        with (DATA / "banking77" / "train.csv").open(encoding="utf-8") as file:
            rows = [(row["text"].strip(), row["category"].replace("_", " ").lower()) for row in csv.DictReader(file)]
        return [_turns(text, answer, system) for text, answer in rows[::11]]
    lines = (DATA / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [_turns(row["question"], row["answer"]) for row in map(json.loads, lines)]


def _turns(question: str, answer: str, system: str = "") -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def model_folder() -> Path:
    """The real SmolLM2, made once."""
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace

    return open_base_model(Workspace.open_current(), "smollm2-135m-instruct").folder


def order(count: int, steps: int, batch_size: int) -> list[int]:
    """Which rows the steps see, one after another: the same for ours and the peer."""
    from luthier.tune.training.schedule import BatchSampler

    sampler = BatchSampler(seed=SEED, count=count, epochs=1, batch_size=batch_size)
    return [at for step in range(steps) for at in sampler.get_batch_indices(step)]


def cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(work: Sequence[Any], steps: int, threads: int) -> dict[str, Any]:
    """Tune by the step that recipes use, and tell of what came after the warm-up."""
    job, watch = Work(*work), _Watch()
    flops, log = _tuned(job, steps, threads, watch)
    cpu, wall = (watch.times[-1][at] - watch.times[WARM - 1][at] for at in (0, 1))
    return {
        "rows_per_cpu_s": job.batch_size * (steps - WARM) / cpu,
        "rows_per_s": job.batch_size * (steps - WARM) / wall,
        "flops_per_cpu_s": sum(flops[WARM:]) / cpu,
        "peak_bytes": peak_bytes(),
        "loss": [one["loss"] for one in log],
    }


def share(work: Sequence[Any], steps: int, threads: int) -> dict[str, Any]:
    """Of each step after the warm-up: its products by CPU time, and what the processor gave before and after it."""
    watch = _Watch(_product_now)
    flops, _ = _tuned(Work(*work), steps, threads, watch)
    told = []
    for at in range(WARM, steps):
        cpu = watch.times[at][0] - watch.begun[at - 1][0]
        told.append({"flops_per_cpu_s": flops[at] / cpu, "peak": (watch.found[at - 1] + watch.found[at]) / 2})
    return {"steps": told}


def _product_now() -> float:
    """Operations a second of this processor's bf16 product just now: one of those that are quick."""
    import torch

    one = torch.ones(2048, 2048, dtype=torch.bfloat16)
    out = one @ one
    begun = cpu_s()
    torch.mm(one, one, out=out)
    torch.mm(one, one, out=out)
    return 2 * 2 * 2048**3 / (cpu_s() - begun)


def _tuned(job: Work, steps: int, threads: int, watch: _Watch) -> tuple[list[int], list[dict[str, Any]]]:
    """Operations that each step needs and the log of a training, which a watch hears."""
    import torch

    from luthier.models.describe import describe_model_folder
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace
    from luthier.tune.steps.tune import Tune
    from tuning import make_env

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(_examples(job, steps))
        env = replace(make_env(Path(scratch), rows), heard=watch)
        step = Tune.model_validate(
            {
                "data": "data",
                "technique": {"kind": job.technique, **({"r": 16} if job.technique == "lora" else {})},
                "epochs": steps * job.batch_size / len(rows),
                "batch_size": job.batch_size,
                "learning_rate": 2e-4,
                "warmup_ratio": 0,
                "dtype": job.precision,
                "loss_spike": 1e9,
            }
        )
        base = open_base_model(Workspace.open_current(), "smollm2-135m-instruct")
        made = env.tune(step, SEED, base)
        log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    described = describe_model_folder(base.folder)
    return [_products(job, described, dataset) for dataset in _tokenized_steps(job, rows, steps)], log


def _tokenized_steps(job: Work, rows: Sequence[Any], steps: int) -> list[list[Any]]:
    """The rows that each optimizer step reads."""
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.tune.objectives.sft import Sft

    dataset = list(Sft().build_training_examples(rows, ChatTokenizer.load(model_folder())))
    chosen = order(len(dataset), steps, job.batch_size)
    return [
        [row for at in chosen[begin : begin + job.batch_size] for row in dataset[at].rows]
        for begin in range(0, len(chosen), job.batch_size)
    ]


def _products(job: Work, model: Any, rows: Sequence[Any]) -> int:
    """Operations in the matrix products that one step needs, shared prefixes once.

    A frozen weight takes part twice (forward, and the slope of its input), one that moves three times; attention's two
    products are each made three times over; the head reads learnt places only.
    """
    from luthier.models.packing.pack import build_pack
    from luthier.tune.techniques.lora import Lora

    made = build_pack(rows)
    layers = model.parameters - model.embedding_parameters
    moving, adapter = (6, 0) if job.technique == "full" else (4, Lora(r=16).trainable(model))
    attention = 12 * model.layers * model.heads * model.head_dim * int((made.positions + 1).sum())
    head = moving * model.vocab * model.hidden_size * len(made.sources)
    return made.tokens * (moving * layers + 6 * adapter) + attention + head


class _Watch(list[Any]):
    """Notes when every optimizer step that it hears of ended and the next began, and what it finds in between."""

    def __init__(self, find: Callable[[], float] | None = None) -> None:
        super().__init__()
        self.times: list[tuple[float, float]] = []
        self.begun: list[tuple[float, float]] = []
        self.found: list[float] = []
        self._find = find

    def append(self, event: Any) -> None:
        if event.kind == "progress" and "loss" in event.measures:
            self.times.append((cpu_s(), time.perf_counter()))
            if self._find is not None:
                self.found.append(self._find())
            self.begun.append((cpu_s(), time.perf_counter()))


def _examples(job: Work, steps: int) -> Iterator[Any]:
    from luthier.chat.messages import Example, ExampleOrigin, Message

    rows = _made(job, steps) if job.rows.startswith("made ") else conversations(job.rows)
    for at, turns in enumerate(rows):
        origin = ExampleOrigin(source="benchmark", file=job.rows, line=at)
        messages = tuple(Message.model_validate(turn) for turn in turns)
        yield Example(id=str(at), origin=origin, kind="chat", messages=messages)


def _made(job: Work, steps: int) -> Iterator[list[dict[str, str]]]:
    """Rows of about so many tokens, a share of which all have in common: words that are one token each."""
    draw = random.Random(SEED)
    _, tokens, share = job.rows.split()
    length, shared = int(tokens) - 32, round((int(tokens) - 32) * float(share))
    words = [
        "time",
        "year",
        "people",
        "way",
        "day",
        "man",
        "thing",
        "woman",
        "life",
        "child",
        "world",
        "school",
        "state",
    ]
    common = [draw.choice(words) for _ in range(shared)]
    for _ in range(job.batch_size * steps):
        own = [draw.choice(words) for _ in range(length - shared)]
        yield _turns(" ".join([*common, *own]), " ".join(draw.choice(words) for _ in range(8)))


def labels(threads: int) -> dict[str, Any]:
    """CPU seconds to score BANKING77's 77 labels for some questions: ours, and one padded row a label."""
    import torch
    from transformers import AutoModelForCausalLM

    from luthier.chat.messages import Message
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.generate import score_options
    from luthier.models.load import open_folder

    torch.set_num_threads(threads)
    folder = model_folder()
    text, rows = ChatTokenizer.load(folder), conversations("banking")
    names = json.loads((DATA / "banking77" / "categories.json").read_text())
    names = [name.replace("_", " ").lower() for name in names]
    asked = [tuple(Message(**turn) for turn in turns[:-1]) for turns in rows[:10]]
    prompts = text.prompts(asked)
    options = [
        [row.ids[len(prompt) :] for row in text.answers(messages, names)]
        for messages, prompt in zip(asked, prompts, strict=True)
    ]
    model = open_folder(folder, torch.bfloat16).requires_grad_(False)  # as an evaluation opens it
    score_options(model, prompts[:1], options[:1])
    begun = cpu_s()
    found = score_options(model, prompts[1:], options[1:])
    mine = (cpu_s() - begun) / len(prompts[1:])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    begun = cpu_s()
    separate = _separately(plain, prompts[1], options[1])
    theirs = cpu_s() - begun
    nearest = max(abs(a - b) for a, b in zip(found[0], separate, strict=True))
    return {"ours_cpu_s": mine, "separate_cpu_s": theirs, "largest_difference_nats": nearest}


def _separately(model: Any, prompt: list[int], options: list[list[int]]) -> list[float]:
    import torch

    sums = []
    with torch.no_grad():
        for begin in range(0, len(options), 8):
            rows = [torch.tensor([*prompt, *option]) for option in options[begin : begin + 8]]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            logits = model(input_ids=ids, attention_mask=mask).logits
            for at, option in enumerate(options[begin : begin + 8]):
                own = torch.log_softmax(logits[at, len(prompt) - 1 : len(prompt) - 1 + len(option)].float(), -1)
                sums.append(float(own.gather(1, torch.tensor(option)[:, None]).sum()))
    return sums


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {"ours": ours, "share": share, "labels": labels}
ALL = (*SPEED, *MEMORY, "peak_share", *TWO_CORES, "label_scoring_ratio", "growth")

if __name__ == "__main__":
    main()

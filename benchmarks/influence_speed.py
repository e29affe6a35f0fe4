"""What influence costs beside Bergson, on the same rows, for an adapter over SmolLM2-135M-Instruct on one thread.

    python benchmarks/influence_speed.py MODEL_FOLDER --bergson PYTHON [--shared-rows 64] [--rows 4]

Rows have an instruction of 200 tokens, 40 of their own and an answer of 8; in the second figure, nothing is shared. The
sweep and the index of `luthier.tune.influence` are timed for one kept state, and Bergson's index of rows of this length
in a process of its own, by the interpreter that `--bergson` names. CPU seconds for each row; what a question takes once
(its gradient, and trying steps on its rows) is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SHARED, OWN, ANSWER = 200, 40, 8
STEP = 1e-3
"""How far the weights move in the sweep that is timed."""
Row = tuple[list[int], list[int]]


def draw_rows(count: int, vocabulary: int, *, shared: bool) -> list[Row]:
    """(ids, labels) of rows, with the same beginning or with one of their own."""
    draw = random.Random(count)
    first = [draw.randrange(3, vocabulary) for _ in range(SHARED)]
    found = []
    for _ in range(count):
        begin = first if shared else [draw.randrange(3, vocabulary) for _ in range(SHARED)]
        ids = [*begin, *(draw.randrange(3, vocabulary) for _ in range(OWN + ANSWER))]
        found.append((ids, [*[-100] * (SHARED + OWN), *ids[SHARED + OWN :]]))
    return found


def open_adapter(folder: str, place: Path) -> Any:
    """The model with a LoRA adapter that is not zero, which is written to a folder as well."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    settings: Any = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(place)
    return model.eval()


def time_cpu(work: Callable[[], object]) -> float:
    """CPU seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print the figures."""
    from luthier.models.packing.pack import TokenRow
    from luthier.tune.influence.index import CountSketch
    from luthier.tune.influence.sweep import differentiate_losses
    from luthier.tune.influence.weights import LossReader
    from luthier.tune.objectives.sft import Sft

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bergson", default="", help="an interpreter with Bergson")
    parser.add_argument("--shared-rows", type=int, default=64, help="rows below the instruction that they share")
    parser.add_argument("--rows", type=int, default=4, help="rows of the other figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = open_adapter(options.model, Path(folder) / "adapter")
        reader = LossReader(model, Sft(), 4096)
        sketch = CountSketch(reader.weights.size, 4096, 0)

        def build(rows: Sequence[Row]) -> Any:
            found = [
                TokenRow(ids, [float(label >= 0) for label in labels], str(at)) for at, (ids, labels) in enumerate(rows)
            ]
            return reader.build_packs(found)

        rows = {shared: draw_rows(options.shared_rows if shared else options.rows, 40_000, shared=shared)
                for shared in (True, False)}  # fmt: skip
        direction = torch.randn(reader.weights.size) / reader.weights.size**0.5
        seconds = {}
        for shared, own in rows.items():
            packs = build(own)
            spent = time_cpu(lambda packs=packs: differentiate_losses(reader, packs, direction, 2, STEP))  # type: ignore[misc]
            seconds["sweep" if shared else "sweep_unshared"] = spent / len(own)
            print(json.dumps({key: round(value, 3) for key, value in seconds.items()}), flush=True)
        each = rows[False]
        seconds["index"] = time_cpu(lambda: [sketch.project(reader.gradient(build([row]))) for row in each]) / len(each)
        print(json.dumps({key: round(value, 3) for key, value in seconds.items()}), flush=True)
        theirs = run_bergson(options, folder, each)
    for kind, goal in (("sweep", 8), ("sweep_unshared", 1.5), ("index", 1.5)):
        figure = {"figure": f"{kind}_ratio", "goal": goal, "unit": "x", "ours_per_row": round(seconds[kind], 4)}
        if theirs is not None:
            per_row = theirs / len(each)
            figure |= {"theirs_per_row": round(per_row, 4), "value": round(per_row / seconds[kind], 2)}
        print(json.dumps({**figure, "peer": "bergson 2.5.1", "load": round(os.getloadavg()[0], 1)}), flush=True)


def run_bergson(options: argparse.Namespace, folder: str, rows: Sequence[Row]) -> float | None:
    """CPU seconds of Bergson's index; None where it is not installed."""
    if not options.bergson:
        return None
    (Path(folder) / "rows.json").write_text(json.dumps({"rows": rows}))
    words = [
        options.bergson,
        str(HERE / "influence_peer.py"),
        options.model,
        f"{folder}/adapter",
        f"{folder}/rows.json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    told = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if told.returncode:
        sys.exit(f"Bergson failed: {told.stderr[-2000:]}")
    return float(json.loads(told.stdout.splitlines()[-1])["cpu_s"])


if __name__ == "__main__":
    main()

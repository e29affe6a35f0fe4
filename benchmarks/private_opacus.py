"""Rows' gradients of LoRA in one pass, by Luthier and by Opacus: equal numbers, CPU-seconds and memory.

    python benchmarks/private_opacus.py MODEL --who luthier --to luthier.pt [--float64] [--rows 16] [--learnt 1.0]
    python benchmarks/private_opacus.py MODEL --who opacus --to opacus.pt [--float64] [--rows 16] [--learnt 1.0]
    python benchmarks/private_opacus.py MODEL --compare luthier.pt opacus.pt

Opacus stands in an environment of its own, whose torch and transformers are those of Luthier. Both have the same model,
LoRA of rank 16 on all linear layers and rows of 24 to 128 random tokens, of which the last share is learnt; Opacus pads
the rows of a batch of 16. Each prints CPU-seconds for a clipped sum, the second of two, and the peak beyond the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.tune.training.private_gradient import compute_unit_norms

CLIP = 0.5
BATCH = 16
Gathered = tuple[list[float], torch.Tensor]


def draw_rows(count: int, vocabulary: int) -> list[list[int]]:
    """Token ids of some rows."""
    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(24, 129, (count,), generator=chance).tolist()
    return [torch.randint(1, vocabulary - 1, (length,), generator=chance).tolist() for length in lengths]


def open_adapted(folder: Path, dtype: torch.dtype) -> Any:
    """The model with an adapter that already says something."""
    from transformers import AutoModelForCausalLM

    from luthier.tune.techniques.lora import Lora

    model = Lora(r=16).adapt(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), 3).to(dtype)
    with torch.no_grad():
        for at, (name, value) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(at)))
    return model.train()


def clip_sum(gradients: list[torch.Tensor]) -> Gathered:
    """Norms of the rows, and the sum of their clipped gradients."""
    norms = compute_unit_norms(gradients)
    scales = (CLIP / norms).clamp_max(1.0)
    return norms.tolist(), torch.cat([scales.to(one) @ one.flatten(1) for one in gradients])


def build_luthier(model: Any, rows: list[list[int]], learnt: float) -> Callable[[], list[Gathered]]:
    """What reads all rows by Luthier."""
    from luthier.models.kernels.lora import install_fused_lora
    from luthier.models.packing.logprobs import detect_forward_mode
    from luthier.models.packing.pack import TokenRow
    from luthier.tune.objectives.sft import Sft
    from luthier.tune.training.unit_gradients import UnitReader

    install_fused_lora(model)
    detect_forward_mode(model)
    moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
    reader = UnitReader(model, Sft(), moving)
    units = [
        [TokenRow(ids, [0.0] + [float(at >= begin_of(ids, learnt)) for at in range(1, len(ids))], str(number))]
        for number, ids in enumerate(rows)
    ]

    def gather() -> list[Gathered]:
        found = []
        for part in reader.split(units, 1 << 20):
            read = reader.read(part, lambda pack: pack)
            assert read is not None, "all that moves are linear layers"
            found.append(clip_sum([one for one in read.gradients if one is not None]))
        return found

    return gather


def build_opacus(model: Any, rows: list[list[int]], learnt: float) -> Callable[[], list[Gathered]]:
    """What reads all rows by Opacus."""
    from opacus import GradSampleModule  # type: ignore[import-not-found]  # it has an environment of its own

    watched = GradSampleModule(model, loss_reduction="sum")

    def gather() -> list[Gathered]:
        found = []
        for begin in range(0, len(rows), BATCH):
            some = rows[begin : begin + BATCH]
            longest = max(map(len, some))
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in some])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in some])
            logits = watched(input_ids=ids, attention_mask=mask).logits[:, :-1]
            logp = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
            weights = torch.tensor(
                [[float(begin_of(row, learnt) <= at < len(row)) for at in range(1, longest)] for row in some]
            ).to(logp)
            (-(logp * weights).sum(1) / weights.sum(1)).sum().backward()
            moving = [value for value in watched.parameters() if value.requires_grad]
            found.append(clip_sum([value.grad_sample for value in moving]))
            watched.zero_grad()
            for value in moving:
                value.grad_sample = None
        return found

    return gather


def begin_of(row: list[int], learnt: float) -> int:
    """The first token that is learnt."""
    return max(1, round(len(row) * (1 - learnt)))


def main() -> None:
    """Measure one of both, or compare what both wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--who", choices=("luthier", "opacus"))
    parser.add_argument("--to", type=Path)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--learnt", type=float, default=1.0)
    parser.add_argument("--compare", type=Path, nargs=2)
    given = parser.parse_args()
    if given.compare:
        (norms, sums), (others, their_sums) = (torch.load(path) for path in given.compare)
        apart = float(((norms - others) / others).abs().max())
        print(
            json.dumps({"norms_apart": apart, "sums_apart": float((sums - their_sums).abs().max()), "goal": "<= 1e-6"})
        )
        return
    torch.set_num_threads(1)
    model = open_adapted(given.model, torch.float64 if given.float64 else torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = draw_rows(given.rows, model.config.vocab_size)
    gather = {"luthier": build_luthier, "opacus": build_opacus}[given.who](model, rows, given.learnt)
    found = gather()
    started = time.process_time()
    gather()
    spent = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"who": given.who, "rows": given.rows, "cpu_s": round(spent, 2), "peak_mib": round(peak)}))
    if given.to:
        norms = torch.tensor([norm for part, _ in found for norm in part], dtype=torch.float64)
        torch.save((norms, torch.stack([total for _, total in found]).sum(0)), given.to)


if __name__ == "__main__":
    main()

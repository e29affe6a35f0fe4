"""The cost of a training: operations, speed, memory of this machine, and tokens that fit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import Interrupted
from luthier.core.step import StepContext
from luthier.models.cost import (
    BASE_BYTES,
    count_cores,
    count_decoder_parameters,
    estimate_matmul_speedup,
    has_gpu,
    has_tile_attention,
)
from luthier.models.describe import ModelDescription, estimate_attention_bytes
from luthier.models.load import cpu_has_bf16
from luthier.tune.optimizer import Optimizer
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.technique import TechniqueBase
from luthier.tune.training.schedule import BatchSampler

if TYPE_CHECKING:
    from luthier.models.packing.pack import Pack
    from luthier.tune.training.trainer import StepMetrics

PACK_TOKENS = 90
"""Overhead of one pack, in tokens: numpy's product takes as long for this many (weights laid out anew, the calls of
every layer, threads that wait for one another). Measured on two threads: 60 to 120, by processor and dtype."""
ALONE = 1.3
"""Slowdown of a step that is too small for two threads, since two cores share each small product. Measured: 1.15 to
1.6."""


class PackWorkload(NamedTuple):
    """Amount of computation in a set of training packs: packs, tokens, head tokens and attention pairs."""

    packs: float = 0
    tokens: float = 0
    """A prefix that rows of one pack share counts once."""
    head_tokens: float = 0
    """Tokens whose log-probability is computed; the output head runs only at these."""
    keys: float = 0
    """Attention pairs: for each token, the tokens that it attends to (itself included), summed."""

    @classmethod
    def of(cls, pack: Pack, times: int = 1) -> PackWorkload:
        """Return the workload of one pack that is read `times` times."""
        return cls(times, times * pack.tokens, times * len(pack.targets), times * int((pack.positions + 1).sum()))

    def and_of(self, other: PackWorkload) -> PackWorkload:
        """Return the sum of two workloads."""
        return PackWorkload(*(entry + more for entry, more in zip(self, other, strict=True)))


def build_flop_counter(
    model: ModelDescription, trainable: int, *, bits: int, headed: bool
) -> Callable[[PackWorkload], float]:
    """Build a function that counts the floating-point operations of one training step.

    A frozen weight takes part in four operations a token (two forward, two in the gradient of its input), a trained
    weight in six. Each of the two products of attention is computed three times. Where a model is `headed`, its
    sequence head replaces the head over the vocabulary, and its cost is neglected.
    """
    moving = 6 if trainable > model.parameters / 2 else 4
    layers = moving * count_decoder_parameters(model)
    head = 0 if headed else moving * model.vocab * model.hidden_size
    attention = 12 * model.layers * model.heads * model.head_dim
    overhead_tokens = PACK_TOKENS * estimate_matmul_speedup(bf16=bits == 16)
    lanes = 1 if has_gpu() else count_cores()

    def operations(computed: PackWorkload) -> float:
        read = layers * (computed.tokens + overhead_tokens * computed.packs)
        layer_flops = read + head * computed.head_tokens + attention * computed.keys
        return layer_flops * ALONE if computed.packs <= 1 < lanes else layer_flops

    return operations


SHARE = 0.5
"""Part of the machine's memory that one training may fill."""
MOST_TOKENS = 16_384
"""Beyond this, larger packs win nothing more."""
LEAST_TOKENS = 256
KEYS = 256.0
"""Mean number of tokens that a token attends to where the rows are not known: half a row of 512."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def get_machine_memory() -> int:
    """Return the memory of this machine or container in bytes: the total, not what is free now."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            total_bytes = min(total_bytes, int(text))
    return total_bytes


def get_device_memory() -> int:
    """Return the memory in bytes of the device that the model is placed on: a GPU's own, or the machine's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return get_machine_memory()


def estimate_peak_memory(
    technique: TechniqueBase, optimizer: Optimizer, model: ModelDescription, tokens: int, keys: float = KEYS
) -> int:
    """Estimate the bytes at the peak of training.

    It is the estimate of the technique, which counts AdamW's moments, with those of this optimizer in their place.
    `tokens` are in one pack, and each attends to `keys` others on average.
    """
    moving = technique.trainable(model)
    outer = model.embedding_parameters if moving > model.parameters - model.embedding_parameters else 0
    width = model.hidden_size
    shapes = {"embed_tokens": (outer // width, width), "layers": ((moving - outer) // width, width)}
    saved = AdamW().state_bytes(shapes) - optimizer.state_bytes(shapes)
    gradient_bytes = (
        moving * model.weight_bytes // max(1, model.parameters) if count_cores() > 1 else 0
    )  # gradients of a second pack
    shares = (
        0 if model.dtype == "bfloat16" and has_tile_attention(model) else estimate_attention_bytes(model, tokens, keys)
    )
    return BASE_BYTES + technique.footprint(model, tokens) + shares + gradient_bytes - saved


def describe_in_dtype(model: ModelDescription, precision: str) -> ModelDescription:
    """Return the model description with the dtype that training computes in."""
    wide = precision == "float32" or (precision == "auto" and not cpu_has_bf16())
    return model.model_copy(
        update={"dtype": "float32" if wide else "bfloat16", "weight_bytes": model.parameters * (4 if wide else 2)}
    )


def estimate_max_pack_tokens(technique: TechniqueBase, optimizer: Optimizer, model: ModelDescription) -> int:
    """Estimate the tokens of the largest pack that fits into this machine's share of memory; at least
    `LEAST_TOKENS`.
    """
    fixed = estimate_peak_memory(technique, optimizer, model, 0)
    each = (estimate_peak_memory(technique, optimizer, model, 1 << 20) - fixed) / (1 << 20)
    room = int((get_device_memory() * SHARE - fixed) / each)
    return max(LEAST_TOKENS, min(MOST_TOKENS, room))


SHOWN = ("token_accuracy", "reward", "kl", "entropy", "length")
"""Measures that are shown next to the loss during training."""


class TrainingSpeedMeter:
    """Reports each step as it ends, and measures tokens and floating-point operations a second; `operations` counts
    those of a step's workload.
    """

    def __init__(self, work: StepContext, sampler: BatchSampler, operations: Callable[[PackWorkload], float]) -> None:
        self._work, self._sampler, self._operations = work, sampler, operations
        self._begun, self._begun_cpu = time.perf_counter(), time.process_time()
        self._rows = self._computed = self._tokens = 0
        self._flops = 0.0

    def __call__(self, stepped: StepMetrics) -> None:
        self._rows += stepped.rows
        self._computed += round(stepped.taken.tokens)
        self._flops += self._operations(stepped.taken)
        self._tokens += stepped.tokens
        done = min(stepped.step * self._sampler.batch_size, self._sampler.total)
        held_out = {name: round(value, 4) for name, value in stepped.measures.items() if name.startswith("held_out_")}
        loss = {"loss": round(stepped.loss, 4)}
        measures = {name: round(stepped.measures[name], 4) for name in SHOWN if name in stepped.measures}
        metrics = {**loss, **measures, **held_out}
        stop = self._work.report(stepped.step, metrics, done=done, total=self._sampler.total, unit="rows")
        if stepped.skipped and stepped.rows:
            self._work.events.warning(f"step {stepped.step} was left out: {stepped.skipped}")
        if stop:
            raise Interrupted(f"stopped after step {stepped.step}: who listens to its numbers asked for it")

    def measures(self, aside_s: float, drawing_s: float) -> dict[str, float]:
        """Return rates over the training so far, without the seconds spent on validation and checkpoints (`aside_s`).

        The rate of floating-point operations also leaves out the seconds in which completions were sampled
        (`drawing_s`). Rates are given by wall clock and by processor time.
        """
        whole = time.perf_counter() - self._begun
        seconds = max(whole - aside_s, 1e-9)
        flops_per_s = self._flops / max(seconds - drawing_s, 1e-9)
        busy = (time.process_time() - self._begun_cpu) / max(whole, 1e-9)
        return {
            "train_s": whole,
            "rows_per_s": self._rows / seconds,
            "tokens_per_s": self._tokens / seconds,
            "computed_tokens_per_s": self._computed / seconds,
            "flops_per_s": flops_per_s,
            "flops_per_cpu_s": flops_per_s / max(busy, 1e-9),
        }

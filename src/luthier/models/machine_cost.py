"""Estimates what a training costs on 1 to 4,096 GPUs: time, memory, communication and money, before it runs.

A step takes the time of its products at the speed of published trainings, plus the communication of weights and
gradients that does not overlap with them. The machines are in `machines.toml`, with the public source of each number;
the constants here are fitted to every second row of MosaicML's published table of MFU (`benchmarks/published_mfu.csv`),
and `benchmarks/scale.py` prints the errors on the others. The machine `cpu` is this one: its speed is that of its last
trainings, or of a product measured now.
"""

from __future__ import annotations

import math
import tomllib
from datetime import date
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from luthier.core.errors import SourceLocation, UnknownName, did_you_mean
from luthier.core.step import TrainingWorkload
from luthier.core.timings import read_machine_timings
from luthier.models.cost import ABOUT, BASE_BYTES, estimate_full_machine_flops, measure_flops_per_s

CPU = "cpu"
"""Name of this machine in the catalog, computing on its processors."""
_OVERHEAD_TOKENS = 1307.0
"""Overhead of a microbatch, in tokens: calls, and small products at the edges."""
_WIDTH = 522.0
"""Model width that reaches half of the speed of an infinitely wide one."""
_RECOMPUTE = 1.235
"""Slowdown of a step with activation recomputation."""
_EXPOSED = 0.5
"""Share of the time of products that communication overlaps with."""
_LINK_SHARE = 0.8
"""Share of a link's bandwidth that collectives reach."""
_PER_DOUBLING = 0.01
"""Slowdown for each doubling of the nodes: Megatron-LM's published 47 % at 96 H100 and 42 % at 4,608 are 0.02,
MosaicML's tables up to 512 GPUs 0.004."""
_MEASURED = (0.8, 1.35)
"""Range of the ratio of measured to estimated time, where the speed is fitted: of others' published trainings that were
not used in the fit (torchtitan, Llama, Llama 2)."""
_ASSUMED = (0.6, 2.0)
_HERE = (0.85, 1.18)
"""The same on this machine, once a training has run here."""
_STATE_BYTES = 16
"""Bytes of a trained weight: itself and its gradient in bf16, master weight and two moments in fp32."""
_ACTIVATION_BYTES = 34
"""Bytes of activations per token, layer and unit of width, with fused attention (Korthikanti et al., 2022)."""
_HEAD_BYTES = 6
"""Bytes of a token's probability of one vocabulary entry."""
_VOCABULARY = 32_000
_MEMORY_SHARE = 0.9
_LEAST_TOKENS = 2048
"""Minimum microbatch without recomputation of activations."""
_MOST_TOKENS = 32_768


class Machine(NamedTuple):
    """One kind of device, by its vendor's specification; units are bytes, seconds, FLOP and US dollars."""

    name: str
    peak_flops: float
    memory: float
    memory_bandwidth: float
    devices: int
    link_bandwidth: float
    network_bandwidth: float
    price: float
    price_of: str
    price_as_of: date
    efficiency: float
    attention: float
    measured: bool
    source: str


class PlacementEstimate(NamedTuple):
    """Estimated cost of a training on some devices."""

    seconds: float
    seconds_low: float
    seconds_high: float
    memory: int
    """Bytes of one device at the peak."""
    bytes_sent: float
    """Bytes that one device sends in all."""
    money: float
    """US dollars at the catalog's list price; 0 on this machine."""
    money_low: float
    money_high: float
    fits: bool = True
    """Whether it fits into the memory of a device."""
    mfu: float = 0.0
    """Model FLOPs utilization; 0 on this machine, whose peak is unknown."""
    how: str = ""


@cache
def read_machines() -> dict[str, Machine]:
    """Return the catalog of machines, by name."""
    text = files("luthier.models").joinpath("machines.toml").read_text(encoding="utf-8")
    return {name: Machine(name=name, **settings) for name, settings in tomllib.loads(text).items()}


def find_machine(name: str) -> Machine:
    """Return a machine of the catalog by its name in any case, with or without `nvidia-`; `UnknownName` for
    any other.
    """
    machines, requested = read_machines(), name.lower().replace("_", "-").removeprefix("nvidia-")
    requested = {"a100": "a100-40gb", "a100-40": "a100-40gb", "a100-80": "a100-80gb"}.get(requested, requested)
    if requested not in machines:
        where, hint = SourceLocation(field="machine"), did_you_mean(requested, [CPU, *machines])
        raise UnknownName(f"there is no machine {name!r} in the catalogue", where=where, hint=hint)
    return machines[requested]


def build_pretraining_workload(
    parameters: int,
    layers: int,
    hidden_size: int,
    *,
    sequence_tokens: int,
    step_tokens: float,
    steps: float = 1.0,
    microbatch_tokens: int | None = None,
    recompute: bool | None = None,
) -> TrainingWorkload:
    """Build the workload of training all weights of a decoder, with operations counted as in published MFU (PaLM,
    appendix B): six for each weight and token, and attention without regard to causality.
    """
    flops = (6 * parameters + 12 * layers * hidden_size * sequence_tokens) * step_tokens * steps
    return TrainingWorkload(
        parameters, parameters, layers, hidden_size, steps, step_tokens, sequence_tokens, flops, microbatch_tokens,
        recompute,
    )  # fmt: skip


def estimate_on(workload: TrainingWorkload, machine: str, count: int) -> PlacementEstimate:
    """Estimate a training on `count` devices of a machine of the catalog, or on `cpu`: this machine, and others like
    it.

    `UnknownName` for an unknown machine; `ValueError` for a count below 1.
    """
    if count < 1:
        raise ValueError(f"expected at least one device, got {count}")
    if machine.lower() == CPU:
        return _estimate_here(workload, count)
    device = find_machine(machine)
    tokens, recompute, memory = _choose_microbatch(workload, device, count)
    seconds, sent = _step_seconds(workload, device, count, tokens, recompute=recompute)
    total = workload.start_seconds + seconds * workload.steps
    low, high = _MEASURED if device.measured else _ASSUMED
    money = total / 3600 * count * device.price
    basis = "fitted to published trainings" if device.measured else "assumed: no published trainings were fitted"
    fits = memory <= _MEMORY_SHARE * device.memory
    return PlacementEstimate(
        seconds=total,
        seconds_low=low * total,
        seconds_high=high * total,
        memory=memory,
        bytes_sent=sent * workload.steps,
        money=money,
        money_low=low * money,
        money_high=high * money,
        fits=fits,
        mfu=workload.flops / (total * count * device.peak_flops) if total else 0.0,
        how=f"speed {basis}; list price of {device.price_of} as of {device.price_as_of}"
        + ("" if fits else "; it does not fit into a device's memory"),
    )


def _choose_microbatch(workload: TrainingWorkload, device: Machine, count: int) -> tuple[int, bool, int]:
    """Return the tokens of a device's microbatch, whether activations are recomputed, and the bytes of memory.

    Activations are kept where that leaves room for enough tokens.
    """
    own = max(1, math.ceil(workload.step_tokens / count))
    for recompute in (False, True) if workload.recompute is None else (workload.recompute,):
        tokens = workload.microbatch_tokens or _fitting_tokens(workload, device, count, recompute=recompute)
        tokens = min(tokens, own)
        memory = _memory(workload, count, tokens, recompute=recompute)
        if memory <= _MEMORY_SHARE * device.memory and tokens >= min(own, _LEAST_TOKENS):
            break
    return tokens, recompute, memory


def _fitting_tokens(workload: TrainingWorkload, device: Machine, count: int, *, recompute: bool) -> int:
    """Return the tokens of the largest microbatch that fits; at least one row."""
    least = max(1, round(workload.sequence_tokens))
    fixed = _memory(workload, count, 0, recompute=recompute)
    each = (_memory(workload, count, 1 << 20, recompute=recompute) - fixed) / (1 << 20)
    room = (_MEMORY_SHARE * device.memory - fixed) / each
    return max(least, min(_MOST_TOKENS, int(room)))


def _memory(workload: TrainingWorkload, count: int, tokens: int, *, recompute: bool) -> int:
    """Return the bytes of one device: its shard of weights and optimizer state, one gathered layer, activations, and
    the runtime.
    """
    frozen = workload.parameters - workload.trainable
    shared = (_STATE_BYTES * workload.trainable + 2 * frozen) / count
    gathered = 0 if count == 1 else 4 * workload.parameters / max(1, workload.layers)
    width, layer = workload.hidden_size, _ACTIVATION_BYTES * workload.hidden_size
    kept = 2 * width * workload.layers + layer if recompute else layer * workload.layers
    return round(shared + gathered + tokens * (kept + _HEAD_BYTES * _VOCABULARY) + BASE_BYTES)


def _step_seconds(
    workload: TrainingWorkload, device: Machine, count: int, tokens: int, *, recompute: bool
) -> tuple[float, float]:
    """Return the seconds of one update, and the bytes that a device sends in it."""
    own = workload.step_tokens / count
    microbatches = max(1.0, own / tokens)
    flops = workload.flops / max(workload.steps, 1e-9) / count
    attention = 12 * workload.layers * workload.hidden_size * workload.sequence_tokens
    share = min(1.0, attention * workload.step_tokens * workload.steps / max(workload.flops, 1.0))
    speed = device.peak_flops * device.efficiency / (1 + _WIDTH / workload.hidden_size) / (1 + device.attention * share)
    products = flops / speed * (1 + _OVERHEAD_TOKENS * microbatches / max(own, 1.0))
    products *= _RECOMPUTE if recompute else 1.0
    sent = _bytes_sent(workload, device, count, microbatches)
    bandwidth = device.link_bandwidth
    if count > device.devices:  # a node's devices send over all its network links at once
        bandwidth = min(bandwidth, device.devices * device.network_bandwidth)
    exchange = sent / (bandwidth * _LINK_SHARE)
    update = 28 * workload.trainable / count / (_LINK_SHARE * device.memory_bandwidth)
    seconds = products + max(0.0, exchange - _EXPOSED * products) + update
    return seconds * (1 + _PER_DOUBLING * max(0.0, math.log2(count / device.devices))), sent


def _bytes_sent(workload: TrainingWorkload, device: Machine, count: int, microbatches: float) -> float:
    """Return the bytes that a device sends in one update.

    Gradients are sent once for each microbatch where they are sharded, else once, as in a ring; weights twice for each
    microbatch where one device does not hold them.
    """
    passed = (count - 1) / count
    held = _STATE_BYTES * workload.trainable + 2 * (workload.parameters - workload.trainable)
    if held > _MEMORY_SHARE * device.memory / 2:
        return passed * microbatches * (4 * workload.parameters + 2 * workload.trainable)
    return 2 * passed * 2 * workload.trainable


def _estimate_here(workload: TrainingWorkload, count: int) -> PlacementEstimate:
    """Estimate on this machine's processors, and on other machines like it, without communication."""
    alike = [
        measures
        for measures in read_machine_timings("tune")
        if 1 / ABOUT <= float(measures.get("parameters", 0)) / workload.parameters <= ABOUT
        and measures.get("flops_per_s")
    ]
    speed = estimate_full_machine_flops(alike[0]) if alike else measure_flops_per_s(bf16=workload.bf16)
    low, high = _HERE if alike else _ASSUMED
    flops = workload.flops if workload.cpu_flops is None else workload.cpu_flops
    seconds = workload.start_seconds + flops / (speed * count)
    tokens = workload.microbatch_tokens or min(int(workload.step_tokens / count) + 1, _LEAST_TOKENS)
    how = "speed of the last training of about this size here" if alike else "speed assumed from matrix products"
    return PlacementEstimate(
        seconds=seconds,
        seconds_low=low * seconds,
        seconds_high=high * seconds,
        memory=_memory(workload, 1, tokens, recompute=False),
        bytes_sent=2 * (count - 1) / count * 4 * workload.trainable * workload.steps,
        money=0.0,
        money_low=0.0,
        money_high=0.0,
        how=how,
    )


__all__ = [
    "CPU", "Machine", "PlacementEstimate", "TrainingWorkload", "build_pretraining_workload", "estimate_on",
    "find_machine", "read_machines",
]  # fmt: skip

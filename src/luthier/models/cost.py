"""Estimates of the time and memory of reading rows with a model on this machine, without torch."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, NamedTuple

from luthier.artifacts.dataset import DatasetSummary
from luthier.core.errors import DataError
from luthier.core.events import take_evenly_spaced
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.core.timings import read_timings, record_timing
from luthier.models.chat_template import ToolSupport, detect_tool_support, list_template_tokens, read_tool_support
from luthier.models.describe import ModelDescription, describe_composition, describe_model_folder
from luthier.models.kernels.compile import find_c_compiler
from luthier.models.load import (
    cpu_has_amx,
    cpu_has_avx512_bf16,
    cpu_has_bf16,
    find_base_folder,
    get_output_classes,
    has_network,
    is_remote_input,
    no_network_error,
)
from luthier.models.token_counts import count_row_tokens

FP32_GAIN, BF16_GAIN, TILES_GAIN = 0.65, 1.6, 2.1
"""Assumed speed of models over numpy's fp32 product: in fp32, in bf16, and in bf16 with matrix tiles (AMX). A measured
speed replaces it once a step with a model has run on this machine."""
GPU_FLOPS_PER_S = 2e13
"""Assumed speed on a GPU until a step has run there."""
MORE_CORES = 0.9
"""Exponent of the number of cores: two are 1.87 times as fast as one, since packs are read in parallel."""

CALL_S = 3e-4
"""Overhead of calling a layer."""


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, without loading torch."""
    return Path("/dev/nvidia0").exists()


def count_cores() -> int:
    """Return the processors that this process may use; `OMP_NUM_THREADS` sets the number."""
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(threads) > 0:
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_flops_per_s(*, bf16: bool) -> float:
    """Return the assumed speed of models on this machine, from matrix products measured now and before."""
    if has_gpu():
        return GPU_FLOPS_PER_S
    cores = float(count_cores() ** MORE_CORES)
    return _measure_steady_rate("product", _matrix_flops) * cores * estimate_matmul_speedup(bf16=bf16)


def estimate_matmul_speedup(*, bf16: bool) -> float:
    """Return the assumed speed of models on a processor over numpy's fp32 product."""
    return (TILES_GAIN if cpu_has_amx() else BF16_GAIN) if bf16 else FP32_GAIN


def measure_memory_bandwidth() -> float:
    """Return this machine's memory bandwidth, from reads measured now and before."""
    return _measure_steady_rate("reading", _read_bytes) * float(count_cores() ** MORE_CORES)


_PROBE_AGE_S = 10.0
_probes: dict[str, tuple[float, float]] = {}
"""Time of the last measurement of each rate in this process, and its result."""


def _measure_steady_rate(kind: str, probe: Callable[[], float]) -> float:
    """Return a rate over the last probes of this machine, with a new one: by the mean of their times.

    On a shared machine one second may give a third of the next. A probe of the last seconds is not repeated: a plan
    needs the speed once for each step.
    """
    at, now = _probes.get(kind, (-math.inf, 0.0))
    if time.monotonic() - at > _PROBE_AGE_S:
        now = probe()
        _probes[kind] = time.monotonic(), now
        record_timing(kind, {"per_s": now})
    return harmonic_mean([float(timing["per_s"]) for timing in read_timings(kind) if timing.get("per_s")] or [now])


def _read_bytes() -> float:
    """Return bytes a second from reads of 128 MB: the best of several in 60 ms."""
    import numpy

    held = numpy.ones(32 << 20, dtype=numpy.float32)
    best, end = float("inf"), time.perf_counter() + 0.06
    while (start := time.perf_counter()) < end:
        held.max()
        best = min(best, time.perf_counter() - start)
    return float(held.nbytes / best)


def estimate_decode_step_seconds(
    parameters: int, layers: int, lines: float, flops_per_s: float, *, bf16: bool
) -> float:
    """Estimate the seconds of one decoding step of a batch: the weights are read once, each sequence is computed, and
    every layer is called.
    """
    read = parameters * (2 if bf16 else 4) / measure_memory_bandwidth()
    return read + lines * 2 * parameters / flops_per_s + layers * CALL_S


def _matrix_flops() -> float:
    """Return the floating-point operations a second of numpy's fp32 product on one processor: the best of many in about
    50 ms.

    The matrices are small enough that numpy uses one thread and other programs rarely interrupt.
    """
    import numpy

    size = 64
    one, out = numpy.ones((size, size), dtype=numpy.float32), numpy.empty((size, size), dtype=numpy.float32)
    best, end = float("inf"), time.perf_counter() + 0.05
    while (start := time.perf_counter()) < end:
        numpy.matmul(one, one, out=out)
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best)


SAMPLE = 256
"""Number of rows whose tokens are counted: their mean is that of all rows to a few per cent."""
_GROUPS = 4
"""Number of row groups of a file that are read for them."""
BASE_BYTES = 760 << 20
"""Memory of Python with torch, transformers, PEFT and data loading without the model, including the matrix library's
kernels for each pack size and allocator fragmentation after some steps."""
_SHAPES = 20
"""Number of packs of different sizes after which two thirds of all kernels are compiled."""
KERNEL_BYTES = 750_000_000
"""Final memory of kernels for bf16 products, forward and backward, including fragmentation between them: fitted to
trainings of SmolLM2-135M in 24, 27 and 157 steps."""
_TILED_SHAPES = 50
TILED_KERNEL_BYTES = 300_000_000
"""The same where attention uses compiled kernels (`has_tile_attention`), for packs of `USUAL_TOKENS`: larger ones
fragment more. Fitted to 5, 25 and 157 steps of the demo, and to 5, 12, 20 and 50 of GSM8K, whose packs have 1,700 to
2,100 tokens."""
USUAL_TOKENS = 900
"""Tokens of a typical microbatch."""
_MOST_KERNELS = 4
"""Maximum factor on it; more was never measured."""


ABOUT = 3.0
"""Maximum ratio of the sizes of two models that reach about the same speed."""
_MOST_EXTRAPOLATED = 30.0
"""Maximum ratio of the sizes of two models of which one's measured speed is nearer to the other's than the speed that a
matrix product lets assume: small calls weigh more in a smaller model."""


BUSY = 0.85
"""Assumed processor utilization of a step on an otherwise idle machine. A step with less waited for other programs,
which the next one need not do."""


class RowEstimate(NamedTuple):
    """An estimate of the rows to be read: their number, tokens of each, and the length of their shared prefix."""

    number: int
    tokens: float
    shared: float
    how: str
    spread: float = 0.0
    """Standard deviation of a row's tokens."""
    answers: float = 0.0
    """Tokens of the last turn where it is an answer."""
    spoken: float = 0.0
    """Tokens of all answers."""
    characters: float = 0.0
    """Characters of its turns."""
    pictures: float = 0.0
    """Distinct images for each row."""
    features: float = 0.0
    """Tokens of an image."""
    patches: float = 0.0
    """Patches of an image that the encoder reads."""


def describe_step_model(plan_context: PlanContext, field: str = "model") -> ModelDescription | None:
    """Describe the model that a field names (the one to be tuned by default): from its files, else from its predicted
    spec; `ModelError` for one without a network.
    """
    if not has_network(plan_context, field):
        raise no_network_error(f"the {field}")
    if (artifact := plan_context.inputs.get(field)) is not None:
        return describe_model_folder(find_base_folder(artifact))
    expected = plan_context.outlines.get(field)
    if expected is not None and expected.tokenizer is not None:
        if expected.config is not None:
            return describe_composition(expected.config, expected.tensors or {}, expected.tokenizer)
        return describe_model_folder(expected.tokenizer)  # what it stands on has its size
    return _build_typical_model(expected.parameters) if expected and expected.parameters else None


def has_sequence_head(plan_context: PlanContext, field: str = "model") -> bool:
    """Return whether the model that a field names has a sequence head."""
    if (artifact := plan_context.inputs.get(field)) is not None:
        return bool(get_output_classes(artifact))
    return plan_context.outlines.get(field, ArtifactSpec()).headed


def count_decoder_parameters(model: ModelDescription) -> int:
    """Return the parameters that each token passes: without embeddings, encoders and projectors."""
    others = sum(numbers for part, numbers in model.parts.items() if part != "language")
    return model.parameters - model.embedding_parameters - others


def estimate_tower_flops(model: ModelDescription, rows: RowEstimate) -> float:
    """Estimate the floating-point operations to encode each image or clip of the rows once."""
    parameters = model.parts.get("vision") or model.parts.get("audio", 0)
    return 2 * parameters * rows.number * rows.pictures * rows.patches


class ModelSpeed(NamedTuple):
    """Speed of steps with a model on this machine."""

    flops_per_s: float
    how: str
    measures: Mapping[str, Any] = {}
    """Measures of the step that it comes from; empty where the speed is assumed."""


def find_model_speed(plan_context: PlanContext, model: ModelDescription, *, bf16: bool, **alike: Any) -> ModelSpeed:
    """Return the speed of the last step with a similar model on this machine and device, preferably of the same kind;
    else that with a model of the nearest size; else an assumption from a matrix product that is measured now.

    Models of which one was measured are thus compared by their operations at one speed, not by a measured speed and an
    assumed one.
    """
    if measures := find_past_timing(plan_context, model, **alike):
        kind = measures.get("step")
        how = gettext_noop(
            f"as the last {kind} step on this machine" if kind else "as the last such step on this machine"
        )
        return ModelSpeed(_flops_at(measures, bf16=bf16), how, measures)
    if measures := find_past_timing(plan_context, model, within=_MOST_EXTRAPOLATED, **alike):
        millions = f"{float(measures['parameters']) / 1e6:,.0f}"
        how = gettext_noop(
            f"of the last step with a model of {millions}M parameters on this machine, as none of this size was "
            "measured"
        )
        return ModelSpeed(_flops_at(measures, bf16=bf16), how)
    return ModelSpeed(measure_flops_per_s(bf16=bf16), "assumed from matrix products until a step has run here")


def _flops_at(measures: Mapping[str, Any], *, bf16: bool) -> float:
    """Return the speed that a step measured, as it would be in bf16 or fp32."""
    was_bf16 = bool(measures.get("bf16", bf16))
    return estimate_full_machine_flops(measures) * (
        estimate_matmul_speedup(bf16=bf16) / estimate_matmul_speedup(bf16=was_bf16)
    )


def find_past_timing(
    plan_context: PlanContext, model: ModelDescription, *, within: float = ABOUT, **alike: Any
) -> Mapping[str, Any]:
    """Return the measures of a step with a model of about this size that matches `alike`: the last one of this project,
    else the newest on this machine, those of its own kind first; empty where there was none. `within` allows other
    sizes, of which the nearest comes first.
    """
    found: list[tuple[float, Mapping[str, Any]]] = []
    for measures in (plan_context.history.get("measures") or {}, *plan_context.paces):
        size = float(measures.get("parameters", model.parameters)) / model.parameters
        fits = 1 / within <= size <= within and all(measures.get(name, value) == value for name, value in alike.items())
        if fits and measures.get("flops_per_s"):
            if 1 / ABOUT <= size <= ABOUT:
                return measures
            found.append((abs(math.log(size)), measures))
    return min(found, key=lambda entry: entry[0])[1] if found else {}


def estimate_full_machine_flops(measures: Mapping[str, Any]) -> float:
    """Estimate FLOP/s on all cores of an otherwise idle machine, from measurements of an earlier step; 0 without
    measurements."""
    by_processor = float(measures.get("flops_per_cpu_s", 0.0)) * count_cores() * BUSY
    return max(float(measures.get("flops_per_s", 0.0)), by_processor)


def estimate_kernel_cache_bytes(
    packs: float, model: ModelDescription, *, bf16: bool, learns: bool = True, tokens: float = USUAL_TOKENS
) -> int:
    """Estimate the memory that the matrix library keeps for kernels it compiles for each new shape, after a number of
    packs."""
    if not (bf16 and cpu_has_bf16()):
        return 0
    tiled = TILED_KERNEL_BYTES * min(_MOST_KERNELS, tokens / USUAL_TOKENS)
    most = tiled if has_tile_attention(model) else KERNEL_BYTES
    return round(most * estimate_kernel_cache_share(packs, model) * (1 if learns else 0.5))


def estimate_kernel_cache_share(packs: float, model: ModelDescription) -> float:
    """Estimate which share of its final kernel cache the matrix library has filled after a number of packs."""
    return 1 - math.exp(-packs / (_TILED_SHAPES if has_tile_attention(model) else _SHAPES))


def has_tile_attention(model: ModelDescription) -> bool:
    """Return whether a bf16 model uses the compiled attention kernels, if they pass their trial."""
    return model.head_dim % 32 == 0 and cpu_has_avx512_bf16() and find_c_compiler() is not None


def has_fused_lora(model: ModelDescription) -> bool:
    """Return whether a bf16 model computes layers with adapters in one call of compiled kernels, if they pass their
    trial.
    """
    is_whole = model.hidden_size % 32 == 0 and model.intermediate_size % 32 == 0
    return is_whole and cpu_has_avx512_bf16() and not cpu_has_amx() and find_c_compiler() is not None


def _build_typical_model(parameters: int) -> ModelDescription:
    """Return a gated transformer of a size, in the usual proportions."""
    layers = max(2, round(30 * (parameters / 135e6) ** 0.25))
    hidden = 64 * max(1, round((parameters / (12.5 * layers)) ** 0.5 / 64))
    return ModelDescription(
        architecture="typical", model_type="typical", parameters=parameters, embedding_parameters=parameters // 5,
        tied=True, hidden_size=hidden, intermediate_size=8 * hidden // 3, layers=layers, heads=max(1, hidden // 64),
        kv_heads=max(1, hidden // 192), head_dim=64, vocab=parameters // 5 // hidden, context=8192, dtype="bfloat16",
        weight_bytes=2 * parameters, disk_bytes=2 * parameters, licence=None, template=None,
    )  # fmt: skip


class LengthLimit(NamedTuple):
    """Maximum tokens of a row, and whether a longer one is cut rather than left out."""

    tokens: int
    cut: bool

    def kept(self, lengths: Sequence[float]) -> tuple[list[float], str]:
        """Return the tokens that are read of some rows, and what happens to the others, in words."""
        fitting = [length for length in lengths if length <= self.tokens]
        if len(fitting) == len(lengths):
            return fitting, ""
        if self.cut or not fitting:
            becomes = f"cut to {self.tokens}" if self.cut else f"all longer than {self.tokens} and to be left out"
            return [min(length, self.tokens) for length in lengths], f", {becomes}"
        return fitting, f", without those above {self.tokens}"


def find_tokenizer_folder(plan_context: PlanContext, field: str = "model") -> Path | None:
    """Return the folder with the tokenizer of the model that a field names, existing or planned; None where it is not
    here.
    """
    if is_remote_input(plan_context, field) or not has_network(plan_context, field):
        return None
    if (artifact := plan_context.inputs.get(field)) is not None:
        return find_base_folder(artifact)
    return plan_context.outlines.get(field, ArtifactSpec()).tokenizer


def get_planned_template(plan_context: PlanContext, field: str = "model") -> str | None:
    """Return the chat template that replaces the model's own, for a model that does not exist yet; an existing one has
    it in its folder.
    """
    return (
        None
        if plan_context.inputs.get(field) is not None
        else plan_context.outlines.get(field, ArtifactSpec()).chat_template
    )


def predict_derived_model(plan_context: PlanContext, field: str = "model") -> ArtifactSpec:
    """Predict what a model inherits from the one that a field names: the chat template, and the encoder of a planned
    composition.
    """
    if plan_context.inputs.get(field) is not None:
        return ArtifactSpec()
    expected = plan_context.outlines.get(field, ArtifactSpec())
    return ArtifactSpec(
        chat_template=expected.chat_template, tools=expected.tools, config=expected.config, tensors=expected.tensors
    )


def predict_tool_support(plan_context: PlanContext, field: str = "model") -> ToolSupport | None:
    """Predict the tool support of the chat template of the model that a field names; None where it is not known yet."""
    if is_remote_input(plan_context, field):
        return None
    if (artifact := plan_context.inputs.get(field)) is not None:
        return read_tool_support(find_base_folder(artifact))
    return get_planned_tool_support(plan_context.outlines.get(field, ArtifactSpec()))


def get_planned_tool_support(expected: ArtifactSpec) -> ToolSupport | None:
    """Return the tool support of the chat template of a model that does not exist yet."""
    if expected.chat_template is not None:
        return detect_tool_support(
            expected.chat_template, list_template_tokens(expected.tokenizer) if expected.tokenizer else {}
        )
    if expected.tokenizer is not None:
        return read_tool_support(expected.tokenizer)
    return None if expected.tools is None else ToolSupport(offers=expected.tools, calls=expected.tools)


def estimate_rows(
    requested: int | None, plan_context: PlanContext, split: str = "train", longest: LengthLimit | None = None
) -> RowEstimate | None:
    """Estimate the rows of a split that will be read, at most `requested`; None when their number is unknown."""
    artifact, expected = plan_context.inputs.get("data"), plan_context.outlines.get("data", ArtifactSpec())
    counts = DatasetSummary.read(artifact).rows if artifact is not None else expected.rows or {}
    if artifact is not None and not counts.get(split):
        has = ", ".join(f"{count:,} in {name}" for name, count in counts.items()) or "none at all"
        hint = "give more rows, loosen what drops them, or see `split` in the step that prepares the data"
        raise DataError(f"the data set has no row in {split}; it has {has}", hint=hint)
    if (known := counts.get(split, requested)) is None:
        return None
    number = int(known) if requested is None else min(requested, int(known))
    sample = (
        _sample(artifact.path(f"examples/{split}.parquet"))
        if artifact is not None
        else take_evenly_spaced(expected.examples, SAMPLE)
    )
    if not sample:
        return RowEstimate(number, 100.0, 0.0, gettext_noop("100 tokens a row assumed"))
    token_counts, rest = (
        count_row_tokens(
            sample,
            find_tokenizer_folder(plan_context),
            get_planned_template(plan_context),
            None if "model" in plan_context.inputs else plan_context.outlines.get("model", ArtifactSpec()).config,
        ),
        "",
    )
    lengths: Sequence[float] = token_counts.lengths
    if longest is not None:
        lengths, rest = longest.kept(lengths)
        number = max(
            1, round(number * len(lengths) / len(token_counts.lengths))
        )  # so many of all as of those looked at
    return RowEstimate(
        number=number,
        tokens=statistics.fmean(lengths),
        shared=min(token_counts.shared, statistics.fmean(lengths)),
        how=f"{_count_rows(number, '' if artifact is not None else expected.how)}, {token_counts.how}{rest}",
        spread=statistics.pstdev(lengths),
        answers=token_counts.answers,
        spoken=token_counts.spoken,
        characters=token_counts.characters,
        pictures=token_counts.pictures,
        features=token_counts.features,
        patches=token_counts.patches,
    )


def _sample(path: Path) -> list[dict[str, Any]]:
    """Return messages and tools of rows spread over a split's file, of which only some row groups are read."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        groups = take_evenly_spaced(range(file.num_row_groups), _GROUPS)
        table = file.read_row_groups(groups, columns=["messages", "tools"])
    rows = table.take(take_evenly_spaced(range(table.num_rows), SAMPLE)).to_pylist()
    return [{name: json.loads(text) for name, text in row.items()} for row in rows]


def _count_rows(count: int, how: str) -> str:
    if not how:
        return gettext_noop(f"{count} rows")
    return gettext_noop(f"{count} rows {how}")

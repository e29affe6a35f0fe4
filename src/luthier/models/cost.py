"""Estimate the time and memory of reading rows with a model on this machine, before it runs and without torch."""

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
"""What models are assumed to reach of numpy's fp32 product: in fp32, in bf16, and in bf16 where a processor multiplies
tiles (AMX). Once a step with a model has run on this machine, its speed takes their place."""
GPU_FLOPS_PER_S = 2e13
"""What models are assumed to reach on a GPU until a step has run there."""
MORE_CORES = 0.9
"""Exponent of the number of cores: two are 1.87 times as quick as one, since packs are read side by side."""

CALL_S = 3e-4
"""What the calls of a layer take beside its work."""


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU; known without loading torch."""
    return Path("/dev/nvidia0").exists()


def count_cores() -> int:
    """Processors that this process may use; `OMP_NUM_THREADS` says how many when it is set."""
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(threads) > 0:
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_flops_per_s(*, bf16: bool) -> float:
    """What models are assumed to reach on this machine, from matrix products measured just now and before."""
    if has_gpu():
        return GPU_FLOPS_PER_S
    cores = float(count_cores() ** MORE_CORES)
    return _measure_steady_rate("product", _matrix_flops) * cores * estimate_matmul_speedup(bf16=bf16)


def estimate_matmul_speedup(*, bf16: bool) -> float:
    """What models are assumed to reach on a processor over numpy's fp32 product."""
    return (TILES_GAIN if cpu_has_amx() else BF16_GAIN) if bf16 else FP32_GAIN


def measure_memory_bandwidth() -> float:
    """How quickly this machine reads what lies in memory, from reads measured just now and before."""
    return _measure_steady_rate("reading", _read_bytes) * float(count_cores() ** MORE_CORES)


_PROBE_AGE_S = 10.0
_probes: dict[str, tuple[float, float]] = {}
"""When each rate was last measured in this process, and what it was."""


def _measure_steady_rate(kind: str, probe: Callable[[], float]) -> float:
    """A rate as the last probes of this machine have it, one more among them: by the mean of the times that they took.

    What a shared machine gives in one second may be a third of what it gives in the next. A probe of the last seconds
    is not repeated: a plan asks for the speed once for each step.
    """
    at, now = _probes.get(kind, (-math.inf, 0.0))
    if time.monotonic() - at > _PROBE_AGE_S:
        now = probe()
        _probes[kind] = time.monotonic(), now
        record_timing(kind, {"per_s": now})
    return harmonic_mean([float(timing["per_s"]) for timing in read_timings(kind) if timing.get("per_s")] or [now])


def _read_bytes() -> float:
    """Bytes a second from reads of 128 MB: the best of some in 60 ms."""
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
    """Seconds in which a model writes the next token of some lines: its weights are read once, each line is computed,
    and every layer is called."""
    read = parameters * (2 if bf16 else 4) / measure_memory_bandwidth()
    return read + lines * 2 * parameters / flops_per_s + layers * CALL_S


def _matrix_flops() -> float:
    """Floating-point operations a second of numpy's fp32 product on one processor: the best of many in about 50 ms.

    The matrices are so small that numpy keeps to one thread, and that other programs do not come between.
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
"""Rows whose tokens are counted: their mean is that of all to a few per cent."""
_GROUPS = 4
"""Groups of rows of a file that are read for them."""
BASE_BYTES = 760 << 20
"""What Python with torch, transformers, PEFT and the reading of rows holds beside the model; and, after some steps,
kernels of the matrix library for each size of pack, and what the allocator cannot give back between such sizes."""
_SHAPES = 20
"""After so many packs of many sizes two thirds of the kernels that will be needed are there."""
KERNEL_BYTES = 750_000_000
"""What kernels for products in bf16 hold in the end, forward and backward, with the pieces of memory between them that
no pack finds: fitted to trainings of SmolLM2-135M in 24, 27 and 157 steps."""
_TILED_SHAPES = 50
TILED_KERNEL_BYTES = 300_000_000
"""The same where attention has no products of its own (`has_tile_attention`), for packs of `USUAL_TOKENS`: larger ones
leave larger pieces. Fitted to 5, 25 and 157 steps of the demo, and to 5, 12, 20 and 50 of GSM8K, whose packs have 1,700
to 2,100 tokens."""
USUAL_TOKENS = 900
"""Read at once."""
_MOST_KERNELS = 4
"""So many times as much at most: more was never seen."""


ABOUT = 3.0
"""Models of up to so many times the size of each other reach about the same speed."""
_COMPARED = 30.0
"""What was measured with a model of up to so many times another size is nearer than what a matrix product lets assume:
small calls weigh more in a smaller one."""


BUSY = 0.85
"""Share of the time that a step is sure to keep each processor busy, where it has them for itself. One that had less
than that waited for other programs, which the next one need not."""


class RowEstimate(NamedTuple):
    """An estimate of the rows to be read: their number, tokens of each, and the length of their shared prefix."""

    number: int
    tokens: float
    shared: float
    how: str
    spread: float = 0.0
    """Standard deviation of a row's tokens."""
    answers: float = 0.0
    """Tokens of its last turn where it is an answer."""
    spoken: float = 0.0
    """Tokens of all its answers."""
    characters: float = 0.0
    """Of its turns."""
    pictures: float = 0.0
    """Different pictures for each row."""
    features: float = 0.0
    """Tokens that stand for a picture."""
    patches: float = 0.0
    """Patches of it that an encoder reads."""


def describe_step_model(plan_context: PlanContext, field: str = "model") -> ModelDescription | None:
    """The model that a field names (the one to be tuned by default): from its files, else from what is known of it;
    `ModelError` for one that is no network."""
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
    """Whether the model that a field names chooses among classes, or gives a number, by a head of its own."""
    if (artifact := plan_context.inputs.get(field)) is not None:
        return bool(get_output_classes(artifact))
    return plan_context.outlines.get(field, ArtifactSpec()).headed


def count_decoder_parameters(model: ModelDescription) -> int:
    """Numbers that each token passes but for the embeddings: not those of encoders and of what joins them."""
    others = sum(numbers for part, numbers in model.parts.items() if part != "language")
    return model.parameters - model.embedding_parameters - others


def estimate_tower_flops(model: ModelDescription, rows: RowEstimate) -> float:
    """Floating-point operations in which a model's towers read each picture or sound of the rows once."""
    parameters = model.parts.get("vision") or model.parts.get("audio", 0)
    return 2 * parameters * rows.number * rows.pictures * rows.patches


class ModelSpeed(NamedTuple):
    """How quickly steps compute with a model on this machine."""

    flops_per_s: float
    how: str
    measures: Mapping[str, Any] = {}
    """The step that measured it; empty where the speed is assumed."""


def find_model_speed(plan_context: PlanContext, model: ModelDescription, *, bf16: bool, **alike: Any) -> ModelSpeed:
    """The speed of the last step with such a model on this machine and device, of the same kind if there was one; else
    that with a model of the nearest size; else what a matrix product that is measured now lets assume.

    Models of which one was measured are thus compared by their operations at one speed, not by a measured speed and an
    assumed one.
    """
    if measures := find_past_timing(plan_context, model, **alike):
        kind = measures.get("step")
        how = f"as the last {kind} step on this machine" if kind else "as the last such step on this machine"
        return ModelSpeed(_flops_at(measures, bf16=bf16), how, measures)
    if measures := find_past_timing(plan_context, model, within=_COMPARED, **alike):
        measured = f"{float(measures['parameters']) / 1e6:,.0f}M parameters"
        how = f"of the last step with a model of {measured} on this machine, as none of this size was measured"
        return ModelSpeed(_flops_at(measures, bf16=bf16), how)
    return ModelSpeed(measure_flops_per_s(bf16=bf16), "assumed from matrix products until a step has run here")


def _flops_at(measures: Mapping[str, Any], *, bf16: bool) -> float:
    """The speed that a step measured, as it would be in bf16 or fp32."""
    was_bf16 = bool(measures.get("bf16", bf16))
    return estimate_full_machine_flops(measures) * (
        estimate_matmul_speedup(bf16=bf16) / estimate_matmul_speedup(bf16=was_bf16)
    )


def find_past_timing(
    plan_context: PlanContext, model: ModelDescription, *, within: float = ABOUT, **alike: Any
) -> Mapping[str, Any]:
    """What a step measured with a model of about this size and with what is alike: the last one of this project's, else
    the newest on this machine, those of its own kind first; empty where there was none. `within` allows other sizes, of
    which the nearest comes first."""
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
    """Whether a model that computes in bf16 has its attention from compiled kernels, if they pass their trial."""
    return model.head_dim % 32 == 0 and cpu_has_avx512_bf16() and find_c_compiler() is not None


def has_fused_lora(model: ModelDescription) -> bool:
    """Whether layers with adapters of a model that computes in bf16 are read in one call of compiled kernels, if they
    pass their trial."""
    is_whole = model.hidden_size % 32 == 0 and model.intermediate_size % 32 == 0
    return is_whole and cpu_has_avx512_bf16() and not cpu_has_amx() and find_c_compiler() is not None


def _build_typical_model(parameters: int) -> ModelDescription:
    """A gated transformer of a size, in the usual proportions."""
    layers = max(2, round(30 * (parameters / 135e6) ** 0.25))
    hidden = 64 * max(1, round((parameters / (12.5 * layers)) ** 0.5 / 64))
    return ModelDescription(
        architecture="typical", model_type="typical", parameters=parameters, embedding_parameters=parameters // 5,
        tied=True, hidden_size=hidden, intermediate_size=8 * hidden // 3, layers=layers, heads=max(1, hidden // 64),
        kv_heads=max(1, hidden // 192), head_dim=64, vocab=parameters // 5 // hidden, context=8192, dtype="bfloat16",
        weight_bytes=2 * parameters, disk_bytes=2 * parameters, licence=None, template=None,
    )  # fmt: skip


class LengthLimit(NamedTuple):
    """How many tokens a row may have, and whether a longer one is cut; else it is left out."""

    tokens: int
    cut: bool

    def kept(self, lengths: Sequence[float]) -> tuple[list[float], str]:
        """The tokens that are read of some rows, and what becomes of the others, in words."""
        fitting = [length for length in lengths if length <= self.tokens]
        if len(fitting) == len(lengths):
            return fitting, ""
        if self.cut or not fitting:
            becomes = f"cut to {self.tokens}" if self.cut else f"all longer than {self.tokens} and to be left out"
            return [min(length, self.tokens) for length in lengths], f", {becomes}"
        return fitting, f", without those above {self.tokens}"


def find_tokenizer_folder(plan_context: PlanContext, field: str = "model") -> Path | None:
    """The folder with the tokenizer of the model that a field names, made or not; None where it is not here."""
    if is_remote_input(plan_context, field) or not has_network(plan_context, field):
        return None
    if (artifact := plan_context.inputs.get(field)) is not None:
        return find_base_folder(artifact)
    return plan_context.outlines.get(field, ArtifactSpec()).tokenizer


def get_planned_template(plan_context: PlanContext, field: str = "model") -> str | None:
    """The chat template that takes the place of the model's own, for a model that is not made yet; a made one has it
    in its folder."""
    return (
        None
        if plan_context.inputs.get(field) is not None
        else plan_context.outlines.get(field, ArtifactSpec()).chat_template
    )


def predict_derived_model(plan_context: PlanContext, field: str = "model") -> ArtifactSpec:
    """What a model that is made from the one that a field names has of it: the chat template, and the encoder of one
    that is yet to be composed."""
    if plan_context.inputs.get(field) is not None:
        return ArtifactSpec()
    expected = plan_context.outlines.get(field, ArtifactSpec())
    return ArtifactSpec(
        chat_template=expected.chat_template, tools=expected.tools, config=expected.config, tensors=expected.tensors
    )


def predict_tool_support(plan_context: PlanContext, field: str = "model") -> ToolSupport | None:
    """What of tools the chat template of the model that a field names has a place for; None where that is not known
    yet."""
    if is_remote_input(plan_context, field):
        return None
    if (artifact := plan_context.inputs.get(field)) is not None:
        return read_tool_support(find_base_folder(artifact))
    return get_planned_tool_support(plan_context.outlines.get(field, ArtifactSpec()))


def get_planned_tool_support(expected: ArtifactSpec) -> ToolSupport | None:
    """Return the tool support of the chat template of a model that is not made yet."""
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
    """The rows of a split that will be read, at most `requested`; None when nothing says how many."""
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
        return RowEstimate(number, 100.0, 0.0, "100 tokens a row assumed")
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
        how=f"{number} rows{'' if artifact is not None else f' {expected.how}'}, {token_counts.how}{rest}",
        spread=statistics.pstdev(lengths),
        answers=token_counts.answers,
        spoken=token_counts.spoken,
        characters=token_counts.characters,
        pictures=token_counts.pictures,
        features=token_counts.features,
        patches=token_counts.patches,
    )


def _sample(path: Path) -> list[dict[str, Any]]:
    """Messages and tools of rows from all over a split's file, of which only some groups of rows are read."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        groups = take_evenly_spaced(range(file.num_row_groups), _GROUPS)
        table = file.read_row_groups(groups, columns=["messages", "tools"])
    rows = table.take(take_evenly_spaced(range(table.num_rows), SAMPLE)).to_pylist()
    return [{name: json.loads(text) for name, text in row.items()} for row in rows]

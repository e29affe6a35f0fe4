"""What a training will cost, told before it runs and without torch: tokens, memory, time, and how that is known."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.step import Forecast, Outline, Outlook
from luthier.models.describe import Description, describe
from luthier.models.load import base_folder, cpu_has_bf16, is_remote
from luthier.text.dataset import summary
from luthier.tune.memory import MOST_TOKENS, cores, footprint

if TYPE_CHECKING:
    from luthier.tune.steps.tune import Tune

CHARS_PER_TOKEN = 3.6
"""English prose and markup under a tokenizer of 30 to 150 thousand tokens; other languages take more."""
SAMPLE = 64
BF16_OVER_FP32 = 2.2
"""How much quicker bf16 products are than numpy's fp32 ones, where the processor has them."""
REACHED = 0.6
"""Share of a machine's own matrix speed that training reaches here."""
MORE_CORES = 0.8
"""Exponent of the number of cores: two are 1.7 times as quick as one."""


class Rows(NamedTuple):
    """What will be read: how many rows, tokens of one, and tokens that all rows share at their beginning."""

    number: int
    tokens: float
    shared: float
    how: str


def foresee(step: Tune, outlook: Outlook) -> Forecast:
    """Predict seconds, peak bytes and tokens of a training."""
    model = model_of(outlook)
    rows = rows_of(step.rows, outlook)
    if model is None or rows is None:
        return Forecast(how="unknown until the model and the data are here")
    seen = rows.number * step.epochs
    computed = seen * (rows.tokens - rows.shared) + seen / step.rows_per_step * rows.shared
    seconds, how = _seconds(step, outlook, model, computed)
    in_pack = min(MOST_TOKENS, step.rows_per_step * (rows.tokens - rows.shared) + rows.shared)
    return Forecast(
        seconds=round(seconds, 1),
        peak_bytes=footprint(step.technique, step.optimizer, model, int(in_pack)) + BASE_BYTES,
        tokens=round(seen * rows.tokens),
        how=f"{rows.how}; {how}",
    )


BASE_BYTES = 450 << 20
"""What Python with torch and transformers holds before any model."""


def _seconds(step: Tune, outlook: Outlook, model: Description, computed: float) -> tuple[float, str]:
    """Seconds, from an earlier training on this machine when there is one, else from a measured product."""
    moving = 6 if step.technique.trainable(model) > model.parameters / 2 else 4
    flops = computed * moving * (model.parameters - model.embedding_parameters)
    before = outlook.history.get("measures", {})
    if rate := before.get("flops_per_s"):
        return flops / rate + before.get("begin_s", 10.0), "speed of the last training here"
    bf16 = step.precision == "bfloat16" or (step.precision == "auto" and cpu_has_bf16())
    return flops / flops_per_s(bf16=bf16) + 10.0, "speed from a matrix product measured just now"


def flops_per_s(*, bf16: bool) -> float:
    """What this machine's processors reach together, from a matrix product measured just now."""
    return _matrix_flops() * float(cores() ** MORE_CORES) * (BF16_OVER_FP32 if bf16 else 1.0) * REACHED


def _matrix_flops() -> float:
    """Floating-point operations a second of numpy's fp32 product on one processor: the best of many in about 50 ms.

    The matrices are so small that numpy keeps to one thread, and that other programs do not come between.
    """
    import numpy

    size = 64
    one, out = numpy.ones((size, size), dtype=numpy.float32), numpy.empty((size, size), dtype=numpy.float32)
    best, end = float("inf"), time.perf_counter() + 0.05
    while (begun := time.perf_counter()) < end:
        numpy.matmul(one, one, out=out)
        best = min(best, time.perf_counter() - begun)
    return float(2 * size**3 / best)


def model_of(outlook: Outlook) -> Description | None:
    """The model that will be tuned: from its files, else from what is known of its size."""
    if (made := outlook.inputs.get("model")) is not None:
        return describe(base_folder(made))
    expected = outlook.outlines.get("model")
    return _typical(expected.parameters) if expected and expected.parameters else None


def outline(outlook: Outlook) -> Outline:
    """What is known of the tuned model: the parameters of the one it stands on."""
    if is_remote(outlook):
        return Outline(remote=True, how="an endpoint")
    model = model_of(outlook)
    return Outline(parameters=model.parameters, how="of the model it stands on") if model else Outline()


def _typical(parameters: int) -> Description:
    """A gated transformer of a size, in the usual proportions."""
    layers = max(2, round(30 * (parameters / 135e6) ** 0.25))
    hidden = 64 * max(1, round((parameters / (12.5 * layers)) ** 0.5 / 64))
    return Description(
        architecture="typical", model_type="typical", parameters=parameters, embedding_parameters=parameters // 5,
        tied=True, hidden_size=hidden, intermediate_size=8 * hidden // 3, layers=layers, heads=max(1, hidden // 64),
        kv_heads=max(1, hidden // 192), head_dim=64, vocab=parameters // 5 // hidden, context=8192, dtype="bfloat16",
        weight_bytes=2 * parameters, disk_bytes=2 * parameters, licence=None, template=None,
    )  # fmt: skip


def rows_of(wanted: int | None, outlook: Outlook) -> Rows | None:
    """The training rows that will be read, at most `wanted`."""
    made = outlook.inputs.get("data")
    if made is not None:
        count = summary(made).rows.get("train", 0)
        sample = _sample(str(made.path("examples/train.parquet")))
        mean = sum(map(len, sample)) / max(1, len(sample)) / CHARS_PER_TOKEN
        shared = _alike(sample) / CHARS_PER_TOKEN if len(sample) > 1 else 0.0
        return Rows(_wanted(wanted, count), mean, shared, f"{count} rows, tokens guessed from {len(sample)} of them")
    expected = outlook.outlines.get("data")
    planned = (expected.rows or {}).get("train") if expected else None
    if planned is None and wanted is None:
        return None
    number = _wanted(wanted, planned if planned is not None else wanted or 0)
    if expected is None or expected.characters is None:
        return Rows(number, 100.0, 0.0, "100 tokens a row assumed")
    tokens = expected.characters / CHARS_PER_TOKEN
    return Rows(number, tokens, expected.shared / CHARS_PER_TOKEN, expected.how)


def _wanted(wanted: int | None, count: int) -> int:
    return count if wanted is None else min(wanted, count)


def _alike(texts: Sequence[str]) -> int:
    """How many leading characters all texts share."""
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _sample(path: str) -> Sequence[str]:
    """The messages of the first rows, as one text each."""
    import polars

    rows = polars.read_parquet(path, columns=["messages"], n_rows=SAMPLE)["messages"].to_list()
    return ["".join(f"<{turn['role']}>{turn.get('content', '')}" for turn in json.loads(row)) for row in rows]

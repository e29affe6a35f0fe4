"""How long an evaluation will take, known without torch: from an earlier one, else from the model's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.step import Forecast, Outlook
from luthier.eval.forgetting.items import characters, items
from luthier.models.foresight import BASE_BYTES, CHARS_PER_TOKEN, Rows, kernel_bytes, model_of, rows_of
from luthier.models.load import cpu_has_bf16, is_remote
from luthier.models.speed import flops_per_s

if TYPE_CHECKING:
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.models.describe import Description

_PLAIN_S = 5.0
"""Plain baselines."""
_OPENING_S = 4.0
"""What it takes to open a model."""
_MEASURED_S = 0.01
"""Intervals and tests, for each row."""
_PACK_TOKENS = 1024
"""Of those that are read at once, as most are."""
_FRAME_TOKENS = 12
"""What a chat template puts around a question, beyond what all questions share."""


def forecast(step: Evaluate, outlook: Outlook) -> Forecast:
    """The cost of an evaluation: rows by models by what a row takes."""
    rows = rows_of(step.rows, outlook, step.split)
    if rows is None:
        return Forecast(how="the data set is not made yet, so the number of rows is unknown")
    if step.turns == "all":
        return Forecast(how=f"{rows.number:,} conversations, each turn of which is asked: how many is not known yet")
    models = 1 + (step.compare_base and _is_tuned(outlook)) + (step.against is not None)
    tokens = round(rows.number * models * rows.tokens)
    if is_remote(outlook):
        return Forecast(tokens=tokens, how=f"{rows.number * models:,} calls to an endpoint; {rows.how}")
    model = model_of(outlook)
    rate = (outlook.history.get("measures") or {}).get("model_rows_per_s")
    if model is None and not rate:
        return Forecast(how="nothing was evaluated here yet, and the model is not made")
    standing = 0.0 if model is None else _asked_anyway(step, outlook, rows)
    peak = None if model is None else _peak(model, models * (_computed(rows) + standing))
    speed = flops_per_s(bf16=cpu_has_bf16())
    each_s = 0.0 if model is None else 2 * (model.parameters - model.embedding_parameters) * models / speed
    beside = _PLAIN_S + models * _OPENING_S + rows.number * _MEASURED_S + each_s * standing
    if rate:
        how = f"{rows.number:,} rows and {models} model(s) at the {rate:.1f} rows a second of the last evaluation"
        return Forecast(seconds=beside + rows.number * models / rate, peak_bytes=peak, how=how)
    how = f"{rows.how}; {models} model(s) at {speed / 1e9:.0f} GFLOP/s"
    return Forecast(seconds=beside + each_s * _computed(rows), peak_bytes=peak, tokens=tokens, how=how)


def _peak(model: Description, tokens: float) -> int:
    """Bytes of one model at a time and of what reading it makes; a pack needs little where nothing is learnt."""
    narrow = cpu_has_bf16()
    kernels = kernel_bytes(tokens / _PACK_TOKENS, bf16=narrow, learns=False)
    return BASE_BYTES + kernels + model.parameters * (3 if narrow else 5)


def _asked_anyway(step: Evaluate, outlook: Outlook, rows: Rows) -> float:
    """Tokens of the questions about what was forgotten, for each model, where they will be asked."""
    named = any(task.kind == "forgetting" for task in step.tasks or ())
    by_default = step.tasks is None and step.compare_base and _is_tuned(outlook)
    if not (named or (by_default and rows.number * rows.tokens * CHARS_PER_TOKEN >= characters())):
        return 0.0
    return characters() / CHARS_PER_TOKEN + _FRAME_TOKENS * len(items())


def _computed(rows: Rows) -> float:
    """Tokens that are computed: each row's own, and once what all of them share."""
    return rows.number * max(rows.tokens - rows.shared, 1.0) + rows.shared


def _is_tuned(outlook: Outlook) -> bool:
    upstream = outlook.upstream.get("model")
    return upstream is not None and "model" in type(upstream).reads()

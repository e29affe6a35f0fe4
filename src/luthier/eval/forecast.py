"""How long an evaluation will take, known without torch: from an earlier one, else from the model's size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.step import Forecast, Outlook
from luthier.models.load import cpu_has_bf16, is_remote
from luthier.models.speed import flops_per_s

if TYPE_CHECKING:
    from luthier.eval.steps.evaluate import Evaluate

TOKENS_PER_ROW = 100
"""A short question with its answer, when nothing better is known."""
_LABEL_SECONDS = 5.0
"""Plain baselines, intervals and tests for a few thousand rows."""


def forecast(step: Evaluate, outlook: Outlook) -> Forecast:
    """The cost of an evaluation: rows by models by what a row takes."""
    rows = _rows(step, outlook)
    if rows is None:
        return Forecast(how="the data set is not made yet, so the number of rows is unknown")
    models = 2 if step.compare_base and _is_tuned(outlook) else 1
    if is_remote(outlook):
        how = f"{rows * models:,} calls to an endpoint, at a guessed {TOKENS_PER_ROW} tokens each"
        return Forecast(tokens=rows * models * TOKENS_PER_ROW, how=how)
    parameters = _parameters(outlook)
    peak = None if parameters is None else int(4 * parameters + 600e6)
    rate = (outlook.history.get("measures") or {}).get("model_rows_per_s")
    if rate:
        how = f"{rows:,} rows and {models} model(s) at the {rate:.1f} rows a second of the last evaluation"
        return Forecast(seconds=_LABEL_SECONDS + rows * models / rate, peak_bytes=peak, how=how)
    if parameters is None:
        return Forecast(how="nothing was evaluated here yet, and the model is not made")
    tokens = rows * models * TOKENS_PER_ROW
    speed = flops_per_s(bf16=cpu_has_bf16())
    seconds = _LABEL_SECONDS + 2 * parameters * tokens / speed
    guessed = f"a guessed {TOKENS_PER_ROW} tokens a row and {speed / 1e9:.0f} GFLOP/s"
    how = f"{rows:,} rows and {models} model(s) at {guessed}"
    return Forecast(seconds=seconds, peak_bytes=peak, tokens=tokens, how=how)


def _rows(step: Evaluate, outlook: Outlook) -> int | None:
    data = outlook.inputs.get("data")
    if data is not None:
        rows: int | None = data.read_json("summary.json")["rows"].get(step.split, 0)
    else:
        expected = outlook.outlines.get("data")
        rows = (expected.rows or {}).get(step.split) if expected else None
    if rows is None or step.rows is None:
        return step.rows if rows is None else rows
    return min(rows, step.rows)


def _is_tuned(outlook: Outlook) -> bool:
    upstream = outlook.upstream.get("model")
    return upstream is not None and "model" in type(upstream).reads()


def _parameters(outlook: Outlook) -> int | None:
    """Parameters of the model's root, when it is made."""
    model = outlook.inputs.get("model")
    while model is not None and "model" in model.manifest.inputs:
        model = model.parent("model")
    if model is None or not Path(model.folder / "model.json").is_file():
        expected = outlook.outlines.get("model")
        return expected.parameters if expected else None
    card: dict[str, Any] = model.read_json("model.json")
    return int(card["parameters"])

"""What a training will cost, told before it runs and without torch: tokens, memory, time, and how that is known."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.step import Forecast, Outline, Outlook
from luthier.models.describe import Description, describe, read_template
from luthier.models.load import base_folder, cpu_has_bf16, is_remote
from luthier.models.speed import flops_per_s
from luthier.text.dataset import summary
from luthier.tune.memory import MOST_TOKENS, computing_in, footprint

if TYPE_CHECKING:
    from luthier.tune.steps.tune import Tune

CHARS_PER_TOKEN = 3.6
"""English prose and markup under a tokenizer of 30 to 150 thousand tokens; other languages take more."""
SAMPLE = 64


class Rows(NamedTuple):
    """What will be read: how many rows, tokens of one, and tokens that all rows share at their beginning."""

    number: int
    tokens: float
    shared: float
    how: str
    spread: float = 0.0
    """Standard deviation of a row's tokens."""


def foresee(step: Tune, outlook: Outlook) -> Forecast:
    """Predict seconds, peak bytes and tokens of a training."""
    model = model_of(outlook)
    rows = rows_of(step.rows, outlook)
    if model is None or rows is None:
        return Forecast(how="unknown until the model and the data are here")
    seen = rows.number * step.epochs
    computed = seen * (rows.tokens - rows.shared) + seen / step.rows_per_step * rows.shared
    seconds, how = _seconds(step, outlook, model, computed)
    return Forecast(
        seconds=round(seconds, 1),
        peak_bytes=_peak(step, model, rows) + _beside(step, outlook),
        tokens=round(seen * rows.tokens),
        how=f"{rows.how}; {how}",
    )


def _beside(step: Tune, outlook: Outlook) -> int:
    """Bytes of a teacher that stays open while the model learns."""
    teacher = model_of(outlook, "teacher")
    if teacher is None or step.objective.stored:
        return 0
    narrow = step.precision == "bfloat16" or (step.precision == "auto" and cpu_has_bf16())
    return teacher.parameters * (2 if narrow else 4)


def _peak(step: Tune, model: Description, rows: Rows) -> int:
    """Bytes at the peak, when the pack with most tokens is read: about two deviations above the mean of a step."""
    own, count = rows.tokens - rows.shared, min(step.rows_per_step, rows.number)
    in_pack = rows.shared + count * own + 2 * rows.spread * count**0.5
    tokens = min(MOST_TOKENS, in_pack) if step.tokens_per_pack == "auto" else min(step.tokens_per_pack, in_pack)
    keys = (rows.shared * rows.shared / 2 + count * own * (rows.shared + own / 2)) / max(1.0, rows.shared + count * own)
    chunk = min(64.0, rows.tokens / 2)  # causal squares are computed whole
    return footprint(step.technique, step.optimizer, computing_in(model, step.precision), int(tokens), keys + chunk)


def _seconds(step: Tune, outlook: Outlook, model: Description, computed: float) -> tuple[float, str]:
    """Seconds, from an earlier training on this machine when there is one, else from a measured product."""
    moving = 6 if step.technique.trainable(model) > model.parameters / 2 else 4
    flops = computed * moving * (model.parameters - model.embedding_parameters)
    before = outlook.history.get("measures", {})
    if rate := before.get("flops_per_s"):
        return flops / rate + before.get("begin_s", 10.0), "speed of the last training here"
    bf16 = step.precision == "bfloat16" or (step.precision == "auto" and cpu_has_bf16())
    return flops / flops_per_s(bf16=bf16) + 10.0, "speed from a matrix product measured just now"


def model_of(outlook: Outlook, field: str = "model") -> Description | None:
    """The model that a field names (the one to be tuned by default): from its files, else from what is known of it."""
    if (made := outlook.inputs.get(field)) is not None:
        return describe(base_folder(made))
    expected = outlook.outlines.get(field)
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
        return _rows(_wanted(wanted, count), made, None if is_remote(outlook) else outlook.inputs.get("model"))
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


def _rows(number: int, data: Artifact, model: Artifact | None) -> Rows:
    """Rows of a made data set, told from the first of them: their tokens, or characters where no tokenizer is here."""
    sample = _sample(str(data.path("examples/train.parquet")))
    found = _tokens(sample, base_folder(model)) if model is not None and sample else None
    texts: Sequence[Sequence[Any]] = found or [
        "".join(f"<{turn['role']}>{turn['content']}" for turn in row) for row in sample
    ]
    per, how = (1.0, "counted in") if found else (CHARS_PER_TOKEN, "guessed from")
    lengths = [len(text) / per for text in texts]
    shared = _alike(texts) / per if len(texts) > 1 else 0.0
    mean, spread = (statistics.fmean(lengths), statistics.pstdev(lengths)) if lengths else (0.0, 0.0)
    return Rows(number, mean, shared, f"{number} rows, tokens {how} {len(texts)} of them", spread)


def _alike(texts: Sequence[Any]) -> int:
    """How much all texts share at their beginning."""
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _sample(path: str) -> list[list[dict[str, Any]]]:
    """The messages of the first rows."""
    import polars

    rows = polars.read_parquet(path, columns=["messages"], n_rows=SAMPLE)["messages"].to_list()
    return [[{"content": "", **turn} for turn in json.loads(row)] for row in rows]


def _tokens(rows: Sequence[Sequence[Mapping[str, Any]]], folder: Path) -> list[list[int]] | None:
    """Ids of some rows by the model's own template and tokenizer, read without transformers; None where they differ."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from tokenizers import Tokenizer

    source = read_template(folder)
    if source is None or not (folder / "tokenizer.json").is_file():
        return None
    try:
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
        texts = [template.render(messages=row, add_generation_prompt=False, bos_token="", eos_token="") for row in rows]
    except TemplateError:
        return None  # it asks for what only transformers gives
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]

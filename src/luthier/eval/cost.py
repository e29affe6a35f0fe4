"""Forecast the cost of an evaluation, without torch: from an earlier one, else from the model's size."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import DatasetSummary, preview_input_examples
from luthier.chat.preference import rejected_char_ratio
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext, StepContext, StepCostEstimate
from luthier.eval.cached_model import TOGETHER
from luthier.eval.task import TaskType, has_preference_pairs
from luthier.eval.tasks.forgetting import count_question_characters, load_forgetting_questions
from luthier.models.cost import (
    BASE_BYTES,
    SAMPLE,
    RowEstimate,
    count_decoder_parameters,
    describe_step_model,
    estimate_decode_step_seconds,
    estimate_kernel_cache_bytes,
    estimate_rows,
    estimate_tower_flops,
    find_model_speed,
    find_tokenizer_folder,
    has_gpu,
    has_sequence_head,
)
from luthier.models.lm.base import GenerateRequest
from luthier.models.load import cpu_has_bf16, has_network, is_remote_input
from luthier.models.media.cost import forecast_encoder
from luthier.models.token_counts import count_branch_tokens

if TYPE_CHECKING:
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.models.cost import ModelSpeed
    from luthier.models.describe import ModelDescription
    from luthier.models.lm.cached import AnswerCache

_PLAIN_S = 2.0
"""Plain baselines."""
_OPENING_S = 2.0
"""Seconds to load a model and lay out its weights: 2 and 3.5 measured on a quiet AMD EPYC."""
_MEASURED_S = 0.002
"""Intervals and tests, for each row: classes take next to nothing, texts by six metrics so much."""
_READING_BYTES = 100_000_000
"""Two packs at once, and what is left between their pieces."""
_WIDE_READING_BYTES = 550_000_000
"""The same in fp32, whose logits are whole pieces: fitted to the demo's evaluation in a process of its own, 2.25 GB."""
_ALONE_READING_BYTES = 360_000_000
"""The same of one model that was not tuned: 1.68 GB in all."""
_WORDS_BYTES = 400 << 20
"""Memory of an evaluation of a plain classifier: Python with polars and scikit-learn."""
_PACK_TOKENS = 1024
"""Of those that are read at once, as most are."""
PAIRS = "pairs"
"""Name of the task of choosing one of two answers in stored speeds; its rows are longer than those of
classification."""
_TELLING = 24
"""Answers from which their time tells how quick the next will come: that of fewer is mostly the opening of models."""
_CLASS_TOKENS = 8
"""Mean answer length above which answers count as free text, until the data is known."""
_CHARS_PER_TOKEN = 3.6
"""Of the questions about what was forgotten, which are English."""
_FRAME_TOKENS = 12
"""Tokens of a chat template around a question, besides the shared ones."""


def forecast_evaluation_cost(step: Evaluate, plan_context: PlanContext) -> StepCostEstimate:
    """The cost of an evaluation: rows by models by what a row takes."""
    rows = estimate_rows(step.limit, plan_context, step.split)
    if rows is None:
        return StepCostEstimate(how=gettext_noop("the data set is not made yet, so the number of rows is unknown"))
    if step.turns == "all":
        return StepCostEstimate(
            how=gettext_noop(f"{rows.number:,} conversations, each turn of which is asked: how many is not known yet")
        )
    writes = _written(step, plan_context, rows)
    models = len(writes)
    if not has_network(plan_context):
        models = 2 if step.compare_with is not None else 1
        plain = gettext_noop(f"{format_counted_noun(models, 'model')}, the time of the plain classifier is negligible")
        how = f"{rows.how}; {plain}"
        seconds = estimate_overhead_seconds(models, rows.number)
        return (
            StepCostEstimate(seconds=seconds, peak_bytes=_WORDS_BYTES, tokens=0, how=how)
            if models == 1
            else StepCostEstimate(how=how)
        )
    aside = estimate_extra_tokens(step, plan_context, rows)
    tokens = round(rows.number * models * (rows.tokens + (aside.tokens if aside.pairs else 0.0)))
    if is_remote_input(plan_context):
        return StepCostEstimate(
            tokens=tokens, how=f"{gettext_noop(f'{rows.number * models:,} calls to an endpoint')}; {rows.how}"
        )
    model = describe_step_model(plan_context)
    if model is None:
        return StepCostEstimate(how=gettext_noop("the model is not made yet, so its size is unknown"))
    written = rows.number * sum(writes)
    known = PAIRS if aside.pairs else _task(plan_context)
    alike = {"task": known} if known else {}
    speed = find_model_speed(plan_context, model, bf16=_narrow(step), writes=bool(written), **alike)
    standing = _asked_anyway(step, plan_context, rows)
    computed = models * (_computed(rows) + standing)
    flops, writing_s = _flops(model, computed) + models * _encoder_flops(model, rows), 0.0
    flops += rows.number * models * _flops(model, aside.tokens, headed=aside.headed)
    if any(writes) and "writes" in speed.measures:
        flops += _flops(model, written, headed=written)
    elif any(writes):
        writing_s = written * _token_s(step, model, rows, speed.flops_per_s)
    kernels = estimate_kernel_cache_bytes(computed / _PACK_TOKENS, model, bf16=_narrow(step), learns=False)
    return StepCostEstimate(
        seconds=estimate_overhead_seconds(models, rows.number) + flops / speed.flops_per_s + writing_s,
        peak_bytes=_peak(model, narrow=_narrow(step), alone=models == 1 and not _is_tuned(plan_context)) + kernels,
        tokens=tokens,
        how=f"{rows.how}; {_describe_speed(models, speed)}",
        common_bytes=BASE_BYTES,
        left_bytes=BASE_BYTES + kernels,
    )


def estimate_overhead_seconds(models: int, rows: int) -> float:
    """Estimate the seconds of an evaluation besides its models' answers."""
    return _PLAIN_S + models * _OPENING_S + rows * _MEASURED_S


def measure_answer_speed(step: Evaluate, work: StepContext, task: str, known: AnswerCache) -> dict[str, Any]:
    """Return the speed of an evaluation's answers, in the units of later estimates."""
    plan_context = PlanContext(inputs=work.inputs, upstream={}, recipe_dir=work.recipe_dir)
    if known.made < _TELLING or step.turns == "all" or is_remote_input(plan_context) or not has_network(plan_context):
        return {}
    model, rows = describe_step_model(plan_context), estimate_rows(known.made, plan_context, step.split)
    if model is None or rows is None:
        return {}
    answers, aside = rows._replace(number=known.made), estimate_extra_tokens(step, plan_context, rows)
    written = known.made * statistics.fmean(_written(step, plan_context, rows, task))
    flops = _flops(model, _computed(answers)) + _flops(model, written, headed=written) + _encoder_flops(model, answers)
    flops += known.made * _flops(model, aside.tokens, headed=aside.headed)
    task = PAIRS if aside.pairs else task
    by_processor = {} if has_gpu() else {"flops_per_cpu_s": flops / max(known.cpu_s, 1e-9)}
    sizes = {"parameters": model.parameters, "task": task, "bf16": _narrow(step), "writes": bool(written)}
    return {"flops_per_s": flops / max(known.seconds, 1e-9), **by_processor, **sizes}


def _flops(model: ModelDescription, tokens: float, *, headed: float = 0.0) -> float:
    """Return the operations to read tokens; generated or scored ones (`headed`) need the head, too."""
    return 2 * (count_decoder_parameters(model) * tokens + model.vocab * model.hidden_size * headed)


def _encoder_flops(model: ModelDescription, rows: RowEstimate) -> float:
    """Operations in which one model reads each picture or sound of the rows, which it then keeps."""
    if (encoder := forecast_encoder(model)) is not None:
        return rows.number * encoder.flops
    return estimate_tower_flops(model, rows)


def _task(plan_context: PlanContext) -> str | None:
    """Return whether answers are classes or text, as far as it is known."""
    if (artifact := plan_context.inputs.get("data")) is not None:
        return DatasetSummary.read(artifact).task
    return plan_context.outlines.get("data", ArtifactSpec()).task


def predict_task_type(step: Evaluate, plan_context: PlanContext) -> TaskType | None:
    """The kind of answer that rows ask for; None where nothing tells yet."""
    kind = _task(plan_context)
    if step.pairs and _holds_pairs(step, plan_context):
        return TaskType("label", pairs=True)
    return TaskType("label" if kind == "label" else "text") if kind else None


def _written(step: Evaluate, plan_context: PlanContext, rows: RowEstimate, task: str | None = None) -> list[float]:
    """Return the tokens that each model generates for a row: a tuned one ends like the rows' answers, any other
    continues to the limit.
    """
    task = task or _task(plan_context) or ("text" if rows.answers > _CLASS_TOKENS else "label")
    is_text = task == "text" and not (step.pairs and _holds_pairs(step, plan_context))
    most = float(step.max_new_tokens) if is_text else 0.0
    like_rows, tuned = min(most, rows.answers) or most, _is_tuned(plan_context)
    base = [most] if tuned and step.compare_base else []
    return [like_rows if tuned else most, *base, *([like_rows] if step.compare_with is not None else [])]


class ExtraTokens(NamedTuple):
    """The tokens that a model reads for each row in addition to the row's own conversation."""

    tokens: float = 0.0
    headed: float = 0.0
    """Tokens whose log-probability is wanted, those of the row's own answer included."""
    pairs: bool = False
    """Whether one of two answers is chosen."""


def estimate_extra_tokens(step: Evaluate, plan_context: PlanContext, rows: RowEstimate) -> ExtraTokens:
    """Of pairs, the other answer; of classes, the others to their ends, what they begin with in common once; of texts,
    the reference again where its likelihood is a metric."""
    artifact, artifact_spec = plan_context.inputs.get("data"), plan_context.outlines.get("data", ArtifactSpec())
    if step.pairs and _holds_pairs(step, plan_context):
        rejected = rows.tokens * rejected_char_ratio(preview_input_examples(plan_context, step.split, SAMPLE))
        return ExtraTokens(rejected, 0.0 if has_sequence_head(plan_context) else rows.answers + rejected, pairs=True)
    if has_sequence_head(plan_context):
        return ExtraTokens()
    if any(_written(step, plan_context, rows)):
        likely = any("logprobs" in metric.needs for metric in step.metrics or ())
        return ExtraTokens(max(rows.tokens - rows.shared, 0.0), rows.answers) if likely else ExtraTokens()
    classes = artifact_spec.answers if artifact is None else DatasetSummary.read(artifact).labels
    among = max(0.0, count_branch_tokens(classes, find_tokenizer_folder(plan_context)) - rows.answers)
    return ExtraTokens(among, among)


def _holds_pairs(step: Evaluate, plan_context: PlanContext) -> bool:
    """Whether rows hold two answers of which one is chosen, as far as some of them tell; or a model with a head of its
    own, which writes nothing, over rows without classes."""
    if has_preference_pairs(preview_input_examples(plan_context, step.split, SAMPLE)):
        return True
    return "data" not in plan_context.inputs and has_sequence_head(plan_context) and _task(plan_context) != "label"


def _token_s(step: Evaluate, model: ModelDescription, rows: RowEstimate, speed: float) -> float:
    """Return the seconds of a generated token, in a batch of as many rows as there are, or as are asked together."""
    lines = max(1, min(rows.number, TOGETHER[GenerateRequest]))
    return estimate_decode_step_seconds(model.parameters, model.layers, lines, speed, bf16=_narrow(step)) / lines


def _narrow(step: Evaluate) -> bool:
    """Return whether models compute in bf16."""
    return step.dtype != "float32" and cpu_has_bf16()


def _peak(model: ModelDescription, *, narrow: bool, alone: bool) -> int:
    """Bytes of one model at a time and of what reading it makes; a pack needs little where nothing is learnt.

    In fp32 the file's weights, in 16 bits, stand beside those that are made of them, but where a base is `alone`.
    """
    if alone and not narrow:
        return BASE_BYTES + _ALONE_READING_BYTES + model.parameters * 4
    reading = _READING_BYTES if narrow else _WIDE_READING_BYTES
    return BASE_BYTES + reading + model.parameters * (3 if narrow else 6)


def _asked_anyway(step: Evaluate, plan_context: PlanContext, rows: RowEstimate) -> float:
    """Tokens of the questions about what was forgotten, for each model, where they will be asked."""
    named = any(task.kind == "forgetting" for task in step.tasks or ())
    by_default = step.tasks is None and step.compare_base and _is_tuned(plan_context)
    if not (named or (by_default and rows.number * rows.characters >= count_question_characters())):
        return 0.0
    return count_question_characters() / _CHARS_PER_TOKEN + _FRAME_TOKENS * len(load_forgetting_questions())


def _computed(rows: RowEstimate) -> float:
    """Tokens that are computed: each row's own, and once what all of them share."""
    return rows.number * max(rows.tokens - rows.shared, 1.0) + rows.shared


def _is_tuned(plan_context: PlanContext) -> bool:
    upstream = plan_context.upstream.get("model")
    return upstream is not None and "model" in type(upstream).reads()


def _describe_speed(models: int, speed: ModelSpeed) -> str:
    rate = f"{speed.flops_per_s / 1e9:.0f}"
    return gettext_noop(f"{format_counted_noun(models, 'model')} at {rate} GFLOP/s, {speed.how}")

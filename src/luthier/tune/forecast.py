"""What a training will cost, predicted without torch: tokens, memory, time, and how that is known."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from luthier.chat.preference import rejected_char_ratio
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext, StepCostEstimate, TrainingWorkload
from luthier.models.cost import (
    BASE_BYTES,
    SAMPLE,
    LengthLimit,
    ModelSpeed,
    RowEstimate,
    count_cores,
    describe_step_model,
    estimate_decode_step_seconds,
    estimate_kernel_cache_bytes,
    estimate_kernel_cache_share,
    estimate_rows,
    estimate_tower_flops,
    find_model_speed,
    find_tokenizer_folder,
    has_fused_lora,
    has_gpu,
    predict_derived_model,
)
from luthier.models.describe import ModelDescription, estimate_activation_bytes
from luthier.models.load import cpu_has_bf16, is_remote_input
from luthier.models.media.cost import estimate_tower_bytes, forecast_encoder
from luthier.models.media.family import explain_alone
from luthier.models.packing.parallel_plan import plan_parallel_packs
from luthier.tune.cost import (
    MOST_TOKENS,
    PackWorkload,
    build_flop_counter,
    describe_in_dtype,
    estimate_peak_memory,
)
from luthier.tune.policy import ActorCritic, PolicyObjective
from luthier.tune.preference import PairObjective
from luthier.tune.rollout.settings import HELD_TOKENS, RolloutSettings
from luthier.tune.techniques.lora import Lora

if TYPE_CHECKING:
    from luthier.tune.steps.tune import Tune


_BEGIN_S = 6.0
"""Seconds until a training's first step: libraries, rows and the model are read."""
_LEFT = 0.45
"""What packs leave in the end, in terms of what the largest need, where a step is read in several: freed memory lies in
pieces that a pack of another size does not find."""
_ONE_CALL_BYTES = 170_000_000
"""What a training holds less where layers with adapters are read in one call; besides, the output layer's input of
attention is the result that attention keeps, and there are hardly any shapes of products to make kernels for. Fitted
to ten trainings of SmolLM2-135M."""
_OTHER_SHAPES = 0.15
_MOST_DEVIATIONS = 2.0
"""Fitted to trainings of 27 to 157 steps."""
_LARGE = 2048
"""Tokens read at once from which that was seen; with fewer, a training took what was told without it."""


def estimate_cost(step: Tune, plan_context: PlanContext) -> StepCostEstimate:
    """Predict seconds, peak bytes and tokens of a training."""
    model = describe_step_model(plan_context)
    rows = estimate_rows(step.max_train_samples, plan_context, longest=_longest(step))
    if model is None or rows is None:
        return StepCostEstimate(how=gettext_noop("unknown until the model and the data are here"))
    examples_seen = _examples_seen(step, rows)
    drawn, second = _count_sampled_tokens(step), _second(step, plan_context, rows)
    rows = rows._replace(tokens=rows.tokens + second, answers=rows.answers + second)
    seconds, how = _estimate_seconds(step, plan_context, model, rows)
    peak, kernels = _estimate_peak_bytes(step, model, rows)
    return StepCostEstimate(
        seconds=round(seconds, 1),
        peak_bytes=peak
        + kernels
        + _estimate_teacher_bytes(step, plan_context)
        + _critic(step, model)
        + _tower_bytes(step, model, rows)
        + _estimate_encoder_bytes(step, model, rows),
        tokens=round(examples_seen * (rows.tokens + drawn)),
        how=f"{rows.how}; {how}"
        + (f"; {gettext_noop('answers as long as they may be')}" if drawn else "")
        + _media_note(model, rows),
        common_bytes=BASE_BYTES,
        left_bytes=BASE_BYTES + kernels,
    )


def describe_training_workload(step: Tune, plan_context: PlanContext) -> TrainingWorkload | None:
    """What a training computes, to estimate it on other machines; None until the model and the data are here."""
    model = describe_step_model(plan_context)
    rows = estimate_rows(step.max_train_samples, plan_context, longest=_longest(step))
    if model is None or rows is None:
        return None
    second = _second(step, plan_context, rows)
    rows = rows._replace(tokens=rows.tokens + second, answers=rows.answers + second)
    steps, computed = _steps(step, rows), _computed(step, rows)
    trainable, narrow = step.technique.trainable(model), _is_bf16(step)
    operations = build_flop_counter(model, trainable, bits=16 if narrow else 32, headed=step.objective.wants_head())
    towers = _tower_operations(step, model, rows)
    read_once = computed._replace(packs=0, tokens=steps.tokens, keys=steps.tokens * steps.keys)
    return TrainingWorkload(
        parameters=model.parameters,
        trainable=trainable,
        layers=model.layers,
        hidden_size=model.hidden_size,
        steps=steps.number,
        step_tokens=steps.tokens,
        sequence_tokens=rows.tokens,
        flops=steps.number * operations(read_once) + towers,
        bf16=narrow,
        cpu_flops=steps.number * operations(computed) + towers,
        start_seconds=_BEGIN_S,
    )


def _examples_seen(step: Tune, rows: RowEstimate) -> float:
    """Rows that are learnt, repeats included."""
    whole = rows.number * step.epochs
    return whole if step.max_steps is None else min(whole, step.max_steps * step.batch_size)


def _longest(step: Tune) -> LengthLimit | None:
    """How long a row may be, and what becomes of a longer one; None where the objective does not say."""
    tokens = getattr(step.objective, "max_length", None)
    return None if tokens is None else LengthLimit(tokens, cut=getattr(step.objective, "truncation", "drop") != "drop")


def _count_sampled_tokens(step: Tune) -> int:
    """Tokens of the answers that a policy draws to each prompt, at most."""
    drawing = step.objective.rollout if isinstance(step.objective, PolicyObjective) else None
    return drawing.num_generations * drawing.longest if drawing is not None else 0


def _count_trained_tokens(step: Tune) -> int:
    """Tokens of those of the answers that are learnt, at most."""
    policy = step.objective
    return policy.trained_completions * policy.rollout.longest if isinstance(policy, PolicyObjective) else 0


def _second(step: Tune, plan_context: PlanContext, rows: RowEstimate) -> float:
    """Tokens of the other answer of a pair, which stands beside the conversation that ends with the preferred one."""
    if not isinstance(step.objective, PairObjective):
        return 0.0
    from luthier.artifacts.dataset import preview_input_examples

    return rows.tokens * rejected_char_ratio(preview_input_examples(plan_context, "train", SAMPLE))


def _reads_alone(model: ModelDescription) -> str:
    """Why rows with pictures are read one by one; empty where they are packed."""
    return explain_alone(model.model_type) if model.reads_media else ""


def _media_note(model: ModelDescription, rows: RowEstimate) -> str:
    """How pictures are read, where rows have them and they are not packed."""
    alone = _reads_alone(model)
    return f"; rows with pictures are read one by one, as {alone}" if alone and rows.pictures else ""


def _moves_vision(step: Tune, model: ModelDescription) -> bool:
    """Whether the encoder of pictures or sounds learns."""
    parts = getattr(step.technique, "on", None)
    return (
        not {"vision", "audio"}.isdisjoint(parts)
        if parts is not None
        else step.technique.trainable(model) > model.parameters / 2
    )


def _tower_operations(step: Tune, model: ModelDescription, rows: RowEstimate) -> float:
    """Floating-point operations of encoders: a frozen one reads each picture once and keeps its features; one that
    learns reads it in each epoch, forward and back, and so does one whose rows are read one by one."""
    encoder = estimate_tower_flops(model, rows)
    epochs = _examples_seen(step, rows) / max(1, rows.number)
    if _moves_vision(step, model):
        return 3 * encoder * max(1.0, epochs)
    return encoder * (max(1.0, epochs) if _reads_alone(model) else 1.0)


def _tower_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> int:
    """Bytes of what is kept of pictures: the features of a frozen encoder, and what one that learns keeps of a step."""
    if not rows.pictures:
        return 0
    width, count = 2 if _is_bf16(step) else 4, min(step.batch_size, rows.number)
    if _moves_vision(step, model):
        return estimate_tower_bytes(model.config, count * rows.pictures * rows.patches, width)
    one = estimate_tower_bytes(model.config, rows.patches, width) // 8  # nothing is kept for a backward
    kept = 0.0 if _reads_alone(model) else rows.number * rows.pictures * rows.features * model.hidden_size * width
    return one + int(min(KEPT_FEATURES_BYTES, kept))


KEPT_FEATURES_BYTES = 1 << 30
"""Features of pictures that are kept of one model (`models.media.towers`)."""


def _estimate_teacher_bytes(step: Tune, plan_context: PlanContext) -> int:
    """Bytes of a teacher that stays open while the model learns."""
    teacher = describe_step_model(plan_context, "teacher")
    if teacher is None or step.objective.stored:
        return 0
    return teacher.parameters * (2 if _is_bf16(step) else 4)


def _critic(step: Tune, model: ModelDescription) -> int:
    """Bytes of a second adapter of the policy's size: weights, gradient and two moments in fp32."""
    return 16 * step.technique.trainable(model) if isinstance(step.objective, ActorCritic) else 0


def _learns_sounds(step: Tune, model: ModelDescription) -> bool:
    """Whether the encoder of a model that transcribes moves."""
    return "audio" in getattr(step.technique, "on", ()) or step.technique.kind == "full"


def _estimate_encoder_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> int:
    """Bytes of what an encoder makes of sounds: all that are kept, or what autograd keeps of those of a step."""
    if (encoder := forecast_encoder(model)) is None:
        return 0
    width = 2 if _is_bf16(step) else 4
    if not _learns_sounds(step, model):
        return encoder.kept_bytes(rows.number, width)
    return estimate_activation_bytes(model, int(min(step.batch_size, rows.number) * encoder.states), width)


def _hearing_flops(step: Tune, model: ModelDescription, rows: RowEstimate) -> float:
    """What an encoder computes: each sound once where it stays as it is, else forward and backward each time."""
    if (encoder := forecast_encoder(model)) is None:
        return 0.0
    times = (
        3 * _examples_seen(step, rows) if _learns_sounds(step, model) else min(rows.number, _examples_seen(step, rows))
    )
    return times * encoder.flops


class _Steps(NamedTuple):
    """The steps of a training, as they are foreseen."""

    number: float
    rows: int
    """That each has, at most."""
    tokens: float
    """Computed in one, when it is read as one."""
    keys: float
    """That a token sees, on average."""


def _steps(step: Tune, rows: RowEstimate) -> _Steps:
    own, count = rows.tokens - rows.shared + _count_trained_tokens(step), min(step.batch_size, rows.number)
    tokens = rows.shared + count * own
    visible_tokens = (
        rows.shared + (own + rows.spread**2 / max(1.0, own)) / 2
    )  # a long row has more tokens, and each sees more
    keys = (rows.shared * rows.shared / 2 + count * own * visible_tokens) / max(1.0, tokens)
    return _Steps(_examples_seen(step, rows) / count, count, tokens, keys)


def _computed(step: Tune, rows: RowEstimate) -> PackWorkload:
    """What a step computes."""
    steps = _steps(step, rows)
    packs, _ = _packs(step, steps.tokens, rows)
    tokens = steps.tokens + (packs - 1) * rows.shared
    answers = rows.answers if getattr(step.objective, "train_on", "last") == "last" else rows.spoken
    head_tokens = steps.rows * (_count_trained_tokens(step) or answers)
    times = 2 if isinstance(step.objective, ActorCritic) else 1  # the critic learns the same rows
    return PackWorkload(times * packs, times * tokens, times * head_tokens, times * tokens * steps.keys)


def _packs(step: Tune, tokens: float, rows: RowEstimate) -> tuple[int, float]:
    """Packs of a step that computes so many tokens when it is read as one, and the tokens that are read at once."""
    most = MOST_TOKENS if step.max_tokens_per_microbatch == "auto" else step.max_tokens_per_microbatch
    if has_gpu():  # packs are as large as may be there
        return 1, min(most, tokens)
    return plan_parallel_packs(tokens, rows.shared, most, count_cores())


def _estimate_peak_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> tuple[int, int]:
    """Bytes at the peak, when the packs with most tokens are read; and those of the kernels by then, which come on top
    and stay."""
    steps = _steps(step, rows)
    packs, tokens = _packs(step, steps.tokens + _expected_maximum(steps.number) * rows.spread * steps.rows**0.5, rows)
    chunk = min(64.0, rows.tokens / 2)  # causal squares are computed whole
    description = describe_in_dtype(model, step.dtype)
    fixed, whole = (
        estimate_peak_memory(step.technique, step.optimizer, description, at, steps.keys + chunk)
        for at in (0, int(tokens))
    )
    kernels = estimate_kernel_cache_bytes(packs * steps.number, model, bf16=_is_bf16(step), tokens=tokens)
    if _at_once(step, model):
        fixed -= _ONE_CALL_BYTES
        whole -= _ONE_CALL_BYTES + 2 * int(tokens) * model.layers * model.heads * model.head_dim
        kernels = round(_OTHER_SHAPES * kernels)
    left = _LEFT * estimate_kernel_cache_share(packs * steps.number, model) if packs > 1 and tokens > _LARGE else 0
    return fixed + round((whole - fixed) * (1 + left)), kernels


def _at_once(step: Tune, model: ModelDescription) -> bool:
    """Whether all layers with adapters are read in one call of compiled kernels."""
    lora = step.technique
    is_plain = isinstance(lora, Lora) and not lora.use_dora and lora.target_modules == "all-linear" and lora.r % 8 == 0
    return is_plain and _is_bf16(step) and has_fused_lora(model)


def _expected_maximum(steps: float) -> float:
    """Deviations by which the largest of so many steps is above their mean: what is expected of normal draws (Blom's
    approximation), but no more than two."""
    number = max(1.0, steps)
    return min(_MOST_DEVIATIONS, NormalDist().inv_cdf((number - 0.375) / (number + 0.25)))


def _is_bf16(step: Tune) -> bool:
    """Whether the model computes in bf16."""
    return step.dtype == "bfloat16" or (step.dtype == "auto" and cpu_has_bf16())


def _estimate_seconds(
    step: Tune, plan_context: PlanContext, model: ModelDescription, rows: RowEstimate
) -> tuple[float, str]:
    """Seconds, from an earlier training on this machine when there is one, else from a measured product."""
    bf16 = _is_bf16(step)
    trainable, headed = step.technique.trainable(model), step.objective.wants_head()
    operations = build_flop_counter(model, trainable, bits=16 if bf16 else 32, headed=headed)
    flops = _steps(step, rows).number * operations(_computed(step, rows)) + _tower_operations(step, model, rows)
    speed = find_model_speed(plan_context, model, bf16=bf16)
    if "begin_s" not in speed.measures:  # the speed of an earlier training is told with its encoder
        flops += _hearing_flops(step, model, rows)
    begin_s, how = speed.measures.get("begin_s", _BEGIN_S), gettext_noop(f"speed {speed.how}")
    begin_s = min(begin_s, speed.measures.get("begin_cpu_s", begin_s))  # most of it is one processor's work
    if "begin_s" not in speed.measures and step.objective.needs_reference:
        flops *= (
            1 + min(1.0, rows.number / _examples_seen(step, rows)) / 2
        )  # once a row; an earlier training tells it as a part of its beginning
    seconds = flops / speed.flops_per_s + begin_s + step.technique.before_s(model)
    if isinstance(step.objective, PolicyObjective):
        seconds += _drawing_seconds(step.objective.rollout, step, model, rows, speed)
        how += "; answers of another engine come when they come" if step.objective.rollout.writer is not None else ""
    return seconds, how


def _drawing_seconds(
    drawing: RolloutSettings, step: Tune, model: ModelDescription, rows: RowEstimate, speed: ModelSpeed
) -> float:
    """Seconds in which answers of the longest length are drawn to each prompt, those of a step's prompts at once."""
    if drawing.writer is not None:
        return 0.0
    prompts, parameters = _examples_seen(step, rows), model.parameters
    written = prompts * drawing.num_generations * drawing.written
    if measured := speed.measures.get("drawing_flops_per_s"):
        return written * 2 * parameters / float(measured)
    lines = step.batch_size * drawing.steps_per_generation * drawing.num_generations
    held = max(1.0, min(lines, HELD_TOKENS / (rows.tokens + drawing.longest)))
    rate = speed.flops_per_s
    writing = written / held * estimate_decode_step_seconds(parameters, model.layers, held, rate, bf16=_is_bf16(step))
    return writing + prompts * rows.tokens * 2 * parameters / rate


def predict_tuned_model(plan_context: PlanContext) -> ArtifactSpec:
    """What is known of the tuned model: the parameters of the one it stands on."""
    if is_remote_input(plan_context):
        return ArtifactSpec(remote=True, how="an endpoint")
    model = describe_step_model(plan_context)
    parameters, tokenizer = model.parameters if model else None, find_tokenizer_folder(plan_context)
    artifact_spec = predict_derived_model(plan_context)
    return replace(artifact_spec, parameters=parameters, tokenizer=tokenizer, how="of the model it stands on")

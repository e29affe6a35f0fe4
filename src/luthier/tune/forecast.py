"""The cost of a training, predicted without torch: tokens, memory and time, and the source of each number."""

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
"""Seconds until the first step of a training: loading libraries, rows and the model."""
_LEFT = 0.45
"""Memory that packs leave behind, as a share of what the largest one needs, where a step is read in several packs:
freed memory is fragmented, and a pack of another size cannot use it."""
_ONE_CALL_BYTES = 170_000_000
"""Bytes that a training saves where layers with adapters are computed in one call; also, the input of attention's
output projection is the result that attention keeps, and there are few product shapes to make kernels for. Fitted to
ten trainings of SmolLM2-135M."""
_OTHER_SHAPES = 0.15
_MOST_DEVIATIONS = 2.0
"""Fitted to trainings of 27 to 157 steps."""
_LARGE = 2048
"""Tokens of a microbatch from which the saving was measured; smaller ones needed what was predicted without it."""


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
    """Describe the computation of a training, to estimate it on other machines; None until the model and the data
    exist.
    """
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
    """Return the number of rows that are trained on, repeats included."""
    whole = rows.number * step.epochs
    return whole if step.max_steps is None else min(whole, step.max_steps * step.batch_size)


def _longest(step: Tune) -> LengthLimit | None:
    """Return the limit on a row's length and what happens to longer ones; None where the objective has no limit."""
    tokens = getattr(step.objective, "max_length", None)
    return None if tokens is None else LengthLimit(tokens, cut=getattr(step.objective, "truncation", "drop") != "drop")


def _count_sampled_tokens(step: Tune) -> int:
    """Return the maximum tokens of the completions that a policy samples for each prompt."""
    drawing = step.objective.rollout if isinstance(step.objective, PolicyObjective) else None
    return drawing.num_generations * drawing.longest if drawing is not None else 0


def _count_trained_tokens(step: Tune) -> int:
    """Return the maximum tokens of the completions that are trained on for each prompt."""
    policy = step.objective
    return policy.trained_completions * policy.rollout.longest if isinstance(policy, PolicyObjective) else 0


def _second(step: Tune, plan_context: PlanContext, rows: RowEstimate) -> float:
    """Return the tokens of the rejected answer of a pair, which comes in addition to the conversation with the
    preferred one.
    """
    if not isinstance(step.objective, PairObjective):
        return 0.0
    from luthier.artifacts.dataset import preview_input_examples

    return rows.tokens * rejected_char_ratio(preview_input_examples(plan_context, "train", SAMPLE))


def _reads_alone(model: ModelDescription) -> str:
    """Return why rows with images are read one by one; empty where they are packed."""
    return explain_alone(model.model_type) if model.reads_media else ""


def _media_note(model: ModelDescription, rows: RowEstimate) -> str:
    """Describe how images are read, where rows have them and are not packed."""
    alone = _reads_alone(model)
    return f"; rows with pictures are read one by one, as {alone}" if alone and rows.pictures else ""


def _moves_vision(step: Tune, model: ModelDescription) -> bool:
    """Return whether the image or audio encoder is trained."""
    parts = getattr(step.technique, "on", None)
    return (
        not {"vision", "audio"}.isdisjoint(parts)
        if parts is not None
        else step.technique.trainable(model) > model.parameters / 2
    )


def _tower_operations(step: Tune, model: ModelDescription, rows: RowEstimate) -> float:
    """Return the floating-point operations of the encoders.

    A frozen encoder reads each image once and its features are kept. One that is trained, or whose rows are read one by
    one, reads each image in each epoch, forward and backward.
    """
    encoder = estimate_tower_flops(model, rows)
    epochs = _examples_seen(step, rows) / max(1, rows.number)
    if _moves_vision(step, model):
        return 3 * encoder * max(1.0, epochs)
    return encoder * (max(1.0, epochs) if _reads_alone(model) else 1.0)


def _tower_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> int:
    """Return the bytes kept for images: the features of a frozen encoder, or the activations of a trained one in a
    step.
    """
    if not rows.pictures:
        return 0
    width, count = 2 if _is_bf16(step) else 4, min(step.batch_size, rows.number)
    if _moves_vision(step, model):
        return estimate_tower_bytes(model.config, count * rows.pictures * rows.patches, width)
    per_image = estimate_tower_bytes(model.config, rows.patches, width) // 8  # nothing is kept for a backward
    kept = 0.0 if _reads_alone(model) else rows.number * rows.pictures * rows.features * model.hidden_size * width
    return per_image + int(min(KEPT_FEATURES_BYTES, kept))


KEPT_FEATURES_BYTES = 1 << 30
"""Maximum bytes of image features that are kept for one model (`models.media.towers`)."""


def _estimate_teacher_bytes(step: Tune, plan_context: PlanContext) -> int:
    """Return the bytes of a teacher that stays loaded during training."""
    teacher = describe_step_model(plan_context, "teacher")
    if teacher is None or step.objective.stored:
        return 0
    return teacher.parameters * (2 if _is_bf16(step) else 4)


def _critic(step: Tune, model: ModelDescription) -> int:
    """Return the bytes of a second adapter of the policy's size: weights, gradient and two moments in fp32."""
    return 16 * step.technique.trainable(model) if isinstance(step.objective, ActorCritic) else 0


def _learns_sounds(step: Tune, model: ModelDescription) -> bool:
    """Return whether the encoder of a speech recognition model is trained."""
    return "audio" in getattr(step.technique, "on", ()) or step.technique.kind == "full"


def _estimate_encoder_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> int:
    """Return the bytes of an audio encoder's outputs: all that are kept, or what autograd keeps of a step."""
    if (encoder := forecast_encoder(model)) is None:
        return 0
    width = 2 if _is_bf16(step) else 4
    if not _learns_sounds(step, model):
        return encoder.kept_bytes(rows.number, width)
    return estimate_activation_bytes(model, int(min(step.batch_size, rows.number) * encoder.states), width)


def _hearing_flops(step: Tune, model: ModelDescription, rows: RowEstimate) -> float:
    """Return the operations of an audio encoder: each clip once where it is frozen, else forward and backward each
    time.
    """
    if (encoder := forecast_encoder(model)) is None:
        return 0.0
    times = (
        3 * _examples_seen(step, rows) if _learns_sounds(step, model) else min(rows.number, _examples_seen(step, rows))
    )
    return times * encoder.flops


class _Steps(NamedTuple):
    """The predicted steps of a training."""

    number: float
    rows: int
    """Maximum rows of a step."""
    tokens: float
    """Tokens computed in a step that is read as one pack."""
    keys: float
    """Mean number of tokens that a token attends to."""


def _steps(step: Tune, rows: RowEstimate) -> _Steps:
    own, count = rows.tokens - rows.shared + _count_trained_tokens(step), min(step.batch_size, rows.number)
    tokens = rows.shared + count * own
    visible_tokens = (
        rows.shared + (own + rows.spread**2 / max(1.0, own)) / 2
    )  # a long row has more tokens, and each sees more
    keys = (rows.shared * rows.shared / 2 + count * own * visible_tokens) / max(1.0, tokens)
    return _Steps(_examples_seen(step, rows) / count, count, tokens, keys)


def _computed(step: Tune, rows: RowEstimate) -> PackWorkload:
    """Return the workload of a step."""
    steps = _steps(step, rows)
    packs, _ = _packs(step, steps.tokens, rows)
    tokens = steps.tokens + (packs - 1) * rows.shared
    answers = rows.answers if getattr(step.objective, "train_on", "last") == "last" else rows.spoken
    head_tokens = steps.rows * (_count_trained_tokens(step) or answers)
    times = 2 if isinstance(step.objective, ActorCritic) else 1  # the critic learns the same rows
    return PackWorkload(times * packs, times * tokens, times * head_tokens, times * tokens * steps.keys)


def _packs(step: Tune, tokens: float, rows: RowEstimate) -> tuple[int, float]:
    """Return the packs of a step that computes `tokens` when read as one, and the tokens of a microbatch."""
    most = MOST_TOKENS if step.max_tokens_per_microbatch == "auto" else step.max_tokens_per_microbatch
    if has_gpu():  # packs are as large as may be there
        return 1, min(most, tokens)
    return plan_parallel_packs(tokens, rows.shared, most, count_cores())


def _estimate_peak_bytes(step: Tune, model: ModelDescription, rows: RowEstimate) -> tuple[int, int]:
    """Return the bytes at the peak, when the largest packs are read; and those of compiled kernels, which come on top
    and stay.
    """
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
    """Return whether all layers with adapters are computed in one call of compiled kernels."""
    lora = step.technique
    is_plain = isinstance(lora, Lora) and not lora.use_dora and lora.target_modules == "all-linear" and lora.r % 8 == 0
    return is_plain and _is_bf16(step) and has_fused_lora(model)


def _expected_maximum(steps: float) -> float:
    """Return the standard deviations by which the largest of `steps` draws exceeds their mean: the expectation for
    normal draws (Blom's approximation), but at most two.
    """
    number = max(1.0, steps)
    return min(_MOST_DEVIATIONS, NormalDist().inv_cdf((number - 0.375) / (number + 0.25)))


def _is_bf16(step: Tune) -> bool:
    """Return whether the model computes in bf16."""
    return step.dtype == "bfloat16" or (step.dtype == "auto" and cpu_has_bf16())


def _estimate_seconds(
    step: Tune, plan_context: PlanContext, model: ModelDescription, rows: RowEstimate
) -> tuple[float, str]:
    """Return seconds from an earlier training on this machine when there is one, else from a measured product; and that
    source.
    """
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
    """Return the seconds in which completions of the maximum length are sampled, those of a step's prompts at once."""
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
    """Predict the tuned model's spec: the parameters of its base model."""
    if is_remote_input(plan_context):
        return ArtifactSpec(remote=True, how="an endpoint")
    model = describe_step_model(plan_context)
    parameters, tokenizer = model.parameters if model else None, find_tokenizer_folder(plan_context)
    artifact_spec = predict_derived_model(plan_context)
    return replace(artifact_spec, parameters=parameters, tokenizer=tokenizer, how="of the model it stands on")

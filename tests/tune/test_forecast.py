"""Forecasts count what a training reads: both answers of a pair, and what a policy writes before it learns it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import dump_spec_example
from luthier.chat.messages import Example
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.step import ArtifactSpec, PlanContext, StepCostEstimate
from luthier.models import cost as foresight
from luthier.models import cost as speed
from luthier.models.describe import describe_model_folder
from luthier.tune import forecast as outlook
from luthier.tune.objective import Objective
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, chat, make_env, pairs

SPEED = {"measures": {"flops_per_s": 1e6, "begin_s": 0.0}}


def told(env: TuneEnv, objective: Any, **measures: float) -> StepCostEstimate:
    step = Tune(data="data", objective=objective)
    inputs = {"data": env.data, "model": env.base}
    history = {"measures": SPEED["measures"] | measures}
    return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=history))


def grpo(**rollout: Any) -> Objective:
    return Objective.parse({"kind": "grpo", "rewards": ["exact"], "rollout": {"max_completion_length": 50, **rollout}})


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path, pairs(24))


def test_the_other_answer_of_a_pair_is_counted(env: TuneEnv) -> None:
    """A pair is its conversation and the other answer, as the prompt is read once."""
    text, objective = ChatTokenizer.load(env.base.folder), DpoObjective()
    dataset = [example.rows for example in objective.build_training_examples(pairs(24), text)]
    answers = sum(len(rows[0].ids) + len(rows[1].targets) for rows in dataset)
    found, single = told(env, objective), told(env, Sft())
    assert found.tokens == pytest.approx(answers, rel=0.15)
    assert (found.tokens or 0) > 1.05 * (single.tokens or 0)
    assert (found.seconds or 0) > (single.seconds or 0)


def test_rows_that_are_too_long_are_not_counted_or_as_what_is_left_of_them(env: TuneEnv) -> None:
    longest = max(
        len(example.rows[0].ids)
        for example in Sft().build_training_examples(pairs(24), ChatTokenizer.load(env.base.folder))
    )
    whole, left = told(env, Sft()), told(env, Sft(max_length=longest - 1))
    cut = told(env, Sft(max_length=longest - 1, truncation="right"))
    assert (left.tokens or 0) < (cut.tokens or 0) < (whole.tokens or 0)
    assert f"without those above {longest - 1}" in left.how
    assert f"cut to {longest - 1}" in cut.how
    assert "all longer than 2 and to be left out" in told(env, Sft(max_length=2)).how


def ahead(env: TuneEnv, examples: Sequence[Example], **known: Any) -> PlanContext:
    """Nothing is made but the model; these are the rows that were looked at."""
    outline = ArtifactSpec(
        rows={"train": 24}, examples=[dump_spec_example(one) for one in examples], how="as told", **known
    )
    inputs = {"model": env.base}
    return PlanContext(
        inputs=inputs, upstream={}, recipe_dir=env.base.folder, outlines={"data": outline}, history=SPEED
    )


@pytest.mark.parametrize("objective", [Sft(), DpoObjective()])
def test_rows_that_are_not_made_yet_are_told_as_those_that_are(env: TuneEnv, objective: Any) -> None:
    """Their tokens, the other answers of pairs, and what all of them begin with, which is computed once."""
    step = Tune(data="data", objective=objective)
    first, second = step.estimate_cost(ahead(env, pairs(24))), told(env, objective)
    assert (first.tokens, first.seconds, first.peak_bytes) == (second.tokens, second.seconds, second.peak_bytes)
    assert first.how.replace(" as told", "") == second.how


def test_rows_of_data_that_are_not_made_yet_are_too_long_as_well(env: TuneEnv) -> None:
    rows = [chat("Where is it?", "here"), chat("Where is it? " * 100, "here")]
    length = len(ChatTokenizer.load(env.base.folder).encode(rows[0].messages).ids)
    found = Tune(data="data", objective=Sft(max_length=length)).estimate_cost(ahead(env, [*rows[:1] * 3, rows[1]]))
    assert found.tokens == 18 * length
    assert f"18 rows as told, tokens counted in 4 of them, without those above {length}" in found.how


def test_all_answers_are_learnt_where_all_turns_are(env: TuneEnv) -> None:
    row = chat("Where is it?", "account " * 50)
    long = row.model_copy(update={"messages": (*row.messages, *chat("And now?", "here").messages[1:])})
    last, every = (Tune(data="data", objective=Sft(train_on=learn)) for learn in ("last", "all"))
    look = ahead(env, [long])
    assert (last.estimate_cost(look).seconds or 0) < (every.estimate_cost(look).seconds or 0)


def test_what_a_policy_writes_is_counted_when_it_is_written_and_when_it_is_learnt(env: TuneEnv) -> None:
    few, many = told(env, grpo(num_generations=2)), told(env, grpo(num_generations=10))
    assert (many.tokens or 0) - (few.tokens or 0) == pytest.approx(24 * 8 * 50)
    assert (many.seconds or 0) > 2 * (few.seconds or 0)
    assert "answers as long as they may be" in many.how


def test_writing_costs_what_the_last_drawing_here_took(env: TuneEnv) -> None:
    parameters = describe_model_folder(env.base.folder).parameters
    slow, quick = (told(env, grpo(), drawing_flops_per_s=rate).seconds or 0 for rate in (1e6, 1e9))
    written = 24 * 8 * 50 * 2 * parameters
    assert slow - quick == pytest.approx(written / 1e6 - written / 1e9, abs=0.2)


def test_writing_without_a_drawing_before_reads_the_weights_once_for_all_lines(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure_memory_bandwidth", lambda: 1e3)
    alone, together = (told(env, grpo(steps_per_generation=steps), flops_per_s=1e12).seconds or 0 for steps in (1, 3))
    assert alone / together == pytest.approx(3, rel=0.01)
    elsewhere = told(
        env, grpo(writer={"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}), flops_per_s=1e12
    )
    assert (elsewhere.seconds or 0) < together / 100
    assert "another engine" in elsewhere.how


def test_a_training_on_a_busy_machine_tells_how_quick_the_next_one_is_alone(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside others it had 60 of 200 processor-seconds in 100 by the clock; alone it takes 85 % of both cores."""
    monkeypatch.setattr("luthier.models.cost.count_cores", lambda: 2)
    by_clock = told(env, Sft()).seconds or 0
    assert told(env, Sft(), flops_per_cpu_s=1e6 / 0.6).seconds == pytest.approx(by_clock * 0.6 / 1.7, rel=0.01)
    assert told(env, Sft(), flops_per_cpu_s=1e6 / 1.9).seconds == by_clock
    assert told(env, Sft(), begin_s=50.0, begin_cpu_s=9.0).seconds == pytest.approx(by_clock + 9, abs=0.2)


def test_only_what_is_learnt_of_the_answers_is_read_again(env: TuneEnv) -> None:
    """Online DPO learns two of eight answers: it writes as much as GRPO and reads less."""
    pair = Objective.parse({"kind": "online_dpo", "rewards": ["exact"], "rollout": {"max_completion_length": 50}})
    of_two, of_all = (told(env, one, drawing_flops_per_s=1e12) for one in (pair, grpo()))
    assert of_two.tokens == of_all.tokens
    assert (of_two.seconds or 0) < 0.6 * (of_all.seconds or 0)
    assert (of_two.peak_bytes or 0) < (of_all.peak_bytes or 0)


def test_this_machine_reads_and_writes_at_some_speed() -> None:
    assert speed.measure_memory_bandwidth() > 1e6
    one, many = (speed.estimate_decode_step_seconds(10**6, 2, lines, 1e9, bf16=False) for lines in (1, 1000))
    assert one < many


def test_a_critic_costs_an_adapter_and_a_second_learning(env: TuneEnv) -> None:
    plain, valued = (
        told(env, Objective.parse({"kind": kind, "rewards": ["exact"]}), drawing_flops_per_s=1e6)
        for kind in ("grpo", "ppo")
    )
    assert plain.tokens == valued.tokens
    assert 1.2 < (valued.seconds or 0) / (plain.seconds or 1) < 2
    assert (valued.peak_bytes or 0) > (plain.peak_bytes or 0)


def test_kernels_in_bf16_are_counted_as_they_come(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bf16 keeps a kernel for each shape: few at first, and no more than so many in the end."""
    monkeypatch.setattr(outlook, "has_fused_lora", lambda model: False)

    def peak(epochs: float, *, narrow: bool, precision: Any = "bfloat16") -> int:
        monkeypatch.setattr(foresight, "cpu_has_bf16", lambda: narrow)
        step = Tune(data="data", objective=Sft(), epochs=epochs, batch_size=8, dtype=precision)
        inputs = {"data": env.data, "model": env.base}
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder)).peak_bytes or 0

    few, many, more = (peak(epochs, narrow=True) - peak(epochs, narrow=False) for epochs in (1, 30, 300))
    most = foresight.KERNEL_BYTES
    assert 0 < few < most / 3 < many < more <= most
    assert peak(300, narrow=True, precision="float32") == peak(300, narrow=False, precision="float32")


def test_attention_in_tiles_needs_less_memory(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """No products of its own, whose kernels would be kept, and no shares for the way back."""
    monkeypatch.setattr(foresight, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(outlook, "has_fused_lora", lambda model: False)

    def peak(*, tiles: bool, precision: Any = "bfloat16") -> int:
        for room in ("luthier.models.cost", "luthier.tune.cost"):
            monkeypatch.setattr(f"{room}.has_tile_attention", lambda model: tiles)
        step = Tune(data="data", objective=Sft(), epochs=300, batch_size=8, dtype=precision)
        inputs = {"data": env.data, "model": env.base}
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder)).peak_bytes or 0

    kernels = foresight.KERNEL_BYTES - foresight.TILED_KERNEL_BYTES
    assert peak(tiles=False) - peak(tiles=True) > kernels
    assert peak(tiles=False, precision="float32") == peak(tiles=True, precision="float32")


def test_the_tiles_of_attention_want_a_compiler_a_processor_and_wide_heads(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = describe_model_folder(env.base.folder).model_copy(update={"head_dim": 64})
    for multiplies, command, width, has in (
        (True, "cc", 64, True),
        (False, "cc", 64, False),
        (True, None, 64, False),
        (True, "cc", 80, False),
    ):
        monkeypatch.setattr(foresight, "cpu_has_avx512_bf16", lambda known=multiplies: known)
        monkeypatch.setattr(foresight, "find_c_compiler", lambda known=command: known)
        assert foresight.has_tile_attention(model.model_copy(update={"head_dim": width})) is has


@pytest.mark.parametrize(
    ("technique", "precision", "less"),
    [
        ({"kind": "lora"}, "bfloat16", True),
        ({"kind": "lora"}, "float32", False),
        ({"kind": "lora", "r": 12}, "bfloat16", False),
        ({"kind": "lora", "use_dora": True}, "bfloat16", False),
        ({"kind": "lora", "target_modules": ["q_proj"]}, "bfloat16", False),
        ({"kind": "full"}, "bfloat16", False),
    ],
)
def test_layers_with_adapters_in_one_call_need_less_memory(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, technique: dict[str, Any], precision: Any, less: bool
) -> None:
    """No kernels for shapes of their products, and no copy of their input."""
    monkeypatch.setattr(foresight, "cpu_has_bf16", lambda: True)
    inputs = {"data": env.data, "model": env.base}
    step = Tune.model_validate({"data": "data", "technique": technique, "batch_size": 8, "dtype": precision})

    def peak(*, at_once: bool) -> int:
        monkeypatch.setattr(outlook, "has_fused_lora", lambda model: at_once)
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder)).peak_bytes or 0

    assert peak(at_once=True) < peak(at_once=False) if less else peak(at_once=True) == peak(at_once=False)


@pytest.mark.parametrize(
    ("pairs", "tiles", "command", "width", "has"),
    [
        (True, False, "cc", 64, True),
        (False, False, "cc", 64, False),
        (True, True, "cc", 64, False),
        (True, False, None, 64, False),
        (True, False, "cc", 80, False),
    ],
)
def test_one_call_wants_a_compiler_a_processor_without_tiles_and_even_widths(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, pairs: bool, tiles: bool, command: str | None, width: int, has: bool
) -> None:
    model = describe_model_folder(env.base.folder).model_copy(update={"hidden_size": width, "intermediate_size": 160})
    monkeypatch.setattr(foresight, "cpu_has_avx512_bf16", lambda: pairs)
    monkeypatch.setattr(foresight, "cpu_has_amx", lambda: tiles)
    monkeypatch.setattr(foresight, "find_c_compiler", lambda: command)
    assert foresight.has_fused_lora(model) is has


def test_a_training_that_ends_after_some_steps_costs_so_many(env: TuneEnv) -> None:
    """24 rows in steps of 4; more steps than the epochs hold are not counted."""

    def cost(max_steps: int | None) -> StepCostEstimate:
        step = Tune(data="data", objective=Sft(), epochs=2, batch_size=4, max_steps=max_steps)
        inputs = {"data": env.data, "model": env.base}
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=SPEED))

    whole, half, more = cost(None), cost(6), cost(99)
    assert more == whole
    assert half.tokens == pytest.approx((whole.tokens or 0) / 2, abs=1)
    assert half.seconds == pytest.approx((whole.seconds or 0) / 2, rel=0.05)


def test_few_steps_meet_no_step_far_above_the_mean(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest of a step, of a few, and of many, which two deviations bound; the numbers are Blom's."""
    monkeypatch.setattr(foresight, "cpu_has_bf16", lambda: False)

    def peak(epochs: float) -> int:
        step = Tune(data="data", objective=Sft(), epochs=epochs, batch_size=24)
        inputs = {"data": env.data, "model": env.base}
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder)).peak_bytes or 0

    one, five, twelve, many, more = (peak(epochs) for epochs in (1, 5, 12, 99, 300))
    assert one < five < twelve < many == more
    assert (five - one) / (many - one) == pytest.approx(1.18 / 2, rel=0.1)
    assert (twelve - one) / (many - one) == pytest.approx(1.64 / 2, rel=0.1)

"""What a training computes, beside what torch counts of the same; what is told before is what is counted after."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.load import load_model
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune import cost
from luthier.tune.cost import PackWorkload, build_flop_counter
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, make_env


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def test_a_pack_is_its_tokens_what_is_learnt_of_them_and_the_keys_that_they_see() -> None:
    rows = [TokenRow(ids=[5, 6, 7, *own], loss_weights=[0, 0, 0] + [1] * len(own)) for own in ([8, 9], [10, 11, 12])]
    found = PackWorkload.of(build_pack(rows, 1))
    own = 4 + (4 + 5)  # nothing predicts from a row's last token; the others see the shared three, and themselves
    assert found == PackWorkload(packs=1, tokens=3 + 1 + 2, head_tokens=2 + 3, keys=(1 + 2 + 3) + own)
    assert PackWorkload.of(build_pack(rows, 1), times=2) == found.and_of(found)


def test_operations_are_those_that_torch_counts(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "PACK_TOKENS", 0)
    monkeypatch.setattr(cost, "count_cores", lambda: 1)
    model, about = load_model(env.base, "float32").model, describe_model_folder(env.base.folder)
    model.set_attn_implementation("eager")
    model.requires_grad_(True)
    ids = torch.arange(3, 43)[None]
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    tokens = ids.shape[1]
    told = build_flop_counter(about, about.parameters, bits=32, headed=False)
    whole = PackWorkload(
        packs=1, tokens=tokens, head_tokens=tokens, keys=tokens * tokens
    )  # eager attention hides half of it
    assert told(whole) == pytest.approx(counted.get_total_flops(), rel=0.02)
    frozen = build_flop_counter(about, 1, bits=32, headed=False)(whole._replace(keys=0))
    assert frozen == pytest.approx(told(whole._replace(keys=0)) * 4 / 6)
    headless = build_flop_counter(about, about.parameters, bits=32, headed=True)
    assert headless(whole) == told(whole._replace(head_tokens=0))


@pytest.mark.parametrize("batch_size", [2, 8, 48])
def test_what_is_told_before_is_what_is_counted_after(env: TuneEnv, batch_size: int) -> None:
    step = Tune(data="data", batch_size=batch_size, epochs=2, dtype="float32", learning_rate=1e-3)
    measures = step.make(env.work(step))
    counted = measures["flops_per_s"] * (measures["train_s"] - measures["held_out_s"] - measures["checkpoint_s"])
    pace = {"flops_per_s": 1e6, "begin_s": 0.0, "bf16": False}
    inputs = {"data": env.data, "model": env.base}
    look = PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history={"measures": pace})
    assert (step.estimate_cost(look).seconds or 0) * 1e6 == pytest.approx(counted, rel=0.1)


def test_many_small_steps_take_longer_than_a_few_large_ones(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pace that was measured in one kind foretells the other."""
    pace = {"flops_per_s": 1e6, "begin_s": 0.0, "bf16": False}
    inputs = {"data": env.data, "model": env.base}
    look = PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history={"measures": pace})

    def seconds(batch_size: int) -> float:
        return Tune(data="data", batch_size=batch_size, dtype="float32").estimate_cost(look).seconds or 0.0

    longer = seconds(4) / seconds(48)
    monkeypatch.setattr(cost, "PACK_TOKENS", 0)
    monkeypatch.setattr(cost, "ALONE", 1)
    assert longer > 1.2 * seconds(4) / seconds(48)  # what all rows share is computed in every step, too

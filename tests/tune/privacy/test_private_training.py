"""A private training: each unit's gradient is clipped alone, noise is as foretold, and what breaks the promise is
refused."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from transformers import AutoModelForCausalLM

from luthier.artifacts.training import TrainingRecord, describe_privacy
from luthier.chat.messages import Example
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError
from luthier.models.load import load_model
from luthier.tune.objectives.sft import Sft
from luthier.tune.optimizer import Optimizer
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.privacy.accountant import PrivacyAccount
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.sampler import PoissonSampler, group_units
from luthier.tune.privacy.settings import Privacy
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
from luthier.tune.training.pack_gradient import PackGradientComputer
from luthier.tune.training.private_gradient import PrivateReader, PrivateSteps
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums
from luthier.tune.training.schedule import BatchSampler
from tuning import TuneEnv, chat, examples, interrupted, make_env, pairs, tune_and_resume

WORDS = ("billing", "delivery", "account", "late", "parcel", "refund", "card", "login", "damaged", "twice")
PRIVATE: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-4}
QUICK: dict[str, Any] = {"data": "data", "batch_size": 8, "dtype": "float32", "on_loss_spike": "off", "epochs": 2}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("private"))


def private(**settings: Any) -> Tune:
    return Tune(**{**QUICK, "technique": Lora(r=4), "privacy": Privacy(**PRIVATE), **settings})


def reader_of(model: Any, steps: PrivateSteps, optimizer: Optimizer) -> tuple[PrivateReader, MixedPrecisionOptimizer]:
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=optimizer, clip=None))
    packs = PackGradientComputer(model, Sft(), updater)
    return PrivateReader(packs, updater, Sft(), steps, lambda rows: [0.0] * len(rows), seed=1), updater


def test_the_sum_is_that_of_gradients_clipped_one_by_one(env: TuneEnv) -> None:
    model = AutoModelForCausalLM.from_pretrained(env.base.folder, dtype=torch.float64)
    dataset = Sft().build_training_examples(examples(6), ChatTokenizer.load(env.base.folder))
    rows = [row for example in dataset for row in example.rows]
    sums = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    norms = []
    for row in rows:
        ids = torch.tensor([row.ids])
        logp = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        weights = torch.tensor(row.loss_weights[1:], dtype=torch.float64)
        loss = -(logp * weights).sum() / Sft().denominator([row])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(math.sqrt(sum(float(one.square().sum()) for one in gradients)))
        for total, one in zip(sums.values(), gradients, strict=True):
            total.add_(one, alpha=min(1.0, 0.9 * norms[0] / norms[-1]))
    steps = PrivateSteps(
        key=NoiseKey(b"k"),
        clip=0.9 * norms[0],
        noise=0.0,
        sampling=0.5,
        expected_units=4.0,
        unit_of=hash,
    )
    reader, updater = reader_of(model, steps, AdamW())
    told = reader.gradient(rows, 4096, 0)
    for total, expected in zip(updater._sums.values(), sums.values(), strict=True):
        torch.testing.assert_close(total, expected / 4.0, rtol=1e-9, atol=1e-12)
    assert told.measures["clipped_units"] == sum(norm > 0.9 * norms[0] for norm in norms) / len(norms)


def test_noise_alone_moves_a_step_that_draws_nobody(env: TuneEnv) -> None:
    model = AutoModelForCausalLM.from_pretrained(env.base.folder)
    steps = PrivateSteps(
        key=NoiseKey(b"k"), clip=2.0, noise=1.5, sampling=0.5, expected_units=4.0, unit_of=lambda key: 0
    )
    reader, updater = reader_of(model, steps, AdamW())
    reader.gradient([], 4096, 7)
    drawn = torch.cat([total.flatten() for total in updater._sums.values()])
    assert kstest(drawn.numpy() / (2.0 * 1.5 / 4.0), "norm").pvalue > 1e-4


def test_a_training_whose_steps_draw_nobody_is_noise_alone(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PoissonSampler, "units_of", lambda sampler, step: [])
    made = env.tune(private(max_steps=2))
    record = TrainingRecord.read(made)
    assert record.steps == 2
    assert record.privacy is not None
    assert record.privacy["epsilon"] <= 8.0
    moved = load_model(made, "float32").model.state_dict()
    assert any(bool(value.any()) for name, value in moved.items() if "lora_B" in name)


def test_numbers_follow_from_key_and_label_alone() -> None:
    key = NoiseKey(b"one")
    assert torch.equal(key.draw_normal("a", [3, 5]), NoiseKey(b"one").draw_normal("a", [3, 5]))
    assert not torch.equal(key.draw_normal("a", [15]), key.draw_normal("b", [15]))
    assert not torch.equal(key.draw_normal("a", [15]), NoiseKey(b"two").draw_normal("a", [15]))
    assert kstest(key.draw_uniform("c", 20_000), "uniform").pvalue > 1e-4
    assert kstest(key.draw_normal("d", [20_001]).numpy(), "norm").pvalue > 1e-4


def test_a_step_draws_each_unit_by_chance_and_whole() -> None:
    units = tuple((unit, unit + 40) for unit in range(40))
    plain = BatchSampler(seed=1, count=80, epochs=50.0, batch_size=8)
    sampler = PoissonSampler.of(plain, NoiseKey(b"k"), units)
    assert (sampler.steps, sampler.sampling, sampler.expected_units) == (500, 0.1, 4.0)
    drawn = [sampler.get_batch_indices(step) for step in range(sampler.steps)]
    assert all({index % 40 + 40 for index in some} <= set(some) for some in drawn)
    sizes = [len(some) / 2 for some in drawn]
    assert abs(sum(sizes) / 500 - 4.0) < 0.4
    assert 2.5 < sum((size - 4.0) ** 2 for size in sizes) / 500 < 5.0  # 40 · 0.1 · 0.9 = 3.6
    assert min(sizes) == 0


def test_a_training_keeps_its_promise_and_says_so(env: TuneEnv) -> None:
    made = env.tune(private(validation={"rows": 8, "keep": "last"}))
    told = TrainingRecord.read(made).privacy
    assert told is not None
    assert told["unit"] == "row"
    assert told["epsilon"] <= 8.0
    steps = TrainingRecord.read(made).steps
    assert steps is not None
    again = PrivacyAccount.of(told["noise"], told["sampling"], steps).epsilon(told["delta"])
    assert told["epsilon"] == pytest.approx(again)
    assert load_model(made, "float32").model is not None
    assert not any(path.suffix == ".key" for path in made.folder.rglob("*"))


@pytest.mark.slow
def test_noise_differs_from_run_to_run_but_not_for_one_that_goes_on(tmp_path: Path) -> None:
    step = private(save_steps=1)
    whole, resumed = tune_and_resume(make_env(tmp_path / "one"), step)
    assert whole == resumed
    other = make_env(tmp_path / "other").tune(step)
    weights = "adapter/adapter_model.safetensors"
    assert (other.folder / weights).read_bytes() != b""
    env = make_env(tmp_path / "third")
    interrupted(env, step)
    third = env.tune(step)
    assert (third.folder / weights).read_bytes() != (other.folder / weights).read_bytes()
    assert (third.folder / "log.jsonl").read_text() != (other.folder / "log.jsonl").read_text()


def test_units_are_rows_or_what_a_column_names(tmp_path: Path) -> None:
    rows = [one.model_copy(update={"meta": {"customer": line % 5}}) for line, one in enumerate(examples(20))]
    env = make_env(tmp_path, rows)
    keys = [one.id for one in rows]
    assert group_units("row", keys, env.data) == tuple((at,) for at in range(20))
    assert group_units("meta.customer", keys, env.data)[0] == (0, 5, 10, 15)
    made = env.tune(private(privacy=Privacy(**PRIVATE, unit="meta.customer")))
    told = TrainingRecord.read(made).privacy
    assert told is not None
    assert told["units"] == 5
    assert describe_privacy(TrainingRecord.read(made)).endswith("for each customer")
    for unit, what in (("meta.name", "has no value in 'name'"), ("customer", "expected `row` or `meta.COLUMN`")):
        with pytest.raises(DataError, match=what):
            group_units(unit, keys, env.data)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"on_loss_spike": "stop"}, "on_loss_spike: it looks at losses"),
        ({"curriculum": {}}, "curriculum: it puts rows in an order"),
        ({"technique": Lora(init_lora_weights="eva")}, "eva reads all rows"),
        ({"objective": {"kind": "kto"}}, "kto holds rows against one another"),
        ({"parts": 2}, "parts: each unit is read alone"),
        ({"validation": {}}, "validation.keep: held-out rows would choose"),
        ({"validation": {"keep": "last", "patience": 2}}, "validation.patience"),
        ({"resume_from": "state.safetensors"}, "resume_from: what the other training gave away"),
        ({"privacy": {"epsilon": 0}}, "greater than 0"),
    ],
)
def test_what_breaks_the_promise_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        private(**settings)


def test_pairs_are_learnt_privately_too(tmp_path: Path) -> None:
    made = make_env(tmp_path, pairs()).tune(private(objective={"kind": "dpo"}))
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert all(0.0 <= line["clipped_units"] <= 1.0 for line in log)
    assert TrainingRecord.read(made).privacy is not None


def _secrets(first: int) -> list[Example]:
    """Rows that say something random each."""
    chance = random.Random(first)
    return [
        chat(f"What is the code of case {first + at}?", " ".join(chance.choices(WORDS, k=5)), first + at)
        for at in range(16)
    ]


def _attack(env: TuneEnv, step: Tune, members: list[Example], strangers: list[Example]) -> float:
    """How often a row that was learnt has a smaller loss than one that was not: 0.5 for an attack that fails."""
    opened = load_model(env.tune(step), "float32")
    dataset = Sft().build_training_examples([*members, *strangers], ChatTokenizer.load(env.base.folder))
    sums = compute_row_logprob_sums(opened.model, [row for example in dataset for row in example.rows], 4096)
    seen, unseen = sums[: len(members)], sums[len(members) :]
    return sum(mine > its for mine in seen for its in unseen) / len(seen) / len(unseen)


@pytest.mark.slow
def test_whether_a_row_was_learnt_shows_without_noise_and_not_with_it(tmp_path: Path) -> None:
    members, strangers = _secrets(100), _secrets(500)
    env = make_env(tmp_path, [*examples(16), *members])
    loop = {"epochs": 40, "learning_rate": 2e-2, "batch_size": 16}
    plain = Tune(**{**QUICK, **loop, "technique": Lora(r=8)})
    assert _attack(env, plain, members, strangers) > 0.95
    assert _attack(env, private(**loop, privacy=Privacy(epsilon=1.0, delta=1e-3)), members, strangers) < 0.85


class _Heard:
    """Sums of clipped gradients as one reader or the other gathers them."""

    def __init__(self, env: TuneEnv, technique: Any, objective: Any, rows: list[Any], dtype: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(env.base.folder, dtype=getattr(torch, dtype))
        self.model = technique.adapt(self.model, 3)
        with torch.no_grad():
            for at, (name, value) in enumerate(self.model.named_parameters()):
                if "lora_B" in name:
                    chance = torch.Generator().manual_seed(at)
                    value.copy_(0.1 * torch.randn(value.shape, generator=chance))
        self.rows, self.objective = rows, objective
        self.steps = PrivateSteps(
            key=NoiseKey(b"k"),
            clip=1.0,
            noise=0.0,
            sampling=0.5,
            expected_units=4.0,
            unit_of=lambda key: sum(key.encode()) % 5,
        )
        self.steps = replace(self.steps, clip=self.find_median_norm())

    def find_median_norm(self) -> float:
        """Half of the units are clipped to it."""
        updater = MixedPrecisionOptimizer(self.model, OptimizerSettings(optimizer=AdamW(), clip=None))
        packs = PackGradientComputer(self.model, self.objective, updater)
        units = dict[int, list[Any]]()
        for row in self.rows:
            units.setdefault(self.steps.unit_of(row.key), []).append(row)
        read = packs.build_unit_reader().read(list(units.values()), packs.prepare)
        assert read is not None
        norms = sum(one.double().square().flatten(1).sum(1) for one in read.gradients if one is not None)
        return 1.01 * float(torch.as_tensor(norms).sqrt().median())

    def gather(self, together: bool) -> tuple[list[torch.Tensor], Any, PrivateReader]:
        updater = MixedPrecisionOptimizer(self.model, OptimizerSettings(optimizer=AdamW(), clip=None))
        packs = PackGradientComputer(self.model, self.objective, updater)
        reader = PrivateReader(packs, updater, self.objective, self.steps, lambda rows: [0.0] * len(rows), seed=1)
        reader._units.applies = reader._units.applies and together
        told = reader.gradient(self.rows, 4096, 0)
        return [total.clone() for total in updater._sums.values()], told, reader


@pytest.mark.parametrize(("dtype", "close"), [("float64", 2e-6), ("float32", 2e-5)])
@pytest.mark.parametrize("fused", ["", "torch", "onednn"])
def test_units_read_together_are_those_read_one_by_one(
    env: TuneEnv, dtype: str, close: float, fused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.kernels.lora import install_fused_lora

    monkeypatch.setattr("luthier.models.kernels.onednn.LEAST_PRODUCTS", 0 if fused == "onednn" else 1 << 60)
    dataset = Sft().build_training_examples(examples(12), ChatTokenizer.load(env.base.folder))
    rows = [row for example in dataset for row in example.rows]
    rows.append(replace(rows[0], key="twin"))
    heard = _Heard(env, Lora(r=4), Sft(), rows, dtype)
    if fused:
        install_fused_lora(heard.model)
    one, told, _ = heard.gather(False)
    other, also, reader = heard.gather(True)
    assert reader._units.applies, "LoRA's layers are plain linear ones"
    for value, expected in zip(other, one, strict=True):
        torch.testing.assert_close(value, expected, rtol=close, atol=close * float(expected.abs().max()))
    assert also.loss == pytest.approx(told.loss, rel=1e-5)
    assert also.measures == pytest.approx(told.measures, rel=1e-4)
    assert also.example_losses == pytest.approx(told.example_losses, rel=1e-4)
    assert 0 < also.measures["clipped_units"] < 1


def test_what_is_no_linear_layer_is_read_one_by_one(env: TuneEnv) -> None:
    model = AutoModelForCausalLM.from_pretrained(env.base.folder)
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=AdamW(), clip=None))
    assert not PackGradientComputer(model, Sft(), updater).build_unit_reader().applies

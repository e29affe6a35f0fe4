"""What every optimizer promises: it learns, computes what its reference computes, resumes, and tells what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError
from luthier.models.describe import describe_model_folder
from luthier.tune.cost import estimate_peak_memory
from luthier.tune.optimizer import Optimizer, TrainableParameter, build_parameter_groups, is_hidden_matrix
from luthier.tune.optimizers.adafactor import SIZE, Adafactor
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.optimizers.adamw8bit import AdamW8bit
from luthier.tune.optimizers.schedule_free import ScheduleFree
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import LearningRate
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
from luthier.tune.training.reference_logprobs import HeldOutEvaluator
from luthier.tune.training.trainer import set_weights
from tuning import TuneEnv, assert_goes_on_from_a_trunk, make_env, tune_and_resume

OPTIMIZERS = components_by_kind(Optimizer)
KINDS = sorted(OPTIMIZERS)
OTHERWISE: dict[tuple[str, str], Any] = {
    ("adafactor", "clip"): 2.0,
    ("adafactor", "decay"): -0.5,
    ("adafactor", "least_size"): 1.0,
    ("adafactor", "weight_decay"): 0.5,
    ("adamw", "betas"): (0.5, 0.9),
    ("adamw", "eps"): 0.1,
    ("adamw", "weight_decay"): 0.5,
    ("adamw8bit", "betas"): (0.5, 0.9),
    ("adamw8bit", "eps"): 0.1,
    ("adamw8bit", "weight_decay"): 0.5,
    ("muon", "betas"): (0.5, 0.9),
    ("muon", "eps"): 0.1,
    ("muon", "iterations"): 1,
    ("muon", "momentum"): 0.5,
    ("muon", "nesterov"): False,
    ("muon", "weight_decay"): 0.5,
    ("sgd", "momentum"): 0.5,
    ("sgd", "nesterov"): True,
    ("sgd", "weight_decay"): 0.5,
    ("yogi", "betas"): (0.5, 0.9),
    ("yogi", "eps"): 0.1,
    ("yogi", "weight_decay"): 0.5,
    ("schedule_free", "betas"): (0.5, 0.9),
    ("schedule_free", "eps"): 0.1,
    ("schedule_free", "power"): 2.0,
    ("schedule_free", "weight_decay"): 0.5,
}
"""Another value for each field, which must change what is learnt."""
FIELDS = [(kind, name) for kind in KINDS for name in OPTIMIZERS[kind].model_fields if name != "kind"]


class Toy(torch.nn.Module):
    """A teacher's function to learn: an embedding, a matrix of more than 4,096 numbers, a bias and a head."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 80, dtype=dtype)
        self.layer = torch.nn.Linear(80, 60, dtype=dtype)
        self.lm_head = torch.nn.Linear(60, 4, bias=False, dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.lm_head(torch.tanh(self.layer(self.embed(ids))))
        return found


def toy(dtype: torch.dtype = torch.float32, seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy(dtype)


IDS = torch.arange(16)


def made(kind: str, **fields: Any) -> Optimizer:
    return OPTIMIZERS[kind].model_validate({"kind": kind, **fields})


def rate(optimizer: Optimizer) -> float:
    return optimizer.rate(LearningRate(3e-3, "")).value


def learn(model: Toy, updater: MixedPrecisionOptimizer, rate: float, steps: int) -> list[float]:
    """Losses against a teacher over some steps."""
    with torch.no_grad():
        wanted = 3 * toy(seed=1)(IDS)
    losses = []
    for _ in range(steps):
        loss = (model(IDS).float() - wanted).square().mean()
        updater.gather(updater.gradients(loss))
        updater.update(rate, updater.norm())
        losses.append(float(loss.detach()))
    return losses


def trained(optimizer: Optimizer, steps: int = 12, **settings: Any) -> dict[str, Tensor]:
    model = toy()
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=optimizer, clip=None, **settings))
    learn(model, updater, rate(optimizer), steps)
    set_weights(model, updater.weights())
    return {name: value.detach().clone() for name, value in model.named_parameters()}


class PlainYogi(torch.optim.Optimizer):
    """The algorithm as it is printed in "Adaptive Federated Optimization", number by number."""

    def step(self, closure: Any = None) -> None:
        for weight in self.param_groups[0]["params"]:
            state = self.state.setdefault(weight, {})
            g, m, v = (
                value.double() for value in (weight.grad, state.get("m", 0 * weight), state.get("v", 0 * weight))
            )
            m = 0.9 * m + 0.1 * g
            v = v - 0.01 * g**2 * torch.sign(v - g**2)
            state.update(m=m, v=v)
            weight.data -= (3e-3 * m / (v.sqrt() + 1e-3)).float()


def reference(kind: str, model: Toy) -> list[torch.optim.Optimizer]:
    """Other people's implementation at the same settings."""
    everything = list(model.parameters())
    if kind in ("adamw", "adamw8bit"):
        return [torch.optim.AdamW(everything, lr=3e-3, weight_decay=0.0)]
    if kind == "adafactor":
        return [torch.optim.Adafactor(everything, lr=3e-3 / SIZE, eps=(None, SIZE))]
    if kind == "muon":
        inner = [model.layer.weight]
        rest = [value for value in everything if value is not model.layer.weight]
        muon = torch.optim.Muon(inner, lr=3e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, lr=3e-3, weight_decay=0.0)]
    if kind == "sgd":
        return [torch.optim.SGD(everything, lr=rate(made(kind)), momentum=0.9)]
    if kind == "yogi":
        return [PlainYogi(everything, {"lr": 3e-3})]
    free = pytest.importorskip("schedulefree", reason="schedulefree is not installed").AdamWScheduleFree
    return [free(everything, lr=3e-3)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    optimizer = OPTIMIZERS[kind]
    assert optimizer.summary()
    assert undescribed(optimizer) == []
    assert optimizer.model_json_schema()["properties"]["kind"]["const"] == kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str, dtype: torch.dtype) -> None:
    optimizer, model = made(kind), toy(dtype)
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=optimizer, clip=1.0))
    begun = updater.fingerprints()
    losses = learn(model, updater, rate(optimizer), 60)
    assert losses[-1] < 0.5 * losses[0]
    assert all(now != begun[name] for name, now in updater.fingerprints().items())


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_its_reference_computes(kind: str) -> None:
    model = toy()
    theirs = reference(kind, model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    wanted = 3 * toy(seed=1)(IDS).detach()
    for one in theirs:
        getattr(one, "train", lambda: None)()
    for _ in range(12):
        model.zero_grad()
        (model(IDS) - wanted).square().mean().backward()
        for one in theirs:
            one.step()
    for one in theirs:
        getattr(one, "eval", lambda: None)()
    ours = trained(made(kind))
    allowed = 0.03 if kind == "adamw8bit" else 1e-5  # of the way; 8 bits are an approximation
    for name, value in model.named_parameters():
        apart = (ours[name] - value.detach()).norm() / (value.detach() - before[name]).norm()
        assert apart < allowed, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes_to_the_same_bytes(kind: str, dtype: torch.dtype) -> None:
    optimizer = made(kind)

    def begin(seed: int) -> tuple[Toy, MixedPrecisionOptimizer]:
        model = toy(dtype, seed)
        return model, MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=optimizer, clip=1.0))

    model, updater = begin(0)
    learn(model, updater, rate(optimizer), 5)
    kept = {name: value.clone() for name, value in updater.state().items()}
    losses = learn(model, updater, rate(optimizer), 5)
    other, again = begin(7)
    again.restore(kept)
    assert all(torch.equal(value, kept[name]) for name, value in again.state().items())
    assert again.state().keys() == kept.keys()
    assert learn(other, again, rate(optimizer), 5) == losses
    assert all(torch.equal(value, again.state()[name]) for name, value in updater.state().items())
    assert all(torch.equal(value, again.weights()[name]) for name, value in updater.weights().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_another_optimizer_is_refused(kind: str) -> None:
    other = KINDS[KINDS.index(kind) - 1]
    left = MixedPrecisionOptimizer(toy(), OptimizerSettings(optimizer=made(other), clip=None)).state()
    with pytest.raises(ModelError, match="was left by another optimizer"):
        MixedPrecisionOptimizer(toy(), OptimizerSettings(optimizer=made(kind), clip=None)).restore(left)


@pytest.mark.parametrize("kind", KINDS)
def test_it_tells_what_it_remembers(kind: str) -> None:
    optimizer, model = made(kind), toy()
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=optimizer, clip=None))
    learn(model, updater, 1e-3, 1)
    kept = sum(
        value.nbytes
        for name, value in updater.state().items()
        if not name.startswith(("master/", "group/", "optimizer/"))
    )
    assert optimizer.state_bytes({name: value.shape for name, value in model.named_parameters()}) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_on_the_rate_is_a_smaller_step(kind: str) -> None:
    def halved(name: str) -> float:
        return 0.5 if name == "layer.weight" else 1.0

    before = dict(toy().named_parameters())
    whole, half = trained(made(kind), steps=1), trained(made(kind), steps=1, rate_of=halved)
    way = (whole["layer.weight"] - before["layer.weight"]).detach()
    torch.testing.assert_close((half["layer.weight"] - before["layer.weight"]).detach(), way / 2, atol=1e-6, rtol=1e-3)
    assert torch.equal(whole["lm_head.weight"], half["lm_head.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_names_its_rate_and_why(kind: str) -> None:
    found = made(kind).rate(LearningRate(1e-3, "as measured"))
    assert 1e-5 < found.value < 1
    assert found.why.startswith("as measured")


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    one, other = trained(made(kind), 3), trained(made(kind, **{name: OTHERWISE[kind, name]}), 3)
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_vectors_are_not_shrunk() -> None:
    for kind in KINDS:
        plain, shrunk = trained(made(kind), 1), trained(made(kind, weight_decay=0.5), 1)
        assert torch.equal(plain["layer.bias"], shrunk["layer.bias"]), kind
        assert not torch.equal(plain["layer.weight"], shrunk["layer.weight"]), kind


def test_eight_bits_take_a_third_of_the_memory_or_less() -> None:
    shapes = {"one": (576, 1536), "two": (16, 576), "norm": (576,)}
    assert AdamW8bit().state_bytes(shapes) < AdamW().state_bytes(shapes) / 3


def test_adafactor_takes_almost_no_memory() -> None:
    shapes = {"one": (576, 1536), "experts": (8, 576, 1536)}
    assert Adafactor().state_bytes(shapes) < AdamW().state_bytes(shapes) / 100


def test_how_a_weight_is_cut_into_slices_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.tune.training import adam8bit

    whole = trained(AdamW8bit())
    monkeypatch.setattr(adam8bit, "ON_CPU", 512)
    assert all(torch.equal(value, whole[name]) for name, value in trained(AdamW8bit()).items())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_eight_bits_keep_numbers_of_all_sizes(signed: bool, spread: float) -> None:
    from luthier.tune.training.adam8bit import QuantizedTensor, build_quantization_levels

    assert len(build_quantization_levels(signed, torch.device("cpu")).unique()) == 256
    torch.manual_seed(0)
    values = torch.randn(1000) * torch.logspace(0, float(torch.tensor(spread).log10()), 1000)
    values = values if signed else values.abs()
    packed = QuantizedTensor.zeros(1000, 256, values.device, signed=signed)
    assert not packed.expand().any()
    packed.compress(values)
    assert (packed.expand() - values).abs().max() < 0.01 * values.abs().max()
    assert ((packed.expand() - values).abs() / values.abs()).median() < (0.02 if signed else 0.01)


def test_saved_and_held_out_weights_are_the_average() -> None:
    model = toy()
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=ScheduleFree(), clip=None))
    newest = []
    for _ in range(8):
        learn(model, updater, 3e-3, 1)
        newest.append(updater.state()["z/layer.weight"].clone())
    average = torch.stack(newest).mean(0)
    torch.testing.assert_close(updater.weights()["layer.weight"], average, atol=1e-6, rtol=1e-5)
    assert not torch.equal(model.layer.weight, updater.weights()["layer.weight"])


NAMES: list[tuple[str, tuple[int, ...], bool]] = [
    ("model.layers.0.self_attn.q_proj.weight", (8, 8), True),
    ("base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight", (4, 8), True),
    ("transformer.h.0.attn.c_attn.weight", (8, 24), True),
    ("model.layers.0.input_layernorm.weight", (8,), False),
    ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), False),
    ("model.embed_tokens.weight", (100, 8), False),
    ("transformer.wte.weight", (100, 8), False),
    ("gpt_neox.embed_out.weight", (100, 8), False),
    ("lm_head.weight", (100, 8), False),
    ("score.weight", (3, 8), False),
    ("value_head.weight", (1, 8), False),
    ("base_model.model.model.layers.0.self_attn.k_proj.ia3_l.default", (8, 1), False),
    ("prompt_encoder.default.embedding.weight", (20, 8), False),
]


@pytest.mark.parametrize(("name", "shape", "hidden"), NAMES)
def test_muon_takes_the_matrices_inside_the_layers(name: str, shape: tuple[int, ...], hidden: bool) -> None:
    assert is_hidden_matrix(name, shape) is hidden


def test_a_vector_that_peft_writes_as_a_matrix_is_not_shrunk() -> None:
    names = {"q_proj.weight": (8, 8), "norm.weight": (8,), "k_proj.ia3_l.default": (8, 1)}
    moving = [TrainableParameter(name, torch.ones(shape), 1.0) for name, shape in names.items()]
    found = {
        tuple(one.shape): group["weight_decay"]
        for group in build_parameter_groups(moving, 0.1)
        for one in group["params"]
    }
    assert found == {(8, 8): 0.1, (8,): 0.0, (8, 1): 0.0}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def tune(kind: str, **fields: Any) -> Tune:
    return Tune(
        data="data", technique=Lora(r=4), optimizer=made(kind), max_train_samples=32, batch_size=8, dtype="float32",
        save_steps=2, **fields,
    )  # fmt: skip


@pytest.mark.matrix("muon", "adamw*")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])  # which every technique is resumed with
def test_a_training_killed_under_it_ends_in_the_same_bytes(kind: str, env: TuneEnv) -> None:
    whole, again = tune_and_resume(env, tune(kind))
    assert again == whole


@pytest.mark.slow  # tests/tune/test_trunk.py tries the usual ones
@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_training_goes_on_from_the_trunk_of_a_shorter(kind: str, env: TuneEnv) -> None:
    assert_goes_on_from_a_trunk(env, tune(kind, epochs=1.5), 32, (0.67, 0.84))


def test_what_is_held_out_is_measured_with_the_average_that_is_saved(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Tensor]] = []
    take = HeldOutEvaluator.take

    def listening(self: HeldOutEvaluator, model: Any, tokens: int) -> dict[str, float]:
        heard.append({name: value.detach().clone() for name, value in model.named_parameters() if "lora_B" in name})
        return take(self, model, tokens)

    monkeypatch.setattr(HeldOutEvaluator, "take", listening)
    saved = env.tune(tune("schedule_free", validation={"rows": 8, "every": 4, "keep": "last"}))
    kept = load_file(saved.folder / "adapter" / "adapter_model.safetensors")
    assert len(heard[-1]) > 0
    assert all(torch.equal(value, kept[name.replace(".default", "")]) for name, value in heard[-1].items())


def test_memory_is_predicted_with_what_the_optimizer_remembers(env: TuneEnv) -> None:
    model = describe_model_folder(env.base.folder)
    known = {kind: estimate_peak_memory(FullFineTuning(), made(kind), model, 100) for kind in KINDS}
    assert known["adamw"] > FullFineTuning().footprint(model, 100)
    assert known["adafactor"] < known["adamw8bit"] < known["muon"] < known["adamw"]
    numbers = FullFineTuning().trainable(model)
    assert known["adamw"] - known["adamw8bit"] == pytest.approx(6 * numbers, rel=0.03)

"""What every technique promises: it learns, moves only what it says, saves, loads, merges, resumes, tells its cost.

One that trains no network promises the same as far as it has weights to move, and that no setting of the loop is
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import describe_model_folder
from luthier.models.load import get_quantization_scheme, load_model, open_folder, open_merged
from luthier.models.quantization import dequantize, quantize
from luthier.models.quiet import silence_peft_warnings
from luthier.models.source import QuantizationScheme
from luthier.tune.hosted.technique import HostedTechnique
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import StandaloneTechnique, Technique, TechniqueBase
from luthier.tune.training.trainer import Trainer
from tuning import TuneEnv, assert_goes_on_from_a_trunk, make_env, tune_and_resume

EVERY = components_by_kind(TechniqueBase)
TECHNIQUES = {kind: found for kind, found in EVERY.items() if issubclass(found, Technique)}
KINDS = sorted(TECHNIQUES)
OTHERWISE: dict[tuple[str, str], Any] = {
    ("adapter", "adapter_type"): "parallel",
    ("adapter", "reduction_factor"): 4.0,
    ("adapter", "size"): 5,
    ("adapter", "non_linearity"): "tanh",
    ("adapter", "scale"): 4.0,
    ("full", "embeddings"): False,
    ("ia3", "target_modules"): ("q_proj", "down_proj"),
    ("ia3", "feedforward_modules"): ("v_proj",),
    ("layers", "last"): 2,
    ("layers", "blocks"): (0,),
    ("layers", "names"): ("*.mlp.down_proj.weight",),
    ("layers", "norms"): True,
    ("layers", "head"): True,
    ("layers", "embeddings"): True,
    ("lora", "r"): 4,
    ("lora", "lora_alpha"): 8.0,
    ("lora", "target_modules"): ("q_proj", "v_proj"),
    ("lora", "use_rslora"): True,
    ("lora", "lora_dropout"): 0.3,
    ("lora", "loraplus_lr_ratio"): 16.0,
    ("lora", "use_dora"): True,
    ("lora", "init_lora_weights"): "pissa",
    ("p_tuning", "num_virtual_tokens"): 5,
    ("p_tuning", "encoder_reparameterization_type"): "lstm",
    ("p_tuning", "encoder_hidden_size"): 24,
    ("p_tuning", "encoder_num_layers"): 1,
    ("prefix", "num_virtual_tokens"): 5,
    ("prefix", "init"): "random",
    ("prefix", "text"): "Where is the parcel",
    ("prefix", "encoder_hidden_size"): 24,
    ("prompt", "num_virtual_tokens"): 5,
    ("prompt", "prompt_tuning_init"): "random",
    ("prompt", "prompt_tuning_init_text"): "Where is the parcel",
    ("qlora", "r"): 4,
    ("qlora", "lora_alpha"): 8.0,
    ("qlora", "target_modules"): ("q_proj", "v_proj"),
    ("qlora", "use_rslora"): True,
    ("qlora", "lora_dropout"): 0.3,
    ("qlora", "loraplus_lr_ratio"): 16.0,
    ("qlora", "bits"): 8,
    ("qlora", "group"): 32,
}
"""Another value for each field, which must change what is learnt."""
WAYS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in KINDS),
    {"kind": "adapter", "adapter_type": "houlsby", "size": 6, "non_linearity": "gelu"},
    {"kind": "full", "embeddings": False},
    {"kind": "layers", "last": 0, "names": ("*.o_proj.weight",), "head": True, "norms": True},
    {"kind": "lora", "use_dora": True, "loraplus_lr_ratio": 4.0},
    {"kind": "lora", "init_lora_weights": "pissa", "use_rslora": True, "lora_dropout": 0.1},
    {"kind": "lora", "init_lora_weights": "olora", "use_dora": True, "target_modules": ("q_proj", "mlp.down_proj")},
    {"kind": "lora", "init_lora_weights": "eva", "r": 4},
    {"kind": "p_tuning", "encoder_reparameterization_type": "lstm", "encoder_num_layers": 2, "encoder_hidden_size": 16},
    {"kind": "prefix", "init": "random", "encoder_hidden_size": 16},
    {
        "kind": "prompt",
        "prompt_tuning_init": "text",
        "prompt_tuning_init_text": "Sort the message",
        "num_virtual_tokens": 12,
    },
    {"kind": "qlora", "bits": 8, "group": 48},
]
"""Techniques, and those settings of theirs that work otherwise inside."""
GIVEN: dict[tuple[str, str], dict[str, Any]] = {
    ("p_tuning", "encoder_num_layers"): {"encoder_reparameterization_type": "lstm"},
    ("prefix", "text"): {"init": "text", "text": "My invoice is wrong"},
    ("prefix", "encoder_hidden_size"): {"init": "random"},
    ("prompt", "prompt_tuning_init_text"): {
        "prompt_tuning_init": "text",
        "prompt_tuning_init_text": "My invoice is wrong",
    },
}
"""What a field needs beside it to mean anything."""
SOFT = {"prompt": 0.3, "prefix": 0.1, "p_tuning": 0.03}
"""Techniques that learn virtual tokens, which no weights can hold, and the rate at which they learn quickly here."""
FIELDS = [(kind, name) for kind in KINDS for name in TECHNIQUES[kind].model_fields if name not in ("kind", "on")]
"""`on` needs a model that reads pictures: tests/models/test_compose.py shows it at work."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


STANDALONE = {kind: found for kind, found in EVERY.items() if issubclass(found, StandaloneTechnique)}
HOSTED = {kind: found for kind, found in EVERY.items() if issubclass(found, HostedTechnique)}
NEEDED: dict[str, dict[str, Any]] = {
    **{kind: {"model": "base"} for kind in HOSTED},
    "azure": {"model": "base", "url": "https://me.openai.azure.com/openai/v1"},
    "bedrock": {
        "model": "base",
        "region": "us-east-1",
        "bucket": "rows",
        "role_arn": "arn:aws:iam::123456789012:role/a",
    },
    "fireworks": {"model": "base", "account": "me"},
    "vertex": {"model": "base", "project": "me", "region": "us-central1", "bucket": "rows"},
}
"""Settings of standalone techniques that have no default."""
KEY_NAMES = {
    "azure": "AZURE_OPENAI_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "vertex": "GOOGLE_OAUTH_ACCESS_TOKEN",
}
"""The variables of providers' own clients, where they have another name than the rest."""
PROVEN = {
    **dict.fromkeys(HOSTED, "tests/tune/test_hosted.py"),
    "bedrock": "tests/tune/test_hosted_bedrock.py",
    "plain": "tests/tune/test_plain.py",
    "prompt_search": "tests/test_every_search.py",
}
"""Where the promises of a standalone technique that are about its own files are proven."""


def named(way: dict[str, Any]) -> str:
    """How a test of a way is called."""
    return "-".join(str(value) if name == "kind" else f"{name}={value}" for name, value in way.items())


by_way = pytest.mark.parametrize("way", WAYS, ids=named)


def step(kind: str, **fields: Any) -> Tune:
    return Tune(
        data="data",
        technique=TECHNIQUES[kind].model_validate({"kind": kind, **fields}),
        batch_size=8,
        learning_rate=SOFT.get(kind, 5e-3),
        dtype="float32",
        save_steps=2,
    )


def in_plain_peft(base: Path, made: Path, scheme: QuantizationScheme | None) -> Any:
    """The adapter as anybody else opens it."""
    with hide_transformers_output(), silence_peft_warnings():
        model = AutoModelForCausalLM.from_pretrained(base)
        if scheme:
            dequantize(quantize(model, scheme), torch.float32)  # what the packed weights stand for, as anybody has it
        return PeftModel.from_pretrained(model, made / "adapter").eval()


def logits(model: Any) -> torch.Tensor:
    with silence_peft_warnings():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[:, -5:].detach()
    return found


def test_each_trains_weights_or_stands_alone() -> None:
    assert {*STANDALONE}.isdisjoint(KINDS)
    assert {*KINDS, *STANDALONE} == set(EVERY)
    assert {*STANDALONE} == {*PROVEN}, "say where its own promises are proven"
    assert all((Path(__file__).parents[1] / path).is_file() for path in PROVEN.values())


@pytest.mark.parametrize("kind", sorted(STANDALONE))
def test_one_without_the_loop_refuses_the_settings_of_the_loop(kind: str) -> None:
    settings = {"kind": kind, **NEEDED.get(kind, {})}
    technique = STANDALONE[kind].model_validate(settings)
    assert technique.used <= {*Tune.model_fields}
    for name, value in {"epochs": 2, "learning_rate": 0.1, "optimizer": "muon", "validation": {"rows": 9}}.items():
        with pytest.raises(ValueError, match=f"{name} changes nothing under {kind}"):
            Tune.model_validate({"kind": "tune", "data": "data", "technique": settings, name: value})
    Tune(data="data", technique=technique, max_train_samples=5)


@pytest.mark.parametrize("kind", sorted(STANDALONE))
def test_one_without_the_loop_moves_no_weight_and_cannot_be_merged(kind: str, env: TuneEnv) -> None:
    settings = {"kind": kind, **NEEDED.get(kind, {})}
    technique = STANDALONE[kind].model_validate(settings)
    described = describe_model_folder(env.base.folder)
    assert technique.trainable(described) == 0
    assert technique.footprint(described, 1000) > 0
    assert technique.merges(described) == "never"
    reads = Tune(data="data", technique=technique).inputs()
    assert ("model" in reads) is technique.reads_model


@pytest.mark.parametrize("kind", sorted(HOSTED))
def test_a_hosted_one_sends_nothing_by_default_and_names_its_key_only(kind: str) -> None:
    technique = HOSTED[kind].model_validate({"kind": kind, **NEEDED[kind]})
    assert (technique.upload, technique.allow_personal_data, technique.on_interrupt) == (False, False, "keep")
    assert technique.url.startswith("https://")
    assert technique.key_env == KEY_NAMES.get(kind, f"{kind.upper()}_API_KEY")
    assert not technique.reads_model


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_it_is_documented(kind: str) -> None:
    technique = EVERY[kind]
    assert technique.summary()
    assert undescribed(technique) == []
    assert technique.model_json_schema()["properties"]["kind"]["const"] == kind


@pytest.mark.matrix(
    "full", "ia3", "layers", "lora", "prefix", "prompt", "p_tuning-*", "adapter-*", "qlora-*", "lora-*=eva*"
)
@by_way
def test_it_learns_saves_and_loads(way: dict[str, Any], env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, *args: (trained.append(self._model), run(self, *args))[1])
    made = env.tune(step(**way))
    losses = [json.loads(line)["loss"] for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-2:]) < sum(losses[:2])
    near = (
        {"atol": 1e-4, "rtol": 1e-4} if "init_lora_weights" in way else {}
    )  # a base that was changed meanwhile is restored
    torch.testing.assert_close(logits(load_model(made, "float32").model), logits(trained[0].eval()), **near)
    if (made.folder / "adapter").is_dir():
        found = in_plain_peft(env.base.folder, made.folder, get_quantization_scheme(made))
        torch.testing.assert_close(logits(found), logits(trained[0]), **near)
    merging = EVERY[way["kind"]].merging
    if merging == "never":
        with pytest.raises(ModelError, match="cannot be merged"):
            open_merged(made, torch.float32)
    else:
        merged = open_merged(made, torch.float32, dequantize=merging == "dequantized")
        torch.testing.assert_close(logits(merged), logits(trained[0]), atol=1e-4, rtol=1e-4)
    assert (
        logits(load_model(made, "float32").model) - logits(load_model(env.base, "float32").model)
    ).abs().max() > 1e-2


@pytest.mark.matrix(
    "full", "ia3", "layers-*", "lora", "prefix", "prompt", "p_tuning", "adapter", "qlora", "lora-*=eva*"
)
@by_way
def test_it_moves_what_it_says_and_nothing_else(
    way: dict[str, Any], env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, torch.Tensor] = {}
    models: list[Any] = []
    run = Trainer.run

    def watched(self: Trainer, *args: Any) -> list[str]:
        models.append(self._model)
        before.update({name: value.detach().clone() for name, value in self._model.named_parameters()})
        return run(self, *args)

    monkeypatch.setattr(Trainer, "run", watched)
    env.store.remove(env.tune_digest(step(**way)))
    env.tune(step(**way))
    moving = 0
    for name, value in models[0].named_parameters():
        assert torch.equal(value, before[name]) is not value.requires_grad, name
        moving += value.numel() * value.requires_grad
    assert moving == step(**way).technique.trainable(describe_model_folder(env.base.folder))


@by_way
def test_new_weights_come_from_the_seed(way: dict[str, Any], env: TuneEnv) -> None:
    technique = step(**way).technique

    def start(seed: int) -> list[torch.Tensor]:
        model = technique.adapt(open_folder(env.base.folder, torch.float32), seed)
        return [value.detach() for value in model.parameters() if value.requires_grad]

    torch.manual_seed(5)
    one = start(1)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(one, start(1), strict=True))


@pytest.mark.matrix("full", "lora-init*eva*", "lora-use_dora*", "qlora", "p_tuning", "adapter")
@by_way
def test_it_resumes_to_the_same_bytes(way: dict[str, Any], tmp_path: Path) -> None:
    whole, again = tune_and_resume(make_env(tmp_path), step(**way))
    assert again == whole


@pytest.mark.slow  # tests/tune/test_trunk.py tries the usual ones
@by_way
def test_a_longer_training_goes_on_from_the_trunk_of_a_shorter(way: dict[str, Any], env: TuneEnv) -> None:
    assert_goes_on_from_a_trunk(env, step(**way), 48, (0.67, 0.84))


@by_way
def test_it_tells_its_cost_and_what_to_search(way: dict[str, Any], env: TuneEnv) -> None:
    technique, model = step(**way).technique, describe_model_folder(env.base.folder)
    assert technique.footprint(model, 2000) > technique.footprint(model, 1000) > technique.trainable(model)
    assert 1e-6 < technique.rate(576).value < (1 if way["kind"] in SOFT else 1e-2)
    assert technique.rate(4096).value <= technique.rate(576).value
    assert technique.rate(576).why
    assert technique.refuses("sft", model) == ""
    names = [
        name
        for name, one in technique.adapt(open_folder(env.base.folder, torch.float32), 1).named_parameters()
        if one.requires_grad
    ]
    assert all(0.01 <= technique.rate_of(name) <= 100 for name in names)
    for name, choice in technique.search_space().items():
        assert name == "learning_rate" or name in type(technique).model_fields
        assert choice.values or choice.low < choice.high


@pytest.fixture(scope="module")
def says(env: TuneEnv) -> Callable[[Tune], torch.Tensor]:
    """What a step's model says; each is made once, however many fields are held against it."""
    found: dict[str, torch.Tensor] = {}

    def of(step: Tune) -> torch.Tensor:
        digest = env.tune_digest(step)
        if digest not in found:
            found[digest] = logits(load_model(env.tune(step), "float32").model)
        return found[digest]

    return of


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str, says: Callable[[Tune], torch.Tensor]) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    given = GIVEN.get((kind, name), {})
    one, other = (says(step(kind, **{**given, **extra})) for extra in ({}, {name: OTHERWISE[kind, name]}))
    assert not torch.equal(one, other)

"""Merging: the weights that PEFT makes where it defines them, over one base, in bounded memory, as a recipe's step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from luthier.core.artifact import Artifact, Manifest
from luthier.core.errors import InputError, ModelError, RecipeError, SourceLocation
from luthier.core.events import RunEvent
from luthier.core.store import Store
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.load import get_model_name, get_output_classes, load_model, open_folder, open_merged
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import add_sequence_head
from luthier.models.steps.merge import Merge
from luthier.recipe.report import render_report
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from models.making import full_tune, make_base, merged, tiny_adapter, tiny_base
from tiny_models import RECIPE, own_cache, small_recipe
from tuning import make_env

ALL = ["q_proj", "o_proj", "down_proj"]  # their rank can be 32, which PEFT takes for all


def weights_of(artifact: Artifact) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in open_merged(artifact, torch.float32).named_parameters()}


def adapters(store: Store, base: Artifact) -> list[Artifact]:
    """Two LoRAs of different rank and scale."""
    configs = [
        LoraConfig(r=r, lora_alpha=alpha, target_modules=ALL, task_type="CAUSAL_LM") for r, alpha in ((4, 8), (6, 3))
    ]
    return [tiny_adapter(store, base, config, seed=at) for at, config in enumerate(configs)]


def pefts(base: Artifact, models: list[Artifact], weights: list[float], **how: Any) -> dict[str, torch.Tensor]:
    """The weights that PEFT merges the same adapters into; full rank, so that its truncation takes nothing."""
    with silence_peft_warnings():
        model = PeftModel.from_pretrained(open_folder(base.folder, torch.float32), models[0].folder / "adapter", "m0")
        model.load_adapter(models[1].folder / "adapter", "m1")
        model.add_weighted_adapter(["m0", "m1"], weights, "both", svd_rank=32, **how)
        model.set_adapter("both")
        found = model.merge_and_unload()
    return {name: value.detach() for name, value in found.named_parameters()}


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ({"kind": "linear"}, {"combination_type": "cat"}),
        ({"kind": "linear"}, {"combination_type": "svd"}),
        ({"kind": "ties", "density": 0.5}, {"combination_type": "ties_svd", "density": 0.5}),
        (
            {"kind": "ties", "density": 0.3, "sign": "frequency"},
            {"combination_type": "ties_svd", "density": 0.3, "majority_sign_method": "frequency"},
        ),
    ],
)
def test_adapters_merge_into_what_peft_makes_of_them(tmp_path: Path, method: Any, how: Any) -> None:
    store, base = tiny_base(tmp_path)
    models = adapters(store, base)
    came = weights_of(merged(store, base, models, method=method, weights=(0.7, -0.4)))
    for name, wanted in pefts(base, models, [0.7, -0.4], **how).items():
        torch.testing.assert_close(came[name], wanted, atol=2e-5, rtol=1e-4, msg=name)


def test_the_mean_of_whole_models_and_adapters_is_the_mean_of_their_weights(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    models = [*adapters(store, base), full_tune(store, base)]
    made = merged(store, base, models)
    each = [weights_of(one) for one in models]
    for name, value in weights_of(made).items():
        torch.testing.assert_close(value, sum(one[name] for one in each) / 3)
    assert get_model_name(made) == "tiny+merge"
    assert json.loads((made.folder / "training.json").read_text())["weights"] == [1 / 3] * 3
    model = load_model(made, "float32").model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_config_says_that_what_is_stored_is_wide(tmp_path: Path) -> None:
    """Transformers, asked for no dtype, would round the merged weights to the base's otherwise."""
    store, base = tiny_base(tmp_path, kind="llama", dtype="bfloat16")
    made = merged(store, base, adapters(store, base))
    out = export_model_folder(made, tmp_path / "out", "hf")
    wanted = load_file(made.folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(wanted, wanted.bfloat16().float())
    for folder in (made.folder, out):
        model = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(model.model.layers[0].self_attn.q_proj.weight, wanted, atol=0, rtol=0)


def test_merging_over_a_tuned_model_and_merging_what_was_merged(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    first = tiny_adapter(store, base, seed=1)
    upper = [tiny_adapter(store, first, seed=2), tiny_adapter(store, first, seed=3)]
    made = merged(store, first, upper)
    each = [weights_of(one) for one in upper]
    for name, value in weights_of(made).items():
        torch.testing.assert_close(value, ((each[0][name] + each[1][name]) / 2).detach())
    again = merged(store, base, [made, first])
    assert get_model_name(again) == "tiny+merge"


def test_a_merging_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    models = adapters(store, base)
    heard: list[RunEvent] = []
    made = merged(store, base, models, heard=heard, method={"kind": "ties", "density": 1e-5})
    assert [event.text for event in heard if event.kind == "warning"] == [
        "nothing of the changes is kept: the merged model is its base"
    ]
    for name, value in weights_of(made).items():
        torch.testing.assert_close(value, weights_of(base)[name], atol=0, rtol=0)
    merged(store, base, models, heard=(heard := []), method={"kind": "ties", "density": 0.1})
    assert not [event for event in heard if event.kind == "warning"]


def test_the_same_bytes_every_time_and_other_bytes_by_another_seed(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    models = adapters(store, base)

    def files(seed: int) -> dict[str, str]:
        made = merged(store, base, models, seed, method={"kind": "dare"})
        found = {entry.path: entry.digest for entry in made.manifest.files}
        store.remove(made.digest)
        return found

    assert files(1) == files(1)
    assert files(1)["model.safetensors"] != files(2)["model.safetensors"]


def test_a_base_in_shards_comes_out_in_the_same_shards(tmp_path: Path) -> None:
    store, whole = tiny_base(tmp_path)
    models = [full_tune(store, whole)]
    state = load_file(whole.folder / "model.safetensors")
    parts = {"model-1-of-2.safetensors": sorted(state)[:5], "model-2-of-2.safetensors": sorted(state)[5:]}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, whole.folder / name, {"format": "pt"})
    (whole.folder / "model.safetensors").unlink()
    places = {key: name for name, keys in parts.items() for key in keys}
    (whole.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    made = merged(store, whole, [*models, tiny_adapter(store, whole)], weights=(1.0, 0.0))
    assert {entry.path for entry in made.manifest.files} >= {*parts, "model.safetensors.index.json"}
    wanted = weights_of(models[0])
    for name, value in weights_of(made).items():
        torch.testing.assert_close(value, wanted[name])


def test_models_over_another_base_are_refused(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    other = make_base(store, _folder(tmp_path / "other"), tmp_path)
    with pytest.raises(ModelError, match="'m1' was not tuned from") as caught:
        merged(store, base, [tiny_adapter(store, base), tiny_adapter(store, other, seed=4)])
    assert caught.value.where.field == "models.1"


def _folder(place: Path) -> Any:
    from luthier.models.sources.folder import FolderModelSource
    from tiny_models import tiny_model

    return FolderModelSource(path=str(tiny_model(place, seed=9)))


def test_a_merged_model_goes_out_with_its_lineage(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    models = adapters(store, base)
    made = merged(store, base, models, method="ties", weights=(1.0, 0.5))
    for form in ("hf", "gguf"):
        to = export_model_folder(made, tmp_path / form, form)  # type: ignore[arg-type]  # one of the forms
    card = (to / "README.md").read_text()
    assert f"merged by ties from `{models[0].digest[:12]}` × 1, `{models[1].digest[:12]}` × 0.5" in card
    assert "base_model_relation: merge" in card


TWICE = RECIPE.replace(
    "  report:\n    kind: e",
    """\
  other:
    kind: tune
    data: data
    technique: {kind: lora, r: 2}
    batch_size: 8
    dtype: float32
  both:
    kind: merge
    models: [tune, other]
  report:
    kind: e""",
).replace("model: tune\n", "model: both\n")


def test_a_recipe_merges_what_it_tuned_and_evaluates_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    path = small_recipe(tmp_path, TWICE)
    planned = Recipe.load(path).plan()["both"]
    assert planned.forecast
    assert planned.forecast.seconds  # a folder's model is known before it is taken over
    result = Recipe.load(path).run()
    made = result["both"].artifact
    assert set(made.manifest.inputs) == {"model", "models.0", "models.1"}
    learnt = result["both"].frame("training_examples.parquet")
    assert learnt["seen"].to_list() == [2] * 60
    assert "tuned" in result["report"].artifact.read_json("metrics.json")["models"]
    told = render_report(Recipe.load(path).plan(), "markdown")
    assert "| technique | merge |\n| merged | tune × 0.5, other × 0.5, by linear |\n" in told
    assert "<dt>Merged</dt><dd>tune × 0.5, other × 0.5, by linear</dd>" in render_report(
        Recipe.load(path).plan(), "html"
    )
    assert Recipe.load(path, ["steps.both.weights=[0.9, 0.1]"]).plan()["both"].forecast


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("models: [tune, other]", "models: [tune]"), "expected at least 2 of them, got 1"),
        (("models: [tune, other]", "models: [tune, other]\n    density: 0.5"), r"`method: \{kind: ties, density: …\}`"),
        (("models: [tune, other]", "models: [tune, tune]"), "named twice"),
        (("models: [tune, other]", "models: [tune, other]\n    weights: [1.0]"), "2 models and 1 weights"),
        (("models: [tune, other]", "models: [tune, other]\n    weights: [0, 0]"), "all weights are 0"),
        (("models: [tune, other]", "models: [tune, nobody]"), "there is no step 'nobody'"),
        (("models: [tune, other]", "models: [tune, data]"), "'data' makes a dataset"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = small_recipe(tmp_path, TWICE.replace(*change))
    with pytest.raises(RecipeError, match=said):
        Recipe.load(path)


def test_another_base_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    apart = TWICE.replace("models: [tune, other]", "models: [tune, other]\n    model: tune")
    with pytest.raises(ModelError, match="'other' was not tuned from") as caught:
        Recipe.load(small_recipe(tmp_path, apart)).plan()
    assert caught.value.where.line


BESIDE = "what 'other' learns stands beside the weights"
PACKED = "'other' learns over quantized weights"
EPOCH = "    epochs: 2\n    save_epochs: 1\n  early: {kind: epoch, tuned: other, epoch: 1}\n  both:"


@pytest.mark.parametrize(
    ("technique", "said"),
    [("prefix", BESIDE), ("p_tuning", BESIDE), ("adapter", BESIDE), ("prompt_search", BESIDE), ("qlora", PACKED)],
)
def test_what_will_not_be_merged_is_refused_before_it_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: str, said: str
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    loop = "    batch_size: 8\n" * (technique == "prompt_search")
    text = TWICE.replace("{kind: lora, r: 2}\n" + loop, f"{technique}\n")
    with pytest.raises(ModelError, match=said) as caught:
        Recipe.load(small_recipe(tmp_path, text)).plan()
    assert caught.value.where.field == "steps.both.models.1"


def test_a_quantized_base_is_foreseen_through_an_epoch_and_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    text = (
        TWICE.replace("{kind: lora, r: 2}", "qlora").replace("  both:", EPOCH).replace("[tune, other]", "[tune, early]")
    )
    path = small_recipe(tmp_path, text)
    with pytest.raises(ModelError, match="'early' learns over quantized weights"):
        Recipe.load(path).plan()
    assert Recipe.load(path, ["steps.both.dequantize=true"]).plan()["both"]


@pytest.mark.parametrize("targets", ["[q_proj, lm_head]", "[q_proj]"])
def test_what_is_learnt_at_a_tied_head_is_refused_before_it_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: str
) -> None:
    """As soon as the base is here, which tells that its head is one with its embeddings."""
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    text = TWICE.replace("{kind: lora, r: 2}", f"{{kind: lora, r: 2, target_modules: {targets}}}")
    recipe = Recipe.load(
        small_recipe(tmp_path, text.replace("  both:", EPOCH).replace("[tune, other]", "[tune, early]"))
    )
    recipe.run(only=["data", "model"])
    if "lm_head" not in targets:
        assert recipe.plan()["both"].forecast
        return
    with pytest.raises(ModelError, match="what 'early' learns at the output head cannot be merged") as caught:
        recipe.plan()
    assert caught.value.where.field == "steps.both.models.1"


@pytest.mark.parametrize("here", [False, True])
def test_a_head_of_its_own_is_refused_before_it_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    head = "{kind: lora, r: 2}\n    objective: {kind: classify, head: sequence}"
    text = TWICE.replace("{kind: lora, r: 2}", head)
    if here:
        alone = text.replace("  both:\n    kind: merge\n    models: [tune, other]\n", "").replace("both", "tune")
        Recipe.load(small_recipe(tmp_path, alone)).run(only=["other"])
    path = small_recipe(tmp_path, text)
    with pytest.raises(ModelError, match="'other' has a head of its own in place of the words") as caught:
        Recipe.load(path).plan()
    assert caught.value.where.field == "steps.both.models.1"


def with_a_head(folder: Path) -> None:
    """The model in a folder, under a head for the classes of the tickets."""
    model = add_sequence_head(open_folder(folder, torch.float32), ["account", "billing", "delivery"])
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)


def test_classes_of_a_head_that_came_with_the_base_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    objective = "    objective: {kind: classify, head: sequence}\n"
    path = small_recipe(tmp_path, TWICE.replace("    dtype: float32\n", f"    dtype: float32\n{objective}"))
    with_a_head(tmp_path / "tiny-model")
    Recipe.load(path).plan()
    result = Recipe.load(path).run()
    each = [weights_of(result[name].artifact)["score.weight"] for name in ("tune", "other")]
    merged_head = weights_of(result["both"].artifact)["score.weight"]
    torch.testing.assert_close(merged_head, (each[0] + each[1]) / 2)
    assert get_output_classes(result["both"].artifact) == ("account", "billing", "delivery")
    again = path.read_text() + "  words:\n    kind: tune\n    model: both\n    data: data\n"
    path.write_text(again)
    with pytest.raises(ModelError, match="a head of its own, and sft wants one that writes text"):
        Recipe.load(path).plan()


@pytest.mark.parametrize("technique", ["{kind: prompt_search}", "{kind: lora}"])
def test_a_head_that_came_with_the_base_is_known_before_it_is_here(
    technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    path = small_recipe(tmp_path, RECIPE.replace("{kind: lora, r: 4}", technique).replace("    batch_size: 8\n", "")
                        .replace("    learning_rate: 1.0e-2\n", ""))  # fmt: skip
    Recipe.load(path).plan()
    with_a_head(tmp_path / "tiny-model")
    with pytest.raises(ModelError, match="a head of its own") as caught:
        Recipe.load(path).plan()
    assert caught.value.where.field == "steps.tune.model"


def test_dequantizing_is_refused_where_nothing_was_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    with pytest.raises(InputError, match="`dequantize` changes nothing") as caught:
        Recipe.load(small_recipe(tmp_path, TWICE), ["steps.both.dequantize=true"]).plan()
    assert caught.value.where.field == "steps.both.dequantize"


def test_what_was_learnt_over_a_quantized_base_is_merged_only_when_dequantized(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    kinds: list[dict[str, Any]] = [{"kind": "qlora", "r": 4}, {"kind": "lora", "r": 4}]
    models = [env.tune(Tune(data="data", technique=kind, dtype="float32")) for kind in kinds]
    with pytest.raises(ModelError, match="learnt over quantized weights") as caught:
        merged(env.store, env.base, models)
    assert caught.value.where == SourceLocation(field="models.0"), (
        "the recipe's line is told, and not where the adapter lies"
    )
    each = [
        {n: v.detach() for n, v in open_merged(one, torch.float32, dequantize=True).named_parameters()}
        for one in models
    ]
    for name, value in weights_of(merged(env.store, env.base, models, dequantize=True)).items():
        torch.testing.assert_close(value, ((each[0][name] + each[1][name]) / 2).detach())


def test_a_prompt_has_no_weights_to_merge(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    folder, _ = store.begin("a" * 32)
    (folder / "training.json").write_text(json.dumps({"technique": {"kind": "prompt_search"}}))
    given = {"kind": "tune", "makes": "model", "settings": {}, "reads": {}, "code": "", "seed": 0, "files": []}
    prompt = store.finish(Manifest(digest="a" * 32, inputs={"model": base.digest}, **given), {})
    with pytest.raises(ModelError, match="'m1' is a prompt"):
        merged(store, base, [tiny_adapter(store, base), prompt])


def test_every_setting_changes_something(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    models = adapters(store, base)
    ways: dict[str, dict[str, Any]] = {
        "nothing": {},
        "weights": {"weights": (0.9, 0.1)},
        "method": {"method": {"kind": "ties", "density": 0.5}},
    }
    made = {name: weights_of(merged(store, base, models, **way)) for name, way in ways.items()}
    key = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(made["nothing"][key], made["weights"][key])
    assert not torch.equal(made["nothing"][key], made["method"][key])
    named = {"kind", "models", "model", "dequantize", "on"}  # what they change is shown above
    assert named | ways.keys() - {"nothing"} == set(Merge.model_fields)

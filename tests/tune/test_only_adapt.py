"""A technique that writes nothing but `adapt`: it trains, resumes, saves, loads and plans by the defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.load import load_model, open_folder, open_merged
from luthier.models.quiet import silence_peft_warnings
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique
from luthier.tune.training.trainer import Trainer
from tuning import TuneEnv, interrupted, make_env


class NormsOnly(Technique):
    """The normalizations move."""

    kind: Literal["norms_only"] = "norms_only"

    def adapt(self, model: Any, seed: int) -> Any:
        """Gradients for every normalization, and for nothing else."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return model


class LowRankOfPeft(Technique):
    """A model that PEFT wraps."""

    kind: Literal["low_rank_of_peft"] = "low_rank_of_peft"

    def adapt(self, model: Any, seed: int) -> Any:
        """Rank 2 at the queries."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


class AddedScale(Technique):
    """A parameter that no transformers model has."""

    kind: Literal["added_scale"] = "added_scale"

    def adapt(self, model: Any, seed: int) -> Any:
        """One more number at the first layer."""
        model.requires_grad_(requires_grad=False)
        model.model.layers[0].register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
        return model


class NeedsValues(Technique):
    """One whose new weights follow from the values of the old ones."""

    kind: Literal["needs_values"] = "needs_values"

    def adapt(self, model: Any, seed: int) -> Any:
        """Where the mean of the embeddings is positive, all moves; else nothing but them."""
        table = model.get_input_embeddings().weight
        model.requires_grad_(requires_grad=bool(table.mean().item() > 0))
        table.requires_grad_(requires_grad=True)
        return model


ONLY_ADAPT = [NormsOnly(), LowRankOfPeft()]
by_technique = pytest.mark.parametrize("technique", ONLY_ADAPT, ids=lambda one: str(one.kind))


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def step(technique: Technique, **more: Any) -> Tune:
    settings = {"batch_size": 8, "learning_rate": 2e-2, "dtype": "float32", "save_steps": 2, **more}
    return Tune(data="data", technique=technique, **settings)


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits.detach()
    return found


def test_adapt_alone_must_be_written() -> None:
    assert Technique.__abstractmethods__ == {"adapt"}


@by_technique
def test_it_trains_saves_and_loads(technique: Technique, env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, *args: (trained.append(self._model), run(self, *args))[1])
    made = env.tune(step(technique, epochs=2))
    losses = [json.loads(line)["loss"] for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    for model in (load_model(made, "float32").model, open_merged(made, torch.float32)):
        torch.testing.assert_close(logits(model), logits(trained[0].eval()), atol=1e-4, rtol=1e-4)
    assert (
        logits(load_model(made, "float32").model) - logits(load_model(env.base, "float32").model)
    ).abs().max() > 1e-3


@by_technique
def test_it_resumes_to_the_same_bytes(technique: Technique, tmp_path: Path) -> None:
    env = make_env(tmp_path)
    whole = {entry.path: entry.digest for entry in env.tune(step(technique)).manifest.files}
    env.store.remove(env.tune_digest(step(technique)))
    interrupted(env, step(technique))
    assert {entry.path: entry.digest for entry in env.tune(step(technique)).manifest.files} == whole


@by_technique
def test_it_is_planned_with_what_really_moves(technique: Technique, env: TuneEnv) -> None:
    described = describe_model_folder(env.base.folder)
    with silence_peft_warnings():
        adapted = technique.adapt(open_folder(env.base.folder, torch.float32), 1)
    moving = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert technique.trainable(described) == moving > 0
    assert technique.footprint(described, 2000) > technique.footprint(described, 1000) > moving
    told = step(technique).estimate_cost(
        PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=Path())
    )
    assert None not in (told.seconds, told.peak_bytes, told.tokens)
    rate = technique.rate(576)
    assert 1e-5 < rate.value < 1e-3
    assert technique.kind in rate.why
    assert {*technique.search_space()} == {"learning_rate"}


def test_a_model_that_is_not_here_counts_as_moving_whole(env: TuneEnv) -> None:
    described = describe_model_folder(env.base.folder)
    assert NormsOnly().trainable(described.model_copy(update={"folder": None})) == described.parameters
    assert NeedsValues().trainable(described) == described.parameters, "what cannot be known is the most that it can be"


def test_it_is_exported_as_its_base_is(env: TuneEnv, tmp_path: Path) -> None:
    made = env.tune(step(NormsOnly(), epochs=1))
    folder = export_model_folder(made, tmp_path / "out", "hf")
    torch.testing.assert_close(
        logits(open_folder(folder, torch.float32)), logits(load_model(made, "float32").model), atol=2e-2, rtol=2e-2
    )


def test_parameters_that_no_folder_holds_are_refused(env: TuneEnv) -> None:
    with pytest.raises(ModelError, match=r"adds parameters \(model.layers.0.scale; 1 in all\)"):
        env.tune(step(AddedScale(), epochs=1))

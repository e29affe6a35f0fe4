"""Names that users of other tools try: each is answered with the name here."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.commands.components import list_component_roles
from luthier.core.component import components_by_kind, setting_aliases
from luthier.core.errors import RecipeError
from luthier.recipe.schema import Recipe

RECIPE = """\
luthier: 1
name: tickets
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
  tune:
    kind: tune
    data: data
    technique: {kind: lora}
    objective: {kind: sft}
"""


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("steps.tune.lr=1e-4", "learning_rate"),
        ("steps.tune.num_train_epochs=3", "epochs"),
        ("steps.tune.per_device_train_batch_size=8", "batch_size"),
        ("steps.tune.technique.alpha=16", "lora_alpha"),
        ("steps.tune.alpha=16", "lora_alpha"),
        ("steps.tune.objective.max_seq_length=512", "max_length"),
        ("steps.data.source.label_column=category", "answer"),
        ("lr=1e-4", "steps.tune.learning_rate"),
        ("epochs=3", "steps.tune.epochs"),
    ],
)
def test_another_tools_name_is_answered_with_ours(tmp_path: Path, given: str, own: str) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError) as refused:
        Recipe.load(tmp_path / "recipe.yaml", [given])
    assert own in refused.value.hint


def test_other_names_are_no_settings_and_mean_settings() -> None:
    checked = 0
    for role in list_component_roles().values():
        for kind, part in components_by_kind(role).items():
            for other, own in setting_aliases(part).items():
                if other in part.__dict__.get("other_names", ()):
                    assert other not in part.model_fields, (kind, other)
                    assert own.partition(".")[0] in part.model_fields, (kind, other)
                checked += own.partition(".")[0] in part.model_fields
    assert checked > 100


@pytest.mark.parametrize(
    ("typed", "own"),
    [("train", "luthier run"), ("finetune", "luthier run"), ("evaluate", "luthier run"), ("init", "luthier new")],
)
def test_another_tools_command_is_answered_with_ours(capsys: pytest.CaptureFixture[str], typed: str, own: str) -> None:
    assert run_command([typed, "recipe.yaml"]) == 2
    assert own in capsys.readouterr().err

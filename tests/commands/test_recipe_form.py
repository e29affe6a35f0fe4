"""The form of a recipe has every setting of every step, and what is written into it is a recipe again."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.commands.projects.recipe_form import FormPart, build_recipe_form, change_part, change_setting
from luthier.core.component import components_by_kind
from luthier.core.step import Step
from luthier.recipe.workspace import Workspace

KINDS = sorted(kind for kind, part in components_by_kind(Step).items() if part.__module__.startswith("luthier."))
RECIPE = """luthier: 1
model: smollm2-135m-instruct
steps:
  data: {kind: prepare, source: {kind: csv, path: rows.csv, prompt: text, answer: label}}
  tune: {kind: federate, sites: [data], partition: {number: 4}}
"""


def form_of(folder: Path, text: str) -> dict[str, FormPart]:
    form = build_recipe_form(Workspace(folder), text, folder / "recipe.yaml")
    return {part.name: part for part in form.steps}


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_a_step_is_in_its_form(tmp_path: Path, kind: str) -> None:
    part = form_of(tmp_path, f"luthier: 1\nsteps:\n  one: {{kind: {kind}}}\n")["one"]
    shown = {field.name for field in (*part.fields, *part.more)} | {inner.name for inner in part.parts}
    shown |= {path.rpartition(".")[2] for path in part.lists}
    assert shown == set(components_by_kind(Step)[kind].model_fields) - {"kind"}


def test_simulated_sites_are_set_by_the_form(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nno,a\nyes,b\n")
    part = form_of(tmp_path, RECIPE)["tune"]
    fields = {field.name: field for field in (*part.fields, *part.more)}
    assert fields["partition"].value == "{number: 4}"
    assert "`number`, `alpha`, `column`" in fields["partition"].hint
    text, workspace, file = RECIPE, Workspace(tmp_path), tmp_path / "recipe.yaml"
    for path, value in (("partition", "{number: 8, alpha: 0.1}"), ("sites_per_round", "2"), ("proximal", "0.01")):
        text = change_setting(workspace, text, file, f"steps.tune.{path}", value)
    text = change_part(workspace, text, file, "steps.tune.sum", "alternate")
    form = build_recipe_form(workspace, text, file)
    assert form.recipe is not None, form.error
    settings = form.recipe.steps["tune"].settings()
    assert (settings["partition"]["number"], settings["partition"]["alpha"]) == (8, 0.1)
    assert (settings["sites_per_round"], settings["proximal"], settings["sum"]["kind"]) == (2, 0.01, "alternate")

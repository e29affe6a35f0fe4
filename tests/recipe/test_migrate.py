"""Recipes with former names: they are refused with the present name, and `luthier migrate` rewrites them in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from luthier.cli.app import run_command
from luthier.commands.components import list_component_roles
from luthier.core.artifact import Artifact, FileEntry, Manifest
from luthier.core.component import components_by_kind, refuse_unknown_settings
from luthier.core.errors import LuthierError, UnknownName
from luthier.core.former_names import _FORMER_SETTINGS, FORMER_FILES, FORMER_KINDS, former_settings
from luthier.recipe.migrate import migrate_recipe, migrate_text
from luthier.recipe.schema import Recipe
from luthier.recipe.yaml import parse_yaml

OLD = """\
# Tickets, as they were tuned last year.
luthier: 1
name: tickets
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category, first: 90}  # not all
    ops: [normalise, {kind: length, at_least: 2}]

  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4, "alpha": 8, 'dropout': 0.1}
    objective:
      kind: grpo
      rewards: [exact]
      scale: none   # Dr. GRPO
      rollout:
        samples: 4
        "max_new_tokens": 32
        steps: 2
    rows: 40
    held_out: {rows: test}
    precision: float32
  report: {kind: evaluate, data: data, model: tune, rows: 10}
  verdict:
    kind: gate
    report: report
    rules: ["accuracy >= 0.5"]
"""
NEW = """\
# Tickets, as they were tuned last year.
luthier: 1
name: tickets
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category, limit: 90}  # not all
    ops: [normalize, {kind: length, min: 2}]

  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4, "lora_alpha": 8, 'lora_dropout': 0.1}
    objective:
      kind: grpo
      rewards: [exact]
      scale_rewards: none   # Dr. GRPO
      rollout:
        num_generations: 4
        "max_completion_length": 32
        steps_per_generation: 2
    max_train_samples: 40
    validation: {rows: test}
    dtype: float32
  report: {kind: evaluate, data: data, model: tune, limit: 10}
  verdict:
    kind: gate
    evaluation: report
    rules: ["accuracy >= 0.5"]
"""
PLAIN = """\
luthier: 1
name: tickets
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
  tune: {kind: tune, data: data, epochs: 1}
"""


def _below(cls: type) -> Iterator[type]:
    for one in cls.__subclasses__():
        yield one
        yield from _below(one)


def _classes() -> dict[str, type[BaseModel]]:
    """Every class of settings of the package by its name."""
    for role in list_component_roles().values():
        components_by_kind(role)
    return {one.__name__: one for one in _below(BaseModel) if one.__module__.startswith("luthier.")}


SETTINGS = [(name, old, new) for name, table in _FORMER_SETTINGS.items() for old, new in table.items()]
KINDS = [(role, old, new) for role, table in FORMER_KINDS.items() for old, new in table.items()]


@pytest.mark.parametrize(("name", "old", "new"), SETTINGS)
def test_a_former_setting_is_refused_with_its_present_name(name: str, old: str, new: str) -> None:
    cls = _classes()[name]
    for one in (cls, *(part for part in _below(cls) if part.__module__.startswith("luthier."))):
        present = former_settings(one)[old]
        assert present == new or one is not cls, (one, old)
        assert present in one.model_fields, (one, present)
        assert old not in one.model_fields, (one, old)
        with pytest.raises(PydanticCustomError, match=f"`{present}`"):
            refuse_unknown_settings(one, {old: 1})


@pytest.mark.parametrize(("role", "old", "new"), KINDS)
def test_a_former_kind_is_none_today(role: str, old: str, new: str) -> None:
    kinds = components_by_kind(list_component_roles()[role])
    assert new in kinds
    assert old not in kinds


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (("epochs: 1", "rows: 4"), "rows", "max_train_samples"),
        (("epochs: 1", "objective: {kind: sft, max_tokens: 9}"), "max_tokens", "max_length"),
        (("epochs: 1", "technique: {kind: lora, alpha: 9}"), "alpha", "lora_alpha"),
        (("prompt: message,", "prompt: message, first: 9,"), "first", "limit"),
        (("category}", "category}\n    ops: [normalise]"), "normalise", "normalize"),
        (("  tune:", "  more: {kind: propose, data: data, model: tune}\n  tune:"), "propose", "prelabel"),
    ],
)  # fmt: skip
def test_an_old_recipe_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], old: str, new: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(PLAIN.replace(*change))
    with pytest.raises(LuthierError) as refused:
        Recipe.load(path)
    said = str(refused.value)
    assert old in said
    assert new in f"{said} {refused.value.hint}"
    assert run_command(["plan", str(path)]) == 2
    told = capsys.readouterr().err
    assert new in told
    assert "Traceback" not in told


def test_an_override_with_a_former_name_gets_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(PLAIN)
    with pytest.raises(LuthierError) as refused:
        Recipe.load(path, ["steps.tune.rows=4"])
    assert "max_train_samples" in refused.value.hint


def test_a_recipe_is_rewritten_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(OLD)
    assert run_command(["migrate", str(path), "--check"]) == 1
    assert path.read_text() == OLD
    assert "steps.tune.rows: rows is now max_train_samples" in capsys.readouterr().out
    assert run_command(["migrate", str(tmp_path)]) == 0
    assert path.read_text() == NEW
    assert run_command(["migrate", str(path), "--check"]) == 0
    assert "nothing to rename" in capsys.readouterr().out


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bytes_around_the_names_stay(tmp_path: Path, before: bytes, end: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(before + OLD.replace("\n", end).encode())
    assert migrate_recipe(path, write=True)
    assert path.read_bytes() == before + NEW.replace("\n", end).encode()


def test_a_recipe_that_needs_nothing_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + NEW.replace("\n", "\r\n").encode())
    stamp, given = path.stat().st_mtime_ns, path.read_bytes()
    assert migrate_recipe(path, write=True) == []
    assert (path.stat().st_mtime_ns, path.read_bytes()) == (stamp, given)


def test_flow_and_block_style_mean_the_same() -> None:
    flow = yaml.safe_dump(yaml.safe_load(OLD), default_flow_style=True)
    text, renamed = migrate_text(flow, "recipe.yaml", Recipe)
    assert yaml.safe_load(text) == yaml.safe_load(NEW)
    assert len(renamed) == len(migrate_text(OLD, "recipe.yaml", Recipe)[1])
    assert parse_yaml(text, "recipe.yaml").data == yaml.safe_load(NEW)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("form: pairwise", "question: pair"),
        ("form: {kind: 'likert', scale: 7}", "question: {kind: 'rating', scale: 7}"),
        ("form: {kind: spans, most: 9}", "question: {kind: faults, max: 9}"),
        ("form: {kind: rubric, most: 2}", "question: {kind: rubric, max: 2}"),
    ],
)
def test_what_people_are_asked_was_a_form_with_kinds_of_its_own(tmp_path: Path, old: str, new: str) -> None:
    recipe = (
        PLAIN + "  report: {kind: evaluate, data: data, model: tune}\n  ask: {kind: human_eval, evaluation: report,"
    )
    text, renamed = migrate_text(f"{recipe} {old}}}\n", "recipe.yaml", Recipe)
    assert text == f"{recipe} {new}}}\n"
    assert renamed[0].path == "steps.ask.form"
    assert migrate_text(text, "recipe.yaml", Recipe) == (text, [])
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert Recipe.load(path)


def test_columns_and_values_that_only_look_like_former_names_stay() -> None:
    text = PLAIN.replace("prompt: message", "prompt: rows").replace("name: tickets", "name: normalise")
    assert migrate_text(text, "recipe.yaml", Recipe) == (text, [])


@pytest.mark.parametrize(("old", "new"), FORMER_FILES.items())
def test_an_artifact_of_an_earlier_version_is_to_be_made_again(tmp_path: Path, old: str, new: str) -> None:
    files = (FileEntry(path=old, size=2, digest="0" * 32),)
    manifest = Manifest.model_construct(digest="0" * 64, files=files)
    artifact = Artifact(tmp_path, manifest, lambda digest: artifact)
    with pytest.raises(UnknownName, match=f"holds no '{new}'") as refused:
        artifact.read_json(new)
    assert "run its recipe again" in refused.value.hint

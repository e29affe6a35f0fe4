"""What every component's search space promises: fields that exist and are documented, values that the part itself
accepts, its own default among them, and the same answer each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from luthier.commands.components import list_component_roles
from luthier.core.component import Component, components_by_kind, field_descriptions
from luthier.core.param_space import ParamDistribution
from luthier.models.describe import ModelDescription
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase

DRAWS = {"rewards": [{"kind": "regex", "pattern": "yes"}]}
OFTEN = {**DRAWS, "rollout": {"steps_per_generation": 4}}
SETTINGS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("objective", "dpo"): [{}, {"loss_type": "ipo"}, {"loss_type": "robust", "label_smoothing": 0.1}],
    ("objective", "grpo"): [DRAWS, OFTEN, {**OFTEN, "importance_sampling_level": "sequence", "epsilon": 3e-4}],
    ("objective", "online_dpo"): [DRAWS],
    ("objective", "ppo"): [DRAWS, OFTEN],
    ("objective", "raft"): [DRAWS, {**DRAWS, "rollout": {"num_generations": 2}}],
    ("objective", "reinforce++"): [DRAWS, OFTEN, {**DRAWS, "rollout": {"num_generations": 1}}],
    ("objective", "rloo"): [DRAWS, OFTEN],
    ("operator", "language"): [{}, {"keep": ["en"]}],
    ("operator", "length"): [{}, {"unit": "characters", "max": 30}, {"min": 7}],
    ("operator", "near_dedup"): [{}, {"measure": "edit"}, {"action": "flag"}],
    ("operator", "quality"): [{}, {"rules": ["gopher", "c4"]}, {"rules": "gopher", "limits": {"mean_word": [2, None]}}],
    ("operator", "semantic_dedup"): [{}, {"action": "flag"}],
    ("operator", "tokens"): [{}, {"min": 300, "max": 900}],
    ("operator", "toxicity"): [{}, {"action": "drop"}, {"action": "drop", "model": "classifier", "max": 0.5}],
    ("step", "augment"): [{"data": "data", "augmenters": ["noise"]}],
    ("step", "mix"): [
        {"data": ["one", "two", "three"]},
        {"data": ["one", "two"], "weights": [1, 3]},
        {"data": ["one", "two"], "temperature": 5},
    ],
    ("step", "reweigh"): [{"data": "data", "column": "region"}, {"data": "data", "axis": "age", "how": "sample"}],
    ("technique", "azure"): [{"model": "base", "url": "https://me.openai.azure.com/openai/v1"}],
    ("technique", "bedrock"): [
        {"model": "base", "region": "us-east-1", "bucket": "rows", "role_arn": "arn:aws:iam::123456789012:role/a"}
    ],
    ("technique", "fireworks"): [{"model": "base", "account": "me"}],
    ("technique", "openai"): [{"model": "base"}],
    ("technique", "together"): [{"model": "base"}],
    ("technique", "vertex"): [{"model": "base", "project": "me", "region": "us-central1", "bucket": "rows"}],
    ("step", "tune"): [
        {"data": "data"},
        {"data": "data", "objective": "dpo", "optimizer": "adafactor"},
        {"data": "data", "technique": "plain"},
    ],
}
"""Settings that decide what is offered, and those that a part needs."""
OF_STEP = "learning_rate"
"""The field of the step that techniques speak of."""
WIDTHS = (576, 2048, 4096)
PARTS = [
    component.model_validate({"kind": kind, **settings})
    for role, base in sorted(list_component_roles().items())
    for kind, component in sorted(components_by_kind(base).items())
    if component.search_space is not Component.search_space and component.__module__.startswith("luthier.")
    for settings in SETTINGS.get((role, kind), [{}])
]
FIELDS = [(part, name, distribution) for part in PARTS for name, distribution in part.search_space().items()]


def name_of(value: object) -> str:
    """The test's name."""
    return f"{value.role}.{value.kind}" if isinstance(value, Component) else value if isinstance(value, str) else ""


every_part = pytest.mark.parametrize("part", PARTS, ids=name_of)
every_field = pytest.mark.parametrize(("part", "name", "distribution"), FIELDS, ids=name_of)


def values_to_try(distribution: ParamDistribution) -> list[Any]:
    """All values, or the bounds and what lies between."""
    if distribution.values:
        return list(distribution.values)
    low, high = distribution.low, distribution.high
    middle = (low * high) ** 0.5 if distribution.log else (low + high) / 2
    return [int(one) if distribution.integer else one for one in (low, middle, high)]


def owner(part: Component, name: str) -> Component:
    """The part that has the field."""
    return Tune(data="data", technique=part) if name == OF_STEP and isinstance(part, TechniqueBase) else part


def changed(part: Component, **settings: Any) -> Component:
    """The part made anew, with other settings."""
    return type(part).model_validate({"kind": part.kind, **part.model_dump(exclude_unset=True), **settings})


def test_each_role_that_can_be_searched_has_one() -> None:
    assert {part.role for part in PARTS} == {"augmenter", "objective", "operator", "optimizer", "step", "technique"}
    for role in ("optimizer", "technique"):
        kinds = {part.kind for part in PARTS if part.role == role}
        members = components_by_kind(list_component_roles()[role]).items()
        assert kinds == {kind for kind, member in members if member.__module__.startswith("luthier.")}


@every_part
def test_is_deterministic(part: Component) -> None:
    again = changed(part)
    assert part.search_space() == part.search_space() == again.search_space()
    assert [*part.search_space()] == [*again.search_space()]


@every_field
def test_fields_exist_and_are_documented(part: Component, name: str, distribution: ParamDistribution) -> None:
    assert name in type(owner(part, name)).model_fields
    assert field_descriptions(type(owner(part, name)))[name]
    distribution.check()


@every_field
def test_all_that_is_offered_is_accepted(part: Component, name: str, distribution: ParamDistribution) -> None:
    owned = owner(part, name)
    for value in values_to_try(distribution):
        assert distribution.contains(value)
        assert distribution.contains(getattr(changed(owned, **{name: value}), name))


@every_field
def test_what_it_has_is_offered(part: Component, name: str, distribution: ParamDistribution) -> None:
    owned = owner(part, name)
    value = getattr(owned, name)
    if name != OF_STEP or value != "auto":
        assert distribution.contains(value)
        return
    assert isinstance(owned, Tune)
    assert isinstance(owned.technique, Technique)
    for width in WIDTHS:
        model = cast("ModelDescription", SimpleNamespace(hidden_size=width, model_type="llama"))
        assert distribution.contains(owned.rate_for(owned.technique, model).value)

"""Every part there is, by role: what `luthier components`, the reference pages and the forms list."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from luthier.core.component import Component, components_by_kind, field_descriptions, roles_by_name
from luthier.core.errors import SourceLocation, UnknownName, did_you_mean

_BASES = (
    "luthier.core.step",
    "luthier.core.artifact",
    "luthier.core.step",
    "luthier.models.source",
    "luthier.models.merge",
    "luthier.models.embeddings.base",
    "luthier.data.source",
    "luthier.data.operator",
    "luthier.data.augmenter",
    "luthier.pii.recognizer",
    "luthier.annotation.question",
    "luthier.data.check",
    "luthier.data.exporter",
    "luthier.data.adjudicator",
    "luthier.data.label_format",
    "luthier.data.label_function",
    "luthier.data.selector",
    "luthier.tune.technique",
    "luthier.tune.objective",
    "luthier.tune.reward",
    "luthier.tune.environment",
    "luthier.tune.rollout_generator",
    "luthier.tune.optimizer",
    "luthier.tune.tracker",
    "luthier.federated.aggregator",
    "luthier.federated.analytics.query",
    "luthier.federated.robust_rule",
    "luthier.federated.personal.part",
    "luthier.federated.transport",
    "luthier.core.scorer",
    "luthier.metrics.metric",
    "luthier.eval.baseline",
    "luthier.eval.probe",
    "luthier.eval.regard",
    "luthier.tune.influence.method",
    "luthier.explain.explainer",
    "luthier.serve.engine",
    "luthier.monitor.signal",
    "luthier.monitor.channel",
)
"""Modules that define a role's abstract base."""


def list_component_roles() -> dict[str, type[Component]]:
    """Every role's abstract base, by the role's name."""
    for name in _BASES:
        importlib.import_module(name)
    return roles_by_name()


def find_component_role(name: str) -> type[Component]:
    """A role by its name; `UnknownName` with a suggestion."""
    found = list_component_roles()
    if name not in found:
        raise UnknownName(
            f"there is no role {name!r}", where=SourceLocation(field="ROLE"), hint=did_you_mean(name, found)
        )
    return found[name]


def describe_role_components(role: type[Component]) -> dict[str, str]:
    """The members of a role by kind, with the first sentence of each."""
    return {kind: part.summary() for kind, part in sorted(components_by_kind(role).items())}


def list_component_settings(part: type[Component]) -> list[dict[str, Any]]:
    """The settings of a part: name, type, default, documentation; what a setting holds comes after it, by the name that
    an override has (`split.test`)."""
    return [row for row in _settings(part) if row["name"] != "kind"]


def _settings(model: type[BaseModel], before: str = "") -> Iterator[dict[str, Any]]:
    properties, about = model.model_json_schema()["properties"], field_descriptions(model)
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        row = {"name": before + name, "type": _type(properties[name]), "default": default}
        yield {**row, "about": about.get(name, "")}
        for inner in _held(field.annotation):
            yield from _settings(inner, f"{before}{name}.")


def _held(annotation: Any) -> Iterator[type[BaseModel]]:
    """Settings that a setting itself may be, and that are no part with a page of its own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not issubclass(annotation, Component):
            yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated):
        for arg in get_args(annotation):
            yield from _held(arg)


def find_component(role: str, kind: str) -> type[Component]:
    """Return one part by role and kind."""
    found = components_by_kind(find_component_role(role))
    if kind not in found:
        where, hint = SourceLocation(field="KIND"), did_you_mean(kind, found)
        raise UnknownName(f"there is no {role} {kind!r}", where=where, hint=hint)
    return found[kind]


def suggest_operators(file: Path) -> dict[str, dict[str, Any]]:
    """Every operator that proposes itself for the rows of a file: settings, reason, and examples of what it changes."""
    from luthier.data.suggest.propose import propose_recipe

    proposal = propose_recipe(file)
    found: dict[str, dict[str, Any]] = {}
    for entry in proposal.ops:
        kind = entry["kind"]
        found[kind] = {
            "settings": {name: value for name, value in entry.items() if name != "kind"},
            "why": proposal.reasons[f"ops.{kind}"],
            "examples": [change.model_dump() for change in proposal.examples.get(kind, ())],
        }
    return found


def _shown(value: Any) -> Any:
    if isinstance(value, tuple) and any(isinstance(entry, Component) for entry in value):
        return [entry.kind for entry in value]
    if isinstance(value, BaseModel):
        return value.settings() if isinstance(value, Component) else value.model_dump(exclude_none=True)
    return value


def _type(schema: dict[str, Any]) -> str:
    """A short name for a JSON schema."""
    if "x-role" in schema:
        return str(schema["x-role"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        kinds = [_type(item) for item in schema["anyOf"]]
        return " | ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", schema.get("$ref", "any").rpartition("/")[2]))

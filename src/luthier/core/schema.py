"""One JSON schema of a model and of every part that can stand in it, each role and part defined once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from luthier.core.component import ROLE_MARK, Component, members, roles


def full_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a model; a role becomes a choice among its members, in `$defs`."""
    definitions: dict[str, Any] = {}
    schema = _resolved(model.model_json_schema(), definitions)
    return {**schema, "$defs": dict(sorted(definitions.items()))} if definitions else schema


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with its role marks as references; what they refer to is put into `definitions`."""
    own = schema.get("$defs", {})
    for name, inner in own.items():
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _walked(inner, definitions)
    resolved: dict[str, Any] = _walked({key: value for key, value in schema.items() if key != "$defs"}, definitions)
    return resolved


def _walked(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_walked(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    role = value.get(ROLE_MARK)
    if isinstance(role, str):
        rest = {key: _walked(item, definitions) for key, item in value.items() if key != ROLE_MARK}
        return {"$ref": f"#/$defs/{_role(role, definitions)}", **rest}
    return {key: _walked(item, definitions) for key, item in value.items()}


def _role(role: str, definitions: dict[str, Any]) -> str:
    """Define a role as a choice: a bare kind where no setting is required, or a mapping with `kind`."""
    if role in definitions:
        return role
    definitions[role] = {}
    found = members(roles()[role])
    short = [kind for kind in sorted(found) if not _needs_settings(found[kind])]
    choices: list[dict[str, Any]] = [{"enum": short}] if short else []
    for kind, part in sorted(found.items()):
        name = f"{role}.{kind}"
        definitions[name] = {}
        schema = _resolved(part.model_json_schema(), definitions)
        definitions[name] = {**schema, "required": ["kind", *schema.get("required", [])]}
        choices.append({"$ref": f"#/$defs/{name}"})
    definitions[role] = {"anyOf": choices}
    return role


def _needs_settings(part: type[Component]) -> bool:
    return any(field.is_required() for field in part.model_fields.values())

"""Translate pydantic's errors in a recipe: where, what was expected, what came, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from luthier.core.component import CALLED_HERE, Component, components_by_kind, setting_aliases
from luthier.core.errors import RecipeError, did_you_mean
from luthier.core.step import Step
from luthier.recipe.yaml import Key, LocatedYaml, join_dotted_path

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_NAME_WORDS = "a name of small letters, digits, - and _ (at most 64, a letter or digit first)"
_PATTERN_WORDS: Mapping[str, str] = {
    NAME_PATTERN: _NAME_WORDS,
    r"^([A-Za-z][A-Za-z0-9_]*)?$": "a name of letters, digits and _ (a letter first)",
    r"^([a-z][a-z0-9_]*)?$": "a name of small letters, digits and _ (a letter first)",
    r"^[A-Za-z_]\w*$": "a name of letters, digits and _ (no digit first)",
    r"^[A-Za-z_][\w ]*$": "a name of letters, digits, _ and spaces (no digit first)",
    r"^[\w.-]+$": "a name of letters, digits, dots, - and _",
    r"^[\w.-]{1,64}$": "a name of at most 64 letters, digits, dots, - and _",
    r"^[\w.-]+/[\w.-]+$": "a name such as OWNER/NAME",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^https?://": "an address that begins with http:// or https://",
}
"""Descriptions of patterns of settings."""
_LONGEST_SHOWN = 60
_WANTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "some text",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "too_short": "at least {min_length} of them",
}
"""Expected values, by pydantic's error type."""


def explain_validation_error(error: ValidationError, source: LocatedYaml, model: type[BaseModel]) -> RecipeError:
    """The first thing that is wrong, with its place and remedy, and the places of the others."""
    groups = _by_place(error.errors(include_url=False), source.data)
    first, *others = groups
    message, hint = _words(groups[first], first, source.data, model)
    if others:
        problems = [f"{source.where(key)}: {_words(groups[key], key, source.data, model)[0]}" for key in others[:5]]
        message += f" (and {len(others)} more: " + "; ".join(problems) + ")"
    if groups[first][0]["type"] == "unknown_setting":
        typed = hint.startswith(("did you mean", CALLED_HERE))
        hint = (
            _to_replace(first, source)
            or _to_step(first, source.data)
            or _to_move(first, source.data, model, typed=typed)
            or hint
        )
    return RecipeError(message, where=source.where(_given_below(first, groups[first][0], source)), hint=hint)


def _to_replace(key: Key, source: LocatedYaml) -> str:
    """Suggest what to write where the command line gave a part another kind, and the file's settings of the old one
    remained.
    """
    part = key[:-1]
    if (*part, "kind") not in source.given:
        return ""
    return (
        f"`{join_dotted_path(part)}={_at(part, source.data)['kind']}` replaces the part as a whole, with its settings"
    )


def _to_step(key: Key, data: Any) -> str:
    """Return the step with a setting that is written next to the steps: `learning_rate` is one of `tune`."""
    steps = data.get("steps") if len(key) == 1 and isinstance(data, dict) else None
    if not isinstance(steps, dict):
        return ""
    kinds, setting = components_by_kind(Step), str(key[0])
    found = []
    for name, step in steps.items():
        kind = step.get("kind") if isinstance(step, dict) else None
        part = kinds.get(kind) if isinstance(kind, str) else None
        own = setting_aliases(part).get(setting, setting) if part is not None else ""
        if part is not None and own.partition(".")[0] in part.model_fields:
            found.append(f"steps.{name}.{own}")
    return f"did you mean {' or '.join(map(repr, found[:3]))}?" if found else ""


def _to_move(key: Key, data: Any, model: type[BaseModel], *, typed: bool) -> str:
    """Where a setting belongs that is one of a part inside: `max_tokens` of a step is its objective's.

    Parts of another kind than is written are looked at unless it is one of the step's own settings, mistyped.
    """
    owner, _ = find_field_at(key, data, model)
    for name, field in owner.model_fields.items() if owner is not None else ():
        written = _at((*key[:-1], name), data)
        if written is None and isinstance(field.default, Component):
            written = field.default.kind
        inner = _class_of(field, written)
        if inner is None or not issubclass(inner, Component):
            continue
        setting = setting_aliases(inner).get(str(key[-1]), str(key[-1]))
        if setting in inner.model_fields:
            kind = inner.model_fields["kind"].default
            return f"it is a setting of `{name}`: write `{name}: {{kind: {kind}, {setting}: …}}`"
    return "" if typed or owner is None else _to_choose(str(key[-1]), owner)


def _to_choose(setting: str, owner: type[BaseModel]) -> str:
    """Which kinds of a part inside have a setting: `density` of a step that merges is that of the method `ties`. Where
    parts of several fields have it, the field is named of which the most kinds do."""
    found: list[tuple[str, list[str]]] = []
    for name, field in owner.model_fields.items():
        if get_origin(field.annotation) in (tuple, dict):
            continue  # one of several parts: which one is meant is not known
        for role in _classes(field.annotation):
            if issubclass(role, Component) and "role" in role.__dict__:
                parts = components_by_kind(role)
                found.append((name, sorted(kind for kind, part in parts.items() if setting in part.model_fields)))
    name, kinds = max(found, key=lambda entry: len(entry[1]), default=("", []))
    if not kinds:
        return ""
    where = f"`{name}` where that is {' or '.join([*kinds[:3], *['others'] * (len(kinds) > 3)])}"
    return f"it is a setting of {where}: write `{name}: {{kind: {kinds[0]}, {setting}: …}}`"


def _given_below(key: Key, problem: ErrorDetails, source: LocatedYaml) -> Key:
    """The setting that the command line gave where several that do not go together were found at their part."""
    given = [path for path in source.given if path[:-1] == key]
    return given[-1] if problem["type"] == "value_error" and given else key


def _by_place(problems: list[ErrorDetails], data: Any) -> dict[Key, list[ErrorDetails]]:
    """Problems by their place: a choice that fits nowhere is one mistake, and so is a list with a wrong item."""
    groups: dict[Key, list[ErrorDetails]] = {}
    for problem in problems:
        groups.setdefault(_place(problem, data), []).append(problem)
    inner = [key for key in groups if any(key[: len(other)] == other and key != other for other in groups)]
    outer = {other for key in inner for other in groups if key[: len(other)] == other and key != other}
    return {key: found for key, found in groups.items() if key not in outer}


def _place(problem: ErrorDetails, data: Any) -> Key:
    key = _written_key(problem["loc"], data)
    name = problem.get("ctx", {}).get("name")
    if problem["type"] in ("unknown_setting", "number", "environment") and isinstance(name, str):
        return (*key, name)
    if problem["type"] == "kind" and isinstance(_at(key, data), dict):
        return (*key, "kind")
    if problem["type"] == "missing" and key != problem["loc"]:
        return (*key, str(problem["loc"][-1]))
    return key


def _written_key(loc: tuple[int | str, ...], data: Any) -> Key:
    """The part of an error's path that exists in what was written, plus one missing name."""
    key: list[str | int] = []
    for part in loc:
        item = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if item or (isinstance(data, dict) and part in data):
            data = data[part]
        elif isinstance(part, str) and re.fullmatch(r"[a-z_0-9]+", part) and isinstance(data, dict):
            return (*key, part)
        else:
            return tuple(key)
        key.append(part)
    return tuple(key)


def _words(problems: list[ErrorDetails], key: Key, data: Any, model: type[BaseModel]) -> tuple[str, str]:
    """A sentence and a remedy for the problems of one place."""
    first = problems[0]
    owner, field = find_field_at(key, data, model)
    if first["type"] == "missing":
        return "is required", _to_add(str(key[-1]), owner, data)
    if first["type"] == "extra_forbidden":
        known = _list_settings_at(key[:-1], data, model)
        hint = did_you_mean(str(key[-1]), known) if known else _manual(owner)
        return f"there is no setting {str(key[-1])!r} here", hint
    wants = list(dict.fromkeys(want for problem in problems if (want := _wanted(problem))))
    if "a number" in wants and "a whole number" in wants:
        wants.remove("a whole number")
    if not wants:
        text, _, hint = first["msg"].removeprefix("Value error, ").partition("; ")
        came = f", got {_came(first['input'])}" if first["type"] == "part" else ""
        return text + came, hint or _manual(owner)
    expected = [str(problem.get("ctx", {}).get("expected", "")) for problem in problems]
    near = _near(first["input"], " ".join(expected))
    if first["type"] == "string_type" and owner is not None and _reads(owner, str(key[-1])):
        return f"expected the name of a step, got {_came(first['input'])}", _to_add(str(key[-1]), owner, data)
    came = str(len(first["input"])) if first["type"] == "too_short" and first["input"] else _came(first["input"])
    return f"expected {' or '.join(wants)}, got {came}", near or _to_set(wants, field, owner)


def _list_settings_at(key: Key, data: Any, model: type[BaseModel]) -> list[str]:
    """The settings of a group of settings that is no part of its own."""
    _, field = find_field_at(key, data, model)
    annotation = field.annotation if field is not None else None
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return [name for kind in kinds if issubclass(kind, BaseModel) for name in kind.model_fields]


def _wanted(problem: ErrorDetails) -> str:
    if problem["type"] == "string_pattern_mismatch":
        pattern = problem["ctx"]["pattern"]
        return _PATTERN_WORDS.get(pattern, f"text that fits {pattern}")
    return _WANTED.get(problem["type"], "").format(**problem.get("ctx", {}))


def _came(value: Any) -> str:
    """Return the received value, as a person wrote it."""
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return f"a mapping of {', '.join(str(name) for name in list(value)[:4])}"
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"


def _near(value: Any, expected: str) -> str:
    """The nearest of the words that were expected, when one is near."""
    hint = did_you_mean(str(value), re.findall(r"'([^']+)'", expected)) if isinstance(value, str) else ""
    return hint if hint.startswith("did you mean") else ""


def _to_set(wants: list[str], field: FieldInfo | None, owner: type[BaseModel] | None) -> str:
    if wants == [_NAME_WORDS]:
        return "rename it, for example to my-tickets_2"
    default = PydanticUndefined if field is None else field.default
    value = default.kind if isinstance(default, Component) else default
    plain = isinstance(value, (str, int, float)) and value != ""
    without = f", or leave it out (then {str(value).lower() if isinstance(value, bool) else value})" if plain else ""
    return f"write {' or '.join(wants)}{without}; {_manual(owner)}"


def _to_add(name: str, owner: type[BaseModel] | None, data: Any) -> str:
    """Suggest how to add a required setting; for a reference, the possible steps."""
    mark = _reads(owner, name)
    if mark is None:
        return f"add `{name}: …`; {_manual(owner)}"
    steps = data.get("steps", {}) if isinstance(data, dict) else {}
    made = {key: components_by_kind(Step).get(_kind(step) or "") for key, step in steps.items()}
    able = [key for key, step in made.items() if step is not None and step.makes == mark]
    return f"write `{name}: STEP`, a step that makes {add_indefinite_article(mark)}; {did_you_mean('', able)}"


def _reads(owner: type[BaseModel] | None, name: str) -> str | None:
    """Return what a field's step must make, when the field names a step."""
    if owner is None or not issubclass(owner, Step) or name not in owner.reads():
        return None
    return owner.reads()[name].makes


def _manual(owner: type[BaseModel] | None) -> str:
    """Return where the settings are documented."""
    if owner is not None and issubclass(owner, Component):
        return f"`luthier components {owner.role} {owner.model_fields['kind'].default}` explains its settings"
    return "`luthier components` and `luthier schema` explain every setting"


def find_field_at(key: Key, data: Any, model: type[BaseModel]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The part that a path's last name belongs to, and that setting, as far as the kinds written down tell."""
    owner: type[BaseModel] | None = model
    field: FieldInfo | None = None
    for index, part in enumerate(key):
        if isinstance(part, str) and owner is not None and part in owner.model_fields:
            field = owner.model_fields[part]
        inner = _class_of(field, _at(key[: index + 1], data)) if field is not None else None
        if inner is not None and index + 1 < len(key):
            owner, field = inner, None
    return owner, field


def find_role_at(key: Key, data: Any, model: type[BaseModel]) -> type[Component] | None:
    """The role of the part at a path; None where there is no part."""
    _, field = find_field_at(key, data, model)
    roles = _classes(field.annotation) if field is not None else ()
    return next((role for role in roles if issubclass(role, Component) and "role" in role.__dict__), None)


def _class_of(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The class behind a value: a member of the field's role by its kind, or a group of settings."""
    for found in _classes(field.annotation):
        if issubclass(found, Component) and "role" in found.__dict__:
            return components_by_kind(found).get(_kind(value) or "")
        return found
    return None


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else value
    return kind if isinstance(kind, str) else None


def _at(key: Key, data: Any) -> Any:
    """Return the value at a path; None where there is none."""
    for part in key:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def add_indefinite_article(noun: str) -> str:
    """A noun with its article; a plural has none."""
    if noun.endswith("s"):
        return noun
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


__all__ = ["NAME_PATTERN", "add_indefinite_article", "explain_validation_error", "join_dotted_path"]

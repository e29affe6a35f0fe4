"""A recipe as a form: the settings of its steps and parts, read off their fields, and single changes to its text.

The form is made of what is written, also where that is not valid yet: an error stands at the setting that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel

from luthier.core.component import BasicMarker, Component, components_by_kind, field_descriptions, roles_by_name
from luthier.core.errors import LuthierError, RecipeError, SourceLocation, UnknownName
from luthier.core.messages import gettext_noop
from luthier.core.step import Step
from luthier.models.catalog import CATALOG
from luthier.recipe.edit import remove_value, set_value
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import Key, LocatedYaml, parse_yaml

Widget = Literal["text", "integer", "number", "switch", "choice", "yaml"]
_LONG = 60
"""A text that is longer is written in a box of several lines."""


@dataclass(frozen=True, kw_only=True)
class FormField:
    """One setting."""

    path: str
    name: str
    widget: Widget
    value: str
    """As it is written; empty where it is not."""
    default: str
    """What holds where it is not written."""
    hint: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False
    basic: bool = False
    written: bool = False
    error: str = ""

    @property
    def comes_first(self) -> bool:
        """Whether it is shown before the others: it is written, required, wrong, or one that most users want."""
        return self.written or self.required or self.basic or bool(self.error)

    @property
    def is_long(self) -> bool:
        """Whether one line is too short for it."""
        return self.widget in ("text", "yaml") and (len(self.value) > _LONG or "\n" in self.value)


@dataclass(frozen=True, kw_only=True)
class FormPart:
    """A step or another part: its kind, its settings, and the parts inside."""

    path: str
    name: str
    role: str
    kind: str
    kinds: Mapping[str, str]
    """The kinds that it may be, each with its first sentence."""
    about: str
    hint: str
    fields: tuple[FormField, ...]
    """Settings that come first."""
    more: tuple[FormField, ...]
    """The others."""
    parts: tuple[FormPart, ...] = ()
    lists: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Lists of parts by path, with the kinds that may be added."""
    removable: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class RecipeForm:
    """A recipe's text, its form, and what is wrong with it."""

    text: str
    top: tuple[FormField, ...] = ()
    steps: tuple[FormPart, ...] = ()
    error: LuthierError | None = None
    recipe: Recipe | None = None
    """None where something is wrong."""

    @property
    def line(self) -> int | None:
        """The line of what is wrong, where one is known."""
        return self.error.where.line if self.error is not None else None


def build_recipe_form(workspace: Workspace, text: str, file: Path) -> RecipeForm:
    """The form of a recipe's text; without settings where the text is no YAML."""
    try:
        source = parse_yaml(text, str(workspace.shorten(file)))
    except RecipeError as not_yaml:
        return RecipeForm(text=text, error=not_yaml)
    recipe, error = _read(source, workspace.with_folder(file.parent))
    builder = _FormBuilder(source, error)
    return RecipeForm(
        text=text, top=tuple(builder.top()), steps=tuple(builder.steps()), error=error, recipe=recipe
    )  # fmt: skip


def _read(source: LocatedYaml, workspace: Workspace) -> tuple[Recipe | None, LuthierError | None]:
    try:
        return Recipe.of(source, workspace), None
    except LuthierError as error:
        return None, error


class _FormBuilder:
    """Makes the form of what was read."""

    def __init__(self, source: LocatedYaml, error: LuthierError | None) -> None:
        self._data = source.data
        self._field = (error.where.field or "") if error else ""
        self._message = "; ".join(filter(None, (error.message, error.hint))) if error else ""
        steps = self._data.get("steps")
        self._steps: dict[str, Any] = steps if isinstance(steps, dict) else {}

    def top(self) -> Iterator[FormField]:
        """The settings of the recipe itself."""
        about = field_descriptions(Recipe)
        for name, widget in (("name", "text"), ("seed", "integer"), ("model", "text")):
            value = self._data.get(name)
            yield FormField(
                path=name, name=name, widget="yaml" if isinstance(value, dict) else widget,  # type: ignore[arg-type]  # one of the words above
                value=_written(value), default=_written(Recipe.model_fields[name].default),
                hint=first_sentence(about.get(name, "")), choices=tuple(CATALOG) if name == "model" else (),
                written=name in self._data, error=self._error(name),
            )  # fmt: skip

    def steps(self) -> Iterator[FormPart]:
        """The steps."""
        for name, written in self._steps.items():
            yield self._part(Step, written, f"steps.{name}", name, hint="", removable=len(self._steps) > 1)

    def _part(
        self, role: type[Component], written: Any, path: str, name: str, *, hint: str, removable: bool = False
    ) -> FormPart:
        members = components_by_kind(role)
        settings = written if isinstance(written, dict) else {}
        kind = str(settings.get("kind", "") if isinstance(written, dict) else written)
        member = members.get(kind)
        simple, parts, lists = self._settings(member, settings, path) if member is not None else ([], [], {})
        return FormPart(
            path=path, name=name, role=role.role, kind=kind,
            kinds={entry: part.summary() for entry, part in sorted(members.items())},
            about=member.summary() if member is not None else "", hint=hint,
            fields=tuple(form_field for form_field in simple if form_field.comes_first),
            more=tuple(form_field for form_field in simple if not form_field.comes_first),
            parts=tuple(parts), lists=lists, removable=removable,
            error=self._error(path) or self._error(f"{path}.kind"),
        )  # fmt: skip

    def _settings(
        self, member: type[Component], settings: Mapping[str, Any], path: str
    ) -> tuple[list[FormField], list[FormPart], dict[str, Mapping[str, str]]]:
        """Settings, parts inside and lists of parts of a part."""
        about, schema = field_descriptions(member), _schema(member)
        simple: list[FormField] = []
        parts: list[FormPart] = []
        lists: dict[str, Mapping[str, str]] = {}
        for name, info in member.model_fields.items():
            if name == "kind":
                continue
            inner, hint = f"{path}.{name}", first_sentence(about.get(name, "")) + _list_group_settings(info.annotation)
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            role, is_list = _role_of(schema[name])
            value = settings.get(name)
            if role is not None and is_list and isinstance(value, (list, type(None))):
                items = enumerate(value or ())
                parts += [
                    self._part(role, entry, f"{inner}.{at}", f"{name} {at + 1}", hint=hint, removable=True)
                    for at, entry in items
                ]
                kinds = sorted(components_by_kind(role).items())
                lists[inner] = {kind: part.summary() for kind, part in kinds}
            elif role is not None and not is_list and (value is not None or isinstance(default, Component)):
                shown = value if value is not None else default.kind  # type: ignore[union-attr]  # a part, as asked above
                parts.append(self._part(role, shown, inner, name, hint=hint, removable=value is not None))
            else:
                simple.append(self._setting(member, name, schema[name], settings, inner, hint))
        return simple, parts, lists

    def _setting(
        self, member: type[Component], name: str, schema: Mapping[str, Any], settings: Mapping[str, Any],
        path: str, hint: str,
    ) -> FormField:  # fmt: skip
        info = member.model_fields[name]
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        widget, choices = _widget(schema)
        if issubclass(member, Step) and name in member.reads() and widget == "text":
            makes = member.reads()[name].makes
            widget, choices = "choice", tuple(self._makers(makes))
        value = settings.get(name)
        if isinstance(value, (dict, list)):
            widget, choices = "yaml", ()
        return FormField(
            path=path, name=name, widget=widget, value=_written(value), default=_written(default), hint=hint,
            choices=choices, required=info.is_required(), written=name in settings, error=self._error(path),
            basic=any(isinstance(mark, BasicMarker) for mark in info.metadata),
        )  # fmt: skip

    def _makers(self, makes: str) -> Iterator[str]:
        """The steps that make an artifact of a type."""
        kinds = components_by_kind(Step)
        for name, step in self._steps.items():
            member = kinds.get(str(step.get("kind")) if isinstance(step, dict) else str(step))
            if member is not None and member.makes == makes:
                yield name

    def _error(self, path: str) -> str:
        return self._message if path == self._field else ""


def _schema(member: type[Component]) -> dict[str, Any]:
    properties: dict[str, Any] = member.model_json_schema()["properties"]
    return properties


def _role_of(schema: Mapping[str, Any]) -> tuple[type[Component] | None, bool]:
    """The role of a field's part, and whether it is a list of such parts."""
    for entry in (schema, *schema.get("anyOf", ())):
        if (role := entry.get("x-role")) is not None:
            return roles_by_name().get(role), False
        if (role := entry.get("items", {}).get("x-role") if isinstance(entry.get("items"), dict) else None) is not None:
            return roles_by_name().get(role), True
    return None, False


def _list_group_settings(annotation: Any) -> str:
    """What a group of settings holds, which is written as YAML; empty for all else."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not issubclass(annotation, Component):
        names = ", ".join(f"`{name}`" for name in annotation.model_fields)
        return f" {gettext_noop(f'It has {names}.')}"
    return next(filter(None, map(_list_group_settings, get_args(annotation))), "")


_WIDGETS: Mapping[str, Widget] = {"boolean": "switch", "integer": "integer", "number": "number", "string": "text"}


def _widget(schema: Mapping[str, Any]) -> tuple[Widget, tuple[str, ...]]:
    """How a setting is asked for, by its JSON schema."""
    choices = [entry for entry in schema.get("anyOf", [schema]) if entry.get("type") != "null"]
    if len(choices) != 1:
        types = {choice.get("type") for choice in choices}
        return ("number", ()) if types == {"integer", "number"} else ("yaml", ())
    if "enum" in choices[0]:
        return "choice", tuple(map(str, choices[0]["enum"]))
    if "const" in choices[0]:
        return "choice", (str(choices[0]["const"]),)
    return _WIDGETS.get(str(choices[0].get("type")), "yaml"), ()


def _written(value: Any) -> str:
    """A value as it stands in a field."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Component):
        return value.kind
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple):
        value = [entry.kind if isinstance(entry, Component) else entry for entry in value]
    if isinstance(value, (int, float)):
        return str(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.strip()


def first_sentence(text: str) -> str:
    """The first sentence of a description."""
    first = " ".join(text.split())
    end = first.find(". ")
    return first if end < 0 else first[: end + 1]


def list_first_settings(form: RecipeForm) -> list[FormField]:
    """The settings of steps and parts that come first, in the recipe's order: those that runs are tried with."""
    return [field for part in _all_parts(form.steps) for field in part.fields if field.widget != "yaml"]


def change_setting(workspace: Workspace, text: str, file: Path, path: str, value: str) -> str:
    """The text with one setting of its form changed; an empty value takes the setting out.

    Raises:
        UnknownName: the form has no such setting.
        RecipeError: the value is no YAML.
    """
    form = build_recipe_form(workspace, text, file)
    form_field = next((field for field in _all_fields(form) if field.path == path), None)
    if form_field is None:
        raise UnknownName(f"there is no setting {path[:200]!r} in this recipe")
    key = _key(path)
    if value == "":
        return remove_value(text, str(file), key)
    return _set(text, file, key, _typed(form_field, value))


def change_part(workspace: Workspace, text: str, file: Path, path: str, kind: str) -> str:
    """The text with another kind of part at a path, without the settings of the one before; an empty kind takes it out.

    A path that ends in `+` adds to the list before it.
    """
    form = build_recipe_form(workspace, text, file)
    parts = {part.path: part for part in _all_parts(form.steps)}
    if path.endswith(".+"):
        owner = next((part for part in parts.values() if path[:-2] in part.lists), None)
        if owner is None or kind not in owner.lists[path[:-2]]:
            raise UnknownName(f"there is no list {path[:200]!r} that takes {kind[:80]!r}")
        return _add(text, file, _key(path[:-2]), kind)
    if path not in parts or (kind and kind not in parts[path].kinds):
        raise UnknownName(f"there is no part {path[:200]!r} that may be {kind[:80]!r}")
    if not kind:
        return remove_value(text, str(file), _key(path))
    is_step = parts[path].role == Step.role
    return _set(text, file, _key(path), {"kind": kind} if is_step else kind)


def _add(text: str, file: Path, key: Key, kind: str) -> str:
    data: Any = parse_yaml(text, str(file)).data
    for part in key:
        data = data.get(part) if isinstance(data, dict) else None
    if not data:
        return _set(text, file, key, [kind])
    return _set(text, file, (*key, len(data)), kind)


def _set(text: str, file: Path, key: Key, value: Any) -> str:
    """Set a value; a part on the way that is not written is written with the kind that it has."""
    data: Any = parse_yaml(text, str(file)).data
    member: type[BaseModel] | None = Recipe
    for depth, part in enumerate(key[:-1]):
        inner = _child(data, part)
        if inner is None and member is not None and isinstance(part, str) and part in member.model_fields:
            default = member.model_fields[part].get_default(call_default_factory=True)
            if isinstance(default, Component):
                rest: Any = value
                for name in reversed(key[depth + 1 :]):
                    rest = {name: rest}
                return set_value(text, str(file), key[: depth + 1], {"kind": default.kind, **rest})
        member = _member_at(key[: depth + 1], parse_yaml(text, str(file)).data)
        data = inner
    return set_value(text, str(file), key, value)


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, list) and isinstance(part, int):
        return data[part]
    return data.get(part) if isinstance(data, dict) else None


def _member_at(key: Key, data: Any) -> type[BaseModel] | None:
    from luthier.recipe.errors import find_field_at

    owner, _ = find_field_at((*key, "kind"), data, Recipe)
    return owner


def _typed(setting: FormField, value: str) -> Any:
    """What was written into a field, as YAML means it; a text is a text."""
    if setting.widget in ("text", "choice") and setting.name != "model":
        return value
    where = SourceLocation(field=setting.path)
    try:
        return parse_yaml(f"value: {value}" if "\n" not in value else f"value:\n{_indented(value)}", "").data["value"]
    except RecipeError as error:
        raise RecipeError(f"cannot be read: {error.message}", where=where, hint=error.hint) from error


def _indented(value: str) -> str:
    return "\n".join(f"  {line}" for line in value.splitlines())


def _key(path: str) -> Key:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _all_fields(form: RecipeForm) -> Iterator[FormField]:
    yield from form.top
    for part in _all_parts(form.steps):
        yield from (*part.fields, *part.more)


def _all_parts(parts: tuple[FormPart, ...]) -> Iterator[FormPart]:
    for part in parts:
        yield part
        yield from _all_parts(part.parts)

"""Dotted paths of a search: which step and which setting they mean, and that step with other values at several of them.

A path begins at the searched step. A field that names the step of a data set leads into that step
(`data.ops.quality.rules`, `data.data.0.ops.length.max` behind a `mix`); in a list of parts a segment is a part's kind,
or its place from 0. All values of one step are set together, so that a part is only asked about the whole.

Steps of data sets are searched in what they do to training rows. What decides who is held out is refused: `prepare`
puts a row on a side by a hash of its prompt (or group) as the operators left it and the seed, so with shares no other
row moves it, but an edited prompt, a cluster, or a counted split can. Which rows a trial may not learn is therefore
found out from its made data set (`luthier.auto.search.leaks`), never taken from the recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from luthier.core.component import Component, component_of_kind
from luthier.core.errors import LuthierError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.step import NotHashed, Step
from luthier.tune.steps.tune import Tune

OF = "of"
"""The searched step among changed ones."""
_OWN_RULES = {
    "validation": "rows that are measured on the way are held out; every trial is measured on the same rows",
    "max_steps": "the search itself says how long a trial is trained",
    "resume_from": "a trial begins at the base model, or where a shorter trial of the same settings ended",
    "save_epochs": "it changes what is kept, not what is learnt",
}
_UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "prepare": ("ops",),
    "augment": ("augmenters", "share", "per_class", "checks"),
    "mix": ("weights", "temperature", "rows", "repeats"),
    "reweigh": ("how", "max"),
}
"""Searchable settings of data steps, by kind, besides their own search space."""
_OPERATOR_RULES = {
    "decontaminate": "it keeps held-out rows out of training",
    "pii": "what is private does not depend on a score",
}
_USUAL_PLACE = 100
"""Default position of an added part: last."""


class SettingPath(NamedTuple):
    """A setting that a search may change."""

    step: str
    """`of`, or the name of a step that it reads."""
    segments: tuple[str, ...]
    """Inside that step; empty for the step itself."""


@dataclass
class SettingChange:
    """The new value of a field or part, changes inside it, or both."""

    values: list[Any] = field(default_factory=list)
    """None or one."""
    inner: dict[str, SettingChange] = field(default_factory=dict)

    def add(self, segments: Sequence[str], value: Any) -> None:
        """Set a value further inside."""
        if not segments:
            self.values = [value]
            return
        self.inner.setdefault(segments[0], SettingChange()).add(segments[1:], value)


def locate_setting(of: Tune, steps: Mapping[str, Step], path: str) -> SettingPath:
    """The step and the setting that a path means; `RecipeError` where there is none, or it may not be searched."""
    name, segments = OF, path.split(".")
    step: Step = of
    while segments and (mark := step.reads().get(segments[0])) is not None:
        if mark.makes != "dataset":
            raise refuse_path(path, f"is the step of a {mark.makes}", "search the steps of data sets, and this step")
        value = getattr(step, segments[0])
        many = isinstance(value, tuple)
        name = _choose_reference(path, value, segments[1] if len(segments) > 1 else "") if many else value
        if name not in steps:
            raise refuse_path(path, f"leads to the step {name!r}, which is not here", did_you_mean(name, steps))
        step, segments = steps[name], segments[2 if many else 1 :]
    if segments:
        _check_searchable(step, segments, path, is_own=name == OF)
    return SettingPath(name, tuple(segments))


def refuse_path(path: str, what: str, hint: str = "") -> RecipeError:
    """The error of a path of `over`."""
    return RecipeError(what, where=SourceLocation(field=f"over.{path}"), hint=hint)


def _choose_reference(path: str, names: Sequence[str], segment: str) -> str:
    if segment in names:
        return segment
    if segment.isdigit() and int(segment) < len(names):
        return names[int(segment)]
    raise refuse_path(path, f"leads to several data sets ({', '.join(names)})", "name one of them, or its place from 0")


def _check_searchable(step: Step, segments: Sequence[str], path: str, *, is_own: bool) -> None:
    head, fields = segments[0], type(step).model_fields
    if head not in fields:
        raise refuse_path(path, f"is no setting of {step.kind}", did_you_mean(head, [*fields]))
    if is_own:
        if any(isinstance(mark, NotHashed) for mark in fields[head].metadata):
            raise refuse_path(path, "changes nothing in what is learnt", "leave it out")
        if head in (*_OWN_RULES, "kind"):
            why = _OWN_RULES.get(head, "the step stays what it is")
            raise refuse_path(path, f"is not searched: {why}", "leave it out")
        return
    able = sorted({*_UPSTREAM.get(step.kind, ()), *step.search_space()})
    if head not in able:
        what = "is not searched: it decides which rows there are and which are held out, and those stay the same"
        hint = f"search {', '.join(able)}" if able else f"nothing of {step.kind} is searched"
        raise refuse_path(path, what, f"{hint}; limit rows by max_train_samples")
    if len(segments) == 1 and get_item_role(type(step), head) is not None:
        example = "quality" if head == "ops" else "noise"
        raise refuse_path(path, "is a list of parts", f"name a part by its kind, as in `{path}.{example}`")
    if head == "ops":
        _check_operator(step, segments[1], path)


def _check_operator(step: Step, segment: str, path: str) -> None:
    operators: tuple[Component, ...] = getattr(step, "ops", ())
    index = find_part_index(operators, segment, path)
    role = get_item_role(type(step), "ops")
    assert role is not None, "ops are parts"
    part: Component | type[Component]
    if index is not None:
        part = operators[index]
    else:
        try:
            part = component_of_kind(role, segment)
        except UnknownName as error:
            raise refuse_path(path, f"names no operator: {error.message}", error.hint) from error
    kind = part.kind if isinstance(part, Component) else segment
    if kind in _OPERATOR_RULES:
        raise refuse_path(path, f"is not searched: {_OPERATOR_RULES[kind]}", "leave it out")
    group = getattr(getattr(step, "split", None), "group", None)
    if group == "cluster" and "cluster" in getattr(part, "writes", {}):
        what = "is not searched: its clusters decide which rows are held out (split.group: cluster)"
        raise refuse_path(path, what, "split by a column, or leave it out")


def get_item_role(owner: type[BaseModel], name: str) -> type[Component] | None:
    """The role of the parts that a field lists; None where it lists none."""
    arguments = get_args(owner.model_fields[name].annotation)
    first = arguments[0] if arguments else None
    is_role = isinstance(first, type) and issubclass(first, Component) and "role" in first.__dict__
    return first if is_role and len(arguments) == 2 and arguments[1] is Ellipsis else None


def find_part_index(parts: Sequence[Component], segment: str, path: str) -> int | None:
    """The place of the part that a segment names; None where there is none of that kind."""
    if segment.isdigit():
        if int(segment) >= len(parts):
            raise refuse_path(path, f"asks for part {segment} of {len(parts)}, counted from 0")
        return int(segment)
    found = [index for index, part in enumerate(parts) if part.kind == segment]
    if len(found) > 1:
        raise refuse_path(path, f"may mean {len(found)} parts", f"name one by its place: {', '.join(map(str, found))}")
    return found[0] if found else None


def read_setting(part: BaseModel, segments: Sequence[str], path: str) -> Any:
    """Return the value at a path; for a part in a list, whether it is present. Parts are identified by kind."""
    value: Any = part
    for depth, segment in enumerate(segments):
        is_last = depth == len(segments) - 1
        if isinstance(value, tuple):
            index = find_part_index(value, segment, path)
            if is_last:
                return index is not None
            if index is None:
                before = ".".join(path.split(".")[: depth + 1 - len(segments)])
                hint = f"add it, or try `{before}: [true, false]`, too"
                raise refuse_path(path, f"is a setting of {segment}, which is not there", hint)
            value = value[index]
        else:
            value = _field_of(value, segment, path)
    return value.kind if isinstance(value, Component) else value


def _field_of(owner: Any, segment: str, path: str) -> Any:
    if not isinstance(owner, BaseModel):
        what = "is not set" if owner is None else "has no settings inside"
        raise refuse_path(path, f"leads into something that {what}", "give it a value in the searched step first")
    fields = type(owner).model_fields
    if segment not in fields:
        name = owner.kind if isinstance(owner, Component) else type(owner).__name__
        raise refuse_path(path, f"is no setting of {name}", did_you_mean(segment, [*fields]))
    return getattr(owner, segment)


def get_owner(part: BaseModel, segments: Sequence[str], path: str) -> Any:
    """The part, or list of parts, that the last segment of a path belongs to."""
    value: Any = part
    for segment in segments[:-1]:
        if isinstance(value, tuple):
            index = find_part_index(value, segment, path)
            if index is None:
                raise refuse_path(path, f"is a setting of {segment}, which is not there", "add it to the list first")
            value = value[index]
        else:
            value = _field_of(value, segment, path)
    return value


def check_value(owner: Any, name: str, value: Any, path: str) -> None:
    """`RecipeError` for a value that the field never takes, whatever the other settings are."""
    if isinstance(owner, tuple):
        if not isinstance(value, bool | Mapping):
            raise refuse_path(path, f"expects true, false or settings, got {value!r}")
        return
    current = getattr(owner, name)
    if isinstance(current, Component) and value == current.kind:
        return
    try:
        TypeAdapter(type(owner).model_fields[name].rebuild_annotation()).validate_python(value)
    except ValidationError as error:
        words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise refuse_path(path, f"does not take {value!r}: {words}") from error


def replace_component(
    part: BaseModel, changes: Mapping[str, SettingChange], path: str = "", *, without: Collection[str] = ()
) -> Any:
    """The part made anew with changed fields, and some as they usually are (`without`); pydantic's `ValidationError`
    where it refuses them."""
    given = {name: getattr(part, name) for name in part.model_fields_set if name not in without}
    if isinstance(part, Component):
        given["kind"] = part.kind
    for name, change in changes.items():
        inside = f"{path}.{name}".lstrip(".")
        value = _field_of(part, name, inside)
        if change.values:
            value = _replace(value, change.values[0])
        if change.inner:
            if isinstance(value, tuple) and (role := get_item_role(type(part), name)) is not None:
                value = _change_parts(value, change.inner, role, inside)
            elif isinstance(value, BaseModel):
                value = replace_component(value, change.inner, inside)
            else:
                _field_of(value, next(iter(change.inner)), inside)
        given[name] = value
    return type(part).model_validate(given)


def _replace(current: Any, value: Any) -> Any:
    """Replace a value; the kind of an existing part keeps its settings."""
    if not isinstance(current, Component) or isinstance(value, Component):
        return value
    if value == current.kind:
        return current
    role = next(entry for entry in type(current).__mro__ if "role" in entry.__dict__)
    replaced: Component = TypeAdapter(role).validate_python(value)
    return replaced


def _change_parts(
    parts: Sequence[Component], changes: Mapping[str, SettingChange], role: type[Component], path: str
) -> tuple[Component, ...]:
    """A list of parts with some changed, added or taken out; places count before anything is added."""
    components, removed = list(parts), []
    for segment, change in sorted(changes.items(), key=lambda entry: (not entry[0].isdigit(), entry[0])):
        requested = change.values[0] if change.values else True
        index = find_part_index(components, segment, path)
        if requested is False:
            removed += [components[index]] if index is not None else []
            continue
        if isinstance(requested, Mapping) or index is None:
            settings = requested if isinstance(requested, Mapping) else {}
            kind = segment if index is None else components[index].kind
            part: Component = TypeAdapter(role).validate_python({**settings, "kind": kind})
            if index is None:
                index = _place_for(components, part)
                components.insert(index, part)
            else:
                components[index] = part
        if change.inner:
            components[index] = replace_component(components[index], change.inner, f"{path}.{segment}")
    return tuple(part for part in components if not any(part is component for component in removed))


def _place_for(parts: Sequence[Component], part: Component) -> int:
    """Behind those that a proposed recipe puts before it."""
    position = getattr(part, "suggested_at", _USUAL_PLACE)
    before = (
        index
        for index, component in enumerate(parts, 1)
        if getattr(component, "suggested_at", _USUAL_PLACE) <= position
    )
    return max(before, default=0)


def describe_refusal(error: ValidationError | LuthierError) -> str:
    """Return why a part rejects its settings, on one line."""
    if isinstance(error, LuthierError):
        return f"{error.message}; {error.hint}" if error.hint else error.message
    first = error.errors(include_url=False)[0]
    position = ".".join(str(part) for part in first["loc"])
    words = first["msg"].removeprefix("Value error, ")
    return f"{position}: {words}" if position else words


def iter_differences(before: BaseModel, after: BaseModel) -> Iterator[tuple[str, Any]]:
    """The settings in which two parts of one class differ, by path, as deep as an override may go."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new and type(old) is type(new):
            continue
        both = isinstance(old, BaseModel) and type(old) is type(new)
        if both and name in before.model_fields_set and new.model_fields_set >= old.model_fields_set:
            yield from ((f"{name}.{path}", value) for path, value in iter_differences(old, new))
        else:
            yield name, write_setting(new)


def write_setting(value: Any) -> Any:
    """A setting as a recipe has it: of parts only what was set."""
    if isinstance(value, Component):
        return {"kind": value.kind, **{name: write_setting(getattr(value, name)) for name in _set_fields(value)}}
    if isinstance(value, BaseModel):
        return {name: write_setting(getattr(value, name)) for name in _set_fields(value)}
    if isinstance(value, tuple | list):
        return [write_setting(entry) for entry in value]
    if isinstance(value, Mapping):
        return {name: write_setting(entry) for name, entry in value.items()}
    return value


def _set_fields(part: BaseModel) -> list[str]:
    return [name for name in type(part).model_fields if name in part.model_fields_set and name != "kind"]

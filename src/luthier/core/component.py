"""The registry of components by role and kind, with their documentation and JSON schema.

A component is a frozen pydantic model: its settings are fields, it has one main method, and the definition of the
class registers it.

A *role* is an abstract base (`Source`, `Operator`, `Technique`, …) that names itself and the package of its members.
A *member* is a concrete subclass with a `kind`. A field typed with a role accepts an instance, a mapping with `kind`,
or the kind as a string. The JSON schema, the command line's help and the reference pages come from the same definition.

    class Operator(Component):
        role = "operator"
        home = "luthier.data.ops"

    class Lowercase(Operator):
        kind: Literal["lowercase"] = "lowercase"

The description of a field is the docstring below it in the source, read on demand: pydantic's
`use_attribute_docstrings` reads the source of each of some two hundred classes at import, which took a third of the
time of `luthier plan`. The JSON schema of a model defines each role and member once.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from luthier.core.errors import MissingExtra, UnknownName, did_you_mean
from luthier.core.files import EnvVarMarker, is_env_var, resolve_path
from luthier.core.former_names import former_settings
from luthier.core.hashing import digest_package_code, file_digest
from luthier.core.param_space import ParamDistribution
from luthier.core.system.packages import require


def add_field_descriptions(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put descriptions into a model's JSON schema; for `ConfigDict(json_schema_extra=described)`."""
    texts = field_descriptions(model)
    for name, field in model.model_fields.items():
        property_schema = schema.get("properties", {}).get(field.alias or name)
        if property_schema is not None and name in texts:
            property_schema.setdefault("description", texts[name])


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The texts of a model's fields by name, those that it inherits among them."""
    under: dict[str, str] = {}
    for entry in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        under |= _texts(entry.__module__).get(entry.__qualname__, {})
    texts = {name: field.description or under.get(name) for name, field in model.model_fields.items()}
    return {name: text for name, text in texts.items() if text}


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """By class, then by field; nothing where there is no source."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    found: dict[str, dict[str, str]] = {}
    _look(ast.parse(Path(file).read_bytes()), "", found)
    return found


def _look(node: ast.AST, before: str, found: dict[str, dict[str, str]]) -> None:
    """Note every class below a node under its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            found[before + child.name] = _of_class(child)
            _look(child, f"{before}{child.name}.", found)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            _look(child, f"{before}{child.name}.<locals>.", found)
        else:
            _look(child, before, found)


def _of_class(body: ast.ClassDef) -> dict[str, str]:
    found = {}
    for entry, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[entry.target.id] = inspect.cleandoc(text.value)
    return found


@dataclass(frozen=True)
class BasicMarker:
    """Marks a setting that most users want to see: forms show it first."""


Role = TypeVar("Role", bound="Component")

ROLE_MARK = "x-role"
"""Stands in a part's own JSON schema where a member of a role goes; `luthier.core.component` resolves it."""

CALLED_HERE = "here it is called"
"""How the remedy for another tool's name of a setting begins."""

_MEMBERS: dict[str, dict[str, type[Component]]] = {}
_ROLES: dict[str, type[Component]] = {}


class Component(BaseModel):
    """Base class of all parts that are registered by a `kind`: a frozen, documented pydantic model of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra=add_field_descriptions,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    role: ClassVar[str]
    """The role's name in the singular, set by the role's abstract base."""
    home: ClassVar[str]
    """The package whose modules hold the members; `*` stands for any one name."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """Names that other tools give to settings of this part, each with the name here."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Optional libraries that it cannot work without, as Python imports them, and the extra that brings each."""

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, data: Any) -> Any:
        return refuse_unknown_settings(cls, data)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "role" in cls.__dict__:
            _ROLES[cls.role] = cls
            return
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            return  # an abstract class between a role and its members
        members = _MEMBERS.setdefault(cls.role, {})
        other = members.get(kind)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.role} {kind!r} is defined twice: {other.__module__} and {cls.__module__}")
        members[kind] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "role" not in cls.__dict__:
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if "role" not in cls.__dict__:
            return handler(schema)
        return {ROLE_MARK: cls.role}

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Make a member of this role from an instance, a mapping with `kind`, or a bare kind."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or "kind" not in value:
            article = "an" if cls.role[0] in "aeiou" else "a"
            context = {"role": f"{article} {cls.role}", "hint": did_you_mean("", components_by_kind(cls))}
            raise PydanticCustomError("part", "expected {role}: its kind, or a mapping with `kind`; {hint}", context)
        member = _of_its_module(cls, value["kind"]) if isinstance(value["kind"], str) else None
        if member is None:
            kind = str(value["kind"])
            member = components_by_kind(cls).get(kind) if isinstance(value["kind"], str) else None
        if member is None:
            context = {"role": cls.role, "name": kind, "hint": cls.instead_of(kind)}
            raise PydanticCustomError("kind", "{role} '{name}' is unknown; {hint}", context)
        return member.model_validate(value)  # a member of this role by construction

    @classmethod
    def instead_of(cls, name: str) -> str:
        """What to write instead of a name that is no kind of this role."""
        return did_you_mean(name, components_by_kind(cls))

    def settings(self) -> dict[str, Any]:
        """All settings as plain JSON values, defaults included: what the digest is made of."""
        return self.model_dump(mode="json")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """What a search may try with these settings, by field: only fields that matter, and values that this very part
        accepts one by one; by default nothing."""
        return {}

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of what this part reads from outside the recipe (`recipe_dir` is the recipe's folder), if it
        does."""
        return None

    def paths(self, recipe_dir: Path) -> Iterator[tuple[str, Path]]:
        """The files and folders outside the recipe that this part names, each with its field, as far as they are here;
        `fingerprint` says what they hold."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_path = isinstance(value, str) and _takes_path((field.annotation, *field.metadata))
            if is_path and "://" not in value and (path := resolve_path(value, recipe_dir)).exists():
                yield name, path

    @property
    def living(self) -> bool:
        """Whether what it reads may change on the way, or under one fingerprint.

        A run looks at the fingerprint once more afterwards, and takes nothing over that came from there before.
        """
        return False

    def gather(self, recipe_dir: Path, say: Callable[[str], None]) -> None:
        """Bring here what is far away and not here yet; a run does this before it names anything, a plan never."""
        return

    def check_installed(self, recipe_dir: Path) -> None:
        """`MissingExtra` when a library that it needs is not installed; `recipe_dir` is the recipe's folder.

        A plan asks every part of the steps that must be made, so that no run ends for want of a library.
        """
        for module, extra in self.libraries.items():
            require(module, extra, f"the {self.role} {self.kind}")

    def download_bytes(self) -> int:
        """How much `download` would fetch now; 0 when all is here."""
        return 0

    def download(self, say: Callable[[str], None]) -> None:
        """Fetch the files that it works with and that are not here yet, such as a model's weights.

        A run asks every part of the steps that must be made before it makes the first; a plan never.
        """
        return

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the class's documentation."""
        first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
        return re.split(r"(?<=[.!?]) (?=[A-Z])", first, maxsplit=1)[0]


def refuse_unknown_settings(cls: type[BaseModel], data: Any) -> Any:
    """Refuse a setting that the class does not have (with the nearest name), and a yes/no where a number belongs."""
    if not isinstance(data, dict):
        return data
    for name, value in data.items():
        field = cls.model_fields.get(name)
        if field is None:
            hint = hint_for_foreign_setting(cls, str(name)) or did_you_mean(str(name), cls.model_fields)
            context = {"name": str(name), "hint": hint}
            raise PydanticCustomError("unknown_setting", "there is no setting '{name}' here; {hint}", context)
        if (
            isinstance(value, str)
            and is_env_var(value)
            and not any(isinstance(m, EnvVarMarker) for m in field.metadata)
        ):
            words = "'{name}' takes no environment variable, got {value}; write the value itself"
            raise PydanticCustomError("environment", words, {"name": name, "value": value})
        if isinstance(value, bool) and _wants_number(field.annotation):
            context = {"name": name, "value": str(value).lower()}
            raise PydanticCustomError("number", "'{name}' wants a number, got {value}", context)
    return data


def hint_for_foreign_setting(cls: type[BaseModel], name: str) -> str:
    """What a setting is called here that another tool calls `name`; empty where it has no such setting."""
    own = setting_aliases(cls).get(name)
    return f"{CALLED_HERE} `{own}`" if own else ""


def setting_aliases(cls: type[BaseModel]) -> dict[str, str]:
    """Other tools' names of a class's settings and its former ones, those of its parents included."""
    found = former_settings(cls)
    for entry in reversed(cls.__mro__):
        found |= entry.__dict__.get("other_names", {})
    return found


def _takes_path(annotations: Iterable[Any]) -> bool:
    """Whether a setting is a path, also one that may be left out."""
    return any(isinstance(annotation, EnvVarMarker) or _takes_path(get_args(annotation)) for annotation in annotations)


def _wants_number(annotation: Any) -> bool:
    """Whether a setting takes numbers and no yes or no, also as one choice of several."""
    kinds = list(_kinds(annotation))
    return (int in kinds or float in kinds) and bool not in kinds


def _kinds(annotation: Any) -> Iterator[Any]:
    inner = () if get_origin(annotation) is Literal else get_args(annotation)
    if not inner:
        yield annotation
    for entry in inner:
        yield from _kinds(entry)


def _dump(value: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode, exclude_defaults=False)


@cache
def _discover(home: str) -> None:
    for name in _modules(home):
        importlib.import_module(name)


def _modules(home: str) -> Iterator[str]:
    """All modules of the packages that a home names."""
    for package in _packages(home):
        path = importlib.import_module(package).__path__
        yield from (f"{package}.{found.name}" for found in pkgutil.iter_modules(path))


@cache
def _packages(home: str) -> tuple[str, ...]:
    """The packages that a home names: `luthier.data.ops`, or all that there are of `luthier.*.steps`."""
    before, star, after = home.partition(".*.")
    if not star:
        return (home,)
    floors = (found.name for found in pkgutil.iter_modules(importlib.import_module(before).__path__) if found.ispkg)
    names = (f"{before}.{floor}.{after}" for floor in floors)
    return tuple(name for name in names if importlib.util.find_spec(name) is not None)


@cache
def _plugins() -> None:
    """Load parts that other installed packages bring: entry points in the group `luthier.parts`."""
    from importlib.metadata import entry_points

    for point in entry_points(group="luthier.parts"):
        point.load()


def components_by_kind(role: type[Role]) -> dict[str, type[Role]]:
    """All members of a role by kind, found in its home package and in installed plug-ins."""
    _discover(role.home)
    _plugins()
    return dict(_MEMBERS.get(role.role, {}))  # type: ignore[arg-type]  # registered under this role by construction


def _of_its_module(role: type[Role], kind: str) -> type[Role] | None:
    """The member of a kind when its module bears its name, as most do: then no other module is loaded for it."""
    if kind not in _MEMBERS.get(role.role, {}) and kind.isidentifier():
        for package in _packages(role.home):
            if importlib.util.find_spec(f"{package}.{kind}") is not None:
                importlib.import_module(f"{package}.{kind}")
    return _MEMBERS.get(role.role, {}).get(kind)  # type: ignore[return-value]  # registered under this role


def roles_by_name() -> dict[str, type[Component]]:
    """The roles whose abstract base has been imported so far, by name."""
    return dict(sorted(_ROLES.items()))


def component_of_kind(role: type[Role], kind: str) -> type[Role]:
    """One member of a role; `UnknownName` with a suggestion when there is none of that kind."""
    found = components_by_kind(role)
    if kind not in found:
        raise UnknownName(f"{role.role} {kind!r} is unknown", hint=did_you_mean(kind, found))
    return found[kind]


def iter_components(part: BaseModel) -> Iterator[Component]:
    """The part itself (when a component) and every component inside its fields, lists and mappings."""
    yield from (component for _, component in iter_components_with_paths(part))


def iter_components_with_paths(part: BaseModel, path: str = "") -> Iterator[tuple[str, Component]]:
    """The same, each with its dotted path: `ops.1.names`; the part's own is empty."""
    if isinstance(part, Component):
        yield path, part
    for name in type(part).model_fields:
        yield from _located_value(getattr(part, name), f"{path}.{name}".lstrip("."))


def check_installed(part: BaseModel, recipe_dir: Path) -> None:
    """`MissingExtra`, with the place in the part, when a library is not installed that the part or one inside needs."""
    for path, component in iter_components_with_paths(part):
        try:
            component.check_installed(recipe_dir)
        except MissingExtra as error:
            field = ".".join(filter(None, (path, error.where.field))) or None
            where = replace(error.where, field=field)
            raise MissingExtra(error.message, where=where, hint=error.hint) from error


def digest_plugin_code(part: BaseModel) -> dict[str, str]:
    """Digests of the packages (or single files) that parts come from which are not ours, by name: changed code of a
    plug-in finds no stale cache."""
    roots = {type(component).__module__.partition(".")[0] for component in iter_components(part)} - {
        __name__.partition(".")[0]
    }
    return {root: digest for root in sorted(roots) if (digest := _code_of(root)) is not None}


def _code_of(root: str) -> str | None:
    """None where the code stands in no file, as what is typed in."""
    module = sys.modules[root]
    if hasattr(module, "__path__"):
        return digest_package_code(root)
    file = getattr(module, "__file__", None)
    return None if file is None else file_digest(Path(file))


def _located_value(value: Any, path: str) -> Iterator[tuple[str, Component]]:
    if isinstance(value, BaseModel):
        yield from iter_components_with_paths(value, path)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _located_value(item, f"{path}.{number}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _located_value(item, f"{path}.{key}")


def full_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a model; a role becomes a choice among its members, in `$defs`."""
    definitions: dict[str, Any] = {}
    schema = _resolve_roles(model.model_json_schema(), definitions)
    return {**schema, "$defs": dict(sorted(definitions.items()))} if definitions else schema


def _resolve_roles(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with its role marks as references; what they refer to is put into `definitions`."""
    own = schema.get("$defs", {})
    for name, inner in own.items():
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _resolve_value(inner, definitions)
    resolved: dict[str, Any] = _resolve_value(
        {key: value for key, value in schema.items() if key != "$defs"}, definitions
    )
    return resolved


def _resolve_value(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolve_value(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    role = value.get(ROLE_MARK)
    if isinstance(role, str):
        rest = {key: _resolve_value(item, definitions) for key, item in value.items() if key != ROLE_MARK}
        return {"$ref": f"#/$defs/{_role(role, definitions)}", **rest}
    return {key: _resolve_value(item, definitions) for key, item in value.items()}


def _role(role: str, definitions: dict[str, Any]) -> str:
    """Define a role as a choice: a bare kind where no setting is required, or a mapping with `kind`."""
    if role in definitions:
        return role
    definitions[role] = {}
    found = components_by_kind(roles_by_name()[role])
    short = [kind for kind in sorted(found) if not _needs_settings(found[kind])]
    choices: list[dict[str, Any]] = [{"enum": short}] if short else []
    for kind, part in sorted(found.items()):
        name = f"{role}.{kind}"
        definitions[name] = {}
        schema = _resolve_roles(part.model_json_schema(), definitions)
        definitions[name] = {**schema, "required": ["kind", *schema.get("required", [])]}
        choices.append({"$ref": f"#/$defs/{name}"})
    definitions[role] = {"anyOf": choices}
    return role


def _needs_settings(part: type[Component]) -> bool:
    return any(field.is_required() for field in part.model_fields.values())

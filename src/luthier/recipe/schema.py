"""The recipe: its fields, how it is read, and its JSON schema.

>>> recipe = Recipe.load(Path("recipe.yaml"), ["steps.tune.technique.r=32"])   # doctest: +SKIP

The JSON schema, for editors, forms and other programs, comes from the same definitions that read a recipe.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import to_jsonable_python

from luthier.core.artifact import ArtifactType
from luthier.core.component import add_field_descriptions, components_by_kind, full_schema, refuse_unknown_settings
from luthier.core.errors import LuthierError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import PathText
from luthier.core.step import Step
from luthier.models.catalog import resolve_model_source
from luthier.models.source import ModelSource
from luthier.recipe.budget import RunBudget
from luthier.recipe.errors import NAME_PATTERN, add_indefinite_article, explain_validation_error
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import Key, LocatedYaml, apply_overrides, join_dotted_path, read_yaml

if TYPE_CHECKING:
    from luthier.core.events import RunEventEmitter
    from luthier.recipe.executor import Placement
    from luthier.recipe.planner import RecipePlan
    from luthier.recipe.runner import RunResult

MODEL_STEP = "model"
"""The name of the implicit step that brings the recipe's model into the store."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _resolve_model(value: Any, info: ValidationInfo) -> Any:
    """A text becomes the source that it means; a mapping is read as any other part."""
    base = (info.context or {}).get("base", Path())
    return resolve_model_source(value, base) if isinstance(value, str) else value


class Recipe(BaseModel):
    """A recipe: the data, model, tuning and evaluation steps in one document."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, validate_default=True
    )

    luthier: Literal[1] = 1
    """Version of the recipe format."""
    name: Name = "recipe"
    """What this recipe is called in reports and in the store: small letters, digits, `-` and `_`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random choice follows from this number."""
    model: Annotated[ModelSource | None, BeforeValidator(_resolve_model)] = None
    """The base model: a name of the catalogue, a folder, a .gguf file, or a model source with its settings."""
    chat_template: PathText | None = None
    """The chat template that takes the place of the base model's own, in training, evaluation, serving and export
    alike: the name of one that ships with Luthier (`hermes`: ChatML with tools), or a Jinja file; a relative path
    starts at the recipe's folder. The model's own when not given."""
    budget: RunBudget | None = None
    """Hours and money after which a run stops, with its finished steps and checkpoints kept; counted over all runs of
    the recipe. No artifact follows from it."""
    steps: Annotated[dict[Name, Step], Field(min_length=1)]
    """The steps by name; a step names those whose artifacts it reads."""

    _workspace: Workspace = PrivateAttr(default_factory=lambda: Workspace.open(Path.cwd()))
    _source: LocatedYaml | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, path: Path | str, overrides: Iterable[str] = (), workspace: Workspace | None = None) -> Self:
        """Read a recipe file, apply overrides, and check everything that can be checked before a run.

        `workspace` says where store and database are, when these are not the usual ones.
        """
        path = Path(path)
        file = path / "recipe.yaml" if (path / "recipe.yaml").exists() else path
        source = apply_overrides(read_yaml(file), tuple(overrides))
        return cls.of(source, (workspace or Workspace.open_current()).with_folder(file.parent))

    @classmethod
    def of(cls, source: LocatedYaml, workspace: Workspace) -> Self:
        """A recipe from what was read; relative paths start at the workspace's folder."""
        try:
            recipe = cls.model_validate(source.data, context={"base": workspace.folder})
        except ValidationError as error:
            raise _former_names(source, cls) or explain_validation_error(error, source, cls) from error
        except LuthierError as error:
            raise _placed(error, source) from error
        recipe._workspace, recipe._source = workspace, source
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, data: Any) -> Any:
        return refuse_unknown_settings(cls, data)

    @model_validator(mode="after")
    def _references(self) -> Self:
        self._check_chat_template()
        for name, step in self.all_steps().items():
            if step.makes not in components_by_kind(ArtifactType):
                where, hint = (
                    SourceLocation(field=f"steps.{name}.kind"),
                    did_you_mean(step.makes, components_by_kind(ArtifactType)),
                )
                raise RecipeError(f"makes {step.makes!r}, which is no artifact type", where=where, hint=hint)
            for field, other in self.references(step).items():
                self._check_reference(name, field, other)
        self.order()
        return self

    def in_workspace(self, workspace: Workspace) -> Self:
        """The same recipe in another folder, or with another store or database."""
        moved = self.model_copy()
        moved._workspace = workspace
        return moved

    @property
    def workspace(self) -> Workspace:
        """The recipe's folder with its store and database."""
        return self._workspace

    @property
    def recipe_dir(self) -> Path:
        """The folder from which relative paths start."""
        return self._workspace.folder

    @property
    def file(self) -> str:
        """The file it was read from, for messages."""
        return self._source.file if self._source else "recipe"

    def where(self, key: Key) -> SourceLocation:
        """The place at which a path of it was written, or its nearest parent."""
        return self._source.where(key) if self._source else SourceLocation(field=join_dotted_path(key))

    @property
    def written(self) -> str:
        """What stands in its file, without overrides; written out when it was made in memory."""
        return self._source.text if self._source else self.as_yaml()

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides of the command line, as PATH=VALUE."""
        return self._source.overrides if self._source else ()

    @property
    def text(self) -> str:
        """The recipe as it was written, and the overrides that were given to it as comments."""
        if not self.overrides:
            return self.written
        comments = "".join(f"# given on the command line: {text}\n" for text in self.overrides)
        return f"{self.written.rstrip()}\n{comments}"

    def all_steps(self) -> dict[str, Step]:
        """The steps, with the implicit one that brings the recipe's model when some step reads it."""
        from luthier.models.steps.base import BaseModelStep

        needs = any(MODEL_STEP in self.references(step).values() for step in self.steps.values())
        own = self.steps.get(MODEL_STEP)
        if own is not None and not isinstance(own, BaseModelStep):
            where, hint = SourceLocation(field=f"steps.{MODEL_STEP}"), "call this step something else"
            raise RecipeError("this name is kept for the recipe's base model", where=where, hint=hint)
        if not needs or own is not None:
            return dict(self.steps)
        if self.model is None:
            hint = "add `model: smollm2-135m-instruct` (`luthier models list` shows others)"
            raise RecipeError("names no model, though steps need one", where=SourceLocation(field="model"), hint=hint)
        return {**self.steps, MODEL_STEP: BaseModelStep(source=self.model, chat_template=self.chat_template)}

    def find_step(self, name: str) -> Step:
        """One of all steps by its name."""
        return self.steps[name] if name in self.steps else self.all_steps()[name]

    def _check_chat_template(self) -> None:
        """Refuse a chat template that would change nothing."""
        if self.chat_template is None:
            return
        where = SourceLocation(field="chat_template")
        if MODEL_STEP in self.steps:
            hint = f"write `chat_template` into steps.{MODEL_STEP}"
            raise RecipeError(f"the base model is the step {MODEL_STEP!r} here", where=where, hint=hint)
        if not any(MODEL_STEP in self.references(step).values() for step in self.steps.values()):
            hint = "leave it out, or write it into the step of kind `base` that it is meant for"
            raise RecipeError("changes nothing: no step reads the recipe's model", where=where, hint=hint)
        if self.model is not None and not self.model.weights:
            what = "changes nothing: an endpoint renders its conversations itself"
            raise RecipeError(what, where=where, hint="leave it out")

    def references(self, step: Step) -> dict[str, str]:
        """The steps that a step reads, by field (`models.0` for one of several); a model left out is the recipe's, or
        what another step reads that it names (`Reads.through`)."""
        found: dict[str, str] = {}
        for field, mark in step.inputs().items():
            value = getattr(step, field)
            if isinstance(value, tuple):
                found |= {f"{field}.{at}": entry for at, entry in enumerate(value)}
            elif value is not None:
                found[field] = value
            elif mark.through:
                if (other := self._read_through(step, field)) is not None:
                    found[field] = other
            elif mark.makes == "model" and not mark.optional:
                found[field] = MODEL_STEP
        return found

    def _read_through(self, step: Step, field: str) -> str | None:
        """What a step reads in a field left out: what the step that it names reads there."""
        known = set[str]()
        while (mark := step.inputs().get(field)) is not None:
            if (value := getattr(step, field)) is not None:
                return str(value)
            if not mark.through:
                return MODEL_STEP if mark.makes == "model" and not mark.optional else None
            name = getattr(step, mark.through)
            if name in known or name not in self.steps:
                return None
            known.add(name)
            step = self.steps[name]
        return None

    def _check_reference(self, name: str, field: str, other: str) -> None:
        where = SourceLocation(field=f"steps.{name}.{field}")
        expected = self.steps[name].reads()[field.partition(".")[0]].makes if name in self.steps else "model"
        steps = self.all_steps()
        if other not in steps:
            able = [key for key, step in steps.items() if step.makes == expected and key != name]
            raise RecipeError(f"there is no step {other!r}", where=where, hint=did_you_mean(other, able))
        made = steps[other].makes
        if made != expected:
            able = [key for key, step in steps.items() if step.makes == expected and key != name]
            needed, found = add_indefinite_article(expected), add_indefinite_article(made)
            message = f"expected a step that makes {needed}; {other!r} makes {found}"
            raise RecipeError(message, where=where, hint=did_you_mean(other, able))

    def order(self) -> list[str]:
        """The steps' names, each after what it reads; `RecipeError` when they read each other in a ring."""
        steps = self.all_steps()
        done: list[str] = []
        while len(done) < len(steps):
            ready = [
                name
                for name, step in steps.items()
                if name not in done and all(other in done for other in self.references(step).values())
            ]
            if not ready:
                ring = self._ring([name for name in steps if name not in done])
                where = SourceLocation(field=f"steps.{ring[0]}")
                message = f"these steps wait for each other: {', '.join(ring)}"
                raise RecipeError(message, where=where, hint="let one of them read something else")
            done += ready
        return done

    def _ring(self, waiting: list[str]) -> list[str]:
        """Of steps that wait those that others wait for: what stands behind a ring is not in it."""
        steps = self.all_steps()
        read = {other for name in waiting for other in self.references(steps[name]).values()}
        left = [name for name in waiting if name in read]
        return left if left == waiting else self._ring(left)

    def needed(self, only: Sequence[str] = ()) -> list[str]:
        """The names of some steps and of all that they read, in order; of every step, where none is named."""
        steps = self.all_steps()
        requested = set(only)
        for name in requested - set(steps):
            where = SourceLocation(file=self.file, field="steps")
            several = re.split(r"[,\s]+", name.strip(", "))
            each = " ".join(f"--only {entry}" for entry in several)
            hint = did_you_mean(name, steps) if len(several) == 1 else f"every step is named by itself: {each}"
            raise UnknownName(f"there is no step {name!r}", where=where, hint=hint)
        order = self.order()
        for name in reversed(order):
            if name in requested:
                requested |= set(self.references(steps[name]).values())
        return [name for name in order if not only or name in requested]

    def find_upstream(self, name: str) -> dict[str, Step]:
        """The steps that a step reads, directly or not, by name."""
        steps, found = self.all_steps(), dict[str, Step]()
        ahead = [*self.references(steps[name]).values()]
        while ahead:
            other = ahead.pop()
            if other not in found:
                found[other] = steps[other]
                ahead += self.references(steps[other]).values()
        return {key: found[key] for key in steps if key in found}

    def drives(self, name: str) -> bool:
        """Whether a step makes further steps itself."""
        return type(self.find_step(name)).list_children is not Step.list_children

    def list_children(self, name: str) -> list[Step]:
        """The steps that a step which drives others may make itself; none of another step."""
        return list(self.find_step(name).list_children(self.find_upstream(name))) if self.drives(name) else []

    def with_children(self, name: str, children: Mapping[str, Step]) -> Self:
        """The recipe of some children of a step: what that step reads, directly or not, with these beside.

        It is checked as a recipe is; what is wrong with a child stands at the step that drives it.
        """
        source = self._source or LocatedYaml(self.file, self.model_dump(mode="json"), {})
        upstream = self.find_upstream(name)
        reads_model = MODEL_STEP in upstream and MODEL_STEP not in self.steps
        for child, step in children.items():
            for other in self.references(step).values():
                if other not in upstream and other not in children:
                    message = f"its child {child!r} reads {other!r}, which the step itself does not read"
                    hint = f"name {other!r} in this step, or leave out what needs it"
                    raise RecipeError(message, where=self.where(("steps", name)), hint=hint)
        own = {key: value for key, value in source.data["steps"].items() if key in upstream}
        left_out = ("steps", *(() if reads_model else ("model", "chat_template")))
        rest = {key: value for key, value in source.data.items() if key not in left_out}
        steps = {**own, **{child: step.settings() for child, step in children.items()}}
        data = {**rest, "steps": steps}
        line = source.lines.get(("steps", name))
        lines = {key: at for key, at in source.lines.items() if key[1:2] not in {(child,) for child in children}}
        lines |= {("steps", child): line for child in children if line is not None}
        return type(self).of(LocatedYaml(source.file, data, lines, _dump_yaml(data)), self._workspace)

    def placed(self, error: LuthierError, step: str) -> LuthierError:
        """The error of a step with its place in the recipe, when it names no file."""
        field = error.where.field
        if self._source is None or error.where.file is not None or (field or "").startswith("steps."):
            return error
        implicit = step == MODEL_STEP and step not in self.steps
        path = [] if implicit else [*_path_to(self.steps[step], (field or "").partition(".")[0])]
        inner = (field or "").removeprefix(MODEL_STEP).strip(".") if implicit else field
        if implicit and field == "chat_template":
            return _placed(error, self._source)
        whole = ".".join([MODEL_STEP] if implicit else ["steps", step, *path]) + (f".{inner}" if inner else "")
        where = SourceLocation(field=whole)
        return _placed(type(error)(error.message, where=where, hint=error.hint), self._source)

    def as_yaml(self) -> str:
        """The whole recipe with every default written out."""
        return _dump_yaml(self.model_dump(mode="json"))

    def with_overrides(self, values: Mapping[str, Any]) -> Self:
        """The recipe with other values by path, as `luthier run` takes them: `{"steps.tune.epochs": 3}`.

        They are checked as the recipe is, and stand among its `overrides`.
        """
        if not values:
            return self
        source = self._source or LocatedYaml(self.file, self.model_dump(mode="json"), {}, self.as_yaml())
        texts = tuple(f"{path}={_as_override(value)}" for path, value in values.items())
        return type(self).of(apply_overrides(source, texts), self._workspace)

    def plan(self) -> RecipePlan:
        """What is cached, what will be made, and what it will cost."""
        from luthier.recipe.planner import build_recipe_plan

        return build_recipe_plan(self)

    def run(
        self,
        events: RunEventEmitter | None = None,
        only: Sequence[str] = (),
        *,
        on: Placement | str | Sequence[str] = (),
        progress: bool = True,
    ) -> RunResult:
        """Make what is not cached, or `only` some steps and what they read; returns the artifacts by step.

        `on` says where steps are made, as `luthier run --on` does; else what the recipe says at each step counts.
        Progress goes to standard error, as of `luthier run`, unless `progress` is false or `events` hears it.
        """
        from luthier.core.events import RunEventEmitter
        from luthier.core.render import choose_renderer
        from luthier.recipe.executor import Placement, parse_placement
        from luthier.recipe.runner import run_recipe

        placement = on if isinstance(on, Placement) else parse_placement([on] if isinstance(on, str) else on)
        if events is not None or not progress:
            return run_recipe(self, events, only, placement=placement)
        with choose_renderer() as listener:
            return run_recipe(self, RunEventEmitter(listener), only, placement=placement)


def _dump_yaml(data: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _as_override(value: Any) -> str:
    """A value as an override has it: YAML in one line; numbers as YAML writes them, since to it `1e-05` is a text."""
    import yaml

    plain = to_jsonable_python(value)
    if isinstance(plain, str):
        return json.dumps(plain, ensure_ascii=False)
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def _path_to(step: Step, setting: str) -> Iterator[str]:
    """The part of a step in which a setting stands, when the step itself has none of that name."""
    if setting in type(step).model_fields:
        return
    for name in type(step).model_fields:
        if setting in getattr(type(getattr(step, name)), "model_fields", {}):
            yield name
            return


def _placed(error: LuthierError, source: LocatedYaml) -> LuthierError:
    """The same error with its line in the recipe."""
    if error.where.file is not None or error.where.field is None:
        return error
    key: Key = tuple(int(part) if part.isdigit() else part for part in error.where.field.split("."))
    return type(error)(error.message, where=source.where(key), hint=error.hint)


__all__ = ["MODEL_STEP", "Recipe", "join_dotted_path"]


SCHEMA_FILE = "recipe.schema.json"
HEADER = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""A first line that makes editors with a YAML language server complete and check the recipe."""


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe file."""
    schema = full_schema(Recipe)
    model = schema["properties"]["model"]
    known = {"type": "string", "description": "A name of the catalogue, a folder, a .gguf file, or a hub id."}
    schema["properties"]["model"] = {**model, "anyOf": [known, *model["anyOf"]]}
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Luthier recipe", **rest}


def _former_names(source: LocatedYaml, model: type[BaseModel]) -> RecipeError | None:
    """The error about a file with former names of settings or kinds; None where it has none."""
    from luthier.recipe.migrate import migrate_text

    _, renamed = migrate_text(source.text, source.file, model) if source.text else ("", [])
    if not renamed:
        return None
    where = source.where(tuple(int(part) if part.isdigit() else part for part in renamed[0].path.split(".")))
    names = ", ".join(
        dict.fromkeys(f"`{applied_rename.old}` is now `{applied_rename.new}`" for applied_rename in renamed)
    )
    return RecipeError(f"uses former names: {names}", where=where, hint=f"`luthier migrate {source.file}` rewrites it")

"""A recipe: typed, frozen data that every door runs.

>>> recipe = Recipe.load(Path("recipe.yaml"), ["steps.tune.technique.r=32"])   # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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

from luthier.core.component import refuse_unknown_settings
from luthier.core.errors import LuthierError, RecipeError, Where, did_you_mean
from luthier.core.step import Step
from luthier.flow.source_text import Key, SourceText, dotted, override, read_yaml
from luthier.models.catalog import resolve
from luthier.models.source import ModelSource

if TYPE_CHECKING:
    from luthier.core.events import Events
    from luthier.flow.plan import Plan
    from luthier.flow.run import Result

MODEL_STEP = "model"
"""The name of the implicit step that brings the recipe's model into the store."""
_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME)]


def _resolve_model(value: Any, info: ValidationInfo) -> Any:
    base = (info.context or {}).get("base", Path())
    return resolve(value, base) if value is not None else None


class Recipe(BaseModel):
    """From raw data to a measured model, in one document."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    luthier: Literal[1] = 1
    """Version of the recipe format."""
    name: Name = "recipe"
    """What this recipe is called in reports and in the store: small letters, digits, `-` and `_`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random choice follows from this number."""
    model: Annotated[ModelSource | None, BeforeValidator(_resolve_model)] = None
    """The base model: a name of the catalogue, a folder, a .gguf file, or a model source with its settings."""
    steps: Annotated[dict[Name, Step], Field(min_length=1)]
    """The steps by name; a step names those whose artifacts it reads."""

    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _source: SourceText | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, path: Path | str, overrides: Iterable[str] = ()) -> Self:
        """Read a recipe file, apply overrides, and check everything that can be checked before a run."""
        path = Path(path)
        file = path / "recipe.yaml" if path.is_dir() else path
        source = override(read_yaml(file), tuple(overrides))
        try:
            recipe = cls.model_validate(source.data, context={"base": file.parent})
            recipe._base, recipe._source = file.parent, source
            recipe.order()
        except ValidationError as error:
            raise _explain(error, source) from error
        except LuthierError as error:
            raise _placed(error, source) from error
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, data: Any) -> Any:
        return refuse_unknown_settings(cls, data)

    @model_validator(mode="after")
    def _references(self) -> Self:
        for name, step in self.all_steps().items():
            for field, other in self.references(step).items():
                self._check_reference(name, field, other)
        self.order()
        return self

    @property
    def base(self) -> Path:
        """The folder from which relative paths start."""
        return self._base

    @property
    def file(self) -> str:
        """The file it was read from, for messages."""
        return self._source.file if self._source else "recipe"

    @property
    def text(self) -> str:
        """The recipe as it was written; written out when it was made in memory."""
        return self._source.text if self._source else self.as_yaml()

    def all_steps(self) -> dict[str, Step]:
        """The steps, with the implicit one that brings the recipe's model when some step reads it."""
        from luthier.models.steps.base import Base

        needs = any(MODEL_STEP in self.references(step).values() for step in self.steps.values())
        own = self.steps.get(MODEL_STEP)
        if own is not None and not isinstance(own, Base):
            where, remedy = Where(field=f"steps.{MODEL_STEP}"), "call this step something else"
            raise RecipeError("this name is kept for the recipe's base model", where=where, remedy=remedy)
        if not needs or own is not None:
            return dict(self.steps)
        if self.model is None:
            remedy = "add `model: smollm2-135m-instruct` (`luthier models list` shows others)"
            raise RecipeError("names no model, though steps need one", where=Where(field="model"), remedy=remedy)
        return {MODEL_STEP: Base(source=self.model), **self.steps}

    @staticmethod
    def references(step: Step) -> dict[str, str]:
        """The steps that a step reads, by field; a model left out is the recipe's own."""
        found: dict[str, str] = {}
        for field, mark in step.reads().items():
            value = getattr(step, field)
            if value is not None:
                found[field] = value
            elif mark.makes == "model":
                found[field] = MODEL_STEP
        return found

    def _check_reference(self, name: str, field: str, other: str) -> None:
        where = Where(field=f"steps.{name}.{field}")
        wanted = self.steps[name].reads()[field].makes if name in self.steps else "model"
        steps = self.all_steps()
        if other not in steps:
            able = [key for key, step in steps.items() if step.makes == wanted and key != name]
            raise RecipeError(f"there is no step {other!r}", where=where, remedy=did_you_mean(other, able))
        made = steps[other].makes
        if made != wanted:
            able = [key for key, step in steps.items() if step.makes == wanted]
            message = f"wanted a step that makes a {wanted}; {other!r} makes a {made}"
            raise RecipeError(message, where=where, remedy=did_you_mean(other, able))

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
                ring = [name for name in steps if name not in done]
                where = Where(field=f"steps.{ring[0]}")
                message = f"these steps wait for each other: {', '.join(ring)}"
                raise RecipeError(message, where=where, remedy="let one of them read something else")
            done += ready
        return done

    def as_yaml(self) -> str:
        """The whole recipe with every default written out."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)

    def plan(self) -> Plan:
        """What is cached, what will be made, and what it will cost."""
        from luthier.flow.plan import plan

        return plan(self)

    def run(self, events: Events | None = None) -> Result:
        """Make what is not cached; returns the artifacts by step."""
        from luthier.flow.run import run

        return run(self, events)


def _explain(error: ValidationError, source: SourceText) -> RecipeError:
    """The first thing that is wrong, with its place and remedy, and the places of the others."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = _written_key(first["loc"], source.data)
    context: Mapping[str, Any] = first.get("ctx", {})
    if isinstance(context.get("name"), str) and first["type"] in ("unknown_setting", "number"):
        key = (*key, context["name"])
    if first["type"] == "kind":
        key = (*key, "kind")
    message, remedy = _message(first)
    others = [f"{source.where(_written_key(item['loc'], source.data))}: {_message(item)[0]}" for item in problems[1:6]]
    if others:
        message += f" (and {len(problems) - 1} more: " + "; ".join(others) + ")"
    return RecipeError(message, where=source.where(key), remedy=remedy)


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


def _message(problem: Any) -> tuple[str, str]:
    """A sentence and a remedy for one problem that pydantic found."""
    text, _, remedy = problem["msg"].partition("; ")
    if problem["type"] == "missing":
        return "is required", "add it"
    text = text.removeprefix("Value error, ").replace("Input should be", "wanted")
    if text.startswith("wanted"):
        text += f", came {problem['input']!r}"[:200]
    return text, remedy


def _placed(error: LuthierError, source: SourceText) -> LuthierError:
    """The same error with its line in the recipe."""
    if error.where.file is not None or error.where.field is None:
        return error
    key: Key = tuple(int(part) if part.isdigit() else part for part in error.where.field.split("."))
    return type(error)(error.message, where=source.where(key), remedy=error.remedy)


__all__ = ["MODEL_STEP", "Recipe", "dotted"]

"""What a search tries: for each technique the settings with their distributions, and the steps that settings make.

`over` of the step `search` maps a dotted path to what is tried: a list of values, bounds (`{low, high, log, integer}`,
of which those left out are the part's own), or `auto`, which is what the part's own search space says. `technique:
[lora, plain]` opens a branch for each technique, which brings its own search space and learning rate; other entries
narrow or widen it, and a list of one value fixes a setting. With nothing in `over`, the searched step's technique,
objective and optimizer are searched with their own spaces. In a list of parts a kind stands for the part:
`data.ops.quality: [true, false]` tries the operator and its absence. A setting of an absent operator changes nothing,
and settings that differ in such alone are one trial.

The settings of a trial are flat: `{"technique": "lora", "technique.r": 16, "data.ops.quality": true}`. Validation and
test rows are those of the searched step's own data, before any option; an option that decides who is held out is
refused, and rows that a trial may not learn are told by `luthier.auto.search.leaks`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from luthier.auto.search.paths import (
    OF,
    SettingChange,
    check_value,
    describe_refusal,
    get_owner,
    iter_differences,
    locate_setting,
    read_setting,
    refuse_path,
    replace_component,
    write_setting,
)
from luthier.core.component import Component
from luthier.core.errors import LuthierError, RecipeError, SourceLocation, did_you_mean
from luthier.core.hashing import digest_of
from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.core.step import Step
from luthier.data.ops.exclude_ids import ExcludeIds
from luthier.data.steps.prepare import Prepare
from luthier.models.describe import ModelDescription
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import StandaloneTechnique, Technique, TechniqueBase

TECHNIQUE, RATE, AUTO = "technique", "learning_rate", "auto"
_BOUNDS = ("low", "high", "log", "integer")
_FREE = ("objective", "optimizer")
"""Parts besides the technique that are searched by default."""
_LOOKED_AT = 256
"""Maximum number of settings tried before a space counts as empty."""
Settings = Mapping[str, Any]
Branch = Mapping[str, ParamDistribution]


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search may try, by technique, and how they change the searched step and what it reads."""

    of: Tune
    """The searched step: trial 0."""
    steps: Mapping[str, Step]
    """The steps of the recipe, by name."""
    techniques: Mapping[str, TechniqueBase]
    """The technique of each kind that is tried, with the settings that are not searched."""
    branches: Mapping[str, Branch] = field(default_factory=dict)
    """By technique, what is tried of each path."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Techniques that were asked for and cannot be had, each with the reason."""
    model: ModelDescription | None = None
    """The base model, where it is known: then what cannot go with it is not tried."""
    named: frozenset[str] = frozenset()
    """The paths that `over` names."""

    @classmethod
    def build(
        cls, of: Tune, over: Mapping[str, Any], steps: Mapping[str, Step], model: ModelDescription | None = None
    ) -> SearchSpace:
        """The space of `over`; `RecipeError` with the path where it cannot be had."""
        named = {path: tried for path, tried in over.items() if path != TECHNIQUE}
        techniques = _read_techniques(of, over.get(TECHNIQUE, AUTO))
        space = cls(of, steps, techniques, model=model, named=frozenset(named))
        for path in named:
            locate_setting(of, steps, path)
        branches: dict[str, Branch] = {}
        refused: dict[str, str] = {}
        errors: dict[str, RecipeError] = {}
        taken: set[str] = set()
        for kind in space.techniques:
            if (why := space._refuses_always(kind, named)) and kind != of.technique.kind:
                refused[kind] = why
                continue
            branch = space._own_branch(kind, over)
            for path, tried in named.items():
                if not space._is_used(kind, path):
                    continue
                try:
                    branch |= space._read_tried(kind, path, tried)
                    taken.add(path)
                except RecipeError as error:
                    if not path.startswith(f"{TECHNIQUE}."):
                        raise
                    errors.setdefault(path, error)
            branches[kind] = branch
        if not branches:
            what = "; ".join(f"{kind}: {why}" for kind, why in refused.items())
            raise refuse_path(TECHNIQUE, f"leaves nothing to try: {what}", "name another technique")
        for path in named:
            if path not in taken:
                hint = "leave it out, or try a technique that has it"
                raise errors.get(path) or refuse_path(path, f"changes nothing under {', '.join(branches)}", hint)
        search_space = replace(space, branches=branches, refused=refused)
        search_space._check_points()
        return search_space

    @property
    def default(self) -> Settings:
        """The settings of the searched step itself, of every path that is tried and that it has."""
        found: dict[str, Any] = {TECHNIQUE: self.of.technique.kind}
        for path in dict.fromkeys(path for branch in self.branches.values() for path in branch):
            if not self._is_used(self.of.technique.kind, path):
                continue
            try:
                found[path] = self._read_setting(self.of, path)
            except RecipeError:  # a field of another technique, or of a part that is not there
                continue
            if path == RATE and found[path] == AUTO:
                found[path] = self._auto_rate(self.of) or AUTO
        return found

    def begin(self, kind: str) -> Settings:
        """The settings of the searched step with a technique of its branches, at the learning rate that is its own."""
        of = self._with_technique(kind).model_copy(update={RATE: AUTO})
        found: dict[str, Any] = {TECHNIQUE: kind}
        for path in self.branches[kind]:
            try:
                found[path] = self._read_setting(of, path)
            except RecipeError:  # a field of a part that is not there
                continue
            if path == RATE:
                found[path] = self._auto_rate(of) or AUTO
        return found

    def apply(self, settings: Settings) -> Mapping[str, Step]:
        """The steps that settings make: `of`, and by their names those of its data that change.

        `RecipeError` where a part refuses its settings, or where technique, objective and model do not go together.
        """
        trees: dict[str, SettingChange] = {OF: SettingChange()}
        kind = settings.get(TECHNIQUE, self.of.technique.kind)
        for path, value in settings.items():
            if path == TECHNIQUE or not self._is_used(kind, path):
                continue
            step, segments = locate_setting(self.of, self.steps, path)
            trees.setdefault(step, SettingChange()).add(segments, value)
        base = self._with_technique(kind)
        trees[OF].inner.setdefault(TECHNIQUE, SettingChange()).values = [base.technique]
        unused = frozenset(name for name in base.model_fields_set if not self._is_used(kind, name))
        try:
            changed = {
                name: replace_component(
                    self._step(name, self.of), tree.inner, without=unused if name == OF else frozenset()
                )
                for name, tree in trees.items()
            }
        except ValidationError as error:
            raise RecipeError(describe_refusal(error), where=SourceLocation(field="over")) from error
        of = changed[OF]
        if self.of.learning_rate == AUTO and RATE in settings and settings[RATE] == self._auto_rate(of):
            changed[OF] = of = of.model_copy(update={RATE: AUTO})
        if self.model is not None and (why := of.technique.refuses(of.objective.kind, self.model)):
            what = f"{of.technique.kind} and {of.objective.kind} do not go together: {why}"
            raise RecipeError(what, where=SourceLocation(field=f"over.{TECHNIQUE}"))
        return {name: step for name, step in changed.items() if name == OF or step != self.steps[name]}

    def refuses(self, settings: Settings) -> str:
        """Return why settings are invalid; empty where they are valid."""
        try:
            self.apply(settings)
        except LuthierError as error:
            return describe_refusal(error)
        return ""

    def identify(self, settings: Settings) -> str:
        """What names the training that settings make: equal where they differ in what changes nothing, such as a
        setting of an operator that is taken out. `RecipeError` as `apply`."""
        hashed = {name: step.hashed_settings() for name, step in self.apply(settings).items()}
        return digest_of(
            {name: entry for name, entry in hashed.items() if name == OF or entry != self.steps[name].hashed_settings()}
        )

    def overrides(self, settings: Settings) -> list[str]:
        """Return the changes as overrides of `luthier run`: `steps.tune.technique.r=16`."""
        return [
            f"steps.{self.name if name == OF else name}.{path}={write_override(write_setting(value))}"
            for name, step in self.apply(settings).items()
            for path, value in iter_differences(self._step(name, self.of), step)
        ]

    def exclude_rows(self, made: Mapping[str, Step], ids: Collection[str]) -> Mapping[str, Step]:
        """What `apply` made, with every step `prepare` behind it leaving out some rows after all its operators, so that
        a twin of such a row is not kept in its place."""
        excluded = ExcludeIds(ids=tuple(sorted(ids)), reason="held out by the searched step")
        found, waiting = {**made}, [made[OF]]
        while waiting:
            step = waiting.pop(0)
            for name in _read_data_sets(step):
                upstream = found.get(name, self.steps[name])
                waiting.append(upstream)
                if isinstance(upstream, Prepare) and excluded not in upstream.ops:
                    change = {"ops": SettingChange([(*upstream.ops, excluded)])}
                    found[name] = replace_component(upstream, change)
        return found

    @property
    def name(self) -> str:
        """The searched step's name in the recipe."""
        found = [name for name, step in self.steps.items() if step is self.of]
        found += [name for name, step in self.steps.items() if step == self.of]
        if not found:
            raise RecipeError("the searched step is none of the recipe's", hint=did_you_mean("", self.steps))
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Branches, the settings of the searched step and refused techniques, as `search.json` holds them."""
        branches = {
            kind: {path: distribution.to_json() for path, distribution in branch.items()}
            for kind, branch in self.branches.items()
        }
        default = {path: write_setting(value) for path, value in self.default.items()}
        return {"branches": branches, "default": default, "refused": dict(self.refused)}

    def _step(self, name: str, of: Tune) -> Step:
        return of if name == OF else self.steps[name]

    def _read_setting(self, of: Tune, path: str) -> Any:
        step, segments = locate_setting(of, self.steps, path)
        return read_setting(self._step(step, of), segments, path)

    def _with_technique(self, kind: str) -> Tune:
        """The searched step with another technique, as it stands: nothing is checked."""
        technique = self.of.technique if kind == self.of.technique.kind else self.techniques.get(kind)
        if technique is None:
            hint = did_you_mean(str(kind), self.techniques)
            raise RecipeError(f"technique {kind!r} is not searched", where=SourceLocation(field="over"), hint=hint)
        return self.of.model_copy(update={TECHNIQUE: technique})

    def _is_used(self, kind: str, path: str) -> bool:
        """Return whether a setting has an effect under a technique."""
        technique = self.techniques.get(kind, self.of.technique)
        return not isinstance(technique, StandaloneTechnique) or path.partition(".")[0] in technique.used

    def _auto_rate(self, of: Tune) -> float | None:
        """Return the value of `auto` for the learning rate; None where the model is unknown, or nothing is trained by
        steps.
        """
        if self.model is None or not isinstance(of.technique, Technique):
            return None
        return of.model_copy(update={RATE: AUTO}).rate_for(of.technique, self.model).value

    def _own_branch(self, kind: str, over: Mapping[str, Any]) -> dict[str, ParamDistribution]:
        """Return the parts' own search spaces: the technique's where techniques are listed, all where nothing is."""
        if over and TECHNIQUE not in over:
            return {}
        of = self._with_technique(kind)
        offered = of.search_space()
        found = {RATE: offered[RATE]} if RATE in offered else {}
        found |= {
            f"{TECHNIQUE}.{name}": distribution
            for name, distribution in of.technique.search_space().items()
            if name != RATE
        }
        if not over:
            for part in _FREE:
                space = getattr(of, part).search_space() if self._is_used(kind, part) else {}
                found |= {f"{part}.{name}": entry for name, entry in space.items()}
        return {path: self._include_own(of, path, distribution) for path, distribution in found.items()}

    def _include_own(self, of: Tune, path: str, offered: ParamDistribution) -> ParamDistribution:
        """Return a part's search space, with the searched step's own value."""
        try:
            own = self._read_setting(of, path)
        except RecipeError:  # of a part that only the search adds
            return offered
        is_own = of.technique.kind == self.of.technique.kind
        if offered.contains(own) or not is_own or (own == AUTO and not offered.values):
            return offered
        if offered.values:
            values = list_unique_values((*offered.values, own))
            is_ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            return replace(offered, values=tuple(sorted(values)) if is_ordered else values)
        if isinstance(own, bool) or not isinstance(own, int | float):
            return offered
        if offered.log and own <= 0:
            return offered
        return replace(offered, low=min(offered.low, own), high=max(offered.high, own))

    def _read_tried(self, kind: str, path: str, tried: Any) -> dict[str, ParamDistribution]:
        """The distributions of one entry of `over`; of a part that is `auto`, one for each field that it offers."""
        of = self._with_technique(kind)
        step_name, segments = locate_setting(of, self.steps, path)
        step = self._step(step_name, of)
        if tried == AUTO:
            return {
                name: self._include_own(of, name, distribution)
                for name, distribution in self._list_offered_settings(step, segments, path).items()
            }
        if not segments:
            raise refuse_path(path, "is a whole step", "name a setting in it, or write `auto`")
        if isinstance(tried, Mapping):
            return {path: self._read_bounds(step, segments, path, tried)}
        if not isinstance(tried, list | tuple):
            what = f"expects a list of values, bounds such as {{low: 1, high: 8}}, or auto, got {tried!r}"
            raise refuse_path(path, what, f"write [{tried}] to fix it")
        if not tried:
            raise refuse_path(path, "has an empty list", "name the values to try")
        owner = self._owner(step, segments, path)
        for value in tried:
            check_value(owner, segments[-1], value, path)
        return {path: _distribution(path, values=tuple(tried))}

    def _owner(self, step: Step, segments: Sequence[str], path: str) -> Any:
        """Return the part with a setting; a part that only the search adds has default settings."""
        change = SettingChange()
        for known in self.named:
            if path.startswith(f"{known}."):
                _, inside = locate_setting(self.of, self.steps, known)
                if isinstance(get_owner(step, inside, known), tuple) and not read_setting(step, inside, known):
                    change.add(inside, value=True)
        whole: Step = replace_component(step, change.inner) if change.inner else step
        read_setting(whole, segments, path)
        return get_owner(whole, segments, path)

    def _list_offered_settings(self, step: Step, segments: Sequence[str], path: str) -> dict[str, ParamDistribution]:
        """Return the search space of the part at a path, or of the part with the field."""
        part: Any = step
        if segments:
            owner = self._owner(step, segments, path)
            part = owner[_index(owner, segments[-1])] if isinstance(owner, tuple) else getattr(owner, segments[-1])
            if not isinstance(part, Component):
                space = owner.search_space() if isinstance(owner, Component) else {}
                if segments[-1] not in space:
                    raise refuse_path(path, "has no range of its own", "write a list of values, or {low, high}")
                return {path: space[segments[-1]]}
        space = part.search_space()
        if not space:
            raise refuse_path(path, f"has no search space: {part.kind} offers nothing", "write what is to be tried")
        return {f"{path}.{name}": entry for name, entry in space.items()}

    def _read_bounds(
        self, step: Step, segments: Sequence[str], path: str, tried: Mapping[str, Any]
    ) -> ParamDistribution:
        if unknown := next((name for name in tried if name not in _BOUNDS), None):
            raise refuse_path(path, f"has no bound {unknown!r}", did_you_mean(str(unknown), _BOUNDS))
        owner = self._owner(step, segments, path)
        if isinstance(owner, tuple):
            raise refuse_path(path, "is a part, which has no bounds", "write [true, false]")
        offered = owner.search_space() if isinstance(owner, Component) else {}
        own = offered.get(segments[-1])
        bounds = dict(own.to_json()) if own is not None and not own.values else {}
        bounds |= tried
        for name in ("low", "high"):
            if isinstance(bounds.get(name), bool) or not isinstance(bounds.get(name), int | float):
                raise refuse_path(
                    path, f"wants a number as `{name}`, got {bounds.get(name)!r}", "write {low: 1, high: 8}"
                )
            check_value(owner, segments[-1], bounds[name], path)
        if bounds["low"] == bounds["high"] and own is not None:
            return ParamDistribution(values=(bounds["low"],))
        if "integer" not in tried and all(isinstance(bounds[name], int) for name in ("low", "high")):
            bounds["integer"] = _is_whole(owner, segments[-1], bounds["low"] + 0.5, path)
        return _distribution(path, **bounds)

    def _refuses_always(self, kind: str, named: Mapping[str, Any]) -> str:
        """Return why a technique is invalid with the searched step, whatever the other listed values are."""
        why = self.refuses({TECHNIQUE: kind})
        if not why:
            return ""
        for path, tried in named.items():
            for value in tried if isinstance(tried, list | tuple) else ():
                if self._is_used(kind, path) and not self.refuses({TECHNIQUE: kind, path: value}):
                    return ""
        return why

    def _check_points(self) -> None:
        """`RecipeError` where entries contradict each other, so that no setting is accepted, in any branch."""
        why = ""
        for kind, branch in self.branches.items():
            for point in _sample_corners(branch):
                if not (refusal := self.refuses({TECHNIQUE: kind, **point})):
                    return
                why = why or refusal
        where = SourceLocation(field="over")
        raise RecipeError(f"no setting is accepted: {why}", where=where, hint="let the entries go together")


def _read_data_sets(step: Step) -> list[str]:
    """The names of the steps whose data sets a step reads."""
    found: list[str] = []
    for field_name, mark in step.reads().items():
        value = getattr(step, field_name)
        if mark.makes == "dataset" and value is not None:
            found += value if isinstance(value, tuple) else [value]
    return found


def _sample_corners(branch: Branch) -> Iterator[dict[str, Any]]:
    """Settings of listed values and bounds: all of them where they are few, otherwise some, always the same."""
    ends = [_list_end_points(distribution) for distribution in branch.values()]
    if math.prod(map(len, ends)) <= _LOOKED_AT:
        yield from (dict(zip(branch, point, strict=True)) for point in itertools.product(*ends))
        return
    draw = random.Random(0)  # no secret
    for _ in range(_LOOKED_AT):
        yield {path: draw.choice(some) for path, some in zip(branch, ends, strict=True)}


def _read_techniques(of: Tune, tried: Any) -> dict[str, TechniqueBase]:
    """Return the techniques by kind, with the searched step's own settings."""
    if tried == AUTO:
        return {of.technique.kind: of.technique}
    if not isinstance(tried, list | tuple) or not tried:
        raise refuse_path(TECHNIQUE, f"expects a list of techniques, got {tried!r}", "write [lora, plain]")
    found: dict[str, TechniqueBase] = {}
    for entry in tried:
        if entry == of.technique.kind:
            technique = of.technique
        else:
            try:
                technique = TypeAdapter(TechniqueBase).validate_python(entry)
            except ValidationError as error:
                raise refuse_path(TECHNIQUE, f"does not take {entry!r}: {describe_refusal(error)}") from error
        if technique.kind in found:
            raise refuse_path(TECHNIQUE, f"names {technique.kind} twice", "keep one of them")
        found[technique.kind] = technique
    return found


def _distribution(path: str, **given: Any) -> ParamDistribution:
    try:
        return ParamDistribution(**given)
    except ValueError as error:
        raise refuse_path(path, f"is no range: {error}", "write {low: 1, high: 8}, or a list of values") from error


def _list_end_points(distribution: ParamDistribution) -> Sequence[Any]:
    if distribution.values:
        return distribution.values
    ends = (distribution.low, distribution.high)
    return tuple(map(int, ends)) if distribution.integer else ends


def _is_whole(owner: Any, name: str, between: float, path: str) -> bool:
    """Return whether a field is an integer."""
    try:
        check_value(owner, name, between, path)
    except RecipeError:
        return True
    return False


def write_override(value: Any) -> str:
    """A value as an override has it: YAML in one line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def _index(parts: Sequence[Component], segment: str) -> int:
    return int(segment) if segment.isdigit() else next(i for i, part in enumerate(parts) if part.kind == segment)

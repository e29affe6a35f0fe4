"""From a YAML file of the harness to the settings of one or more tasks: `include`, groups, tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.eval.lm_eval.config import Config, FunctionName, parse_task_config


@dataclass(frozen=True, kw_only=True)
class HarnessTaskSpec:
    """One task, where it stands, and the groups that it belongs to, the outermost first."""

    config: Config
    file: Path
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HarnessTaskCollection:
    """All tasks that a file names, and every file that was read on the way."""

    tasks: tuple[HarnessTaskSpec, ...]
    files: tuple[Path, ...]


def load_harness_tasks(file: Path) -> HarnessTaskCollection:
    """Read a task's or a group's file; members of a group are looked for below the file's folder."""
    reader = _Reader(file.parent)
    tasks = tuple(reader.tasks(reader.read(file), file, ()))
    names = [task.config.task for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"task {twice!r} is named twice", where=SourceLocation(file=str(file), field="task"))
    return HarnessTaskCollection(tasks=tasks, files=tuple(sorted(reader.visited)))


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.visited: set[Path] = set()
        self._names: dict[str, list[Path]] | None = None

    def read(self, file: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
        """A file's settings, those that it includes first."""
        if file in above:
            raise RecipeError("includes itself", where=SourceLocation(file=str(file), field="include"))
        settings = dict(_yaml(file))
        self.visited.add(file)
        included = settings.pop("include", [])
        merged: dict[str, Any] = {}
        for name in included if isinstance(included, list) else [included]:
            inner = self.read((file.parent / str(name)).resolve(), [*above, file])
            merged |= {key: value for key, value in inner.items() if key != "task_list"}
        return merged | settings

    def tasks(self, settings: dict[str, Any], file: Path, groups: tuple[str, ...]) -> Iterator[HarnessTaskSpec]:
        """The tasks of a file's settings."""
        members = settings.get("task")
        if not isinstance(members, list):
            yield HarnessTaskSpec(config=parse_task_config(settings, file), file=file, groups=groups)
            return
        self._refuse_unweighted(settings, file)
        mine = (*groups, str(settings.get("group") or file.stem))
        for member in members:
            own = {"task": member} if isinstance(member, str) else dict(member)
            yield from self._member(own, file, mine)

    def _member(self, own: dict[str, Any], file: Path, groups: tuple[str, ...]) -> Iterator[HarnessTaskSpec]:
        if "group" in own or isinstance(own.get("task"), list):
            yield from self.tasks(own, file, groups)
            return
        name = str(own.pop("task", ""))
        found = self._files(name)
        if not found:
            hint = did_you_mean(name, self._named())
            what = f"no file below {self._folder.name}/ holds the task {name!r}"
            raise RecipeError(what, where=SourceLocation(file=str(file), field="task"), hint=hint)
        for path in found:
            settings = self.read(path)
            alone = not isinstance(settings.get("task"), list)
            yield from self.tasks({**settings, **own} if alone else settings, path, groups)

    def _files(self, name: str) -> list[Path]:
        return self._named().get(name, [])

    def _named(self) -> dict[str, list[Path]]:
        """Files below the folder by the name of their task, group or tag."""
        if self._names is None:
            self._names = {}
            for path in sorted(self._folder.rglob("*.y*ml")):
                for name in _names(_yaml(path)):
                    self._names.setdefault(name, []).append(path)
        return self._names

    def _refuse_unweighted(self, settings: dict[str, Any], file: Path) -> None:
        for one in settings.get("aggregate_metric_list") or []:
            if not one.get("weight_by_size", True):
                what = "a group's score here is that of all its rows together, not the mean of its tasks' scores"
                raise RecipeError(
                    what, where=SourceLocation(file=str(file), field="aggregate_metric_list.weight_by_size")
                )


def _names(settings: dict[str, Any]) -> list[str]:
    named = [settings[key] for key in ("task", "group") if isinstance(settings.get(key), str)]
    if isinstance(settings.get("task"), list):
        return [str(settings["group"])] if isinstance(settings.get("group"), str) else []
    tags = settings.get("tag") or []
    return [*named, *([tags] if isinstance(tags, str) else tags)]


class _Loader(yaml.SafeLoader):
    """Safe, and aware that a file may call for a function, which is not looked for."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> FunctionName:
    return FunctionName(loader.construct_scalar(node))  # type: ignore[arg-type]  # refused below when it is no scalar


_Loader.add_constructor("!function", _function)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe loader's subclass
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=SourceLocation(file=str(file))) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = mark.line + 1 if (mark := getattr(error, "problem_mark", None)) else None
        raise RecipeError("is not YAML", where=SourceLocation(file=str(file), line=line)) from error
    if not isinstance(settings, dict):
        raise RecipeError("expected the settings of a task or group", where=SourceLocation(file=str(file)))
    return settings

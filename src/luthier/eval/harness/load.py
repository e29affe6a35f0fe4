"""From a YAML file of the harness to the settings of one or more tasks: `include`, groups, tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.eval.harness.config import Code, Config, read


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One task, where it stands, and the groups that it belongs to, the outermost first."""

    config: Config
    file: Path
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Book:
    """All tasks that a file names, and every file that was read on the way."""

    tasks: tuple[Loaded, ...]
    files: tuple[Path, ...]


def load(file: Path) -> Book:
    """Read a task's or a group's file; members of a group are looked for below the file's folder."""
    reader = _Reader(file.parent)
    tasks = tuple(reader.tasks(reader.read(file), file, ()))
    names = [task.config.task for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"task {twice!r} is named twice", where=Where(file=str(file), field="task"))
    return Book(tasks=tasks, files=tuple(sorted(reader.seen)))


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: set[Path] = set()
        self._names: dict[str, list[Path]] | None = None

    def read(self, file: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
        """A file's settings, those that it includes first."""
        if file in above:
            raise RecipeError("includes itself", where=Where(file=str(file), field="include"))
        told = dict(_yaml(file))
        self.seen.add(file)
        included = told.pop("include", [])
        merged: dict[str, Any] = {}
        for name in included if isinstance(included, list) else [included]:
            inner = self.read((file.parent / str(name)).resolve(), [*above, file])
            merged |= {key: value for key, value in inner.items() if key != "task_list"}
        return merged | told

    def tasks(self, told: dict[str, Any], file: Path, groups: tuple[str, ...]) -> Iterator[Loaded]:
        """The tasks of a file's settings."""
        members = told.get("task")
        if not isinstance(members, list):
            yield Loaded(config=read(told, file), file=file, groups=groups)
            return
        self._refuse_unweighted(told, file)
        mine = (*groups, str(told.get("group") or file.stem))
        for member in members:
            own = {"task": member} if isinstance(member, str) else dict(member)
            yield from self._member(own, file, mine)

    def _member(self, own: dict[str, Any], file: Path, groups: tuple[str, ...]) -> Iterator[Loaded]:
        if "group" in own or isinstance(own.get("task"), list):
            yield from self.tasks(own, file, groups)
            return
        name = str(own.pop("task", ""))
        found = self._files(name)
        if not found:
            remedy = did_you_mean(name, self._named())
            what = f"no file below {self._folder.name}/ holds the task {name!r}"
            raise RecipeError(what, where=Where(file=str(file), field="task"), remedy=remedy)
        for path in found:
            told = self.read(path)
            alone = not isinstance(told.get("task"), list)
            yield from self.tasks({**told, **own} if alone else told, path, groups)

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

    def _refuse_unweighted(self, told: dict[str, Any], file: Path) -> None:
        for one in told.get("aggregate_metric_list") or []:
            if not one.get("weight_by_size", True):
                what = "a group's score here is that of all its rows together, not the mean of its tasks' scores"
                raise RecipeError(what, where=Where(file=str(file), field="aggregate_metric_list.weight_by_size"))


def _names(told: dict[str, Any]) -> list[str]:
    named = [told[key] for key in ("task", "group") if isinstance(told.get(key), str)]
    if isinstance(told.get("task"), list):
        return [str(told["group"])] if isinstance(told.get("group"), str) else []
    tags = told.get("tag") or []
    return [*named, *([tags] if isinstance(tags, str) else tags)]


class _Loader(yaml.SafeLoader):
    """Safe, and aware that a file may call for a function, which is not looked for."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> Code:
    return Code(loader.construct_scalar(node))  # type: ignore[arg-type]  # refused below when it is no scalar


_Loader.add_constructor("!function", _function)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        told = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe loader's subclass
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=Where(file=str(file))) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = mark.line + 1 if (mark := getattr(error, "problem_mark", None)) else None
        raise RecipeError("is not YAML", where=Where(file=str(file), line=line)) from error
    if not isinstance(told, dict):
        raise RecipeError("expected the settings of a task or group", where=Where(file=str(file)))
    return told

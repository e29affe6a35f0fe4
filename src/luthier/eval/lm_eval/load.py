"""lm-evaluation-harness tasks by name or YAML file, with local rows; the hub is never contacted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import yaml
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.api.group import Group
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from luthier.core.errors import DataError, LuthierError, RecipeError, SourceLocation, did_you_mean
from luthier.eval.lm_eval.data_files import find_rows, list_named_files

_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, TemplateError, yaml.YAMLError, DatasetsError),
)
"""Exceptions of the library, or of a task's own code, for unusable files and rows."""


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Source of tasks."""

    file: Path | None
    """The YAML file of a task or a group."""
    name: str
    """Else a task, group or tag of the library's, or of `include_path`."""
    include_path: Path | None
    """A folder of further YAML files."""
    data: Path | None
    """The rows; None where the task's file names them."""
    num_fewshot: int | None

    @property
    def where(self) -> SourceLocation:
        """The file or the setting that names the tasks."""
        return SourceLocation(field="task") if self.file is None else SourceLocation(file=str(self.file))


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """One task with its rows, and its groups, outermost first."""

    task: Task
    groups: tuple[str, ...] = ()
    equal_groups: frozenset[str] = frozenset()
    """Groups whose score is the unweighted mean of their tasks."""


def load_tasks(source: TaskSource) -> list[LoadedTask]:
    """Load the tasks of a file or name; `RecipeError` or `DataError` for what the library cannot use."""
    with TemporaryDirectory(prefix="luthier.lm_eval.") as scratch, run_library(source.where):
        manager, spec = _open(source)
        manager._factory = _LocalFactory(source, Path(scratch))
        found = manager.load([spec])
    groups = list(found["groups"].values())
    loaded = [
        LoadedTask(
            task=task,
            groups=tuple(entry.name for entry in mine),
            equal_groups=frozenset(entry.name for entry in mine if _counts_tasks_alike(entry)),
        )
        for task in found["tasks"].values()
        for mine in [[group for group in groups if any(task is each for each in group.get_all_tasks())]]
    ]
    for loaded_task in loaded:
        _refuse(loaded_task.task, source.where)
    return loaded


@contextmanager
def run_library(where: SourceLocation) -> Iterator[None]:
    """Run the library without the hub, without its progress bars, and with its faults as errors of ours."""
    log = logging.getLogger("lm_eval")
    level = log.level
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stderr(nowhere),
        patch("datasets.config.HF_HUB_OFFLINE", True),
        patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
    ):
        log.setLevel(logging.CRITICAL)
        try:
            yield
        except LuthierError:
            raise
        except (DatasetsError, ConnectionError) as error:
            what = f"its rows cannot be read: {_innermost(error)}"
            hint = "fetch them first with `datasets`, or name their files in the task's `data`"
            raise DataError(what, where=where, hint=hint) from error
        except _FAULTS as error:
            what = f"lm-evaluation-harness cannot use it: {type(error).__name__}: {str(error)[:300]}"
            raise RecipeError(what, where=where) from error
        finally:
            log.setLevel(level)


def list_files(source: TaskSource) -> list[Path]:
    """Return every user file that determines the requests: YAML files, their code, and rows."""
    paths = set() if source.data is None else {*_below(source.data)}
    if source.include_path is not None:
        paths |= {path for path in _below(source.include_path) if path.suffix in (".yaml", ".py")}
    if source.file is not None:
        with run_library(source.where):
            for config, file in _configs(source.file, load_yaml(source.file, resolve_func=False)):
                paths |= {*_included(file), *_code(config)}
                paths |= set() if source.data is not None else {*list_named_files(config, file)}
    return sorted(paths)


def needs_hub_cache(source: TaskSource) -> bool:
    """Return whether rows come from the hub cache."""
    if source.data is not None:
        return False
    if source.file is None:
        return True
    with run_library(source.where):
        configs = _configs(source.file, load_yaml(source.file, resolve_func=False))
        return any(not _members(config) and not list_named_files(config, file) for config, file in configs)


def list_fetched() -> list[str]:
    """Return the data sets in `datasets`' hub cache: name and revision."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    found = [f"{ref.parts[-3]} {ref.read_text('utf-8')}" for ref in Path(HF_HUB_CACHE).glob("datasets--*/refs/*")]
    return sorted([*found, *(path.as_posix() for path in Path(HF_DATASETS_CACHE).glob("*/*/*/*"))])


class _LocalFactory(TaskFactory):  # type: ignore[misc]  # the library is not typed
    """Makes tasks as the library does, with rows from files on this machine."""

    def __init__(self, source: TaskSource, scratch: Path) -> None:
        super().__init__()
        self._source, self._scratch = source, scratch

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        if not isinstance(config.get("task"), str):
            return config
        rows = find_rows(config, entry.yaml_path, self._source, self._scratch)
        if "class" in config:
            return {**config, "class": _with_rows(config["class"], rows)} if rows else config
        for item in () if config.get("process_results") else config.get("metric_list") or ():
            if isinstance(item.get("metric"), str) and not item.get("hf_evaluate") and "aggregation" not in item:
                _check_metric(item["metric"], config["task"], self._source.where)
        return {**config, **rows}


def _with_rows(kind: type[Task], rows: dict[str, Any]) -> type[Task]:
    """A task that is a class of its own, with rows from files in place of those that it would fetch."""

    def download(self: Task, *_: Any, **__: Any) -> None:
        self.dataset = load_dataset(rows["dataset_path"], **rows["dataset_kwargs"])

    return type(kind.__name__, (kind,), {"download": download})


def _open(source: TaskSource) -> tuple[TaskManager, str]:
    """Open a task manager for a file or name; the library's own 14,000 tasks are read where needed."""
    name, folders = source.name, [source.include_path] if source.include_path is not None else []
    if source.file is not None:
        config = load_yaml(source.file, resolve_func=False)
        if isinstance(config.get("task"), str):
            return TaskManager(include_defaults=False), str(source.file)
        name, folders = str(config.get("group")), [*folders, source.file.parent]
    if folders:
        manager = TaskManager(include_path=folders, include_defaults=False)
        known = manager.task_index.get(name)
        if source.file is not None and (known is None or known.yaml_path != source.file):
            what = f"another file has the group {name!r}" if known else "names no task, and no `group` with its tasks"
            raise RecipeError(what, where=source.where)
        if known is not None and not _missing(known.cfg or {}, manager):
            return manager, name
    manager = TaskManager(include_path=folders) if folders else _library()
    config = {"task": [name]} if name not in manager.task_index else manager.task_index[name].cfg or {}
    if missing := _missing(config, manager):
        hint = did_you_mean(missing[0], manager.all_tasks)
        raise RecipeError(f"no task of lm-evaluation-harness is named {missing[0]!r}", where=source.where, hint=hint)
    return manager, name


@cache
def _library() -> TaskManager:
    """The library's own tasks: reading their files takes some 20 seconds."""
    return TaskManager()


def _missing(config: dict[str, Any], manager: TaskManager) -> list[str]:
    """Members of a group that are not known, those of groups in it included; a member may be a whole task."""
    found = []
    for member in _members(config):
        name, known = member.get("group") or member.get("task"), manager.task_index
        if isinstance(name, str) and name in known:
            found += _missing(known[name].cfg or {}, manager)
        elif isinstance(member.get("task"), list):
            found += _missing(member, manager)
        elif "output_type" not in member:
            found.append(str(name))
    return found


def _members(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a group's members, as settings."""
    members = config.get("task")
    return (
        [{"task": member} if isinstance(member, str) else member for member in members]
        if isinstance(members, list)
        else []
    )


def _configs(file: Path, config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Path]]:
    """The settings of a file, and of all files that a group takes tasks from, with where they stand."""
    yield config, file
    if not _members(config):
        return
    index, waiting = TaskIndex.build([file.parent]), _members(config)
    visited = set[str]()
    while waiting:
        member = waiting.pop()
        waiting += _members(member)
        name = str(member.get("group") or member.get("task"))
        entry = None if name in visited else index.get(name)
        visited.add(name)
        if entry is not None:
            waiting += [{"task": tagged} for tagged in entry.tags if entry.yaml_path is None]
            if entry.yaml_path is not None:
                waiting += _members(entry.cfg or {})
                yield {**(entry.cfg or {}), **member}, entry.yaml_path


def _included(file: Path) -> Iterator[Path]:
    """A YAML file and those that it includes."""
    yield file
    included = load_yaml(file, resolve_func=False, recursive=False).get("include", [])
    for name in included if isinstance(included, list) else [included]:
        yield from _included((file.parent / str(name)).resolve())


def _code(value: Any) -> Iterator[Path]:
    """Python files in the folders of functions that settings call for."""
    if isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _code(inside)
    elif isinstance(value, str) and value.startswith("/"):
        module = Path(f"{value.rpartition('.')[0]}.py")
        if module.is_file():
            yield from module.parent.glob("*.py")


def _below(folder: Path) -> Iterator[Path]:
    if not folder.exists():
        raise DataError("is not there", where=SourceLocation(file=str(folder)))
    yield from [folder] if folder.is_file() else (path for path in folder.rglob("*") if path.is_file())


def _counts_tasks_alike(group: Group) -> bool:
    return any(not entry.weight_by_size for entry in group.aggregate_metric_list or ())


def _refuse(task: Task, where: SourceLocation) -> None:
    """`RecipeError` for a task that cannot be asked here."""
    name = task.task_name
    if getattr(task, "UNSAFE_CODE", False):
        raise RecipeError(f"{name} runs code that models write, which is never done here", where=where)
    if getattr(task, "MULTIMODAL", False):
        raise RecipeError(f"{name} shows images or plays sounds", where=where, hint="only text is asked here")
    if not callable(getattr(task.config, "process_results", None)):
        for metric, verb in getattr(task, "_metric_fn_list", {}).items():
            if verb is None:
                _check_metric(metric, name, where)


def _check_metric(metric: str, name: str, where: SourceLocation) -> None:
    if metric not in metric_registry:
        what = f"{name} is measured by {metric!r}, which is none of the library's metrics"
        raise RecipeError(what, where=where, hint=did_you_mean(metric, sorted(metric_registry)))


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)[:300]

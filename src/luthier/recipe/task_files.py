"""The files that a step reads from outside the recipe, for a job that does not see the folder of the recipe.

They go into a store behind a URL under the digest of their bytes (`URL/files/XXH3`), and the task names them by their
paths from the recipe's folder. The job uses them where they are, if it sees the same ones there; else it puts them into
a folder of its own, which then is the recipe's. A base model from outside the recipe's folder goes into the store as
the artifact that the run has made of it. Nothing else from there can travel: it is refused before anything is
submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from luthier.core.component import iter_components_with_paths
from luthier.core.errors import InputError, SourceLocation
from luthier.core.hashing import digest_of, file_digest
from luthier.core.remote_store import RemoteStore
from luthier.core.store import Store
from luthier.recipe.planner import PlannedStep, RecipePlan


def list_own_steps(plan: RecipePlan, planned: PlannedStep) -> list[PlannedStep]:
    """The steps that a job makes: its own, and the base models that this one reads."""
    by_digest = {planned_step.digest: planned_step for planned_step in plan}
    read = [by_digest[digest] for digest in planned.inputs.values() if digest in by_digest]
    planned_steps = [
        planned,
        *(inner for planned_step in read if planned_step.step.shared for inner in list_own_steps(plan, planned_step)),
    ]
    return list({step.name: step for step in planned_steps}.values())


def find_step_files(plan: RecipePlan, planned: PlannedStep, reaches: Callable[[Path], bool]) -> dict[str, Path]:
    """The files that a job must be sent, by their paths from the recipe's folder; `reaches` says which paths it sees
    where they are. `InputError` with the place in the recipe for one that it neither sees nor can be sent."""
    folder, found = plan.recipe.recipe_dir.absolute(), dict[str, Path]()
    sent = find_sent_models(plan, planned, reaches)
    for own in list_own_steps(plan, planned):
        if own in sent:
            continue
        for field, path in _list_paths(own, folder):
            if reaches(path):
                continue
            if not path.is_relative_to(folder):
                message = f"the job of {planned.name!r} cannot read {path}, which lies outside the recipe's folder"
                where = SourceLocation(file=plan.recipe.file, field=f"steps.{own.name}.{field}")
                hint = f"put it below {folder}, from where it is sent, or make the step here: --on {own.name}=local"
                raise InputError(message, where=where, hint=hint)
            found |= {file.relative_to(folder).as_posix(): file for file in _list_files(path)}
    return found


def find_sent_models(plan: RecipePlan, planned: PlannedStep, reaches: Callable[[Path], bool]) -> list[PlannedStep]:
    """The base models that a step reads and that a job can neither see nor make from the recipe's files."""
    folder = plan.recipe.recipe_dir.absolute()
    return [
        own
        for own in list_own_steps(plan, planned)
        if own is not planned
        and any(not reaches(path) and not path.is_relative_to(folder) for _, path in _list_paths(own, folder))
    ]


def send_models(plan: RecipePlan, models: Iterable[PlannedStep]) -> None:
    """Send the artifacts of base models to the store behind a URL, each once."""
    assert isinstance(plan.store, RemoteStore), "models travel through a store behind a URL"
    for model in models:
        plan.store.send_artifact(plan.store_of(model).open(model.digest))


def _list_paths(planned: PlannedStep, folder: Path) -> Iterator[tuple[str, Path]]:
    for part_path, part in iter_components_with_paths(planned.step):
        for field, path in part.paths(folder):
            yield f"{part_path}.{field}".lstrip("."), path.absolute()


def _list_files(path: Path) -> list[Path]:
    """A file, or those below a folder, without hidden ones."""
    if not path.is_dir():
        return [path]
    below = (entry for entry in path.rglob("*") if entry.is_file())
    return sorted(entry for entry in below if not any(part.startswith(".") for part in entry.relative_to(path).parts))


def send_files(store: Store, files: Mapping[str, Path]) -> dict[str, str]:
    """Send files to a store behind a URL; the digest of each by its path."""
    assert isinstance(store, RemoteStore) or not files, "files travel through a store behind a URL"
    digests = {name: file_digest(path) for name, path in files.items()}
    if isinstance(store, RemoteStore):
        for name, content in digests.items():
            store.send_content(files[name], content)
    return digests


def place_files(store: Store, folder: Path, files: Mapping[str, str]) -> Path:
    """The recipe's folder where it has the files of a task; else a folder of this machine into which they are put."""
    if all(_has(folder / name, content) for name, content in files.items()) or not isinstance(store, RemoteStore):
        return folder
    copy = store.root / "outside" / digest_of(sorted(files.items()))
    for name, content in files.items():
        if not _has(copy / name, content):
            store.fetch_content(content, copy / name)
    return copy


def _has(path: Path, content: str) -> bool:
    return path.is_file() and file_digest(path) == content

"""Jobs that runs handed to schedulers, as the ledger has them: a run that was killed leaves its jobs behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.db import Ledger
from luthier.core.system.process import get_unique_process_name
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Select

    from luthier.core.store import Store

LaunchState = Literal["submitted", "done", "failed", "cancelled"]
"""`submitted`: no run has seen its end."""


class Launch(BaseModel):
    """One scheduler job, which makes one step's artifact."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    executor: str
    job: str
    store: str
    step: str
    artifact: str
    recipe: str
    folder: str
    run: str | None
    submitted_at: datetime
    ended_at: datetime | None
    state: LaunchState


def record_launch(
    ledger: Ledger, recipe: Recipe, *, executor: str, job: str, store: Store, step: str, artifact: str
) -> None:
    """Record a submitted job; an earlier one of the same name without a recorded end has failed."""
    from luthier.core.db.tables.runs import LaunchRow

    run = ledger.find_run_of_process(get_unique_process_name())
    end_launch(ledger, job, "failed")
    with ledger.writing() as session:
        session.add(
            LaunchRow(
                executor=executor,
                job=job,
                store=store.location,
                step=step,
                artifact=artifact,
                recipe=recipe.name,
                folder=str(recipe.recipe_dir.absolute()),
                run=run.id if run is not None else None,
                submitted_at=datetime.now(UTC),
                state="submitted",
            )
        )


def end_launch(ledger: Ledger, job: str, state: LaunchState) -> None:
    """Write down how the job of a name ended; nothing where its end is known."""
    from sqlalchemy import update

    from luthier.core.db.tables.runs import LaunchRow

    with ledger.writing() as session:
        unended = update(LaunchRow).where(LaunchRow.job == job, LaunchRow.state == "submitted")
        session.execute(unended.values(state=state, ended_at=datetime.now(UTC)))


def has_open_launch(ledger: Ledger, job: str) -> bool:
    """Return whether the ledger has a job of a name without a recorded end."""
    from sqlalchemy import select

    from luthier.core.db.tables.runs import LaunchRow

    return bool(_find(ledger, select(LaunchRow).where(LaunchRow.job == job, LaunchRow.state == "submitted").limit(1)))


def waits_for_launch(ledger: Ledger, recipe: str) -> bool:
    """Return whether a recipe's run waits for a scheduler job without a recorded end."""
    from sqlalchemy import select

    from luthier.core.db.tables.runs import LaunchRow

    unended = select(LaunchRow).where(LaunchRow.recipe == recipe, LaunchRow.state == "submitted")
    return bool(_find(ledger, unended.limit(1)))


def list_launches(workspace: Workspace, recipe: Path | None, *, limit: int) -> list[Launch]:
    """The latest jobs of one recipe; without one, of all recipes in the folder and in the folders that `new` makes in
    it; the latest first."""
    from sqlalchemy import select

    from luthier.core.db.tables.runs import LaunchRow

    query = select(LaunchRow).limit(limit)
    if recipe is None:
        found = [launch for ledger in workspace.open_ledgers_nearby() for launch in _find(ledger, query)]
        return sorted(found, key=lambda launch: launch.submitted_at, reverse=True)[:limit]
    loaded = Recipe.load(workspace.find_recipe(recipe), (), workspace)
    if not loaded.workspace.has_ledger():
        return []
    folder = str(loaded.recipe_dir.absolute())
    with loaded.workspace.open_ledger() as ledger:
        return _find(ledger, query.where(LaunchRow.recipe == loaded.name, LaunchRow.folder == folder))


def list_open_launches(ledger: Ledger, folder: Path) -> list[Launch]:
    """The jobs of the recipes in a folder whose end no run saw."""
    from sqlalchemy import select

    from luthier.core.db.tables.runs import LaunchRow

    of_folder = select(LaunchRow).where(LaunchRow.folder == str(folder.absolute()), LaunchRow.state == "submitted")
    return _find(ledger, of_folder)


def describe_open_launches(ledger: Ledger, recipe: Recipe, store: Store) -> Iterator[str]:
    """A sentence for each job of a recipe whose end no run saw; where its artifact stands, it is noted as done."""
    for launch in list_open_launches(ledger, recipe.recipe_dir):
        if launch.recipe != recipe.name:
            continue
        of_run = f" by run {launch.run}" if launch.run else ""
        job = (
            f"the job {launch.job} of {launch.step!r}, handed to {launch.executor}{of_run} at "
            f"{launch.submitted_at:%Y-%m-%d %H:%M} UTC"
        )
        if launch.store == store.location and store.has(launch.artifact):
            end_launch(ledger, launch.job, "done")
            yield f"{job}, is done: its artifact is in the store"
        else:
            yield f"{job}, has no artifact yet; `--on {launch.step}={launch.executor}` follows it while it lives"


def _find(ledger: Ledger, query: Select[Any]) -> list[Launch]:
    from luthier.core.db.tables.runs import LaunchRow

    with ledger.reading() as session:
        rows = session.scalars(query.order_by(LaunchRow.submitted_at.desc(), LaunchRow.id.desc()))
        return [Launch.model_validate(row) for row in rows]

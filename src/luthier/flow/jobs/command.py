"""What a person asks about jobs at the command line, whoever's they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.core.ledger import Ledger, ledger_url
from luthier.core.store import Store
from luthier.flow.here import store_here
from luthier.flow.jobs.desk import Desk
from luthier.flow.jobs.records import Job
from luthier.flow.jobs.writing import RECIPE
from luthier.flow.plan import plan
from luthier.flow.recipe import Recipe

_EVENTS = 30


def listed(count: int) -> list[dict[str, Any]]:
    """The latest jobs, the latest first."""
    with _desk() as desk:
        return [_row(job) for job in desk.book.everybody(limit=count)]


def shown(job: str) -> dict[str, Any]:
    """A job with the latest of its events, the earliest of them first."""
    with _desk() as desk:
        found = desk.book.any(job)
        events, _ = desk.events(found, _EVENTS, None)
        told = [{"at": said.at, "level": said.level, "message": said.message} for said in reversed(events)]
        more = {"seed": found.wish.seed, "hyperparameters": found.hyperparameters, "deaths": found.deaths}
        files = {"training_file": found.wish.training_file, "validation_file": found.wish.validation_file}
        recipe = desk.folder(job) / RECIPE
        place = str(recipe) if recipe.is_file() else None
        return {**_row(found), **files, **more, "error": found.error, "recipe": place, "events": told}


def cancel(job: str) -> dict[str, Any]:
    """End a job."""
    with _desk() as desk:
        return _row(desk.cancel(desk.book.any(job)))


def needed_digests(store: Store) -> set[str]:
    """What jobs that go on will make or read: their checkpoints may not be lost."""
    with Ledger(ledger_url(store.root)) as ledger:
        desk = Desk(ledger, store)
        recipes = [desk.folder(job.id) / RECIPE for job in desk.book.everybody(states=("queued", "running", "paused"))]
    return {step.digest for recipe in recipes if recipe.is_file() for step in plan(Recipe.load(recipe), store, ())}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A job as it is read on a terminal."""
    yield f"{found['id']} · {found['status']} · {found['method']} of {found['model']} · {found['made']}"
    yield ", ".join(f"{name} {value}" for name, value in found["hyperparameters"].items()) + f", seed {found['seed']}"
    if found["recipe"]:
        yield f"recipe: {found['recipe']}"
    if found["fine_tuned_model"]:
        yield f"served as {found['fine_tuned_model']}"
    if found["error"]:
        yield f"error: {found['error']['message']}"
    for said in found["events"]:
        yield f"  {time.strftime('%H:%M:%S', time.localtime(said['at']))} {said['message']}"


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.state,
        "model": job.wish.model,
        "method": job.wish.method,
        "key": job.key,
        "made": f"{job.made_at:%Y-%m-%d %H:%M:%S}",
        "fine_tuned_model": job.model,
        "artifact": job.artifact,
    }


@contextmanager
def _desk() -> Iterator[Desk]:
    store = store_here()
    with Ledger(ledger_url(store.root)) as ledger:
        yield Desk(ledger, store)

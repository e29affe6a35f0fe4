"""List, describe and cancel fine-tuning jobs at the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.commands.jobs.records import FineTuningJob
from luthier.commands.jobs.service import JobService
from luthier.commands.jobs.writing import RECIPE
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

_EVENTS = 30


def list_latest_jobs(workspace: Workspace, count: int) -> list[dict[str, Any]]:
    """The latest jobs, the latest first."""
    with _service(workspace) as service:
        return [_row(job) for job in service.book.everybody(limit=count)]


def describe_job(workspace: Workspace, job: str) -> dict[str, Any]:
    """A job with the latest of its events, the earliest of them first."""
    with _service(workspace) as service:
        tuning_job = service.book.any(job)
        events, _ = service.events(tuning_job, _EVENTS, None)
        messages = [{"at": event.at, "level": event.level, "message": event.message} for event in reversed(events)]
        more = {
            "seed": tuning_job.request.seed,
            "hyperparameters": tuning_job.hyperparameters,
            "deaths": tuning_job.deaths,
        }
        files = {
            "training_file": tuning_job.request.training_file,
            "validation_file": tuning_job.request.validation_file,
        }
        recipe = service.folder(job) / RECIPE
        path = str(recipe) if recipe.is_file() else None
        return {**_row(tuning_job), **files, **more, "error": tuning_job.error, "recipe": path, "events": messages}


def cancel_job(workspace: Workspace, job: str) -> dict[str, Any]:
    """End a job."""
    with _service(workspace) as service:
        return _row(service.cancel(service.book.any(job)))


def collect_active_job_digests(workspace: Workspace) -> set[str]:
    """List the digests of artifacts that unfinished jobs will read or make, so that garbage collection keeps them."""
    store = workspace.open_store()
    with workspace.open_ledger() as ledger:
        service = JobService(ledger, store)
        recipes = [
            service.folder(job.id) / RECIPE for job in service.book.everybody(states=("queued", "running", "paused"))
        ]
    return {
        step.digest
        for recipe in recipes
        if recipe.is_file()
        for step in build_recipe_plan(Recipe.load(recipe, (), workspace), store, ())
    }


def format_job_lines(found: dict[str, Any]) -> Iterator[str]:
    """Format a job as lines for the terminal."""
    yield f"{found['id']} · {found['status']} · {found['method']} of {found['model']} · {found['made']}"
    yield ", ".join(f"{name} {value}" for name, value in found["hyperparameters"].items()) + f", seed {found['seed']}"
    if found["recipe"]:
        yield f"recipe: {found['recipe']}"
    if found["fine_tuned_model"]:
        yield f"served as {found['fine_tuned_model']}"
    if found["error"]:
        yield f"error: {found['error']['message']}"
    for event in found["events"]:
        yield f"  {time.strftime('%H:%M:%S', time.localtime(event['at']))} {event['message']}"


def _row(job: FineTuningJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.state,
        "model": job.request.model,
        "method": job.request.method,
        "key": job.key,
        "made": f"{job.made_at:%Y-%m-%d %H:%M:%S}",
        "fine_tuned_model": job.model,
        "artifact": job.artifact,
    }


@contextmanager
def _service(workspace: Workspace) -> Iterator[JobService]:
    meant = workspace.find_meant()
    with meant.open_ledger() as ledger:
        yield JobService(ledger, meant.open_store())

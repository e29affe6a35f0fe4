"""`DELETE /v1/models/{ft:…}` by the official client: by whoever had it made, and not while a name means it."""

from __future__ import annotations

import openai
import pytest

from luthier.commands.jobs.records import JobRequest
from luthier.commands.jobs.registry import generate_job_name
from luthier.traces.releases import ReleasedModel, current_releases, release, roll_back
from tests.api.conftest import Open


def tuned(place: Open, suffix: str, key: str = "anna") -> str:
    """A model that a job of somebody's made."""
    desk, job = place.desk, generate_job_name()
    desk.folder(job).mkdir(parents=True)
    desk.book.add(key, JobRequest(model="base", training_file="file-x", suffix=suffix), job)
    name = f"ft:base:luthier:{suffix}:{job[6:14]}"
    digest = job[6:] + "0" * 8
    desk.book.change(job, "succeeded", ("validating_files",), model=name, artifact=digest)
    release(desk.ledger, name, ReleasedModel(word=job, model=digest, digest=digest))
    return name


def test_whoever_had_it_made_deletes_it(place: Open) -> None:
    name = tuned(place, "mine")
    told = place.client().models.delete(name)
    assert (told.id, told.object, told.deleted) == (name, "model", True)
    assert name not in current_releases(place.desk.ledger)
    with pytest.raises(openai.NotFoundError):
        place.client().models.delete(name)


def test_nobody_else_does(place: Open) -> None:
    name = tuned(place, "annas")
    with pytest.raises(openai.NotFoundError):
        place.client("ben").models.delete(name)
    with pytest.raises(openai.PermissionDeniedError):
        place.client("reader").models.delete(name)
    for other in ("base", "nothing", "ft:base:luthier:x:12345678"):
        with pytest.raises(openai.NotFoundError):
            place.client().models.delete(other)
    assert name in current_releases(place.desk.ledger)
    assert place.client("root").models.delete(name).deleted, "whoever may do everything may do this"


def test_a_model_that_a_name_means_stays(place: Open) -> None:
    name, ledger = tuned(place, "served"), place.desk.ledger
    model = current_releases(ledger)[name].stable
    release(ledger, "desk@prod", ReleasedModel(word="x", model="other", digest="f" * 32))
    release(ledger, "desk@prod", model)
    once = place.client().with_options(max_retries=0)  # the client waits and tries again after a conflict
    with pytest.raises(openai.ConflictError, match="desk@prod means this model"):
        once.models.delete(name)
    assert current_releases(ledger)[name].stable == model
    roll_back(ledger, "desk@prod")
    assert place.client().models.delete(name).deleted

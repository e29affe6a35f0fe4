"""`/v1/fine_tuning/jobs` by the official client: what is wanted, what is refused, who sees what."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from fine_tuning import as_lines, chats, pairs
from tests.api.conftest import Open


@pytest.fixture(scope="module")
def file(place: Open) -> str:
    """Anna's file."""
    return place.client().files.create(file=("a.jsonl", as_lines(chats())), purpose="fine-tune").id


@pytest.fixture(scope="module")
def held(place: Open) -> str:
    """Another one."""
    return place.client().files.create(file=("b.jsonl", as_lines(chats(6, 30))), purpose="fine-tune").id


def refused(place: Open, **body: Any) -> tuple[int, str | None, str]:
    found = place.ask("POST", "/v1/fine_tuning/jobs", json=body)
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return found.status_code, error["param"], error["message"]


def test_a_job_is_what_was_asked_for(place: Open, file: str, held: str) -> None:
    client = place.client()
    job = client.fine_tuning.jobs.create(
        model="base", training_file=file, validation_file=held, suffix="sorts", seed=11, metadata={"team": "desk"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}},
    )  # fmt: skip
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "validating_files", "base", 11)
    assert (job.training_file, job.validation_file, job.metadata) == (file, held, {"team": "desk"})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, "auto")
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.fine_tuned_model is None
    assert job.result_files == []
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [one.message for one in events] == ["Validating the files", f"Created fine-tuning job: {job.id}"]
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []


def test_older_scripts_give_hyperparameters_beside(place: Open, file: str) -> None:
    job = place.client().fine_tuning.jobs.create(model="base", training_file=file, hyperparameters={"n_epochs": 2})
    assert job.hyperparameters.n_epochs == 2
    assert 0 <= job.seed < 2**31, "drawn where none is given"


def test_preferences(place: Open) -> None:
    client = place.client()
    file = client.files.create(file=("p.jsonl", as_lines(pairs())), purpose="fine-tune").id
    asked: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    job = client.fine_tuning.jobs.create(model="base", training_file=file, method=asked)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2


def test_what_has_no_counterpart_is_refused_by_name(place: Open, file: str) -> None:
    whole = {"model": "base", "training_file": file}
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"colour": "red"}, "colour"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}}, "beta"),
        ({"method": {"type": "other"}}, "method.type"),
        ({"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 1.5}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": -1}}, "hyperparameters.learning_rate_multiplier"),
        ({"suffix": "../../x"}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"model": "gpt-4o"}, "model"),
        ({"model": ""}, "model"),
        ({"training_file": "file-x"}, "training_file"),
        ({"training_file": "../ledger.db"}, "training_file"),
        ({"validation_file": "file-x"}, "validation_file"),
        ({"validation_file": file}, "validation_file"),
    ]
    for more, param in cases:
        status, named, _ = refused(place, **whole | more)
        assert status in (400, 404), more
        assert named == param, more
    assert refused(place)[:2] == (400, "model")
    for harmless in ({"integrations": None}, {"integrations": []}, {"suffix": None}, {"metadata": None}):
        assert place.ask("POST", "/v1/fine_tuning/jobs", json=whole | harmless).status_code == 200


def test_the_same_rows_are_no_validation(place: Open, file: str) -> None:
    client = place.client()
    twin = client.files.create(file=("twin.jsonl", as_lines(chats())), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError, match="these files are the same"):
        client.fine_tuning.jobs.create(model="base", training_file=file, validation_file=twin)


def test_nobody_sees_the_jobs_of_another_key(place: Open, file: str) -> None:
    job = place.client().fine_tuning.jobs.create(model="base", training_file=file).id
    for who in ("ben", "root"):
        jobs = place.client(who).fine_tuning.jobs
        for reach in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume):
            with pytest.raises(openai.NotFoundError):
                reach(job)
        for read in (jobs.list_events, jobs.checkpoints.list):
            with pytest.raises(openai.NotFoundError):
                read(job)
        assert job not in [one.id for one in jobs.list()]
        with pytest.raises(openai.NotFoundError):
            jobs.list(after=job)
        with pytest.raises(openai.NotFoundError, match="no file"):
            jobs.create(model="base", training_file=file)
    with pytest.raises(openai.PermissionDeniedError):
        place.client("reader").fine_tuning.jobs.list()


def test_jobs_are_listed_in_pages(place: Open) -> None:
    client = place.client("ben")
    file = client.files.create(file=("b.jsonl", as_lines(chats())), purpose="fine-tune").id
    made = [
        client.fine_tuning.jobs.create(model="base", training_file=file, metadata={"n": str(n % 2)}).id
        for n in range(5)
    ]
    assert [one.id for one in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    page = client.fine_tuning.jobs.list(limit=2, after=made[3])
    assert ([one.id for one in page.data], page.has_more) == ([made[2], made[1]], True)
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"n": "1"})] == [made[3], made[1]]
    assert client.fine_tuning.jobs.list(metadata={"n": "7"}).data == []
    for wrong in ({"limit": 101}, {"limit": "x"}, {"metadata": "n"}, {"metadata[": "n"}, {"order": "asc"}):
        assert place.ask("GET", "/v1/fine_tuning/jobs", "ben", params=wrong).status_code == 400, wrong


def test_a_job_that_waits_is_cancelled_once(place: Open, file: str) -> None:
    jobs = place.client().fine_tuning.jobs
    job = jobs.create(model="base", training_file=file).id
    ended = jobs.cancel(job)
    assert ended.status == "cancelled"
    assert ended.finished_at is not None
    assert jobs.list_events(job).data[0].message == "The job was cancelled"
    for late in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError, match="it is cancelled"):
            late(job)


def test_a_key_has_no_endless_queue(place: Open, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place.client().fine_tuning.jobs.create(model="base", training_file=file)
    monkeypatch.setattr("luthier.commands.jobs.registry.MOST_OPEN", 1)
    found = place.ask("POST", "/v1/fine_tuning/jobs", json={"model": "base", "training_file": file})
    assert (found.status_code, found.headers["retry-after"]) == (429, "60")


def test_events_are_told_in_pages(place: Open, file: str) -> None:
    from luthier.commands.jobs.journal import append_job_event

    client = place.client()
    job = client.fine_tuning.jobs.create(model="base", training_file=file).id
    for number in range(30):
        append_job_event(place.desk.folder(job), f"event {number}")
    found = [one.message for one in client.fine_tuning.jobs.list_events(job, limit=7)]
    assert found[:30] == [f"event {number}" for number in reversed(range(30))]
    assert len(found) == 32
    with pytest.raises(openai.BadRequestError, match="no event"):
        client.fine_tuning.jobs.list_events(job, after="ftevent-x")

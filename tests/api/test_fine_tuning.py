"""A script that was written for OpenAI's fine-tuning, against `luthier serve`: from the upload to the tuned model's
answer; jobs that are stopped, killed, and gone on with."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from commanded import Running, command
from fine_tuning import as_lines, chats, pairs
from luthier.cli.app import run_command
from luthier.commands.jobs.registry import JobRepository
from luthier.core.system.process import is_process_gone
from luthier.recipe.workspace import Workspace
from luthier.traces.api_keys import add_key
from slurm import slurm_cluster, why_no_slurm
from tests import ready
from tiny_models import tiny_model

NAME = "gpt-4o-mini-2024-07-18"
WAIT_S = 300.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with a model that may be tuned."""
    place = tmp_path_factory.mktemp("tuning")
    tiny_model(place / "tiny-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    """A server that serves nothing yet, whose runs are forked."""
    with command(folder, "--tune", f"{NAME}=./tiny-model", "--no-traces", start=ready.Family) as found:
        yield found


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def ended(client: openai.OpenAI, job: str) -> Any:
    found = client.fine_tuning.jobs.retrieve(job)
    end = time.monotonic() + WAIT_S
    while found.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < end, found
        time.sleep(0.2)
        found = client.fine_tuning.jobs.retrieve(job)
    return found


def upload(client: openai.OpenAI, rows: list[Any]) -> str:
    return client.files.create(file=("rows.jsonl", as_lines(rows)), purpose="fine-tune").id


def messages(client: openai.OpenAI, job: str) -> list[str]:
    return [one.message for one in client.fine_tuning.jobs.list_events(job, limit=100)][::-1]


def long_job(client: openai.OpenAI, **more: Any) -> str:
    """One that takes a while: many small steps."""
    asked: dict[str, Any] = {"model": NAME, "hyperparameters": {"n_epochs": 50, "batch_size": 1}, **more}
    return client.fine_tuning.jobs.create(training_file=upload(client, chats(60)), **asked).id


def learns(client: openai.OpenAI, job: str, steps: int = 2) -> bool:
    found = client.fine_tuning.jobs.list_events(job, limit=1).data
    return bool(found) and found[0].type == "metrics" and found[0].data["step"] >= steps  # type: ignore[index]


def process_of(folder: Path, job: str) -> str:
    with Workspace.open(folder).open_ledger() as ledger:
        return JobRepository(ledger).any(job).process or ""


def test_a_script_for_openai_runs_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(tmp_path / "tiny-model")
    monkeypatch.chdir(tmp_path)
    with command(tmp_path, "--tune", f"{NAME}=./tiny-model", "--no-traces") as running:  # its run starts from nothing
        _script(running.client(max_retries=5), capsys)


def _script(client: openai.OpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    training, validation = upload(client, chats(40)), upload(client, chats(8, 40))
    job = client.fine_tuning.jobs.create(
        model=NAME, training_file=training, validation_file=validation, suffix="sorts", seed=3,
        method={"type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}},
    )  # fmt: skip
    client.files.delete(training)  # what a job learns from stays its own
    done = ended(client, job.id)
    assert done.status == "succeeded", messages(client, job.id)
    assert done.fine_tuned_model == f"ft:{NAME}:luthier:sorts:{job.id[6:14]}"
    assert done.hyperparameters.n_epochs == 2
    assert done.hyperparameters.batch_size == 8
    assert done.trained_tokens > 0
    turns: Any = [{"role": "user", "content": "Where is the parcel?"}]
    said = client.chat.completions.create(model=done.fine_tuned_model, messages=turns, max_tokens=4)
    assert said.usage is not None
    assert said.usage.completion_tokens == 4, "it is served at once"
    assert done.fine_tuned_model in [one.id for one in client.models.list()]
    rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
    assert [int(row["step"]) for row in rows] == list(range(1, 11))
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data[::-1]
    numbers = [one.data for one in events if one.type == "metrics"]
    assert [(one["step"], one["total_steps"]) for one in numbers] == [(n, 10) for n in range(1, 11)]  # type: ignore[index]
    assert float(rows[-1]["valid_loss"]) == pytest.approx(numbers[-1]["valid_loss"], abs=1e-3)  # type: ignore[index]
    checkpoint, early = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert checkpoint.step_number == 10
    assert early.fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-5"
    assert early.metrics.valid_loss == pytest.approx(float(rows[4]["valid_loss"]))
    told = checkpoint.metrics
    assert told.valid_loss == pytest.approx(float(rows[-1]["valid_loss"]))
    assert told.full_valid_loss == told.valid_loss, "all of the file is measured each time"
    assert told.train_mean_token_accuracy == pytest.approx(float(rows[-1]["train_mean_token_accuracy"]))
    assert told.full_valid_mean_token_accuracy == pytest.approx(float(rows[-1]["valid_mean_token_accuracy"]))
    accuracies = [one["train_mean_token_accuracy"] for one in numbers]  # type: ignore[index]
    assert accuracies == pytest.approx([float(row["train_mean_token_accuracy"]) for row in rows], abs=1e-4)
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"
    _commands_tell_the_same(job.id, done.fine_tuned_model, capsys)
    assert run_command(["run", f".luthier/jobs/{job.id}/recipe.yaml"]) == 0
    assert "every step was cached" in capsys.readouterr().out, "the recipe is one that anybody can run"
    assert client.models.delete(done.fine_tuned_model).deleted
    until(lambda: not [one.id for one in client.models.list() if one.id.startswith(done.fine_tuned_model)])


def test_each_of_the_last_three_epochs_is_a_model(running: Running, folder: Path) -> None:
    client = running.client(max_retries=5)
    asked: Any = {"model": NAME, "hyperparameters": {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 20}}
    job = ended(client, client.fine_tuning.jobs.create(training_file=upload(client, chats(40)), seed=3, **asked).id)
    assert job.status == "succeeded", messages(client, job.id)
    found = client.fine_tuning.jobs.checkpoints.list(job.id).data
    names = [one.fine_tuned_model_checkpoint for one in found]
    assert [one.step_number for one in found] == [20, 15, 10]
    assert names == [job.fine_tuned_model, *(f"{job.fine_tuned_model}:ckpt-step-{step}" for step in (15, 10))]
    rows = list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))
    for one in found:
        row = rows[one.step_number - 1]
        assert one.metrics.train_loss == pytest.approx(float(row["train_loss"]))
        assert one.metrics.train_mean_token_accuracy == pytest.approx(float(row["train_mean_token_accuracy"]))
    pages = client.fine_tuning.jobs.checkpoints
    first = pages.list(job.id, limit=2)
    assert [one.id for one in first.data] == [one.id for one in found[:2]]
    assert [one.id for one in pages.list(job.id, after=first.data[-1].id).data] == [found[2].id]
    assert len({spoken(client, name) for name in names}) == 3, "each answers as itself"
    on: Any = {**asked, "model": names[2], "hyperparameters": {"n_epochs": 1}}
    later = client.fine_tuning.jobs.create(training_file=upload(client, chats(40)), **on)
    assert client.models.delete(names[1]).deleted
    assert [one.step_number for one in pages.list(job.id).data] == [20, 10]
    done = ended(client, later.id)
    assert done.status == "succeeded", messages(client, later.id)
    assert done.fine_tuned_model == f"ft:{NAME}:luthier::{later.id[6:14]}"
    assert [one.step_number for one in pages.list(later.id).data] == [len(losses(client, done))]


def spoken(client: openai.OpenAI, model: str) -> tuple[float, ...]:
    """How likely a model finds what it says."""
    turns: Any = [{"role": "user", "content": "Where is the parcel?"}]
    said = client.chat.completions.create(model=model, messages=turns, max_tokens=4, temperature=0, logprobs=True)
    logprobs = said.choices[0].logprobs
    assert logprobs is not None
    return tuple(one.logprob for one in logprobs.content or ())


def _commands_tell_the_same(job: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(["jobs", "list", "--json"]) == 0
    assert (job, model) in [(one["id"], one["fine_tuned_model"]) for one in json.loads(capsys.readouterr().out)]
    assert run_command(["jobs", "list"]) == 0
    assert run_command(["jobs", "show", job, "--json"]) == 0
    capsys.readouterr()
    assert run_command(["jobs", "show", job]) == 0
    assert f"served as {model}" in capsys.readouterr().out
    assert run_command(["jobs", "cancel", job]) == 2
    assert "it is succeeded" in capsys.readouterr().err
    assert run_command(["jobs", "show", "ftjob-none"]) == 2


def epochs(client: openai.OpenAI, job: Any) -> list[float]:
    """The mean loss of each pass over 40 rows, five steps of eight."""
    found = losses(client, job)
    return [sum(found[at : at + 5]) / 5 for at in range(0, len(found), 5)]


def losses(client: openai.OpenAI, job: Any) -> list[float]:
    """The loss of each step."""
    rows = csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text))
    return [float(row["train_loss"]) for row in rows]


def test_a_job_goes_on_from_the_model_of_an_earlier_one(running: Running, folder: Path) -> None:
    client = running.client(max_retries=5)
    quick: Any = {
        "model": NAME,
        "seed": 3,
        "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 20},
    }
    rows = upload(client, chats(40))
    first = ended(client, client.fine_tuning.jobs.create(training_file=rows, suffix="one", **quick).id)
    assert first.status == "succeeded", messages(client, first.id)
    wanted = {**quick, "model": first.fine_tuned_model}
    job = client.fine_tuning.jobs.create(training_file=rows, suffix="two", **wanted)
    assert job.model == first.fine_tuned_model
    done = ended(client, job.id)
    assert done.status == "succeeded", messages(client, job.id)
    assert done.fine_tuned_model == f"ft:{NAME}:luthier:two:{job.id[6:14]}"
    assert client.models.delete(first.fine_tuned_model).deleted, "what was taken over is the job's own"
    begun, ended_at = epochs(client, first)[0], epochs(client, first)[-1]
    assert ended_at < begun
    assert epochs(client, done)[0] < (begun + ended_at) / 2, "it begins about where the other ended"
    with pytest.raises(openai.BadRequestError, match="cannot be tuned here"):
        client.fine_tuning.jobs.create(training_file=rows, **wanted)


def test_preferences_are_learnt(running: Running) -> None:
    client = running.client(max_retries=5)
    asked: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 1, "batch_size": 8}}}
    job = client.fine_tuning.jobs.create(model=NAME, training_file=upload(client, pairs(24)), method=asked).id
    done = ended(client, job)
    assert done.status == "succeeded", messages(client, job)
    rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
    assert float(rows[0]["train_loss"]) == pytest.approx(0.693, abs=0.01), "DPO begins at log 2"


def test_a_wrong_line_fails_the_job_and_is_named(running: Running) -> None:
    client = running.client(max_retries=5)
    rows = chats(6)
    rows[3]["messages"][1]["role"] = "bot"
    job = client.fine_tuning.jobs.create(model=NAME, training_file=upload(client, rows))
    done = ended(client, job.id)
    assert done.status == "failed"
    assert done.error.param == "training_file"
    assert done.error.message.startswith("line 4: messages[1]: role 'bot'")
    wrong = upload(client, pairs(6))
    held = client.fine_tuning.jobs.create(model=NAME, training_file=upload(client, chats(6)), validation_file=wrong)
    assert ended(client, held.id).error.param == "validation_file"


def test_jobs_wait_their_turn_and_end_when_they_are_told(running: Running, folder: Path) -> None:
    client = running.client(max_retries=5)
    first, second = long_job(client), long_job(client)
    until(lambda: learns(client, first))
    assert client.fine_tuning.jobs.retrieve(second).status == "queued"
    assert (client.fine_tuning.jobs.retrieve(first).estimated_finish or 0) > time.time() - 60
    assert client.fine_tuning.jobs.cancel(second).status == "cancelled"
    process = process_of(folder, first)
    assert not is_process_gone(process)
    assert client.fine_tuning.jobs.cancel(first).status == "cancelled"
    until(lambda: is_process_gone(process))
    at_once = long_job(client)
    assert client.fine_tuning.jobs.cancel(at_once).status == "cancelled"
    assert client.models.list() is not None, "the server answers meanwhile"
    time.sleep(1)
    for job in (first, second, at_once):
        assert client.fine_tuning.jobs.retrieve(job).status == "cancelled"
        assert client.fine_tuning.jobs.retrieve(job).fine_tuned_model is None


def test_a_paused_job_goes_on_from_its_checkpoint(running: Running, folder: Path) -> None:
    client = running.client(max_retries=5)
    job = long_job(client, hyperparameters={"n_epochs": 8, "batch_size": 1})
    until(lambda: learns(client, job, 5))
    process = process_of(folder, job)
    assert client.fine_tuning.jobs.pause(job).status == "paused"
    until(lambda: is_process_gone(process))
    assert client.fine_tuning.jobs.resume(job).status in ("queued", "running")
    done = ended(client, job)
    assert done.status == "succeeded", messages(client, job)
    rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
    assert [int(row["step"]) for row in rows] == list(range(1, 481)), "each step once"


@pytest.mark.slow
def test_a_killed_run_goes_on_and_one_that_always_dies_fails(running: Running, folder: Path) -> None:
    client = running.client(max_retries=5)
    job = long_job(client, hyperparameters={"n_epochs": 12, "batch_size": 1})
    until(lambda: learns(client, job, 5))
    os.killpg(int(process_of(folder, job).split("|")[3]), signal.SIGKILL)
    assert ended(client, job).status == "succeeded"
    assert any("goes on from its last checkpoint" in one for one in messages(client, job))
    again = long_job(client)
    killed = {""}
    for _ in range(4):
        until(lambda: (process := process_of(folder, again)) not in killed and not is_process_gone(process))
        killed.add(process_of(folder, again))
        os.killpg(int(process_of(folder, again).split("|")[3]), signal.SIGKILL)
    failed = ended(client, again)
    assert (failed.status, failed.error.code) == ("failed", "killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "database"),
    [(signal.SIGTERM, "sqlite"), (signal.SIGKILL, "sqlite"), (signal.SIGKILL, "postgresql")],
    indirect=["database"],
)
def test_jobs_survive_their_server(
    folder: Path, tmp_path: Path, how: signal.Signals, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_LEDGER", database)
    tiny_model(tmp_path / "tiny-model")
    words = ("--tune", f"{NAME}=./tiny-model", "--no-traces")
    with command(tmp_path, *words) as running:
        client = running.client(max_retries=5)
        job, later = long_job(client, hyperparameters={"n_epochs": 10, "batch_size": 1}), long_job(client)
        until(lambda: learns(client, job, 5))
        process = process_of(tmp_path, job)
        running.stop(how)
        assert is_process_gone(process) == (how == signal.SIGTERM), "a server that is killed leaves the run"
    with command(tmp_path, *words) as running:
        client = running.client(max_retries=5)
        done = ended(client, job)
        assert done.status == "succeeded", messages(client, job)
        rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
        assert [int(row["step"]) for row in rows] == list(range(1, 601))
        assert done.fine_tuned_model in [one.id for one in client.models.list()]
        until(lambda: client.fine_tuning.jobs.retrieve(later).status == "running")
        client.fine_tuning.jobs.cancel(later)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm())
def test_jobs_of_a_cluster_run_at_once_and_outlive_their_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path / "tiny-model")
    on = ("--on", "tune={kind: slurm, poll_s: 0.2, cpus: 1, memory: 400M}", "--max-jobs", "2")
    words = ("--tune", f"{NAME}=./tiny-model", "--no-traces", *on)
    monkeypatch.chdir(tmp_path)
    with slurm_cluster(tmp_path / "slurm") as cluster:
        for name, value in cluster.items():
            monkeypatch.setenv(name, value)
        with command(tmp_path, *words) as running:
            client = running.client(max_retries=5)
            first, second = (long_job(client, hyperparameters={"n_epochs": n, "batch_size": 1}) for n in (20, 50))
            third = long_job(client)
            until(lambda: learns(client, first) and learns(client, second))
            assert client.fine_tuning.jobs.retrieve(third).status == "queued", "two run at once"
            running.stop()
            assert is_process_gone(process_of(tmp_path, first))
        assert slurm_jobs() == 2, "the cluster goes on"
        assert run_command(["jobs", "cancel", second]) == 0  # while nobody follows it
        with command(tmp_path, *words) as running:
            client = running.client(max_retries=5)
            done = ended(client, first)
            assert done.status == "succeeded", messages(client, first)
            assert any("of an earlier run is running" in one for one in messages(client, first))
            rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
            assert [int(row["step"]) for row in rows] == list(range(1, 1201)), "each step once"
            until(lambda: learns(client, third))
            client.fine_tuning.jobs.cancel(third)
            until(lambda: slurm_jobs() == 0)  # the one that was cancelled before, too


def slurm_jobs() -> int:
    """Jobs that wait or run in the cluster of the environment."""
    return len(subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tun=process", "jobs have no step 'tun'"),
        ("nowhere", "executor 'nowhere' is unknown"),
        ("tune=sky", "no machine of a cloud can reach the store"),
    ],
)
def test_a_place_for_jobs_that_there_is_not_is_refused(
    folder: Path, word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["serve", "./tiny-model", "--port", "0", "--on", word]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_keys_of_a_server_with_jobs(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny-model")
    with Workspace.open(tmp_path).open_ledger() as ledger:
        key = add_key(ledger, "tuner", ("tune", "infer"))
    with command(tmp_path, "--tune", f"{NAME}=./tiny-model", "--no-traces") as running:
        client = running.client(key, max_retries=5)
        assert client.fine_tuning.jobs.list().data == [], "those of nobody's are not theirs"
        with pytest.raises(openai.AuthenticationError):
            running.client().fine_tuning.jobs.list()

"""The operations on uploaded files and fine-tuning jobs, for `luthier.api` and `luthier jobs`."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.artifacts.training import TrainingRecord
from luthier.commands.jobs.files import UploadStore
from luthier.commands.jobs.journal import JobEvent, Journal, append_job_event
from luthier.commands.jobs.process import signal_process_group
from luthier.commands.jobs.records import FineTuningJob, JobRequest, State
from luthier.commands.jobs.registry import JobRepository, generate_job_name
from luthier.commands.jobs.tunable import TunableModel
from luthier.commands.jobs.writing import TRAINING, VALIDATION, link_or_copy_file, strip_checkpoint_step
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError
from luthier.core.files import translate_write_errors
from luthier.core.store import Store
from luthier.serve.openai.protocol import APIError
from luthier.traces import releases

_PAUSABLE: tuple[State, ...] = ("queued", "running")
_CANCELLABLE: tuple[State, ...] = ("validating_files", "queued", "running", "paused")


class JobCheckpoint(NamedTuple):
    """A model that came of a job."""

    name: str
    """Its public name."""
    metrics: Mapping[str, Any]
    """The numbers of its last step."""

    @property
    def step(self) -> int:
        """Number of steps at this checkpoint."""
        return int(self.metrics.get("step", 0))


class JobService:
    """Files and jobs of one store."""

    def __init__(self, ledger: Ledger, store: Store, tunable: Mapping[str, TunableModel] | None = None) -> None:
        self.ledger, self.store, self.tunable = ledger, store, tunable or {}
        self.files = UploadStore(ledger, store.root / "files")
        self.book = JobRepository(ledger)

    def folder(self, job: str) -> Path:
        """Return the folder of a job's recipe."""
        return self.store.root / "jobs" / job

    def create(self, key: str | None, request: JobRequest) -> FineTuningJob:
        """Take a wish in; `APIError` for what can be seen to be wrong at once."""
        if request.model not in self.tunable and self.earlier(key, request.model) is None:
            known = ", ".join(sorted(self.tunable)) or "none: `luthier serve --tune MODEL` names some"
            models = f"models that can are {known}, and your own jobs'"
            what = f"the model {request.model[:100]!r} cannot be tuned here; {models}"
            raise APIError(what, param="model", code="model_not_available")
        training = self._file(key, request.training_file, "training_file")
        if request.validation_file is not None:
            validation = self._file(key, request.validation_file, "validation_file")
            if validation == training:
                what = "validation rows must be others than training rows, and these files are the same"
                raise APIError(what, param="validation_file", code="invalid_validation_file")
        job = self._taken_in(key, request)
        append_job_event(self.folder(job.id), f"Created fine-tuning job: {job.id}")
        append_job_event(self.folder(job.id), "Validating the files")
        return job

    def earlier(self, key: str | None, model: str) -> str | None:
        """Return the artifact of a model of this key's jobs, to continue from; None when there is none."""
        job = self.book.find_by_model(strip_checkpoint_step(model))
        release = releases.current_releases(self.ledger).get(model)
        return release.stable.digest if job is not None and job.key == key and release is not None else None

    def _taken_in(self, key: str | None, request: JobRequest) -> FineTuningJob:
        """A job with its files in a folder of its own: from now on they may be deleted."""
        name = generate_job_name()
        folder = self.folder(name)
        try:
            with translate_write_errors(folder):
                link_or_copy_file(self.files.path(request.training_file), folder / TRAINING)
                if request.validation_file is not None:
                    link_or_copy_file(self.files.path(request.validation_file), folder / VALIDATION)
            return self.book.add(key, request, name)
        except LuthierError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _file(self, key: str | None, file: str, param: str) -> str:
        """Return the digest of a training file."""
        upload = self.files.get(key, file, param)
        if upload.purpose != "fine-tune":
            what = f"the file {file} was uploaded for {upload.purpose!r}; wanted purpose 'fine-tune'"
            raise APIError(what, param=param, code="invalid_file_purpose")
        return upload.digest

    def cancel(self, job: FineTuningJob) -> FineTuningJob:
        """End a job for good; its process with it."""
        if not self.book.change(job.id, "cancelled", _CANCELLABLE, unmade=True):
            raise self._too_late(job, "cancelled")
        return self._stopped(job, "The job was cancelled")

    def pause(self, job: FineTuningJob) -> FineTuningJob:
        """Pause a job."""
        if not self.book.change(job.id, "paused", _PAUSABLE, unmade=True):
            raise self._too_late(job, "paused")
        return self._stopped(job, "The job was paused")

    def resume(self, job: FineTuningJob) -> FineTuningJob:
        """Resume a paused job from its last checkpoint."""
        if not self.book.change(job.id, "queued", ("paused",)):
            raise self._too_late(job, "resumed")
        append_job_event(self.folder(job.id), "The job waits for its turn again")
        return self.book.any(job.id)

    def forget(self, key: str | None, model: str, *, everybodys: bool) -> None:
        """Let the name of a tuned model, and those of its checkpoints, mean nothing any more; or that of a checkpoint
        alone. Its artifact goes with the next `luthier store gc`.

        `APIError` (404) for what this key had not made, (409) while a released name means it.
        """
        job, known = self.book.find_by_model(strip_checkpoint_step(model)), releases.current_releases(self.ledger)
        if job is None or not (job.key == key or everybodys) or model not in known:
            what = f"there is no model {model[:100]!r} of yours that was tuned here"
            raise APIError(what, param="model", code="model_not_found", status=404)
        try:
            for name in [
                *(entry for entry in known if entry != model and strip_checkpoint_step(entry) == model),
                model,
            ]:
                releases.delete_alias(self.ledger, name)
        except InputError as error:
            what = f"{error.message}; {error.hint}"
            raise APIError(what, param="model", code="model_in_use", status=409) from error
        append_job_event(self.folder(job.id), f"The model was deleted: {model}")

    def _stopped(self, job: FineTuningJob, text: str) -> FineTuningJob:
        now = self.book.any(job.id)
        append_job_event(self.folder(job.id), text)
        if now.process is not None:
            signal_process_group(now.process, signal.SIGTERM)
        return now

    def _too_late(self, job: FineTuningJob, what: str) -> APIError:
        now = self.book.any(job.id)
        state = "its model is made already" if now.state == "running" else f"it is {now.state}"
        return APIError(f"the job cannot be {what}: {state}", code="invalid_job_state")

    def estimated_finish(self, job: FineTuningJob) -> int | None:
        """Return the estimated end of a running job, in seconds since 1970."""
        return self.journal(job).estimated_finish() if job.state == "running" else None

    def checkpoints(self, job: FineTuningJob) -> list[JobCheckpoint]:
        """The models of a finished job, the latest first: the tuned one, and those after earlier epochs."""
        if job.state != "succeeded" or job.model is None or job.artifact is None:
            return []
        names = {job.model: job.artifact} | {
            name: release.stable.digest
            for name, release in releases.current_releases(self.ledger).items()
            if name != job.model and strip_checkpoint_step(name) == job.model
        }
        job_checkpoints = [JobCheckpoint(name, self.last_step(artifact)) for name, artifact in names.items()]
        return sorted(
            job_checkpoints,
            key=lambda job_checkpoint: (job_checkpoint.step, job_checkpoint.name == job.model),
            reverse=True,
        )

    def steps(self, artifact: str) -> int:
        """Return the number of training steps of a model."""
        return TrainingRecord.read(self.store.open(artifact)).steps or 0

    def last_step(self, artifact: str) -> Mapping[str, Any]:
        """The numbers of a model's last step."""
        from luthier.commands.jobs.results import list_step_metrics

        last: dict[str, Any] = {}
        for row in list_step_metrics(self.store.open(artifact)):
            last = row
        return last

    def journal(self, job: FineTuningJob) -> Journal:
        """A job's events."""
        return Journal(self.ledger, self.store.root, self.folder(job.id), job)

    def events(self, job: FineTuningJob, limit: int, after: str | None) -> tuple[list[JobEvent], bool]:
        """A job's events, the latest first, and whether there are more."""
        return self.journal(job).latest(limit, after)

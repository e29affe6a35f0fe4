"""A technique that has a provider tune the model: rows are uploaded, a job is started and followed, and the artifact
is the endpoint at which the tuned model answers.

What decides a job (provider, base model, settings, seed, rows) has one digest, the *job key*. It is in the name of the
uploaded file and in the job's suffix, so that a run finds what an earlier one started, and no job is paid for twice.
"""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from luthier.artifacts.training import TrainingRecord
from luthier.chat.provider_rules import ProviderRules
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.files import EnvVarMarker, write_atomically
from luthier.core.hashing import canonical_json, digest_of
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, NotHashed, PlanContext, StepContext, StepCostEstimate, drop_not_hashed
from luthier.models.cost import estimate_rows
from luthier.models.describe import ModelDescription
from luthier.models.load import ENDPOINT, MODEL_CARD, Dtype
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.models.token_counts import count_row_tokens
from luthier.tune.hosted.client import BusyError, LostRequestError, ProviderClient, ProviderRefusalError, is_missing
from luthier.tune.hosted.rows import format_rows, list_counted_turns, refuse_personal_data, write_rows
from luthier.tune.technique import StandaloneTechnique, write_settings

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.core.artifact import Artifact


JOB_FILE = "job.json"
"""The record of the provider's job in the artifact."""
BASE_BYTES = 320 << 20
"""What Python holds with polars and an HTTP client, without torch."""
SLACK = 1.1
"""Ratio of the tokens that a provider counts to those predicted, above which it is reported; tokens are estimated
without the provider's tokenizer."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
EnvVarName = Annotated[str | None, EnvVarMarker()]
"""Name of an environment variable; its value is never stored."""
JobState = Literal["running", "succeeded", "failed", "cancelled"]


class HostedJob(NamedTuple):
    """A job as its provider reports it."""

    id: str
    state: JobState
    model: str = ""
    """Name by which the tuned model is called, once it exists."""
    message: str = ""
    """Reason of a failure."""
    tokens: int | None = None
    """Tokens that the provider counts, over all epochs, where it reports them."""
    file: str = ""
    """Id of the uploaded training rows."""


class HostedEvent(NamedTuple):
    """An event that a job reports."""

    id: str
    text: str
    is_warning: bool = False
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = {}


class HostedRequest(NamedTuple):
    """The content of a job: its key, rows and seed."""

    key: str
    """The job key: 64 hexadecimal digits."""
    rows: int
    seed: int
    """From 0 to 2³¹ - 1."""

    @property
    def name(self) -> str:
        """Name of the file and suffix of the job, by which both are found again; lower-case letters, digits and one
        dash.
        """
        return f"luthier-{self.key[:16]}"


def check_url(url: str) -> str:
    """Return a provider's address; `ValueError` for one with a password, or for unencrypted HTTP to another machine."""
    if not re.fullmatch(r"https?://[^\s@?#]+", url):
        raise ValueError("expected an address as in https://api.openai.com/v1, without a password or a query")
    if url.startswith("http://") and urlsplit(url).hostname not in _LOOPBACK:
        raise ValueError("rows and key would travel in clear; write https://")
    return url


class HostedTechnique(StandaloneTechnique):
    """The base of techniques that train at a provider, by its fine-tuning API."""

    reads_model: ClassVar[bool] = False
    sent_names: ClassVar[Mapping[str, str]] = {}
    """Provider-specific settings that affect the job, each with the provider's name for it."""

    model: Annotated[str, Field(min_length=1)]
    """The base model's name at the provider."""
    url: str
    """Where the provider's API begins. No password in it; `http://` only on this machine."""
    key_env: EnvVarName
    """Name of the environment variable that holds the key, never the key itself; null for servers without keys."""
    upload: Annotated[bool, NotHashed()] = False
    """Whether the training rows may leave this machine. Nothing is sent without it."""
    allow_personal_data: Annotated[bool, NotHashed()] = False
    """Whether rows may be uploaded although the last check finds personal data in them."""
    epochs: int = Field(default=3, ge=1, le=50)
    """Number of passes over the rows; each one is paid for."""
    price_per_million_tokens: Annotated[float | None, NotHashed()] = Field(default=None, gt=0)
    """The provider's price for training on a million tokens, as its price list says today, in its currency."""
    max_price: Annotated[float | None, NotHashed()] = Field(default=None, gt=0)
    """Maximum price of the job; a job that is predicted to cost more is refused before anything is sent."""
    on_interrupt: Annotated[Literal["keep", "cancel"], NotHashed()] = "keep"
    """What happens to the provider's job when the run is interrupted: `keep` lets it continue (the next run finds it),
    `cancel` ends it."""
    poll_s: Annotated[float, NotHashed()] = Field(default=15.0, gt=0)
    """Seconds between two requests for the job's state."""
    patience_s: Annotated[float, NotHashed()] = Field(default=3600.0, gt=0)
    """Seconds for which a provider that is busy (429), failing (5xx) or unreachable is retried before the run ends with
    an error. The job continues meanwhile."""
    timeout_s: Annotated[float, NotHashed()] = Field(default=120.0, gt=0)
    """Seconds to wait for one response."""

    @field_validator("url")
    @classmethod
    def _an_address_and_no_password(cls, url: str) -> str:
        return check_url(url)

    @field_validator("key_env")
    @classmethod
    def _a_name_and_no_key(cls, name: str | None) -> str | None:
        name = name.removeprefix("$") if name is not None else None
        if name is not None and not re.fullmatch("[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError("expected the name of an environment variable in capitals, never the key itself")
        return name

    @model_validator(mode="after")
    def _price_is_known(self) -> Self:
        if self.max_price is not None and self.price_per_million_tokens is None:
            raise ValueError("max_price needs price_per_million_tokens; take it from the provider's price list")
        return self

    @property
    def inference_url(self) -> str:
        """Base URL of the tuned model: `/chat/completions` is added."""
        return self.url

    @property
    @abstractmethod
    def rules(self) -> ProviderRules:
        """The provider's limits."""

    @property
    def tunes_on_pairs(self) -> bool:
        """Whether a job trains on preference pairs."""
        return False

    def job_settings(self) -> dict[str, Any]:
        """Return the settings of `sent_names` that are given, by the provider's names; the provider chooses
        the others.
        """
        given = {sent: getattr(self, name) for name, sent in self.sent_names.items()}
        return {name: value for name, value in given.items() if value is not None}

    def identify_job(self) -> list[Any]:
        """Return what identifies a job besides rows and seed."""
        return [self.kind, self.url, self.model, self.epochs, self.job_settings()]

    def open_client(self, say: Callable[[str], None]) -> ProviderClient:
        """Open the provider's API with the user's key."""
        return ProviderClient(self.url, self.key_env, say, patience_s=self.patience_s, timeout_s=self.timeout_s)

    @abstractmethod
    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Return the id of the file that was uploaded under the request's name, if there is a complete one."""

    @abstractmethod
    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Upload the rows and return the file's id."""

    @abstractmethod
    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Return the jobs that were started for the request, in any state, oldest first."""

    @abstractmethod
    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start the job."""

    @abstractmethod
    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the provider's record of a job."""

    @abstractmethod
    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read a job's state from its provider's record."""

    @abstractmethod
    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """Return the latest events of a job, oldest first; none where the provider has none."""

    @abstractmethod
    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """End a job for good."""

    def get_served_name(self, job: HostedJob) -> str:
        """Return the name by which the tuned model is called."""
        return job.model

    def describe_endpoint(self, job: HostedJob) -> EndpointModelSource:
        """Describe the endpoint of the tuned model."""
        return EndpointModelSource(url=self.inference_url, model=self.get_served_name(job), key_env=self.key_env)

    def write_model(
        self, client: ProviderClient, job: HostedJob, folder: Path, base: Artifact | None
    ) -> dict[str, Any]:
        """Write the files of the tuned model, by default `endpoint.json` and `model.json`.

        `base` is the step's own base model, where it has one. Returns what the record of the job adds about it.
        """
        endpoint = self.describe_endpoint(job)
        write_settings(folder / ENDPOINT, endpoint.settings())
        origin = f"tuned from {self.model} by job {job.id} at {self.url}"
        card = {"name": endpoint.model, "licence": None, "origin": origin, "parameters": None}
        write_settings(folder / MODEL_CARD, card)
        return {}

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """No weights are on this machine."""
        return BASE_BYTES

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The number of epochs: each trial is a job that is paid for."""
        return {"epochs": ParamDistribution(values=(1, 2, 3, 4))}

    def estimate_cost(self, plan_context: PlanContext, rows: int | None) -> StepCostEstimate:
        """Estimate tokens and price; refuses a job without `upload`, and one above `max_price`."""
        row_estimate = estimate_rows(rows, plan_context)
        self._require_upload(
            "the training rows" if row_estimate is None else format_counted_noun(row_estimate.number, "row")
        )
        if row_estimate is None:
            return StepCostEstimate(how="unknown until the data are here; the provider's machines do the work")
        tokens = round(row_estimate.number * row_estimate.tokens * self.epochs)
        self._check_price(tokens)
        how = f"{row_estimate.how}; {self.describe_price(tokens)}; the provider's machines do the work"
        return StepCostEstimate(peak_bytes=BASE_BYTES, tokens=tokens, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict a model behind an endpoint."""
        return ArtifactSpec(remote=True, merging=self.merging, how="an endpoint")

    def fit(self, work: StepContext, examples: Sequence[Example], dtype: Dtype) -> dict[str, Any]:
        """Upload the rows, run the job, and write the address of the tuned model."""
        self._require_upload(format_counted_noun(len(examples), "row"))
        lines = format_rows(examples, self.rules, pairs=self.tunes_on_pairs)
        if not self.allow_personal_data:
            refuse_personal_data(lines)
        counts = count_row_tokens([list_counted_turns(line) for line in lines], None).lengths
        tokens = round(sum(counts) / max(1, len(counts)) * len(lines) * self.epochs)
        self._check_price(tokens)
        return HostedRun(self, work, lines, tokens).run(examples)

    def _require_upload(self, rows: str) -> None:
        if not self.upload:
            what = f"{rows} (messages, answers and tools of the training split) would be sent to {self.url}"
            where, hint = (
                SourceLocation(field="technique.upload"),
                "write `upload: true` if they may leave this machine",
            )
            raise ModelError(f"{what}, to tune {self.model} there", where=where, hint=hint)

    def _check_price(self, tokens: int) -> None:
        if self.max_price is not None and (price := self.compute_price(tokens)) is not None and price > self.max_price:
            what = f"the job would cost about {price:.2f}, and max_price is {self.max_price:g}"
            what = f"{what} ({self.describe_price(tokens)})"
            hint = "take fewer rows (`max_train_samples`) or epochs, or raise max_price"
            raise ModelError(what, where=SourceLocation(field="technique.max_price"), hint=hint)

    def describe_price(self, tokens: int) -> str:
        """Return tokens, epochs and price as text."""
        passes = f"{tokens:,} tokens in {format_counted_noun(self.epochs, 'epoch')}"
        if (price := self.compute_price(tokens)) is None:
            return f"{passes}; give `price_per_million_tokens` to be told the price"
        return f"{passes} at {self.price_per_million_tokens:g} a million: {price:.2f}"

    def compute_price(self, tokens: int) -> float | None:
        """Return the price of `tokens` tokens; None where no price is given."""
        return None if self.price_per_million_tokens is None else tokens * self.price_per_million_tokens / 1e6


class PreferenceHostedTechnique(HostedTechnique):
    """The base of techniques whose provider tunes on preferences as well."""

    method: Literal["supervised", "dpo"] = "supervised"
    """`supervised` learns the answers; `dpo` learns to prefer each answer to the rejected one of its row."""
    beta: float | None = Field(default=None, gt=0, le=2)
    """Under `method: dpo`, strength of the pull to the base model; the provider chooses when not given."""

    @model_validator(mode="after")
    def _beta_matters(self) -> Self:
        if self.beta is not None and self.method != "dpo":
            raise ValueError("beta belongs to `method: dpo`; leave it out, or write dpo")
        return self

    @property
    def tunes_on_pairs(self) -> bool:
        """True under `method: dpo`."""
        return self.method == "dpo"

    def identify_job(self) -> list[Any]:
        """Add the method, where it is not the default."""
        return [*super().identify_job(), *([self.method, self.beta] if self.tunes_on_pairs else [])]

    def download_rows(self, client: ProviderClient, file_id: str, to: Path) -> None:
        """Write the uploaded rows to a file."""
        client.download(f"files/{file_id}/content", to)


class HostedRun:
    """One run of a hosted technique: finds or starts the job, follows it, and writes the artifact."""

    def __init__(
        self, technique: HostedTechnique, work: StepContext, lines: Sequence[Mapping[str, Any]], tokens: int
    ) -> None:
        self._technique, self._work, self._lines, self._tokens = technique, work, lines, tokens
        seed = work.seed % 2**31
        key = digest_of([*technique.identify_job(), seed, list(lines)])
        self._request = HostedRequest(key, len(lines), seed)
        self._notes = work.scratch / "hosted.json"
        self._seen: set[str] = set()

    def run(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Run the job to its end.

        Returns the price, which is not part of the artifact. No time is measured: the provider's says nothing about
        this machine.
        """
        technique = self._technique
        with technique.open_client(self._work.events.note) as client:
            job = self._find_known(client) or client.find_or_create(
                lambda: self._find(client), lambda: self._create(client)
            )
            self._save_ids(job=job.id)
            job = self._follow(client, job)
            self._check_tokens(job)
            self._write(client, job, examples)
        prices = {
            "price_told": technique.compute_price(self._tokens),
            "price_counted": None if job.tokens is None else technique.compute_price(job.tokens),
        }
        return {name: price for name, price in prices.items() if price is not None}

    def _find_known(self, client: ProviderClient) -> HostedJob | None:
        """Return the job that an earlier attempt at this very step started."""
        if (job_id := self._read_ids().get("job")) is None:
            return None
        try:
            job = self._technique.read_job(self._technique.read_record(client, job_id))
        except ModelError as error:
            if not is_missing(error):
                raise
            return None
        if job.state in ("failed", "cancelled"):
            return None
        self._work.events.note(f"going on with job {job.id}")
        return job

    def _find(self, client: ProviderClient) -> HostedJob | None:
        """Return a job with the same key that is finished or in progress at the provider."""
        file_id = self._read_ids().get("file")
        hosted_jobs = self._technique.find_jobs(client, self._request, file_id)
        able = [job for job in hosted_jobs if job.state in ("succeeded", "running")]
        if not able:
            return None
        job = next((hosted_job for hosted_job in able if hosted_job.state == "succeeded"), able[0])
        if others := [hosted_job.id for hosted_job in able if hosted_job.id != job.id]:
            what = f"the provider has {len(able)} jobs for the same rows and settings; {job.id} is taken"
            self._work.events.warning(f"{what}, and {', '.join(others)} may be paid for as well: look at them there")
        self._work.events.note(f"job {job.id} was started before for the same rows and settings: none is started anew")
        return job

    def _create(self, client: ProviderClient) -> HostedJob:
        technique, request = self._technique, self._request
        if (file_id := self._read_ids().get("file")) is None:
            file_id = technique.find_file(client, request)
        if file_id is None:
            path = self._work.scratch / f"{request.name}.jsonl"
            size = write_rows(path, self._lines, technique.rules)
            self._work.events.note(f"uploading {format_counted_noun(len(self._lines), 'row')} ({size:,} bytes)")
            file_id = technique.upload_file(client, request, path)
        self._save_ids(file=file_id)
        try:
            job = technique.create_job(client, request, file_id)
        except ProviderRefusalError:
            self._save_ids(file=None)  # it may be gone there
            raise
        self._save_ids(job=job.id)
        self._work.events.note(f"job {job.id} tunes {technique.model}; {technique.describe_price(self._tokens)}")
        return job

    def _follow(self, client: ProviderClient, job: HostedJob) -> HostedJob:
        """Return the job when it is done; `ModelError` when it failed or was cancelled."""
        try:
            while True:
                job = self._technique.read_job(self._technique.read_record(client, job.id))
                self._report_events(client, job.id)
                if job.state != "running":
                    break
                time.sleep(self._technique.poll_s)
        except KeyboardInterrupt:
            self._handle_interruption(client, job.id)
            raise
        if job.state == "succeeded" and job.model:
            return job
        self._save_ids(job=None)
        why = client.hide_key(job.message) or "the provider does not say why"
        outcome = "was cancelled" if job.state == "cancelled" else "failed" if job.state == "failed" else "has no model"
        where, hint = SourceLocation(field="technique"), "a further run starts a new job, which is paid for anew"
        raise ModelError(f"job {job.id} at {client.url} {outcome}: {why}", where=where, hint=hint)

    def _handle_interruption(self, client: ProviderClient, job_id: str) -> None:
        """Keep or cancel the job of an interrupted run."""
        if self._technique.on_interrupt == "keep":
            self._work.events.note(f"job {job_id} goes on at {client.url}; the next run finds it (on_interrupt: keep)")
            return
        try:
            self._technique.cancel_job(client, job_id)
        except (BusyError, LostRequestError, ModelError) as error:
            self._work.events.warning(f"job {job_id} could not be cancelled, and goes on at {client.url}: {error}")
            return
        self._work.events.note(f"job {job_id} was cancelled (on_interrupt: cancel)")

    def _report_events(self, client: ProviderClient, job_id: str) -> None:
        try:
            events = self._technique.read_events(client, job_id)
        except ModelError as error:
            if is_missing(error):  # not every server lists events
                return
            raise
        for event in events:
            if event.id in self._seen:
                continue
            self._seen.add(event.id)
            if event.metrics:
                self._work.events.progress(event.step, max(event.step, event.steps), "steps", **event.metrics)
            elif event.is_warning:
                self._work.events.warning(client.hide_key(event.text))
            else:
                self._work.events.note(client.hide_key(event.text))

    def _check_tokens(self, job: HostedJob) -> None:
        """Warn when the provider counts more tokens than predicted."""
        if job.tokens is None or job.tokens <= SLACK * self._tokens:
            return
        what = f"the provider counts {job.tokens:,} tokens, and {self._tokens:,} were told"
        technique = self._technique
        if (price := technique.compute_price(job.tokens)) is not None:
            limit = technique.max_price
            above = f", more than max_price {limit:g}" if limit is not None and price > limit else ""
            what = f"{what}: {price:.2f} in place of {technique.compute_price(self._tokens):.2f}{above}"
        self._work.events.warning(what)

    def _write(self, client: ProviderClient, job: HostedJob, examples: Sequence[Example]) -> None:
        """Write the model, `job.json`, `training.json` and `training_examples.parquet`."""
        import polars

        technique, folder = self._technique, self._work.folder
        more = technique.write_model(client, job, folder, self._work.inputs.get("model"))
        job_record = {
            "provider": technique.kind,
            "url": technique.url,
            "job": job.id,
            "job_key": self._request.key,
            "file": job.file or None,
            "base": technique.model,
            "model": job.model,
            "rows": len(examples),
            "tokens_told": self._tokens,
            "tokens_counted": job.tokens,
            **more,
        }
        write_settings(folder / JOB_FILE, job_record)
        training_record = {
            "technique": drop_not_hashed(technique, technique.settings()),
            "objective": {"kind": "dpo" if technique.tunes_on_pairs else "sft"},
            "base": technique.model,
            "rows": len(examples),
            "rows_seen": len(examples) * technique.epochs,
        }
        TrainingRecord.model_validate(training_record).write(folder)
        table = [
            {"id": example.id, "seen": technique.epochs, "tokens": 0, "learnt": 0, "cut": False} for example in examples
        ]
        polars.DataFrame(table).write_parquet(folder / "training_examples.parquet")

    def _read_ids(self) -> dict[str, str]:
        """Return the known ids of this step's file and job."""
        if not self._notes.is_file():
            return {}
        known: dict[str, str] = json.loads(self._notes.read_text(encoding="utf-8"))
        return known if known.get("key") == self._request.key else {}

    def _save_ids(self, **ids: str | None) -> None:
        known: dict[str, str | None] = {**self._read_ids(), **ids, "key": self._request.key}
        kept = {name: value for name, value in known.items() if value is not None}
        write_atomically(self._notes, canonical_json(kept).encode())


def map_same_names(*names: str) -> dict[str, str]:
    """Map settings whose names at the provider are the same as here."""
    return {name: name for name in names}


def read_text(record: Mapping[str, Any], name: str, url: str) -> str:
    """Return a string field of a provider's response; `ModelError` where it is missing."""
    if not isinstance(value := record.get(name), str) or not value:
        what = f"{url} answered without `{name}`: {canonical_json(dict(record))[:120]}"
        raise ModelError(what, where=SourceLocation(field="technique.url"), hint="is it an API of that provider?")
    return value


def read_records(record: Mapping[str, Any], name: str = "data") -> list[dict[str, Any]]:
    """Return the objects of a list in a provider's response."""
    entries = record.get(name)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


StorageUrl = Annotated[str, AfterValidator(check_url)]
"""Base URL of a bucket's API."""


class BucketTechnique(HostedTechnique):
    """The base of techniques whose provider reads rows from a bucket and lists no events."""

    region: Annotated[str, Field(pattern="^[a-z0-9-]{1,32}$")]
    """The cloud's region, such as `us-east-1` (AWS) or `us-central1` (Google Cloud)."""

    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """The provider lists none."""
        return []

    @property
    def _api(self) -> str:
        """Base URL of the region's API."""
        return self.url.replace("{region}", self.region).rstrip("/")

"""A finished job of a provider of fine-tuning as a recipe, with its rows, and its model to compare with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.models.catalog import CATALOG
from luthier.models.source import is_hub_id
from luthier.recipe.importers.import_report import ImportReport
from luthier.tune.hosted.client import ProviderClient, is_missing
from luthier.tune.hosted.technique import HostedJob, PreferenceHostedTechnique
from luthier.tune.technique import TechniqueBase

TRAINING, VALIDATION = "training.jsonl", "validation.jsonl"
PATIENCE_S = 60.0
"""Seconds for which a busy or unreachable provider is retried."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HERE = SourceLocation(field="--from")
_UNSAID = ("auto", "max", None)
"""Placeholder of a provider's undisclosed default."""


class _Provider(NamedTuple):
    """API and environment variables of one provider."""

    url_env: str
    taken: Mapping[str, str]
    """Fields of the step `tune` by the provider's names."""
    terms: str
    """Terms on training on the old model's answers."""
    more_env: Mapping[str, str] = {}
    """Further settings of the technique, by the variables that hold them."""


_OPENAI_TERMS = (
    "OpenAI's terms forbid the use of its output to develop models that compete with OpenAI: find out first whether "
    "yours may learn from it"
)
_OPEN_TERMS = (
    "the licence of the base model decides whether other models may learn from its answers, and the provider's terms "
    "apply as well: read both first"
)
_PROVIDERS: Mapping[str, _Provider] = {
    "openai": _Provider(
        "OPENAI_BASE_URL", {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "objective.beta"}, _OPENAI_TERMS
    ),
    "together": _Provider(
        "TOGETHER_BASE_URL",
        {
            "n_epochs": "epochs", "batch_size": "batch_size", "learning_rate": "learning_rate",
            "warmup_ratio": "warmup_ratio", "max_grad_norm": "max_grad_norm", "weight_decay": "optimizer.weight_decay",
            "lora_r": "technique.r", "lora_alpha": "technique.lora_alpha", "lora_dropout": "technique.lora_dropout",
            "lr_scheduler_type": "lr_scheduler", "dpo_beta": "objective.beta",
        },
        _OPEN_TERMS,
    ),
    "fireworks": _Provider(
        "FIREWORKS_BASE_URL",
        {
            "epochs": "epochs", "batchSizeSamples": "batch_size", "learningRate": "learning_rate",
            "learningRateWarmupSteps": "warmup_steps", "optimizerWeightDecay": "optimizer.weight_decay",
            "loraRank": "technique.r", "klBeta": "objective.beta",
        },
        _OPEN_TERMS,
        {"FIREWORKS_ACCOUNT_ID": "account"},
    ),
}  # fmt: skip
_WHY_LEFT = {
    "learning_rate_multiplier": "the provider does not publish the rate that it multiplies: `learning_rate: auto` "
    "stands in its place; so many times that is a rate to try",
    "lora_trainable_modules": "all linear layers learn here unless `target_modules` names others",
    "train_on_inputs": "the turns of the assistant are learnt",
    "dpo_normalize_logratios_by_length": "there is no such setting here; `simpo` is normalized by length",
    "dpo_reference_free": "there is no such setting here; `simpo` and `orpo` have no reference",
    "rpo_alpha": "write it into the objective, if you want it",
    "simpo_gamma": "write `objective: {kind: simpo}`, if you want it",
}
_NUMBER = "the provider chose it, and does not say what it chose"
_CHOSEN_BASES = (
    (re.compile("nano"), "qwen3-1.7b"),
    (re.compile("mini|3[.]5"), "qwen3-8b"),
    (re.compile("gpt|davinci|babbage"), "qwen3-8b"),
)
"""Open models by words in the names of closed ones; nobody publishes their sizes."""


class ProviderJob(NamedTuple):
    """A job as a recipe needs it."""

    kind: str
    tuned: HostedJob
    base: str
    method: str
    """`supervised` or `dpo`."""
    technique: str
    """`lora` or `full`."""
    settings: Mapping[str, Any]
    """By the provider's names."""
    seed: int
    validation: str | None
    """The id of the file with held-out rows."""


class HomeRecipe(NamedTuple):
    """A recipe's text, the files that it reads, and what became of each setting."""

    text: str
    files: tuple[Path, ...]
    account: ImportReport
    notes: tuple[str, ...]


def import_hosted_job(source: str, name: str, model: str | None, default_model: str, folder: Path) -> HomeRecipe:
    """The recipe `name` that does on an open model what a finished job did; its files are downloaded into `folder`.

    `source` is `openai:JOB`, `together:JOB` or `fireworks:JOB`; `model` the open model that is wanted: else one is
    chosen, `default_model` where nothing is known of the old one's size. `InputError` for a job that is unknown or not
    done, and for rows that are gone.
    """
    kind, _, job_id = source.partition(":")
    if not re.fullmatch(r"\w[\w.-]*", job_id):
        raise InputError(f"{source!r} names no job", where=_HERE, hint=f"write {kind}:JOB with the id of a job")
    technique = _open_technique(kind)
    with technique.open_client(lambda text: None) as client:
        job = _read_job(technique, client, job_id)
        training = folder / TRAINING
        rows = _download(technique, client, job.tuned.file, training)
        held_out = _download(technique, client, job.validation, folder / VALIDATION) if job.validation else 0
    account = ImportReport(kind)
    account.taken["training rows"] = f"{TRAINING} ({format_counted_noun(rows, 'row')})"
    if held_out:
        account.taken["validation rows"] = f"{VALIDATION} ({format_counted_noun(held_out, 'row')})"
    base, why = (model, "as given") if model is not None else _choose_base(job.base, default_model)
    recipe = {"luthier": 1, "name": name, "seed": job.seed, "model": base}
    recipe["steps"] = _build_steps(technique, job, held_out, account)
    text = _write_text(technique, job, recipe, account, why, held_out)
    files = (training, folder / VALIDATION) if held_out else (training,)
    return HomeRecipe(text, files, account, (f"{format_counted_noun(rows, 'row')} from {technique.url}",))


def _open_technique(kind: str) -> PreferenceHostedTechnique:
    """Return the hosted technique of the provider, by its client's variables."""
    provider = _PROVIDERS[kind]
    settings: dict[str, Any] = {"kind": kind, "model": "unknown", "patience_s": PATIENCE_S}
    for variable, setting in {provider.url_env: "url", **provider.more_env}.items():
        if value := os.environ.get(variable, "").strip():
            settings[setting] = value
        elif setting != "url":
            raise InputError(f"the environment variable {variable} is not set", where=_HERE, hint="name your account")
    try:
        technique = TechniqueBase.parse(settings)
    except ValidationError as error:
        what = f"{provider.url_env} is not as {kind} wants it: {error.errors()[0]['msg']}"
        raise InputError(what, where=_HERE, hint="as in https://api.openai.com/v1") from error
    assert isinstance(technique, PreferenceHostedTechnique), "all of them are"
    variable = technique.key_env or ""
    if not os.environ.get(variable, "").strip():
        if urlsplit(technique.url).hostname not in _LOOPBACK:
            what = f"the environment variable {variable} is not set, and {technique.url} wants a key"
            raise InputError(what, where=_HERE, hint=f"`export {variable}=…`")
        technique = technique.model_copy(update={"key_env": None})
    return technique


def _read_job(technique: PreferenceHostedTechnique, client: ProviderClient, job_id: str) -> ProviderJob:
    record = _read_record(technique, client, job_id)
    tuned = technique.read_job(record)
    if tuned.state == "running":
        what = f"job {job_id} at {technique.url} is not done yet"
        raise InputError(what, where=_HERE, hint="try it again when it has succeeded")
    if tuned.state != "succeeded" or not tuned.model:
        what = f"job {job_id} at {technique.url} {'was cancelled' if tuned.state == 'cancelled' else 'failed'}"
        reason = client.hide_key(tuned.message) or "the provider does not say why"
        raise InputError(f"{what}: {reason}", where=_HERE, hint="name a job that succeeded")
    return _READERS[technique.kind](record, tuned)


def _read_record(technique: PreferenceHostedTechnique, client: ProviderClient, job_id: str) -> dict[str, Any]:
    """The record of a job; at Fireworks, of the one kind or the other."""
    tried = [technique]
    if technique.kind == "fireworks":
        tried.append(technique.model_copy(update={"method": "dpo"}))
    for entry in tried:
        try:
            return entry.read_record(client, job_id)
        except LuthierError as error:
            if not is_missing(error):
                raise
    what = f"{technique.url} knows no job {job_id!r} of yours"
    raise InputError(what, where=_HERE, hint="look at the id, and at whose key it is")


def _read_openai(record: Mapping[str, Any], tuned: HostedJob) -> ProviderJob:
    method = record.get("method") or {}
    kind = str(method.get("type") or "supervised")
    settings = (method.get(kind) or {}).get("hyperparameters") or record.get("hyperparameters") or {}
    return _build("openai", record, tuned, kind, "lora", settings)


def _read_together(record: Mapping[str, Any], tuned: HostedJob) -> ProviderJob:
    names = ("n_epochs", "batch_size", "learning_rate", "warmup_ratio", "max_grad_norm", "weight_decay")
    method, training = dict(record.get("training_method") or {}), dict(record.get("training_type") or {})
    shape = (record.get("lr_scheduler") or {}).get("lr_scheduler_type") or None
    kind, whole = str(method.pop("method", "sft")), training.pop("type", "Lora") == "Full"
    settings = {
        **{name: record[name] for name in names if name in record},
        **({"lr_scheduler_type": shape} if shape else {}),
        **training,
        **{name: value for name, value in method.items() if value is not False and value is not None},
    }
    return _build(
        "together", record, tuned, "dpo" if kind == "dpo" else "supervised", "full" if whole else "lora", settings
    )


def _read_fireworks(record: Mapping[str, Any], tuned: HostedJob) -> ProviderJob:
    training, loss = record.get("trainingConfig"), dict(record.get("lossConfig") or {})
    own = training if isinstance(training, dict) else record
    settings = {name: own[name] for name in _PROVIDERS["fireworks"].taken if own.get(name)}
    if beta := loss.get("klBeta"):
        settings["klBeta"] = beta
    method = "supervised" if own is record else str(loss.get("method") or "DPO").lower()
    technique = "full" if own.get("loraRank") == 0 else "lora"
    record = {**record, "model": own.get("baseModel"), "validation_file": record.get("evaluationDataset")}
    return _build("fireworks", record, tuned, method, technique, settings)


_READERS: Mapping[str, Callable[[Mapping[str, Any], HostedJob], ProviderJob]] = {
    "openai": _read_openai,
    "together": _read_together,
    "fireworks": _read_fireworks,
}


def _build(
    kind: str,
    record: Mapping[str, Any],
    tuned: HostedJob,
    method: str,
    technique: str,
    settings: Mapping[str, Any],
) -> ProviderJob:
    if method not in ("supervised", "dpo"):
        what = f"job {tuned.id} was tuned by {method}, and what judged its answers cannot be read from the provider"
        raise InputError(what, where=_HERE, hint="write a recipe with `objective: {kind: grpo, rewards: […]}`")
    seed, validation = record.get("seed"), str(record.get("validation_file") or "").rpartition("/")[2]
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 else 0
    base = str(record.get("model") or "")
    return ProviderJob(kind, tuned, base, method, technique, settings, seed, validation or None)


def _download(technique: PreferenceHostedTechnique, client: ProviderClient, file_id: str, to: Path) -> int:
    """Bring the rows of a file; returns their number. `InputError` where they are gone or no JSON lines."""
    try:
        technique.download_rows(client, file_id, to)
    except LuthierError as error:
        if not is_missing(error):
            raise
        what = f"the file {file_id} of the job is gone from {technique.url}"
        hint = f"make a recipe from your own copy of the rows: `luthier new NAME --from {to.name}`"
        raise InputError(what, where=_HERE, hint=hint) from error
    number = 0
    with to.open("rb") as file:
        for number, line in enumerate(filter(bytes.strip, file), start=1):
            try:
                is_row = isinstance(json.loads(line), dict)
            except ValueError:
                is_row = False
            if not is_row:
                what = f"the file {file_id} of the job is not one JSON object a line (see row {number})"
                raise InputError(what, where=_HERE, hint="make a recipe from your own copy of the rows")
    if not number:
        raise InputError(f"the file {file_id} of the job is empty", where=_HERE, hint="take another job")
    return number


def _choose_base(base: str, default_model: str) -> tuple[str, str]:
    """An open model for the one that the job tuned, and why."""
    plain = base.rpartition("/")[2].lower().removesuffix("-reference").removesuffix("-turbo").replace("v3p", "3.")
    plain = plain.removeprefix("meta-")
    for word, entry in CATALOG.items():
        if plain in (word, str(entry.source.get("id", "")).rpartition("/")[2].lower()):
            return word, f"the model that the job tuned ({base})"
    if is_hub_id(base):
        return base, "the model that the job tuned, under its name at the provider: look whether the hub has it"
    for words, chosen in _CHOSEN_BASES:
        if words.search(base.lower()):
            size = CATALOG[chosen].parameters / 1e9
            return chosen, f"a choice: an open model of {size:.1f}B; nobody publishes the size of {base}"
    return default_model, f"a choice: nothing is known of {base}, so this is the smallest; take the size that you can"


def _build_steps(
    technique: PreferenceHostedTechnique, job: ProviderJob, held_out: int, account: ImportReport
) -> dict[str, Any]:
    plain = {"kind": "prepare", "source": {"kind": "jsonl", "path": TRAINING}, "split": {"test": 0}}
    steps: dict[str, Any] = {"data": {**plain, "split": {"test": 0.1}}}
    if held_out:
        held = {**plain, "source": {"kind": "jsonl", "path": VALIDATION}, "split": {"test": held_out, "train": 0}}
        steps = {"training": plain, "held_out": held, "data": {"kind": "mix", "data": ["training", "held_out"]}}
    steps["old"] = {
        "kind": "base",
        "source": {
            "kind": "endpoint",
            "url": technique.inference_url,
            "model": job.tuned.model,
            **({"key_env": technique.key_env} if technique.key_env else {}),
        },
    }
    pairs = job.method == "dpo"
    tune: dict[str, Any] = {
        "kind": "tune",
        "data": "data",
        "technique": {"kind": job.technique},
        "objective": {"kind": "dpo"} if pairs else {"kind": "sft", "train_on": "all"},
    }
    account.taken[f"method: {job.method}"] = "steps.tune.objective"
    for name, value in job.settings.items():
        _take(name, value, job, tune, account)
    steps["tune"] = tune
    steps["report"] = {"kind": "evaluate", "data": "data", "model": "tune", "compare_with": "old"}
    if pairs:
        steps["report"]["pairs"] = False
    return steps


def _take(name: str, value: Any, job: ProviderJob, tune: dict[str, Any], account: ImportReport) -> None:
    """Put one setting of the job where it stands here, or note why it has no place."""
    path = _PROVIDERS[job.kind].taken.get(name)
    if path is None or value in _UNSAID or (job.technique == "full" and path.startswith("technique.")):
        account.left[f"{name}: {value}"] = _NUMBER if value in _UNSAID else _WHY_LEFT.get(name, "it has none")
        return
    setting, _, inner = path.partition(".")
    if inner:
        usual = {"kind": "adamw"} if setting == "optimizer" else {}
        tune[setting] = {**tune.get(setting, usual), inner: value}
    elif setting == "epochs":
        tune[setting] = float(value)
    else:
        tune[setting] = value
    account.taken[f"{name}: {value}"] = f"steps.tune.{path}"


def _write_text(
    technique: PreferenceHostedTechnique,
    job: ProviderJob,
    recipe: dict[str, Any],
    account: ImportReport,
    why: str,
    held_out: int,
) -> str:
    head = [
        f"Made from job {job.tuned.id} at {technique.url}, which tuned {job.base} into {job.tuned.model}.",
        f"model: {why}.",
        "What became of the job:",
        *(f"  {line}" for line in account.comments()),
        "The step `old` is the provider's model: `report` compares both row by row, as long as it still answers.",
    ]
    if not held_out:
        head.append(
            "The job had no validation rows: a tenth of its training rows is held out here. The old model has learnt "
            "them, so the comparison flatters it; give fresh rows if you have some."
        )
    if technique.kind != "openai":
        head.append("The old model must be deployed at the provider before it answers.")
    terms = _PROVIDERS[job.kind].terms
    if urlsplit(technique.url).hostname in _LOOPBACK:
        terms = "the terms of the server and of its base model decide whether other models may learn from its answers"
    body = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100).rstrip()
    foot = [
        "The old model as a teacher: it writes and answers further rows while it still does. It is left out, since",
        f"{terms}.",
        "To use it, take away the signs in front, and write `data: taught` into the step `tune`.",
    ]
    teacher = ["taught:", "  kind: augment", "  data: data", "  model: old", "  augmenters: [{kind: instruct}]"]
    lines = [
        *map(_comment, head),
        body,
        *(f"  {_comment(line)}" for line in foot),
        *(f"  # {line}" for line in teacher),
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Return one line of a comment, without characters that would end it."""
    return f"# {''.join(char if char.isprintable() else ' ' for char in text)}"

"""Serve models of recipes and base models: choose each model's engine and set up the gateway.

Personal names in a model's traffic are found by the recognizers that found them in its training rows.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import ValidationError

from luthier.core.artifact import Artifact
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError, SourceLocation, UnknownName
from luthier.models.catalog import ENCODERS
from luthier.pii.recognizer import TEXT_PARTS, Recognizer, TextPart
from luthier.pii.span import NAME_KINDS, PiiKind
from luthier.recipe.locate import CommandTarget
from luthier.recipe.models import find_model, get_training_system_message, is_classification_model
from luthier.recipe.workspace import Workspace
from luthier.serve.engine import ServingEngine
from luthier.traces.retention import traffic_folder

if TYPE_CHECKING:
    from fastapi import APIRouter

    from luthier.artifacts.decisions import ConformalSummary
    from luthier.commands.explain_service import ExplanationService
    from luthier.commands.jobs.placement import JobPlacement
    from luthier.commands.jobs.service import JobService
    from luthier.core.store import Store
    from luthier.serve.app import ExtraRoutes
    from luthier.serve.model_pool import ModelPool, OpenModel, ResolvedModel
    from luthier.serve.openai.pipeline import ClassRouterConfig
    from luthier.serve.server import ListeningServer, ServerSettings
    from luthier.traces.api_keys import Scope
    from luthier.traces.record import Feedback
    from luthier.traces.retention import RetentionPolicy

_LOG = logging.getLogger("luthier.serve")


def serve(  # noqa: PLR0913  # what a command asks for
    workspace: Workspace,
    models: Sequence[str],
    server_config: ServerSettings,
    *,
    engine: str | None = None,
    deadline_s: float = 600.0,
    traces: bool = True,
    keep: str | None = None,
    pipelines: Sequence[str] = (),
    jobs: FineTuningServiceConfig | None = None,
    explanations: Callable[[ExplanationService], ExtraRoutes] | None = None,
    apply_training_prompt: bool = True,
    tell: Callable[[ListeningServer], None],
) -> int:
    """Serve models, and those that are released under names, until told to stop; 0 when nothing was cut off. A recipe
    among the `models` may be followed by its overrides.

    With `traces`, every request is kept in the traffic of the recipe here, as `keep` says; with `jobs`, models are
    tuned as well; with `explanations`, answers are explained; `apply_training_prompt`, conversations without a system
    message begin with the one that the model learnt with.
    """
    from luthier.commands.explain_service import ExplanationService
    from luthier.commands.jobs.placement import JobPlacement
    from luthier.commands.jobs.registry import find_alias_owners
    from luthier.serve.auth import KeyStoreRefresher
    from luthier.serve.model_pool import ModelPool
    from luthier.serve.openai.server import Gateway
    from luthier.serve.server import run_gateway
    from luthier.traces.releases import ReleaseFollower

    chosen = parse_engine(engine) if engine is not None else None
    ways = dict(map(parse_class_router, pipelines))
    placement = None if jobs is None else JobPlacement.parse(jobs.on, jobs.limit)
    served = CommandTarget.read_all(workspace, models, "serve")
    meant = {str(target): target for target in served}
    models = list(dict.fromkeys([*meant, *(entry for way in ways.values() for entry in way.models), *ways]))
    found = workspace.find_meant([meant[model].word or "" if model in meant else model for model in models])
    url = found.ledger_url
    with Ledger(url) as ledger, closing(_Kept(found, keep, enabled=traces)) as kept:
        tunable = [model for model in models if model not in meant or not meant[model].overrides]
        store = found.open_store()
        if placement is not None:
            placement.check(store)
        service = _build_job_service(jobs, tunable, ledger, workspace, store)

        def target(word: str) -> CommandTarget:
            return meant.get(word) or CommandTarget(workspace, word)

        for model in models if len(models) > 1 else []:
            _known(target(model), ways)  # a wrong name is told before the first model is opened
        ours = gc.get_freeze_count() == 0  # to thaw would take back what somebody else has frozen

        async def running() -> bool:
            model_pool = ModelPool(
                lambda word: (
                    _piped(word, model_pool, ways)
                    or open_served_model(
                        target(word), chosen, apply_training_prompt=apply_training_prompt, met=kept.meet, store=store
                    )
                ),
                lambda word: _known(target(word), ways),
                changed=partial(_keep_what_is_there, ours),
            )
            names = ReleaseFollower(lambda: Ledger(url), model_pool, owners=find_alias_owners)
            gateway = Gateway(model_pool, resolver=names, recorder=kept.recorder, deadline_s=deadline_s)
            explaining = ExplanationService(
                workspace=found, gateway=gateway, recorder=kept.recorder, models=kept.models
            )
            more = [
                *([jobs.doors(service)] if jobs and service else []),
                *([explanations(explaining)] if explanations else []),
            ]
            async with names, aclosing(explaining):
                if not models and not names.names() and not (service and service.tunable):
                    hint = "name a model, or release one: luthier release support@prod RECIPE:STEP"
                    raise InputError("there is nothing to serve", where=SourceLocation(field="MODEL"), hint=hint)
                async with _working(service, names.look, placement):
                    routes, keys = _join_routes(kept.routes(), more), KeyStoreRefresher(ledger)
                    return await run_gateway(gateway, models, server_config, keys, extra_routes=routes, tell=tell)

        try:
            return 0 if asyncio.run(running()) else 130
        finally:
            if ours:
                gc.unfreeze()


def _keep_what_is_there(ours: bool) -> None:
    """Look for garbage now, and no more among what is left: it stays as long as the models do, and a look at all of it
    holds every request up (with torch for a quarter of a second, and Python looks whenever it likes)."""
    if ours:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, kw_only=True)
class FineTuningServiceConfig:
    """The settings of the fine-tuning service: the tunable base models, and the HTTP routes to add."""

    tune: Sequence[str] = ()
    """Base models that may be tuned, as NAME=MODEL or MODEL; those that are served when none is named."""
    on: Sequence[str] = ()
    """Where the steps of jobs run, as words of `luthier run --on`."""
    limit: int = 1
    """Jobs that run at once."""
    doors: Callable[[JobService], ExtraRoutes]
    """What stands beside the gateway to ask for it."""


def _build_job_service(
    jobs: FineTuningServiceConfig | None, models: Sequence[str], ledger: Ledger, workspace: Workspace, store: Store
) -> JobService | None:
    from luthier.commands.jobs.service import JobService
    from luthier.commands.jobs.tunable import resolve_tunable_models

    return None if jobs is None else JobService(ledger, store, resolve_tunable_models(workspace, jobs.tune, models))


def _join_routes(routes: list[tuple[APIRouter, Scope]], more: Iterable[ExtraRoutes]) -> ExtraRoutes:
    from luthier.serve.app import ExtraRoutes

    bodies: dict[str, Any] = {}
    larger: dict[str, int] = {}
    for extra_routes in more:
        routes = [*routes, *extra_routes.routers]
        bodies |= extra_routes.bodies
        larger |= extra_routes.larger
    return ExtraRoutes(routers=routes, bodies=bodies, larger=larger)


@asynccontextmanager
async def _working(
    service: JobService | None, released: Callable[[], Awaitable[None]], placement: JobPlacement | None
) -> AsyncIterator[None]:
    """Work through jobs meanwhile."""
    if service is None:
        yield
        return
    from luthier.commands.jobs.runner import JobRunner

    task = asyncio.create_task(JobRunner(service, released, placement).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Kept:
    """What is kept of the traffic: everything that `luthier.traces` keeps, or nothing."""

    def __init__(self, workspace: Workspace, text: str | None, *, enabled: bool) -> None:
        from luthier.traces.recorder import TraceRecorder

        self._workspace, self._base = workspace, workspace.folder
        self.models: dict[str, Artifact] = {}
        """Every model that was opened, by digest."""
        keeping, self._asked = parse_retention_policy(text if enabled else None)
        self.recorder = TraceRecorder(traffic_folder(self._base), keeping) if enabled else None
        self._redact_media()

    def meet(self, model: Artifact) -> None:
        """From now on, take names out as they were taken out of the rows that a model was tuned on, unless the command
        says how; that stays so when the model is gone."""

        self.models[model.digest] = model
        if self.recorder is not None and "media_ops" not in self._asked and self.recorder.keeping.media == "bytes":
            ops = collect_media_operators(self.models.values())
            if ops != self.recorder.keeping.media_ops:
                self.recorder.change(self.recorder.keeping.model_copy(update={"media_ops": ops}))
                self._redact_media()
                kinds = ", ".join(str(entry["kind"]) for entry in ops)
                _LOG.warning("pictures of requests go through %s, as the data did that the model was tuned on", kinds)
        if self.recorder is None or "names" in self._asked:
            return
        found = collect_name_redaction(self.models.values(), self._base).settings()
        update = {name: value for name, value in found.items() if name not in self._asked}
        keeping = self.recorder.keeping.model_copy(update=update)
        if keeping != self.recorder.keeping:
            for names in keeping.names:
                _try(names, self._base)
            self.recorder.change(keeping)
            kinds = ", ".join(names.kind for names in keeping.names)
            _LOG.warning("names in traces are taken out by %s, as in the rows that the model was tuned on", kinds)

    def _redact_media(self) -> None:
        """Open what takes personal data out of pictures, where bytes are kept."""
        if self.recorder is not None and self.recorder.keeping.media == "bytes" and self.recorder.keeping.media_ops:
            from luthier.data.media.redact import MediaRedactor

            self.recorder.redact_media = MediaRedactor(self.recorder.keeping.media_ops, self._base)

    def routes(self) -> list[tuple[APIRouter, Scope]]:
        """The routes for feedback."""
        from luthier.traces.feedback import feedback_routes

        return [] if self.recorder is None else [(feedback_routes(self.recorder.record, self._checked), "infer")]

    def _checked(self, feedback: Feedback) -> Feedback:
        """Feedback whose label is a class of the model that answered."""
        from luthier.recipe.predict import check_served_feedback

        assert self.recorder is not None, "without a recorder there is no route for feedback"
        return check_served_feedback(self._workspace, self.recorder, feedback)

    def close(self) -> None:
        """Let what was recorded be written."""
        if self.recorder is not None:
            self.recorder.close()


def _try(names: Recognizer, recipe_dir: Path) -> None:
    """Have a recogniser read a name, so that what it lacks is said now."""
    try:
        names.check_installed(recipe_dir)
        names.download(_LOG.warning)
        names.find_names(["Ada Lovelace"])
    except LuthierError as error:
        what = f"names were taken out of the model's rows by {names.kind}, and would be of its traffic: {error.message}"
        otherwise = "or leave names in clear: --keep '{names: null}'"
        hint = ", ".join(filter(None, (error.hint, otherwise)))
        raise type(error)(what, where=error.where, hint=hint) from error


def parse_retention_policy(text: str | None) -> tuple[RetentionPolicy, frozenset[str]]:
    """How traffic is kept, from a mapping in YAML (`{sample: 0.1, days: 7}`), and which settings that names.

    Who finds names is tried at once.
    """
    from luthier.traces.retention import RetentionPolicy

    try:
        settings = yaml.safe_load(text or "{}")
        keeping = RetentionPolicy.model_validate(settings)
    except (yaml.YAMLError, ValidationError) as error:
        known = ", ".join(RetentionPolicy.model_fields)
        raise InputError(_wrong(error), where=SourceLocation(field="--keep"), hint=f"known: {known}") from error
    for names in keeping.names:
        names.find_names(["Ada Lovelace"])
    return keeping, frozenset(settings)


def _wrong(error: yaml.YAMLError | ValidationError | ValueError) -> str:
    """What is wrong with a setting that was typed as YAML, and which one it is."""
    if isinstance(error, yaml.YAMLError):
        return "is no mapping in YAML"
    if not isinstance(error, ValidationError):
        return str(error).split("\n", 1)[0]
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    message = (
        "expected a mapping" if first["type"].startswith(("model_", "dict_")) else message[:1].lower() + message[1:]
    )
    return ": ".join([*(str(step) for step in first["loc"][:1]), message])


def parse_engine(text: str) -> ServingEngine:
    """An engine from its kind, or from a mapping in YAML (`{kind: torch, max_num_seqs: 8}`)."""
    try:
        return ServingEngine.parse(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        hint = "`luthier components engine` lists them, `luthier components engine torch` the settings of one"
        raise InputError(_wrong(error), where=SourceLocation(field="--engine"), hint=hint) from error


def parse_class_router(text: str) -> tuple[str, ClassRouterConfig]:
    """A pipeline by its name: `support={by: route, to: {billing: one}, other: two}`."""
    from luthier.serve.openai.pipeline import ClassRouterConfig

    name, _, rest = text.partition("=")
    where = SourceLocation(field="--router")
    hint = "for example 'support={by: route.yaml:tune, to: {billing: billing.yaml:tune}, other: smollm2-135m-instruct}'"
    try:
        return name, ClassRouterConfig.model_validate(yaml.safe_load(rest))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(_wrong(error), where=where, hint=hint) from error


def _piped(word: str, model_pool: ModelPool, ways: Mapping[str, ClassRouterConfig]) -> OpenModel | None:
    from luthier.serve.model_pool import OpenModel
    from luthier.serve.openai.pipeline import ClassRouter

    return OpenModel(word, ClassRouter(model_pool, ways[word])) if word in ways else None


def _known(target: CommandTarget, ways: Mapping[str, ClassRouterConfig]) -> ResolvedModel:
    """What a word means: a step and the digest of what it made are one model."""
    from luthier.serve.model_pool import ResolvedModel

    word = str(target)
    if word in ways or _is_encoder(target):
        return ResolvedModel(word, word)
    name, artifact = find_model(target)
    return ResolvedModel(name, artifact.digest)


def open_served_model(
    target: CommandTarget,
    engine: ServingEngine | None = None,
    *,
    apply_training_prompt: bool = True,
    met: Callable[[Artifact], None] = lambda artifact: None,
    store: Store | None = None,
) -> OpenModel:
    """Open a model by the engine that was asked for, else by the one that fits it; `met` gets to know it before.

    With `apply_training_prompt`, its conversations begin with the system message of all its training rows where they
    have none. With a `store`, a model that names a class has the label sets that were calibrated for it there.
    """
    from luthier.serve.model_pool import OpenModel

    if _is_encoder(target):
        return OpenModel(str(target), _encoder(target))
    name, artifact = find_model(target)
    met(artifact)
    answering = (engine or choose_engine(artifact)).open(artifact)
    if apply_training_prompt:
        answering.system = get_training_system_message(artifact) or ""
    if store is not None and answering.chooses:
        answering.label_sets = find_label_sets(artifact, store)
    return OpenModel(name, answering)


def choose_engine(artifact: Artifact) -> ServingEngine:
    """The engine that serves a model when none is asked for."""
    from luthier.models.load import get_output_classes, is_endpoint
    from luthier.serve.engines.label import LabelEngine
    from luthier.serve.engines.remote import RemoteEngine
    from luthier.serve.engines.torch import TorchEngine

    if is_endpoint(artifact):
        return RemoteEngine()
    return LabelEngine() if get_output_classes(artifact) or is_classification_model(artifact) else TorchEngine()


def find_label_sets(model: Artifact, store: Store) -> ConformalSummary | None:
    """The newest label sets that a step `conformal` calibrated for a model; None where there are none."""
    from luthier.artifacts.decisions import ConformalSummary

    found = [
        digest
        for digest in store.digests()
        if (manifest := store.manifest(digest)).kind == ConformalSummary.kind
        and model.digest in manifest.inputs.values()
    ]
    if not found:
        return None
    newest = max(found, key=lambda digest: (store.timing(digest).get("finished_at", 0), digest))
    return ConformalSummary.read(store.open(newest))


def _is_encoder(target: CommandTarget) -> bool:
    """Whether a word names a text encoder, or its folder in sentence-transformers' layout."""
    return str(target) in ENCODERS or (target.word is not None and (target.path / "modules.json").is_file())


def _encoder(target: CommandTarget) -> Any:
    from luthier.models.embedders.encoder import EncoderEmbedder
    from luthier.serve.openai.request_state import EmbedderRunner

    encoder, base = EncoderEmbedder(model=str(target)), target.workspace.folder
    encoder.gather(base, lambda text: None)
    return EmbedderRunner(encoder.space([], recipe_dir=base, seed=0), encoder.fingerprint(base) or "")


class NameRedactionSettings(NamedTuple):
    """How person names are redacted from traffic; settings of `RetentionPolicy`."""

    names: tuple[Recognizer, ...] = ()
    names_in: tuple[TextPart, ...] = ()
    exclude_kinds: tuple[PiiKind, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Settings of `Keeping`; empty where no names are found."""
        return self._asdict() if self.names else {}


def collect_name_redaction(models: Iterable[Artifact], recipe_dir: Path) -> NameRedactionSettings:
    """Collect the name redaction settings of the operators `pii` that cleaned the data of some models.

    Names are looked for where one of them does, and a kind stays in clear where all leave it; `recipe_dir` is the
    folder at which the paths of recognisers start.
    """
    visited: dict[str, Artifact] = {}
    for model in models:
        _collect(model, visited)
    found = [ops for artifact in visited.values() for ops in _operators(artifact) if ops.get("ner")]
    names = dict.fromkeys(Recognizer.parse(ops["ner"]).at(recipe_dir) for ops in found)
    parts = {part for ops in found for part in ops.get("names_in", TEXT_PARTS)}
    left = [{kind for kind in NAME_KINDS if _stays(ops, kind)} for ops in found]
    kept = set.intersection(*left) if left else set()
    return NameRedactionSettings(
        tuple(names),
        tuple(part for part in TEXT_PARTS if part in parts),
        tuple(kind for kind in NAME_KINDS if kind in kept),
    )


def collect_media_operators(models: Iterable[Artifact]) -> tuple[dict[str, Any], ...]:
    """The settings of the operators that took something out of the pictures and sounds which models were tuned on."""
    from luthier.core.component import components_by_kind
    from luthier.data.media.operator import MediaOperator
    from luthier.data.operator import Operator

    known = {kind for kind, member in components_by_kind(Operator).items() if issubclass(member, MediaOperator)}
    visited: dict[str, Artifact] = {}
    for model in models:
        _collect(model, visited)
    found: list[dict[str, Any]] = []
    for artifact in visited.values():
        for setting in artifact.manifest.settings.get("ops") or ():
            if isinstance(setting, Mapping) and setting.get("kind") in known and setting not in found:
                found.append(dict(setting))
    return tuple(found)


def _collect(artifact: Artifact, visited: dict[str, Artifact]) -> None:
    """An artifact and all that it was made from, as far as that is still here."""
    if artifact.digest in visited:
        return
    visited[artifact.digest] = artifact
    for digest in artifact.manifest.inputs.values():
        try:
            _collect(artifact.find(digest), visited)
        except UnknownName:
            continue  # removed from the store since: nothing more can be known of it


def _operators(artifact: Artifact) -> Iterator[Mapping[str, Any]]:
    """The settings of operators `pii` that an artifact was made by."""
    for setting in artifact.manifest.settings.get("ops") or ():
        if isinstance(setting, Mapping) and setting.get("kind") == "pii":
            yield setting


def _stays(ops: Mapping[str, Any], kind: PiiKind) -> bool:
    return (ops.get("actions") or {}).get(kind, ops.get("action")) in ("keep", "flag")

"""Serving models of recipes and base models: which engine opens which, and what stands around the gateway."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, Where
from luthier.core.ledger import Ledger, ledger_url
from luthier.flow.find_model import chooses_classes, find_model
from luthier.flow.here import folder_here
from luthier.flow.learnt import learnt_system
from luthier.flow.plan import recipe_store
from luthier.models.catalog import ENCODERS
from luthier.serve.engine import Engine
from luthier.traffic.place import traffic_folder

if TYPE_CHECKING:
    from fastapi import APIRouter

    from luthier.core.store import Store
    from luthier.flow.jobs.desk import Desk
    from luthier.serve.app import Beside
    from luthier.serve.fleet import Fleet, Known, Opened
    from luthier.serve.pipeline import Ways
    from luthier.serve.running import Listening, Place
    from luthier.traffic.keys import Scope
    from luthier.traffic.place import Keeping
    from luthier.traffic.record import Feedback


def serve(  # noqa: PLR0913  # what a command asks for
    models: Sequence[str],
    place: Place,
    *,
    engine: str | None = None,
    deadline_s: float = 600.0,
    traces: bool = True,
    keep: str | None = None,
    pipelines: Sequence[str] = (),
    jobs: Jobs | None = None,
    as_learnt: bool = True,
    tell: Callable[[Listening], None],
) -> int:
    """Serve models, and those that are released under names, until told to stop; 0 when nothing was cut off.

    With `traces`, every request is kept in the traffic of the recipe here, as `keep` says; with `jobs`, models are
    tuned as well; `as_learnt`, conversations without a system message begin with the one that the model learnt with.
    """
    from luthier.flow.jobs.book import owners
    from luthier.serve.fleet import Fleet
    from luthier.serve.gateway import Gateway
    from luthier.serve.ring import RingWatch
    from luthier.serve.running import run_gateway
    from luthier.traffic.follow import Follower

    chosen = engine_of(engine) if engine is not None else None
    ways = dict(map(ways_of, pipelines))
    models = list(dict.fromkeys([*models, *(one for way in ways.values() for one in way.models), *ways]))
    folder = folder_here(models)
    store = recipe_store(folder)
    url = ledger_url(store.root)
    kept_as = keeping_of(keep) if traces else None
    with Ledger(url) as ledger, closing(_Kept(traffic_folder(folder), kept_as)) as kept:
        desk = _desk(jobs, models, ledger, store)
        beside = _beside(kept.routes(), jobs, desk)

        ours = gc.get_freeze_count() == 0  # to thaw would take back what somebody else has frozen

        async def running() -> bool:
            fleet = Fleet(
                lambda word: _piped(word, fleet, ways) or open_model(word, chosen, as_learnt=as_learnt),
                lambda word: _known(word, ways),
                changed=partial(_keep_what_is_there, ours),
            )
            names = Follower(lambda: Ledger(url), fleet, owners=owners)
            gateway = Gateway(fleet, resolver=names, recorder=kept.recorder, deadline_s=deadline_s)
            async with names:
                if not models and not names.names() and not (desk and desk.tunable):
                    remedy = "name a model, or release one: luthier release support@prod RECIPE:STEP"
                    raise InputError("there is nothing to serve", where=Where(field="MODEL"), remedy=remedy)
                async with _working(desk, names.look):
                    return await run_gateway(gateway, models, place, RingWatch(ledger), beside=beside, tell=tell)

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
class Jobs:
    """That models may be tuned here, which, and by which door."""

    tune: Sequence[str] = ()
    """Base models that may be tuned, as NAME=MODEL or MODEL; those that are served when none is named."""
    doors: Callable[[Desk], Beside]
    """What stands beside the gateway to ask for it."""


def _desk(jobs: Jobs | None, models: Sequence[str], ledger: Ledger, store: Store) -> Desk | None:
    from luthier.flow.jobs.desk import Desk
    from luthier.flow.jobs.tunable import tunables

    return None if jobs is None else Desk(ledger, store, tunables(jobs.tune, models))


def _beside(routes: list[tuple[APIRouter, Scope]], jobs: Jobs | None, desk: Desk | None) -> Beside:
    from luthier.serve.app import Beside

    if jobs is None or desk is None:
        return Beside(routers=routes)
    more = jobs.doors(desk)
    return replace(more, routers=[*routes, *more.routers])


@asynccontextmanager
async def _working(desk: Desk | None, released: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Work through jobs meanwhile."""
    if desk is None:
        yield
        return
    from luthier.flow.jobs.runner import Runner

    task = asyncio.create_task(Runner(desk, released).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Kept:
    """What is kept of the traffic: everything that `luthier.traffic` keeps, or nothing."""

    def __init__(self, folder: Path, keeping: Keeping | None) -> None:
        from luthier.traffic.recorder import Recorder

        self.recorder = Recorder(folder, keeping) if keeping is not None else None

    def routes(self) -> list[tuple[APIRouter, Scope]]:
        """The routes for feedback."""
        from luthier.traffic.routes import feedback_routes

        return [] if self.recorder is None else [(feedback_routes(self.recorder.record, self._checked), "infer")]

    def _checked(self, feedback: Feedback) -> Feedback:
        """Feedback whose label is a class of the model that answered."""
        from luthier.flow.true_class import check_served

        assert self.recorder is not None, "without a recorder there is no route for feedback"
        return check_served(self.recorder, feedback)

    def close(self) -> None:
        """Let what was recorded be written."""
        if self.recorder is not None:
            self.recorder.close()


def keeping_of(said: str | None) -> Keeping:
    """How traffic is kept, from a mapping in YAML (`{sample: 0.1, days: 7}`); who finds names is tried at once."""
    from luthier.traffic.place import Keeping

    try:
        keeping = Keeping.model_validate(yaml.safe_load(said or "{}"))
    except (yaml.YAMLError, ValidationError) as error:
        known = ", ".join(Keeping.model_fields)
        raise InputError(_wrong(error), where=Where(field="--keep"), remedy=f"known: {known}") from error
    if keeping.names is not None:
        keeping.names.recognise(["Ada Lovelace"])
    return keeping


def _wrong(error: yaml.YAMLError | ValidationError | ValueError) -> str:
    """What is wrong with a setting that was typed as YAML, and which one it is."""
    if isinstance(error, yaml.YAMLError):
        return "is no mapping in YAML"
    if not isinstance(error, ValidationError):
        return str(error).split("\n", 1)[0]
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    said = "wanted a mapping" if first["type"].startswith(("model_", "dict_")) else said[:1].lower() + said[1:]
    return ": ".join([*(str(step) for step in first["loc"][:1]), said])


def engine_of(said: str) -> Engine:
    """An engine from its kind, or from a mapping in YAML (`{kind: torch, at_once: 8}`)."""
    try:
        return Engine.parse(yaml.safe_load(said))
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        remedy = "`luthier parts engine` lists them, `luthier parts engine torch` the settings of one"
        raise InputError(_wrong(error), where=Where(field="--engine"), remedy=remedy) from error


def ways_of(said: str) -> tuple[str, Ways]:
    """A pipeline by its name: `support={by: route, to: {billing: one}, other: two}`."""
    from luthier.serve.pipeline import Ways

    name, _, rest = said.partition("=")
    where = Where(field="--pipeline")
    remedy = (
        "for example 'support={by: route.yaml:tune, to: {billing: billing.yaml:tune}, other: smollm2-135m-instruct}'"
    )
    try:
        return name, Ways.model_validate(yaml.safe_load(rest))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(_wrong(error), where=where, remedy=remedy) from error


def _piped(word: str, fleet: Fleet, ways: Mapping[str, Ways]) -> Opened | None:
    from luthier.serve.fleet import Opened
    from luthier.serve.pipeline import Pipeline

    return Opened(word, Pipeline(fleet, ways[word])) if word in ways else None


def _known(word: str, ways: Mapping[str, Ways]) -> Known:
    """What a word means: a step and the digest of what it made are one model."""
    from luthier.serve.fleet import Known

    if word in ways or _is_encoder(word):
        return Known(word, word)
    name, artifact = find_model(word)
    return Known(name, artifact.digest)


def open_model(word: str, engine: Engine | None = None, *, as_learnt: bool = True) -> Opened:
    """Open a model by the engine that was asked for, else by the one that fits it; `as_learnt`, its conversations begin
    with the system message of all its training rows where they have none."""
    from luthier.serve.fleet import Opened

    if _is_encoder(word):
        return Opened(word, _encoder(word))
    name, artifact = find_model(word)
    answering = (engine or fitting(artifact)).open(artifact)
    if as_learnt:
        answering.system = learnt_system(artifact) or ""
    return Opened(name, answering)


def fitting(artifact: Artifact) -> Engine:
    """The engine that serves a model when none is asked for."""
    from luthier.models.load import is_endpoint, outputs_of
    from luthier.serve.engines.label import Label
    from luthier.serve.engines.remote import Remote
    from luthier.serve.engines.torch import Torch

    if is_endpoint(artifact):
        return Remote()
    return Label() if outputs_of(artifact) or chooses_classes(artifact) else Torch()


def _is_encoder(word: str) -> bool:
    """Whether a word names a text encoder, or its folder in sentence-transformers' layout."""
    return word in ENCODERS or (Path(word) / "modules.json").is_file()


def _encoder(name: str) -> Any:
    from luthier.models.embedders.encoder import Encoder
    from luthier.serve.points import Points

    encoder = Encoder(model=name)
    encoder.gather(Path(), lambda text: None)
    return Points(encoder.space([], base=Path(), seed=0), encoder.fingerprint(Path()) or "")

"""Serving models of recipes and base models: which engine opens which, and what stands around the gateway."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, LuthierError, Where
from luthier.core.ledger import Ledger, ledger_url
from luthier.flow.find_model import chooses_classes, find_model
from luthier.flow.here import folder_here
from luthier.flow.learnt import learnt_system
from luthier.flow.locate import Target
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
    from luthier.text.recogniser import Recogniser
    from luthier.traffic.keys import Scope
    from luthier.traffic.place import Keeping
    from luthier.traffic.record import Feedback

_LOG = logging.getLogger("luthier.serve")


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
    """Serve models, and those that are released under names, until told to stop; 0 when nothing was cut off. A recipe
    among the `models` may be followed by its overrides.

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
    served = Target.read_all(models, "serve")
    meant = {str(target): target for target in served}
    models = list(dict.fromkeys([*meant, *(one for way in ways.values() for one in way.models), *ways]))
    folder = folder_here([meant[model].word or "" if model in meant else model for model in models])
    store = recipe_store(folder)
    url = ledger_url(store.root)
    with Ledger(url) as ledger, closing(_Kept(folder, keep, wanted=traces)) as kept:
        desk = _desk(
            jobs, [model for model in models if model not in meant or not meant[model].overrides], ledger, store
        )
        beside = _beside(kept.routes(), jobs, desk)

        ours = gc.get_freeze_count() == 0  # to thaw would take back what somebody else has frozen

        async def running() -> bool:
            fleet = Fleet(
                lambda word: (
                    _piped(word, fleet, ways)
                    or open_model(meant.get(word, word), chosen, as_learnt=as_learnt, met=kept.meet)
                ),
                lambda word: _known(meant.get(word, word), ways),
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

    def __init__(self, base: Path, said: str | None, *, wanted: bool) -> None:
        from luthier.traffic.recorder import Recorder

        self._base = base
        self._models: list[Artifact] = []
        keeping, self._asked = keeping_of(said if wanted else None)
        self.recorder = Recorder(traffic_folder(base), keeping) if wanted else None

    def meet(self, model: Artifact) -> None:
        """From now on, take names out as they were taken out of the rows that a model was tuned on, unless the command
        says how; that stays so when the model is gone."""
        from luthier.flow.names_finder import finder_of

        if self.recorder is None or "names" in self._asked:
            return
        self._models.append(model)
        found = finder_of(self._models, self._base).settings()
        update = {name: value for name, value in found.items() if name not in self._asked}
        keeping = self.recorder.keeping.model_copy(update=update)
        if keeping != self.recorder.keeping:
            for names in keeping.names:
                _try(names, self._base)
            self.recorder.change(keeping)
            kinds = ", ".join(names.kind for names in keeping.names)
            _LOG.warning("names in traces are taken out by %s, as in the rows that the model was tuned on", kinds)

    def routes(self) -> list[tuple[APIRouter, Scope]]:
        """The routes for feedback."""
        from luthier.traffic.feedback import feedback_routes

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


def _try(names: Recogniser, base: Path) -> None:
    """Have a recogniser read a name, so that what it lacks is said now."""
    try:
        names.check_installed(base)
        names.download(_LOG.warning)
        names.find_names(["Ada Lovelace"])
    except LuthierError as error:
        what = f"names were taken out of the model's rows by {names.kind}, and would be of its traffic: {error.message}"
        otherwise = "or leave names in clear: --keep '{names: null}'"
        remedy = ", ".join(filter(None, (error.remedy, otherwise)))
        raise type(error)(what, where=error.where, remedy=remedy) from error


def keeping_of(said: str | None) -> tuple[Keeping, frozenset[str]]:
    """How traffic is kept, from a mapping in YAML (`{sample: 0.1, days: 7}`), and which settings that names.

    Who finds names is tried at once.
    """
    from luthier.traffic.place import Keeping

    try:
        asked = yaml.safe_load(said or "{}")
        keeping = Keeping.model_validate(asked)
    except (yaml.YAMLError, ValidationError) as error:
        known = ", ".join(Keeping.model_fields)
        raise InputError(_wrong(error), where=Where(field="--keep"), remedy=f"known: {known}") from error
    for names in keeping.names:
        names.find_names(["Ada Lovelace"])
    return keeping, frozenset(asked)


def _wrong(error: yaml.YAMLError | ValidationError | ValueError) -> str:
    """What is wrong with a setting that was typed as YAML, and which one it is."""
    if isinstance(error, yaml.YAMLError):
        return "is no mapping in YAML"
    if not isinstance(error, ValidationError):
        return str(error).split("\n", 1)[0]
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    said = "expected a mapping" if first["type"].startswith(("model_", "dict_")) else said[:1].lower() + said[1:]
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


def _known(named: Target | str, ways: Mapping[str, Ways]) -> Known:
    """What a word means: a step and the digest of what it made are one model."""
    from luthier.serve.fleet import Known

    word = str(named)
    if word in ways or _is_encoder(word):
        return Known(word, word)
    name, artifact = find_model(named)
    return Known(name, artifact.digest)


def open_model(
    named: Target | str,
    engine: Engine | None = None,
    *,
    as_learnt: bool = True,
    met: Callable[[Artifact], None] = lambda artifact: None,
) -> Opened:
    """Open a model by the engine that was asked for, else by the one that fits it; `met` gets to know it before.

    With `as_learnt`, its conversations begin with the system message of all its training rows where they have none.
    """
    from luthier.serve.fleet import Opened

    if _is_encoder(word := str(named)):
        return Opened(word, _encoder(word))
    name, artifact = find_model(named)
    met(artifact)
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

"""Releases: the model behind a name such as `support@prod`, with canaries and shadows.

Every change is one row with the whole state of the name, so a switch is atomic and a rollback is a new row. A name has
a `stable` model. A `canary` answers a share of the users; the user decides, so one user always gets the same model. A
`shadow` gets the same requests, and its answers are not sent.

`ReleaseFollower` reads the ledger in the background, so no request waits for a database. A model is open before a name
points to it, and closes when no name points to it and its last request has ended. While the ledger is unavailable,
names keep their last models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import xxhash

from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError, SourceLocation, UnknownName, did_you_mean
from luthier.traces.record import OpenModelManager, Route

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.serving import ReleaseRow

Did = Literal["release", "canary", "shadow", "promote", "rollback", "stop"]
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[A-Za-z0-9][A-Za-z0-9._-]{0,31}"
    r"|ft:[A-Za-z0-9._-]{1,40}:[a-z]+:[A-Za-z0-9_-]{0,64}:[a-z0-9]{8}(?::ckpt-step-\d{1,9})?"  # what a job made
)


@dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """A model under a name."""

    word: str
    """What it was released by: `support/recipe.yaml:tune`."""
    model: str
    """What the gateway opens it by: an artifact's digest, or a base model's name."""
    digest: str = ""
    """Of what answers; empty where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a name means."""

    id: int
    """Of the change that made it so; it grows."""
    alias: str
    did: Did
    at: datetime
    stable: ReleasedModel
    canary: ReleasedModel | None = None
    shadow: ReleasedModel | None = None
    share: float = 0.0
    before: int | None = None

    @property
    def models(self) -> tuple[ReleasedModel, ...]:
        """All that must be open for it."""
        return tuple(
            released_model for released_model in (self.stable, self.canary, self.shadow) if released_model is not None
        )

    def route(self, user: str | None, request: str = "") -> Route:
        """Who answers somebody; without a user, the request's id decides, which is drawn anew each time."""
        bucket = _place(self.alias, user if user is not None else request or secrets.token_hex(8))
        tried = self.canary is not None and bucket < self.share
        chosen = self.canary if tried and self.canary else self.stable
        shadow = self.shadow.model if self.shadow else None
        return Route(model=chosen.model, release=chosen.digest, variant="canary" if tried else "stable", shadow=shadow)


def _place(alias: str, user: str) -> float:
    """A place from 0 to 1 that is the same whenever the same person asks for the same name."""
    return xxhash.xxh3_64_intdigest(f"{alias}\0{user}".encode("utf-8", "surrogatepass")) / 2**64


def release(ledger: Ledger, alias: str, model: ReleasedModel) -> Release:
    """Release a model under an alias for all users at once; a running canary or shadow is stopped."""
    _check(alias)
    with ledger.writing() as session:
        now = _last(session, alias)
        before = None if now is None else (now.before if now.stable["model"] == model.model else now.id)
        return _put(session, alias, "release", model, before=before)


def start_candidate(ledger: Ledger, alias: str, model: ReleasedModel, *, share: float | None = None) -> Release:
    """Start a model as a canary (for a share of users) or, without a share, as a shadow (asked, answers not shown)."""
    if share is not None and not 0 < share < 1:
        what = f"expected a share between 0 % and 100 %, got {100 * share:g} %"
        raise InputError(what, where=SourceLocation(field="--canary"), hint="for example --canary 10%")
    with ledger.writing() as session:
        now = _known(session, alias)
        stable, before = ReleasedModel(**now.stable), now.before
        if share is None:
            canary = ReleasedModel(**now.canary) if now.canary else None
            return _put(session, alias, "shadow", stable, canary=canary, shadow=model, share=now.share, before=before)
        shadow = ReleasedModel(**now.shadow) if now.shadow else None
        return _put(session, alias, "canary", stable, canary=model, shadow=shadow, share=share, before=before)


def promote(ledger: Ledger, alias: str) -> Release:
    """Promote the canary (else the shadow) of an alias to stable."""
    with ledger.writing() as session:
        now = _known(session, alias)
        tried = now.canary or now.shadow
        if tried is None:
            hint = f"`luthier release {alias} RECIPE:STEP --canary 10%` tries one"
            raise InputError("nothing is tried beside it", where=SourceLocation(field=alias), hint=hint)
        return _put(session, alias, "promote", ReleasedModel(**tried), before=now.id)


def roll_back(ledger: Ledger, alias: str) -> Release:
    """Stop the canary or shadow of an alias, else return to the previous stable model."""
    from luthier.core.db.tables.serving import ReleaseRow

    with ledger.writing() as session:
        now = _known(session, alias)
        if now.canary or now.shadow:
            return _put(session, alias, "stop", ReleasedModel(**now.stable), before=now.before)
        earlier = session.get(ReleaseRow, now.before) if now.before is not None else None
        if earlier is None:
            what = "no model answered to it before"
            raise InputError(
                what, where=SourceLocation(field=alias), hint=f"`luthier release {alias} RECIPE:STEP` sets another"
            )
        return _put(session, alias, "rollback", ReleasedModel(**earlier.stable), before=earlier.before)


def delete_alias(ledger: Ledger, alias: str) -> None:
    """Delete an alias with its history; `InputError` while another one refers to its model."""
    from sqlalchemy import delete

    from luthier.core.db.tables.serving import ReleaseRow

    mine = {model.digest for change in history(ledger, alias) for model in change.models if model.digest}
    for other, now in current_releases(ledger).items():
        if other != alias and mine & {model.digest for model in now.models}:
            hint = f"release another model as {other} first"
            raise InputError(f"{other} means this model", where=SourceLocation(field=alias), hint=hint)
    with ledger.writing() as session:
        session.execute(delete(ReleaseRow).where(ReleaseRow.alias == alias))


def current_releases(ledger: Ledger) -> dict[str, Release]:
    """What every name means now."""
    from sqlalchemy import func, select

    from luthier.core.db.tables.serving import ReleaseRow

    last = select(func.max(ReleaseRow.id)).group_by(ReleaseRow.alias)
    with ledger.reading() as session:
        rows = session.scalars(select(ReleaseRow).where(ReleaseRow.id.in_(last)).order_by(ReleaseRow.alias))
        return {row.alias: _read(row) for row in rows}


def history(ledger: Ledger, alias: str) -> list[Release]:
    """All changes of a name, the latest first; `UnknownName` when there is none."""
    from sqlalchemy import select

    from luthier.core.db.tables.serving import ReleaseRow

    with ledger.reading() as session:
        rows = session.scalars(select(ReleaseRow).where(ReleaseRow.alias == alias).order_by(ReleaseRow.id.desc()))
        releases = [_read(row) for row in rows]
        if not releases:
            raise _unknown(session, alias)
        return releases


def _check(alias: str) -> None:
    if not _NAME.fullmatch(alias):
        what = f"expected a name such as support@prod, got {alias[:120]!r}"
        hint = "what it is for, @, and where: letters, digits and ._-"
        raise InputError(what, where=SourceLocation(field="ALIAS"), hint=hint)


def _last(session: Session, alias: str) -> ReleaseRow | None:
    from sqlalchemy import select

    from luthier.core.db.tables.serving import ReleaseRow

    return session.scalar(select(ReleaseRow).where(ReleaseRow.alias == alias).order_by(ReleaseRow.id.desc()).limit(1))


def _known(session: Session, alias: str) -> ReleaseRow:
    if (row := _last(session, alias)) is None:
        raise _unknown(session, alias)
    return row


def _unknown(session: Session, alias: str) -> UnknownName:
    from sqlalchemy import select

    from luthier.core.db.tables.serving import ReleaseRow

    known = session.scalars(select(ReleaseRow.alias).distinct()).all()
    hint = did_you_mean(alias, known) if known else f"`luthier release {alias} RECIPE:STEP` makes it"
    return UnknownName(f"nothing is released as {alias!r}", where=SourceLocation(field="ALIAS"), hint=hint)


def _put(session: Session, alias: str, did: Did, stable: ReleasedModel, *, before: int | None, **tried: Any) -> Release:
    from luthier.core.db.tables.serving import ReleaseRow

    canary, shadow = tried.get("canary"), tried.get("shadow")
    row = ReleaseRow(
        alias=alias,
        did=did,
        at=datetime.now(UTC),
        stable=vars(stable),
        canary=vars(canary) if canary else None,
        shadow=vars(shadow) if shadow else None,
        share=tried.get("share", 0.0) if canary else 0.0,
        before=before,
    )
    session.add(row)
    session.flush()
    return _read(row)


def _read(row: ReleaseRow) -> Release:
    return Release(
        id=row.id,
        alias=row.alias,
        did=row.did,  # type: ignore[arg-type]  # one of the verbs above by construction
        at=row.at,
        stable=ReleasedModel(**row.stable),
        canary=ReleasedModel(**row.canary) if row.canary else None,
        shadow=ReleasedModel(**row.shadow) if row.shadow else None,
        share=row.share,
        before=row.before,
    )


_LOG = logging.getLogger("luthier.traces")
Owners = Callable[[Ledger, Mapping[str, Release]], Mapping[str, str | None]]
"""Of released names, those that belong to one key, and whose they are; called in a thread."""


class _Read(NamedTuple):
    releases: dict[str, Release]
    owners: Mapping[str, str | None]


def _nobodys(ledger: Ledger, released: Mapping[str, Release]) -> Mapping[str, str | None]:
    return {}


class ReleaseFollower:
    """Resolves aliases by the ledger's latest state, which it polls on one event loop."""

    def __init__(
        self,
        opened: Callable[[], Ledger],
        models: OpenModelManager | None = None,
        *,
        owners: Owners = _nobodys,
        every_s: float = 1.0,
    ) -> None:
        """`opened` opens the ledger, in a thread; `models` opens and closes models, where somebody holds them; `owners`
        knows which names are not everybody's."""
        self._opened, self._models, self._find_owners, self._every_s = opened, models, owners, every_s
        self._owners: Mapping[str, str | None] = {}
        self._owned: Mapping[str, str | None] = {}
        self._ledger: Ledger | None = None
        self._now: dict[str, Release] = {}
        self._refused: dict[str, int] = {}
        """Changes whose model could not be opened: they are not tried again until another change comes."""
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        """Models whose last requests are waited for."""
        self._away = False

    def names(self) -> Sequence[str]:
        """The names that mean something."""
        return list(self._now)

    def resolve(self, name: str, user: str | None, request: str = "") -> Route | None:
        """Who answers to a name."""
        release = self._now.get(name)
        return release.route(user, request) if release is not None else None

    def owners(self) -> Mapping[str, str | None]:
        """Names that belong to one key, and the models that no other name means, by the words that open them."""
        return self._owned

    def _own(self) -> None:
        """See who owns what, each time that names or owners change."""
        owned = dict(self._owners)
        free = {model.model for name, known in self._now.items() if name not in owned for model in known.models}
        for name in self._owners.keys() & self._now.keys():
            for model in self._now[name].models:
                if model.model not in free:
                    key = self._owners[name]
                    owned[model.model] = key if owned.get(model.model, key) == key else None
        self._owned = owned

    async def start(self) -> None:
        """Read what names mean, and go on reading; `LuthierError` when the ledger cannot be read.

        A name whose model cannot be opened means nothing; the log says why, and the others work.
        """
        read, self._owners = await asyncio.to_thread(self._read)
        self._own()
        for release in read.values():
            await self._try(release)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Read no more; the models stay as they are."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for task in self._leaving:
            task.cancel()
        if self._ledger is not None:
            self._ledger.close()

    async def __aenter__(self) -> ReleaseFollower:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Read once, and do what changed; what goes wrong is logged, and names mean what they meant."""
        try:
            read, self._owners = await asyncio.to_thread(self._read)
        except LuthierError as error:
            if not self._away:
                _LOG.warning("the ledger cannot be read, so names mean what they meant: %s", error)
            self._away = True
            return
        self._away = False
        self._own()
        for alias, release in read.items():
            known = self._now.get(alias)
            if (known is None or known.id != release.id) and self._refused.get(alias) != release.id:
                await self._try(release)
        if gone := self._now.keys() - read.keys():
            self._let_go({alias: release for alias, release in self._now.items() if alias not in gone})

    async def _try(self, release: Release) -> None:
        try:
            await self._switch(release)
        except LuthierError as error:
            self._refused[release.alias] = release.id
            _LOG.error("%s stays as it was: %s", release.alias, error)

    async def _switch(self, release: Release) -> None:
        """Open what is needed, let the name mean it, then let go what no name means."""
        if self._models is not None:
            for model in release.models:
                await self._models.prepare(model.model)
        self._let_go({**self._now, release.alias: release})

    def _let_go(self, now: dict[str, Release]) -> None:
        """From now on names mean this; what none of them means any more is closed after its last request."""
        before = self._meant()
        self._now = now
        self._own()
        if self._models is not None:
            for gone in sorted(before - self._meant()):
                task = asyncio.create_task(self._models.retire(gone))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    def _meant(self) -> set[str]:
        return {model.model for known in self._now.values() for model in known.models}

    def _read(self) -> _Read:
        if self._ledger is None:
            self._ledger = self._opened()
        releases = current_releases(self._ledger)
        return _Read(releases, self._find_owners(self._ledger, releases))

"""Releases: which model a name such as `support@prod` means, which one is tried beside it, and on whom.

Every change is one row that holds the whole state of the name: a switch happens at once or not at all, and a roll-back
is a row like any other. A name means one model for all (`stable`), or another one for a share of users (`canary`: who
asks decides, so that the same person is answered by the same model), and may be asked of a third unheard (`shadow`).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from luthier.core.errors import InputError, UnknownName, Where, did_you_mean
from luthier.traffic.seams import Route

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.ledger import Ledger
    from luthier.core.ledger.tables.releases import ReleaseRow

Did = Literal["release", "canary", "shadow", "promote", "roll-back", "stop"]
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[A-Za-z0-9][A-Za-z0-9._-]{0,31}"
    r"|ft:[A-Za-z0-9._-]{1,40}:[a-z]+:[A-Za-z0-9_-]{0,64}:[a-z0-9]{8}(?::ckpt-step-\d{1,9})?"  # what a job made
)


@dataclass(frozen=True, kw_only=True)
class Model:
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
    stable: Model
    canary: Model | None = None
    shadow: Model | None = None
    share: float = 0.0
    before: int | None = None

    @property
    def models(self) -> tuple[Model, ...]:
        """All that must be open for it."""
        return tuple(one for one in (self.stable, self.canary, self.shadow) if one is not None)

    def route(self, user: str | None, request: str = "") -> Route:
        """Who answers somebody; without a user, the request's id decides, which is drawn anew each time."""
        place = _place(self.alias, user if user is not None else request or secrets.token_hex(8))
        tried = self.canary is not None and place < self.share
        chosen = self.canary if tried and self.canary else self.stable
        shadow = self.shadow.model if self.shadow else None
        return Route(model=chosen.model, release=chosen.digest, arm="canary" if tried else "stable", shadow=shadow)


def _place(alias: str, user: str) -> float:
    """A place from 0 to 1 that is the same whenever the same person asks for the same name."""
    return xxhash.xxh3_64_intdigest(f"{alias}\0{user}".encode("utf-8", "surrogatepass")) / 2**64


def release(ledger: Ledger, alias: str, model: Model) -> Release:
    """Let a model answer to a name, at once and for everybody; what was tried beside the old one is tried no more."""
    _check(alias)
    with ledger.writing() as session:
        now = _last(session, alias)
        before = None if now is None else (now.before if now.stable["model"] == model.model else now.id)
        return _put(session, alias, "release", model, before=before)


def try_out(ledger: Ledger, alias: str, model: Model, *, share: float | None = None) -> Release:
    """Let a model answer a share of users (a canary), or be asked unheard where no share is given (a shadow)."""
    if share is not None and not 0 < share < 1:
        what = f"expected a share between 0 % and 100 %, got {100 * share:g} %"
        raise InputError(what, where=Where(field="--canary"), remedy="for example --canary 10%")
    with ledger.writing() as session:
        now = _known(session, alias)
        stable, before = Model(**now.stable), now.before
        if share is None:
            canary = Model(**now.canary) if now.canary else None
            return _put(session, alias, "shadow", stable, canary=canary, shadow=model, share=now.share, before=before)
        shadow = Model(**now.shadow) if now.shadow else None
        return _put(session, alias, "canary", stable, canary=model, shadow=shadow, share=share, before=before)


def promote(ledger: Ledger, alias: str) -> Release:
    """Let the canary (or else the shadow) answer everybody."""
    with ledger.writing() as session:
        now = _known(session, alias)
        tried = now.canary or now.shadow
        if tried is None:
            remedy = f"`luthier release {alias} RECIPE:STEP --canary 10%` tries one"
            raise InputError("nothing is tried beside it", where=Where(field=alias), remedy=remedy)
        return _put(session, alias, "promote", Model(**tried), before=now.id)


def roll_back(ledger: Ledger, alias: str) -> Release:
    """Stop what is tried, or else let the model answer that answered before; again, the one before that."""
    from luthier.core.ledger.tables.releases import ReleaseRow

    with ledger.writing() as session:
        now = _known(session, alias)
        if now.canary or now.shadow:
            return _put(session, alias, "stop", Model(**now.stable), before=now.before)
        earlier = session.get(ReleaseRow, now.before) if now.before is not None else None
        if earlier is None:
            what = "no model answered to it before"
            raise InputError(
                what, where=Where(field=alias), remedy=f"`luthier release {alias} RECIPE:STEP` sets another"
            )
        return _put(session, alias, "roll-back", Model(**earlier.stable), before=earlier.before)


def forget(ledger: Ledger, alias: str) -> None:
    """Let a name mean nothing any more, as if it had never been; `InputError` while another one means its model."""
    from sqlalchemy import delete

    from luthier.core.ledger.tables.releases import ReleaseRow

    mine = {one.digest for change in history(ledger, alias) for one in change.models if one.digest}
    for other, now in current(ledger).items():
        if other != alias and mine & {one.digest for one in now.models}:
            remedy = f"release another model as {other} first"
            raise InputError(f"{other} means this model", where=Where(field=alias), remedy=remedy)
    with ledger.writing() as session:
        session.execute(delete(ReleaseRow).where(ReleaseRow.alias == alias))


def current(ledger: Ledger) -> dict[str, Release]:
    """What every name means now."""
    from sqlalchemy import func, select

    from luthier.core.ledger.tables.releases import ReleaseRow

    last = select(func.max(ReleaseRow.id)).group_by(ReleaseRow.alias)
    with ledger.reading() as session:
        rows = session.scalars(select(ReleaseRow).where(ReleaseRow.id.in_(last)).order_by(ReleaseRow.alias))
        return {row.alias: _read(row) for row in rows}


def history(ledger: Ledger, alias: str) -> list[Release]:
    """All changes of a name, the latest first; `UnknownName` when there is none."""
    from sqlalchemy import select

    from luthier.core.ledger.tables.releases import ReleaseRow

    with ledger.reading() as session:
        rows = session.scalars(select(ReleaseRow).where(ReleaseRow.alias == alias).order_by(ReleaseRow.id.desc()))
        found = [_read(row) for row in rows]
        if not found:
            raise _unknown(session, alias)
        return found


def _check(alias: str) -> None:
    if not _NAME.fullmatch(alias):
        what = f"expected a name such as support@prod, got {alias[:120]!r}"
        remedy = "what it is for, @, and where: letters, digits and ._-"
        raise InputError(what, where=Where(field="ALIAS"), remedy=remedy)


def _last(session: Session, alias: str) -> ReleaseRow | None:
    from sqlalchemy import select

    from luthier.core.ledger.tables.releases import ReleaseRow

    return session.scalar(select(ReleaseRow).where(ReleaseRow.alias == alias).order_by(ReleaseRow.id.desc()).limit(1))


def _known(session: Session, alias: str) -> ReleaseRow:
    if (row := _last(session, alias)) is None:
        raise _unknown(session, alias)
    return row


def _unknown(session: Session, alias: str) -> UnknownName:
    from sqlalchemy import select

    from luthier.core.ledger.tables.releases import ReleaseRow

    known = session.scalars(select(ReleaseRow.alias).distinct()).all()
    remedy = did_you_mean(alias, known) if known else f"`luthier release {alias} RECIPE:STEP` makes it"
    return UnknownName(f"nothing is released as {alias!r}", where=Where(field="ALIAS"), remedy=remedy)


def _put(session: Session, alias: str, did: Did, stable: Model, *, before: int | None, **tried: Any) -> Release:
    from luthier.core.ledger.tables.releases import ReleaseRow

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
        stable=Model(**row.stable),
        canary=Model(**row.canary) if row.canary else None,
        shadow=Model(**row.shadow) if row.shadow else None,
        share=row.share,
        before=row.before,
    )

"""Releasing models under names, in the ledger of the store here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from luthier.core.errors import InputError, Where
from luthier.flow.find_model import find_model
from luthier.flow.here import folder_here, folder_of_alias, folders_above, folders_near, ledger_of
from luthier.flow.locate import Target
from luthier.models.catalog import ENCODERS
from luthier.traffic import releases
from luthier.traffic.releases import Model, Release


def release(alias: str, named: Target | str, canary: str | None, *, shadow: bool) -> Release:
    """Let a model answer to a name, or try it there: on a share of users, or unheard."""
    if canary is not None and shadow:
        remedy = "leave one of them out; one after the other, both can be tried under one name"
        raise InputError("--canary and --shadow were both given", where=Where(field="--canary"), remedy=remedy)
    share = None if canary is None else _share(canary)
    target = Target.of(named)
    model = _model(target)
    with ledger_of(folder_of_alias(alias, [target.word or ""])) as ledger:
        if canary is None and not shadow:
            return releases.release(ledger, alias, model)
        return releases.try_out(ledger, alias, model, share=share)


def _share(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:\s*(%))?\s*", text)
    if found is None:
        what = f"expected a share, got {text!r}"
        raise InputError(what, where=Where(field="--canary"), remedy="for example --canary 10%")
    return float(found[1]) / (100 if found[2] else 1)


def _model(target: Target) -> Model:
    """A model held fast by its digest: the recipe may go on meanwhile."""
    if (word := str(target)) in ENCODERS:
        return Model(word=word, model=word)
    _, artifact = find_model(target)
    return Model(word=word, model=artifact.digest, digest=artifact.digest)


def listed() -> list[Release]:
    """What every name means."""
    with ledger_of(folder_here()) as ledger:
        return list(releases.current(ledger).values())


def history(alias: str) -> list[Release]:
    """All changes of a name, the latest first."""
    with ledger_of(folder_of_alias(alias)) as ledger:
        return releases.history(ledger, alias)


def promote(alias: str) -> Release:
    """Let what is tried answer everybody."""
    with ledger_of(folder_of_alias(alias)) as ledger:
        return releases.promote(ledger, alias)


def roll_back(alias: str) -> Release:
    """Stop what is tried, or go back to the model before."""
    with ledger_of(folder_of_alias(alias)) as ledger:
        return releases.roll_back(ledger, alias)


def compared(alias: str) -> list[dict[str, Any]]:
    """What is tried under a name, beside what answers to it."""
    from luthier.flow.traffic import kept_folder
    from luthier.traffic.versus import compare

    now = history(alias)
    if not (now[0].canary or now[0].shadow):
        remedy = f"`luthier release {alias} RECIPE:STEP --canary 10%` tries a model, --shadow unheard"
        raise InputError("nothing is tried beside it", where=Where(field=alias), remedy=remedy)
    return [_finite(one.as_json()) for one in compare(kept_folder(folder_of_alias(alias)), now[0], _begun(now))]


def _begun(changes: list[Release]) -> Any:
    """Since when the same models are tried under the same name."""
    now, begun = changes[0], changes[0].at
    for change in changes:
        if (change.stable, change.canary, change.shadow) != (now.stable, now.canary, now.shadow):
            break
        begun = change.at
    return begun


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is not known is null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(release: Release) -> dict[str, Any]:
    """A release as other programs read it."""
    models = {
        name: vars(one) if one else None for name in ("stable", "canary", "shadow") for one in [getattr(release, name)]
    }
    return {
        "alias": release.alias,
        "did": release.did,
        "at": release.at.isoformat(),
        **models,
        "share": release.share,
    }


def told(release: Release) -> str:
    """A release in one line."""
    parts = [f"{release.alias} → {_called(release.stable)}"]
    if release.canary:
        parts.append(f"canary {_called(release.canary)} for {100 * release.share:g} % of users")
    if release.shadow:
        parts.append(f"shadow {_called(release.shadow)}")
    return ", ".join(parts)


def _called(model: Model) -> str:
    return f"{model.word} ({model.digest[:12]})" if model.digest else model.word


def difference_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """What came back, for a person."""
    for one in found:
        requests = one["requests"]
        beside = f"{requests[1]} of the stable model" if one["arm"] == "canary" else "of both"
        yield f"{one['arm']} minus stable: {requests[0]} requests, {beside}"
        if one["same"] is not None:
            yield f"  the same words     {100 * one['same']:.1f} %"
        for name, row in one["measures"].items():
            ends = "not known" if row["low"] is None else f"{row['low']:+.4g} to {row['high']:+.4g}"
            counted = f"{row['people'][0]} and {row['people'][1]}"
            yield f"  {name:<18} {row['difference']:+.4g} ({ends}; p {row['p']:.2g} by {row['test']}, of {counted})"


def released_digests() -> set[str]:
    """Every model that a name means, or could mean again, here or in a folder around: no store may lose it."""
    found: set[str] = set()
    for folder in (*folders_near(), *folders_above()):
        with ledger_of(folder) as ledger:
            every = [change for alias in releases.current(ledger) for change in releases.history(ledger, alias)]
        found |= {model.digest for change in every for model in change.models if model.digest}
    return found

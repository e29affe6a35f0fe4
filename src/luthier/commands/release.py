"""Release a model under a name, to a share of the requests or to all.

The ledger of the current folder's store records the releases and maps each name to the recipe of its model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from luthier.commands.people import record_command
from luthier.core.errors import InputError, LuthierError, RecipeError, SourceLocation
from luthier.models.catalog import ENCODERS
from luthier.recipe.locate import CommandTarget
from luthier.recipe.models import find_model
from luthier.recipe.planner import RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace, list_store_recipes
from luthier.traces import releases
from luthier.traces.releases import Release, ReleasedModel


def release_recipe_model(alias: str, target: CommandTarget, canary: str | None, *, shadow: bool) -> Release:
    """Release a model under an alias, or start it as a canary (on a share of users) or a shadow."""
    if canary is not None and shadow:
        hint = "leave one of them out; one after the other, both can be tried under one name"
        raise InputError("--canary and --shadow were both given", where=SourceLocation(field="--canary"), hint=hint)
    share = None if canary is None else _share(canary)
    model = _model(target)
    meant = target.workspace.find_alias(alias, [target.word or ""])
    with meant.open_ledger() as ledger:
        if canary is None and not shadow:
            release = releases.release(ledger, alias, model)
        else:
            release = releases.start_candidate(ledger, alias, model, share=share)
    record_command(meant, "release", subject=alias, model=model.word)
    return release


def _share(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:\s*(%))?\s*", text)
    if match is None:
        what = f"expected a share, got {text!r}"
        raise InputError(what, where=SourceLocation(field="--canary"), hint="for example --canary 10%")
    return float(match[1]) / (100 if match[2] else 1)


def _model(target: CommandTarget) -> ReleasedModel:
    """A model held fast by its digest: the recipe may go on meanwhile."""
    if (word := str(target)) in ENCODERS:
        return ReleasedModel(word=word, model=word)
    _, artifact = find_model(target)
    return ReleasedModel(word=word, model=artifact.digest, digest=artifact.digest)


def list_aliases(workspace: Workspace) -> list[Release]:
    """What every name means that a ledger nearby knows."""
    found: dict[str, Release] = {}
    for ledger in workspace.open_ledgers_nearby():
        found = {**releases.current_releases(ledger), **found}
    return list(found.values())


def history(workspace: Workspace, alias: str) -> list[Release]:
    """All changes of a name, the latest first."""
    with workspace.find_alias(alias).open_ledger() as ledger:
        return releases.history(ledger, alias)


def promote(workspace: Workspace, alias: str) -> Release:
    """Promote the canary or shadow of an alias to stable."""
    meant = workspace.find_alias(alias)
    with meant.open_ledger() as ledger:
        release = releases.promote(ledger, alias)
    record_command(meant, "release.promote", subject=alias)
    return release


def roll_back(workspace: Workspace, alias: str) -> Release:
    """Stop the canary or shadow of an alias, or return to its previous stable model."""
    meant = workspace.find_alias(alias)
    with meant.open_ledger() as ledger:
        release = releases.roll_back(ledger, alias)
    record_command(meant, "release.rollback", subject=alias)
    return release


def compare_candidate(workspace: Workspace, alias: str) -> list[dict[str, Any]]:
    """Compare the canary or shadow of an alias with its stable model."""
    from luthier.commands.traces import require_traffic_folder
    from luthier.traces.release_comparison import compare_with_stable

    now = history(workspace, alias)
    if not (now[0].canary or now[0].shadow):
        hint = f"`luthier release {alias} RECIPE:STEP --canary 10%` tries a model, --shadow unheard"
        raise InputError("nothing is tried beside it", where=SourceLocation(field=alias), hint=hint)
    traffic = require_traffic_folder(workspace, workspace.find_alias(alias).folder.absolute())
    return [_finite(comparison.as_json()) for comparison in compare_with_stable(traffic, now[0], _begun(now))]


def _begun(changes: list[Release]) -> Any:
    """Since when the same models are tried under the same name."""
    now, started_at = changes[0], changes[0].at
    for change in changes:
        if (change.stable, change.canary, change.shadow) != (now.stable, now.canary, now.shadow):
            break
        started_at = change.at
    return started_at


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is not known is null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def release_to_json(release: Release) -> dict[str, Any]:
    """A release as other programs read it."""
    models = {
        name: vars(entry) if entry else None
        for name in ("stable", "canary", "shadow")
        for entry in [getattr(release, name)]
    }
    return {
        "alias": release.alias,
        "did": release.did,
        "at": release.at.isoformat(),
        **models,
        "share": release.share,
    }


def describe_release(release: Release) -> str:
    """A release in one line."""
    parts = [f"{release.alias} → {_called(release.stable)}"]
    if release.canary:
        parts.append(f"canary {_called(release.canary)} for {100 * release.share:g} % of users")
    if release.shadow:
        parts.append(f"shadow {_called(release.shadow)}")
    return ", ".join(parts)


def _called(model: ReleasedModel) -> str:
    return f"{model.word} ({model.digest[:12]})" if model.digest else model.word


def format_comparison_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """Format a comparison of candidate and stable model as lines for the terminal."""
    for entry in found:
        requests = entry["requests"]
        compared_with = f"{requests[1]} of the stable model" if entry["variant"] == "canary" else "of both"
        yield f"{entry['variant']} minus stable: {requests[0]} requests, {compared_with}"
        if entry["same"] is not None:
            yield f"  the same words     {100 * entry['same']:.1f} %"
        for name, row in entry["measures"].items():
            ends = "not known" if row["low"] is None else f"{row['low']:+.4g} to {row['high']:+.4g}"
            counted = f"{row['people'][0]} and {row['people'][1]}"
            yield f"  {name:<18} {row['difference']:+.4g} ({ends}; p {row['p']:.2g} by {row['test']}, of {counted})"


def released_digests(workspace: Workspace) -> set[str]:
    """List the digests of all models that an alias means or can be rolled back to, here or in an enclosing folder: no
    store may delete them."""
    found: set[str] = set()
    for entry in (*workspace.list_nearby(), *workspace.list_enclosing()):
        with entry.open_ledger() as ledger:
            every = [
                change for alias in releases.current_releases(ledger) for change in releases.history(ledger, alias)
            ]
        found |= {model.digest for change in every for model in change.models if model.digest}
    return found


@dataclass(frozen=True, kw_only=True)
class ReleasedRecipe:
    """A released model with the recipe, plan and step that made it."""

    alias: str
    plan: RecipePlan
    step: str
    """The step that made the model."""
    digest: str
    since: datetime | None
    """Since when it answers; None for the first model of that name."""
    ever: frozenset[str]
    """Digests of all models that the name has meant."""

    @property
    def recipe(self) -> Recipe:
        """What made it."""
        return self.plan.recipe


def find_live_digest(alias: str, workspace: Workspace) -> str:
    """Digest of the model that a name means in a workspace; `UnknownName` where there is none."""
    return _changes(alias, workspace)[0].stable.digest


def _changes(alias: str, workspace: Workspace) -> list[Release]:
    with workspace.open_ledger() as ledger:
        return releases.history(ledger, alias)


def find_live_start_time(changes: list[Release]) -> datetime | None:
    """Return the time since which the stable model of an alias has been live; None when it is the first of its name."""
    other = next((at for at, change in enumerate(changes) if change.stable.model != changes[0].stable.model), None)
    return None if other is None else changes[other - 1].at


def find_released_recipe(alias: str, recipe: Path, workspace: Workspace) -> ReleasedRecipe:
    """The recipe, among that which is named and those beside it, that made what a name means now."""
    named = Recipe.load(recipe, (), workspace)
    changes = _changes(alias, named.workspace)
    digest, since = changes[0].stable.digest, find_live_start_time(changes)
    ever = frozenset(model.digest for change in changes for model in change.models if model.digest)
    for recipe_plan in _plans(named):
        for step in recipe_plan:
            if step.step.makes == "model" and step.digest == digest:
                return ReleasedRecipe(
                    alias=alias, plan=recipe_plan, step=step.name, digest=digest, since=since, ever=ever
                )
    raise RecipeError(
        f"{alias} means {digest[:12] or 'a base model'}, which no recipe here makes",
        where=SourceLocation(file=str(recipe)),
        hint=f"`luthier run` a recipe in this folder, and release what it makes: luthier release {alias} RECIPE:STEP",
    )


def _plans(named: Recipe) -> Iterator[RecipePlan]:
    """What the recipe that is named would make, and then those beside it that can be read."""
    yield build_recipe_plan(named, costs_of=())
    for path in list_store_recipes(named.workspace.open_store()):
        if path.resolve() != Path(named.file).resolve():
            try:
                yield build_recipe_plan(Recipe.load(path, (), named.workspace), costs_of=())
            except LuthierError:
                continue  # another recipe's fault is no matter of this name


def find_recipe_alias(recipe: Path, workspace: Workspace) -> str:
    """Find the one alias under which a model of a recipe is or was released."""
    named = Recipe.load(recipe, (), workspace)
    made = {step.digest for step in build_recipe_plan(named, costs_of=()) if step.step.makes == "model"}
    with named.workspace.open_ledger() as ledger:
        known = [(alias, releases.history(ledger, alias)) for alias in releases.current_releases(ledger)]
    found = [alias for alias, changes in known if any(change.stable.digest in made for change in changes)]
    if len(found) == 1:
        return found[0]
    again = f"luthier release support@prod {recipe}:STEP"
    if found:
        what = f"{len(found)} names mean a model of this recipe: {', '.join(found)}"
        hint = f"`luthier retrain` takes one of them: --release {found[0]}"
    elif known:
        alias, (now, *_) = known[0]
        meant = f"{alias} is {now.stable.word} ({now.stable.digest[:12]})"
        what = f"no name means what this recipe makes as it stands: {meant}"
        hint = f"the recipe, its data or Luthier changed since: `luthier run {recipe}`, and `{again}`"
    else:
        what, hint = "no model of this recipe was released under a name, so that no traffic is its own", again
    raise RecipeError(what, where=SourceLocation(file=str(recipe)), hint=hint)

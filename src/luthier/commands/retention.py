"""Housekeeping of the store: what is in it, whether it is whole, what no recipe needs any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from luthier.artifacts.media import list_missing_media
from luthier.core.errors import CorruptArtifact, InputError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.remote_store import is_remote
from luthier.core.store import GarbageCollectionResult, Store
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace, list_store_recipes


def list_artifacts(workspace: Workspace) -> list[dict[str, Any]]:
    """The artifacts of the store here and of the user's shared one, newest last."""
    store = workspace.find_meant().open_store()
    rows = [_row(store, digest) for digest in store.digests()]
    if store.shared is not None:
        rows += [_row(store.shared, digest) for digest in store.shared.digests()]
    return sorted(rows, key=lambda row: str(row["made"]))


def _row(store: Store, digest: str) -> dict[str, Any]:
    artifact = store.open(digest)
    manifest = artifact.manifest
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(artifact.timing().get("finished_at", 0)))
    size = sum(entry.size for entry in manifest.files)
    return {"artifact": digest, "kind": manifest.kind, "makes": manifest.makes, "bytes": size, "made": made}


def verify_stores(workspace: Workspace) -> tuple[list[str], int]:
    """Faults of the store here and of the shared one, and how many artifacts were read."""
    store = workspace.find_meant().open_store()
    stores = [store, *([store.shared] if store.shared else [])]
    faults = [fault for entry in stores for fault in (*entry.verify(), *_missing_media(entry))]
    return faults, sum(len(entry.digests()) for entry in stores)


def _missing_media(store: Store) -> Iterator[str]:
    """Data sets of which pictures or sounds are gone with the set that held their bytes, as sentences."""
    for digest in store.digests():
        with suppress(CorruptArtifact):  # told already
            artifact = store.open(digest)
            if artifact.manifest.makes == "dataset" and (missing := list_missing_media(artifact)):
                count = format_counted_noun(len(missing), "picture or sound", "pictures or sounds")
                yield (
                    f"{artifact.folder}: the bytes of {count} are in no data set that it was made from, such as "
                    f"{missing[0][:12]}; run the recipe that prepared them again"
                )


def collect_garbage(workspace: Workspace, *, dry_run: bool) -> GarbageCollectionResult:
    """Remove what no recipe near here, no released name and no job that goes on needs; what recipes would make or read
    is kept.

    Of a store behind a URL, which others use for recipes that are not here, only what is over goes: checkpoints whose
    artifact stands, and what jobs said that are done or old.
    """
    needed: set[str] = set()
    meant = workspace.find_meant()
    store = meant.open_store()
    recipes = list_store_recipes(store)
    if is_remote(store.location):
        return store.gc(None, dry_run=dry_run)
    if meant.store or not recipes:
        what = "no recipe stands beside this store, so what is needed cannot be known"
        hint = "run it where the recipes are, without LUTHIER_STORE; single artifacts can be removed by hand"
        raise InputError(f"{what}; nothing was removed", where=SourceLocation(file=store.location), hint=hint)
    for path in recipes:
        try:
            needed |= {planned.digest for planned in build_recipe_plan(Recipe.load(path, (), meant), store, ())}
        except InputError as error:
            hint = f"mend or remove {path} first: what it needs cannot be known"
            raise type(error)(error.message, where=error.where, hint=hint) from error
    from luthier.commands.jobs.command import collect_active_job_digests
    from luthier.commands.release import released_digests

    needed |= released_digests(workspace) | collect_active_job_digests(meant)
    return store.gc(needed, dry_run=dry_run)

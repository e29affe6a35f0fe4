"""The next round of a reviewed model: its recipe from the corrections, with failures as a standing test."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from luthier.commands.next_recipe import (
    NEW_CLASSES,
    NextRecipe,
    NumberedRecipeName,
    list_served_models,
    write_next_recipe_files,
)
from luthier.commands.projects.workspace import find_project_file
from luthier.commands.release import ReleasedRecipe, find_recipe_alias, find_released_recipe
from luthier.commands.review.fill import find_queue_traffic
from luthier.commands.review.queues import ReviewQueue
from luthier.commands.review.verdicts import iterate_reviewed_items, write_verdicts
from luthier.core.db import Ledger
from luthier.core.errors import DataError, SourceLocation, UnknownName
from luthier.recipe.workspace import Workspace
from luthier.traces.retention import has_traffic

STANDING_SHARE = 0.3
"""The share of failures that become a standing test; the request's id decides, so that it is the same in each round."""
_MOST_SHOWN = 200


class NextRound(NamedTuple):
    """A recipe that was written for the next round."""

    recipe: str
    """Its file, beside the project's recipe."""
    rows: list[dict[str, Any]]
    """Some of the rows that are trained on."""
    tested: list[dict[str, Any]]
    """Some of the rows of the standing test."""
    row_count: int
    tested_count: int
    text: str
    strange: str
    """Classes that are new to the data, right or misspelt, in a sentence; empty where there are none."""


def write_next_round(ledger: Ledger, workspace: Workspace, queue: ReviewQueue) -> NextRecipe:
    """Write the next recipe beside that of the served model, from all that was said of its answers.

    A part of the failures that reviewers corrected is held out as a standing test.
    """
    write_verdicts(ledger, workspace, queue)
    file, traffic = find_project_file(workspace, queue.project), find_queue_traffic(workspace, queue)
    if not has_traffic(traffic):
        raise DataError("no traffic is kept here", where=SourceLocation(file=str(traffic)), hint="serve the model")
    own = workspace.with_folder(file.parent)
    released = _served(own, file, traffic)
    failed = [
        reviewed_item.key
        for reviewed_item in iterate_reviewed_items(ledger, queue)
        if (out := reviewed_item.outcome) and out.verdict == "wrong"
    ]
    name = NumberedRecipeName.of(released.recipe.name).after(released.recipe.recipe_dir)
    return write_next_recipe_files(
        name, released, traffic, datetime.now(UTC), from_model=True, held_out=[id for id in failed if _is_tested(id)]
    )


def _served(workspace: Workspace, file: Path, traffic: Path) -> ReleasedRecipe:
    """The model of the project's folder that answered last, or was released."""
    for served in list_served_models(workspace, traffic):
        if served.made is not None:
            return served.made
    return find_released_recipe(find_recipe_alias(file, workspace), file, workspace)


def _is_tested(id: str) -> bool:
    digest = hashlib.sha256(f"standing test {id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64 < STANDING_SHARE


def read_next_round(workspace: Workspace, queue: ReviewQueue, recipe: str) -> NextRound:
    """A recipe that was written for a queue's project, with its rows; `UnknownName` where there is none."""
    folder = find_project_file(workspace, queue.project).parent
    path = next((entry for entry in folder.glob("*.yaml") if entry.name == recipe), None)
    rows_file = None if path is None else path.with_suffix(".jsonl")
    if path is None or rows_file is None or not rows_file.is_file():
        raise UnknownName(f"there is no such recipe beside that of {queue.project}")
    rows, tested = _read(rows_file), _read(folder / f"{path.stem}-failures.jsonl")
    shown, some = rows[:_MOST_SHOWN], tested[:_MOST_SHOWN]
    text = path.read_text(encoding="utf-8")
    new_classes = (line.removeprefix("# ") for line in text.splitlines() if line.startswith(f"# {NEW_CLASSES}"))
    return NextRound(recipe, shown, some, len(rows), len(tested), text, next(new_classes, ""))


def find_next_round_file(workspace: Workspace, queue: ReviewQueue, recipe: str) -> Path:
    """The file of such a recipe, as the queue of runs calls it."""
    read_next_round(workspace, queue, recipe)
    return workspace.shorten(find_project_file(workspace, queue.project).parent / recipe)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]

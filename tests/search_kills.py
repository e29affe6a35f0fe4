"""`python search_kills.py FOLDER POINTS SEED`: kill searches at random points, let each go on, and compare its files.

Libraries are imported once, and each search runs in a fork: nothing computes before. A search is killed a random moment
after a random one of its events, that of the end excluded. One JSON line a point: how many events there were, whether
the search was finished before it was killed, and whether the files that it came to in the end are those of an
undisturbed one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna  # noqa: F401  # imported once, for all forks
import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch  # noqa: F401

import luthier.auto.search.run
import luthier.eval.evaluator  # noqa: F401
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from search_recipe import files_of, write_recipe

MOST_WAIT_S = 0.05
"""After its event, a search goes on for so long at most."""


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Do some work in a fork, which may write to a pipe; its number and the pipe's other end."""
    heard, told = os.pipe()
    number = os.fork()
    if number:
        os.close(told)
        return number, heard
    code = 1
    try:
        os.close(heard)
        work(told)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(folder: Path, told: int) -> None:
    """Run the recipe, and write a byte for each event."""

    def tell(_event: RunEvent) -> None:
        os.write(told, b".")

    Recipe.load(folder / "recipe.yaml").run(RunEventEmitter(tell))


def finish(folder: Path) -> tuple[int, dict[str, str]]:
    """Run the recipe to its end in a fork; how many events it had, and the files of its model."""
    number, heard = fork(lambda told: run(folder, told))
    count = 0
    while read := os.read(heard, 4096):
        count += len(read)
    os.close(heard)
    if os.waitpid(number, 0)[1]:
        raise SystemExit(f"the search in {folder} did not go on")
    recipe = Recipe.load(folder / "recipe.yaml")
    return count, files_of(recipe.workspace.open_store().open(build_recipe_plan(recipe, costs_of=())["best"].digest))


def kill(folder: Path, event: int, wait_s: float) -> bool:
    """Kill a search some time after an event; returns whether it was finished before."""
    number, heard = fork(lambda told: run(folder, told))
    for _ in range(event):
        if not os.read(heard, 1):
            break
    time.sleep(wait_s)
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    os.close(heard)
    return not os.WIFSIGNALED(status)


def main() -> None:
    """Kill at so many points."""
    folder, points, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    count, expected = finish(write_recipe(folder / "whole").parent)
    for point in range(points):
        here = write_recipe(folder / f"{point}").parent
        event, wait_s = chance.randrange(1, count - 1), chance.uniform(0, MOST_WAIT_S)
        is_late = kill(here, event, wait_s)
        again, found = finish(here)
        told = {"event": event, "of": count, "late": is_late, "events_after": again, "same": found == expected}
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""A small honest chain of steps, run in processes of its own: numbers, their squares, their sum, with checkpoints.

python toy_chain.py STORE LOG [--pause SECONDS] [--bytes COUNT]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from luthier.core.artifact import Artifact, Manifest
from luthier.core.errors import LuthierError
from luthier.core.events import RunEventEmitter
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.remote_store import open_store
from luthier.core.step import DataRef, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.core.store import Store

COUNT = 12


class Toy(Step):
    """What the toy steps share: a pause in each round, so that a kill finds them at work."""

    pause: float = 0.0
    """Seconds to wait in each round."""

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """It is quick."""
        return StepCostEstimate(seconds=1, how="it is small")

    def recipe_digest(self, inputs: Mapping[str, str], contents: Mapping[str, str], seed: int) -> str:
        """Name the artifact; the pause changes no byte."""
        return digest_of([self.kind, dict(inputs), seed])


class Numbers(Toy):
    """Draws numbers one by one from a state that it keeps in its checkpoint."""

    kind: Literal["toy_numbers"] = "toy_numbers"
    makes: ClassVar[str] = "dataset"
    bytes: int = 0
    """How much to write beside the numbers."""
    memory: int = 0
    """How much memory to ask for."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Go on from the checkpoint when there is one."""
        checkpoint = work.scratch / "state.json"
        state: list[int] = json.loads(checkpoint.read_bytes()) if checkpoint.exists() else [work.seed]
        while len(state) < COUNT:
            state.append((state[-1] * 1103515245 + 12345) % 2**31)
            time.sleep(self.pause)
            write_atomically(checkpoint, json.dumps(state).encode())
        assert len(bytearray(self.memory)) == self.memory
        (work.folder / "rows").mkdir()
        for index, number in enumerate(state):
            (work.folder / "rows" / f"{index}.json").write_text(json.dumps(number))
        (work.folder / "more.bin").write_bytes(bytes(self.bytes))
        return {"rounds": len(state)}


class Squares(Toy):
    """Squares the numbers, and keeps no checkpoint."""

    kind: Literal["toy_squares"] = "toy_squares"
    makes: ClassVar[str] = "dataset"
    data: DataRef

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write one file, line by line."""
        with (work.folder / "squares.jsonl").open("w") as file:
            for index in range(COUNT):
                time.sleep(self.pause)
                file.write(f"{work.inputs['data'].read_json(f'rows/{index}.json') ** 2}\n")
                file.flush()
        return {}


class Total(Toy):
    """Adds the squares up."""

    kind: Literal["toy_total"] = "toy_total"
    makes: ClassVar[str] = "evaluation"
    data: Annotated[str, Reads("dataset")]

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write the sum."""
        time.sleep(self.pause)
        lines = work.inputs["data"].path("squares.jsonl").read_text().split()
        (work.folder / "total.json").write_text(json.dumps(sum(map(int, lines))))
        return {}


def run_chain(store: Store, log: Path, *, pause: float = 0.0, size: int = 0, memory: int = 0) -> list[Artifact]:
    """Make what is not made yet, each under its lock; every making is a line in the log."""
    numbers = take(store, Numbers(pause=pause, bytes=size, memory=memory), {}, log)
    squares = take(store, Squares(pause=pause, data="numbers"), {"data": numbers}, log)
    return [numbers, squares, take(store, Total(pause=pause, data="squares"), {"data": squares}, log)]


def take(store: Store, step: Toy, inputs: Mapping[str, Artifact], log: Path) -> Artifact:
    """One artifact: found, or made."""
    digest = step.recipe_digest({field: artifact.digest for field, artifact in inputs.items()}, {}, 7)
    if store.has(digest):
        return store.open(digest)
    with store.lock(digest):
        if store.has(digest):
            return store.open(digest)
        return make(store, step, digest, inputs, log)


def make(store: Store, step: Toy, digest: str, inputs: Mapping[str, Artifact], log: Path) -> Artifact:
    """One artifact, made now."""
    folder, scratch = store.begin(digest)
    with log.open("a") as file:
        file.write(f"{step.kind}\n")
    checked = {field: artifact.check() for field, artifact in inputs.items()}
    events = RunEventEmitter().of(step.kind)
    work = StepContext(
        name=step.kind, inputs=checked, folder=folder, scratch=scratch, recipe_dir=Path(), seed=7, events=events
    )
    with translate_write_errors(folder):
        measures = step.make(work)
        return store.finish(manifest(step, digest, checked), dict(measures))


def manifest(step: Toy, digest: str, inputs: Mapping[str, Artifact]) -> Manifest:
    """What is known before the files are listed."""
    return Manifest(
        digest=digest,
        kind=step.kind,
        makes=step.makes,
        settings={},
        inputs={field: artifact.digest for field, artifact in inputs.items()},
        reads={},
        code="toy",
        seed=7,
        files=[],
    )


def main() -> int:
    """Say `go` when everything is imported, run, and answer in the way of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("log", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--limit", default="", help="a limit of the machine to set first: AS or FSIZE and its bytes")
    asked = parser.parse_args()
    if asked.limit:
        import resource

        name, _, size = asked.limit.partition("=")
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(size), int(size)))
    os.write(1, b"go\n")
    try:
        run_chain(open_store(asked.store), asked.log, pause=asked.pause, size=asked.bytes, memory=asked.memory)
    except LuthierError as error:
        os.write(1, json.dumps(error.as_json()).encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

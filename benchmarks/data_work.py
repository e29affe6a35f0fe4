"""What `benchmarks/data.py` measures, in a process that imports nothing else: one corpus through `luthier run`'s step.

    python benchmarks/data_work.py CORPUS FOLDER WORKERS

The steps are those of the comparison with the peers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

STEPS: list[Any] = [
    "normalise",
    {"kind": "language", "of": "answer"},
    {"kind": "quality", "rules": "gopher"},
    "pii",
    "exact_dedup",
    "near_dedup",
]


def prepare(corpus: Path, folder: Path, workers: int, steps: Sequence[Any] = STEPS) -> None:
    """What `luthier run` does in its step `data`."""
    from luthier.core.events import Events
    from luthier.core.step import Work
    from luthier.data.passes.pipeline import Options
    from luthier.data.passes.pipeline import prepare as run
    from luthier.data.steps.prepare import Prepare

    source = {"kind": "jsonl", "path": str(corpus), "answer": "text"}
    step = Prepare.model_validate({"source": source, "ops": list(steps), "task": "text"})
    (folder / "made").mkdir(parents=True)
    (folder / "scratch").mkdir()
    events = Events(lambda event: None if event.kind == "progress" else print(event.text)).of("data")
    work = Work(
        name="data", inputs={}, folder=folder / "made", scratch=folder / "scratch", base=folder, seed=0, events=events
    )
    run(step.source, step.ops, step.split, work, Options(workers=workers, task=step.task))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

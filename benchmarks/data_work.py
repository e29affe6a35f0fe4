"""What `benchmarks/data.py` measures, in a process that imports nothing else: one corpus through `luthier run`'s step.

    python benchmarks/data_work.py CORPUS FOLDER WORKERS [KEPT [CHANGE]]

The steps are those of the comparison with the peers; with KEPT, a folder, what an earlier making left there is taken
over, and CHANGE says in what this one differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

STEPS: list[Any] = [
    "normalize",
    {"kind": "language", "of": "answer"},
    {"kind": "quality", "rules": "gopher"},
    "pii",
    "exact_dedup",
    "near_dedup",
]
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "near copies": {"ops": [*STEPS[:-1], {"kind": "near_dedup", "threshold": 0.7}]},
    "exact copies": {"ops": [*STEPS[:-2], {"kind": "exact_dedup", "keep": "last"}, "near_dedup"]},
    "one more": {"ops": [*STEPS, {"kind": "length", "min": 30}]},
    "split": {"split": {"test": 50}},
}
"""What may be set otherwise when the same corpus is prepared again."""


def prepare(
    corpus: Path,
    folder: Path,
    workers: int,
    steps: Sequence[Any] = STEPS,
    kept: Path | None = None,
    change: str = "nothing",
) -> None:
    """What `luthier run` does in its step `data`."""
    from luthier.core.events import RunEventEmitter
    from luthier.core.step import StepContext
    from luthier.data.engine.pipeline import PrepareOptions
    from luthier.data.engine.pipeline import prepare as run
    from luthier.data.steps.prepare import Prepare

    source = {"kind": "jsonl", "path": str(corpus), "answer": "text"}
    step = Prepare.model_validate({"source": source, "ops": list(steps), "task": "text", **CHANGES[change]})
    (folder / "made").mkdir(parents=True)
    (folder / "scratch").mkdir()
    events = RunEventEmitter(lambda event: None if event.kind == "progress" else print(event.text)).of("data")
    work = StepContext(
        name="data",
        inputs={},
        folder=folder / "made",
        scratch=folder / "scratch",
        recipe_dir=folder,
        seed=0,
        events=events,
        kept=kept,
    )
    run(step.source, step.ops, step.split, work, PrepareOptions(workers=workers, task=step.task))


if __name__ == "__main__":
    more = {"kept": Path(sys.argv[4]), "change": "".join(sys.argv[5:6]) or "nothing"} if sys.argv[4:] else {}
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), **more)

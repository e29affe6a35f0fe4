"""`python -m luthier.tune.training.follower`: compute parts of a training that another process on this machine leads.

One JSON object comes on standard input (`luthier.tune.run.describe_task`). Nothing is written; the process ends with
the training, or when the leader ends.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, read_manifest
from luthier.core.errors import LuthierError, UnknownName
from luthier.core.step import StepContext
from luthier.core.system.process import set_thread_wait_policy


def follow_task(task: dict[str, Any]) -> None:
    """Follow the training of a task to its end; `RankLost` when the leader ends."""
    from luthier.tune.run import TrainingRun
    from luthier.tune.steps.tune import Tune
    from luthier.tune.technique import Technique
    from luthier.tune.training.ranks import LocalMembership

    step = Tune.model_validate(task["step"])
    assert isinstance(step.technique, Technique), "only a technique that trains weights has steps"

    def find(digest: str) -> Artifact:
        if digest not in task["folders"]:
            raise UnknownName(f"artifact {digest[:12]} is not among those of this training")
        folder = Path(task["folders"][digest])
        return Artifact(folder, read_manifest(folder), find)

    with tempfile.TemporaryDirectory(prefix="luthier-rank-") as folder:
        work = StepContext(
            name="tune",
            inputs={field: find(digest) for field, digest in task["inputs"].items()},
            folder=Path(folder),
            scratch=Path(folder),
            recipe_dir=Path(task["recipe_dir"]),
            seed=task["seed"],
        )
        membership = LocalMembership(task["port"], task["number"])
        TrainingRun(step, step.technique, work).follow(membership.connect, membership.connect_again)


def main() -> int:
    """Run the follower and return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader is asked to stop, and ends this process
    set_thread_wait_policy()
    try:
        follow_task(json.loads(sys.stdin.read()))
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every objective, technique and optimizer is computed by two, three or four processes in the bytes of one.

The processes stay from training to training and from test to test: what each follows comes as a line of JSON, since
starting one takes longer than a training here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import LuthierError
from luthier.tune.optimizer import Optimizer
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase
from luthier.tune.training.ranks import LocalRanks
from tests import ready
from tune.test_every_part_in_parallel import OBJECTIVES, WAYS, files, objective_of, shop_for, step_of
from tuning import TuneEnv

TECHNIQUES = sorted(kind for kind, found in components_by_kind(TechniqueBase).items() if issubclass(found, Technique))
OTHERS: list[dict[str, Any]] = [
    {"kind": "lora", "lora_dropout": 0.2}, {"kind": "lora", "init_lora_weights": "pissa", "r": 4},
    {"kind": "lora", "init_lora_weights": "eva", "r": 4}, {"kind": "lora", "use_dora": True},
]  # fmt: skip
OPTIMIZERS = sorted(components_by_kind(Optimizer))
QUICK: list[tuple[tuple[str, dict[str, Any]], dict[str, Any], str]] = [
    (("sft", {}), {"kind": "full"}, "muon"),
    (("dpo", {}), {"kind": "lora", "lora_dropout": 0.2}, "adamw"),
    (("grpo", {}), {"kind": "qlora"}, "adafactor"),
    (("distil", {"logits": "live"}), {"kind": "lora", "init_lora_weights": "eva", "r": 4}, "adamw8bit"),
    (("ppo", {}), {"kind": "lora", "r": 4}, "schedule_free"),
]
CHILD = """
import json, sys, warnings
from luthier.tune.training.follower import follow_task
warnings.simplefilter("ignore")
for line in sys.stdin:
    follow_task(json.loads(line))
"""


class Followers:
    """Processes that follow one training after another."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "followers.log").open("w")
        self._children: dict[int, subprocess.Popen[str]] = {}

    def start(self, ranks: LocalRanks, number: int, task: Mapping[str, Any]) -> subprocess.Popen[str]:
        """Let a process follow; a new one where there is none, or where a training that failed ended it."""
        child = self._children.get(number)
        if child is None or child.poll() is not None:
            child = self._children[number] = ready.Popen(
                [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stderr=self._log, text=True,
                env=dict(os.environ),
            )  # fmt: skip
        assert child.stdin is not None
        child.stdin.write(json.dumps({**task, "number": number, "port": ranks._store.port}) + "\n")
        child.stdin.flush()
        return child

    def close(self) -> None:
        for child in self._children.values():
            assert child.stdin is not None
            child.stdin.close()
            child.kill()
            child.wait()
        self._log.close()


@pytest.fixture(scope="module", autouse=True)
def followers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pool = Followers(tmp_path_factory.mktemp("followers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalRanks, "_start", lambda *args: pool.start(*args))  # noqa: PLW0108  # bound to the ranks
        patch.setattr(LocalRanks, "close", lambda self: (self.group.close(), self._children.clear()))
        yield
    pool.close()


def make_step(way: tuple[str, dict[str, Any]], technique: dict[str, Any], optimizer: str) -> Tune:
    kind, extra = way
    held_out = {} if OBJECTIVES[kind].draws else {"validation": {"rows": 4, "every": 2}}
    return step_of(
        objective=objective_of(kind, extra), technique=technique, optimizer={"kind": optimizer}, parts=4, max_steps=2,
        teacher="teacher" if OBJECTIVES[kind].needs_teacher else None, **held_out,
    )  # fmt: skip


def compare(env: TuneEnv, step: Tune, count: int) -> bool:
    """Whether it trains at all; then so many processes must write what one does."""
    env.heard.clear()
    try:
        alone = files(env, step)
    except LuthierError:
        return False
    warnings = env.said("warning")
    env.heard.clear()
    assert files(env, step.model_copy(update={"processes": count})) == alone, (count, step.settings())
    assert env.said("warning") == warnings, "no rank was lost"
    return True


@pytest.mark.parametrize("way", WAYS, ids=["-".join([way[0], *way[1]]) for way in WAYS])
def test_a_step_is_read_from_its_settings(way: tuple[str, dict[str, Any]]) -> None:
    """Followers get them as JSON, defaults included."""
    step = make_step(way, {"kind": "lora"}, "adamw")
    assert Tune.model_validate(json.loads(json.dumps(step.settings()))) == step


def test_some_of_each_are_the_same_by_two_processes(tmp_path: Path) -> None:
    for at, (way, technique, optimizer) in enumerate(QUICK):
        assert compare(shop_for(tmp_path / str(at), way[0]), make_step(way, technique, optimizer), 2)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=["-".join([way[0], *way[1]]) for way in WAYS])
def test_every_objective_technique_and_optimizer_is_the_same_by_two_three_and_four(
    way: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A fifth of the techniques for each objective, others for the next one, so that five cover all; optimizers and
    numbers of processes change from one to the next."""
    first, trained = WAYS.index(way), 0
    optimizers, counts = cycle(OPTIMIZERS), cycle((2, 3, 4))
    for _ in range(first):
        next(optimizers), next(counts)
    env = shop_for(tmp_path, way[0])
    for technique in [*({"kind": kind} for kind in TECHNIQUES), *OTHERS][first % 5 :: 5]:
        try:
            step = make_step(way, technique, next(optimizers))
        except ValueError:  # a pair that is refused
            continue
        trained += compare(env, step, next(counts))
    assert trained

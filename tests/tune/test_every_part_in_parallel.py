"""Every objective and every technique is read side by side, or refuses it; either way a training is the same.

Two packs at once and one after another give the same losses and norms within the order of sums, and two packs at once
the same bytes each time: with an average of the weights, a bound on memory, and steps that are left out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError
from luthier.models.packing.pack import Pack
from luthier.models.packing.parallel import WorkerThreads
from luthier.models.packing.parallel_plan import LANES
from luthier.tune.objective import Objective
from luthier.tune.policy import ActorCritic
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase
from luthier.tune.training import parallel
from policies import REGEX
from tune.test_loss_spikes import spiking
from tuning import TuneEnv, examples, make_env, pairs, thumbs

pytestmark = pytest.mark.usefixtures("two_cores")
OBJECTIVES = components_by_kind(Objective)
TECHNIQUES = sorted(kind for kind, found in components_by_kind(TechniqueBase).items() if issubclass(found, Technique))
ALONE = {kind for kind, part in OBJECTIVES.items() if issubclass(part, ActorCritic)}
"""Objectives whose critic speaks through the same model: what one thread reads with would change under the other."""
PAIRS = ("dpo", "simpo", "cpo", "orpo", "reward")
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in sorted(OBJECTIVES)), ("classify", {"head": "sequence"}), ("distil", {"logits": "live"}),
    ("reward", {"head": "verdict"}), ("grpo", {"kl": {"coefficient": 0.1}}),
]  # fmt: skip
QUICK = {("sft", ""), ("dpo", ""), ("grpo", "")}
"""Ways that are tried in every run of the tests; the others are slow."""


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many packs were read at once, each time that some were."""
    counts: list[int] = []
    each = WorkerThreads.each

    def noted(self: WorkerThreads, work: Any, some: Sequence[Pack]) -> Any:
        counts.append(len(some))
        return each(self, work, some)

    monkeypatch.setattr(WorkerThreads, "each", noted)
    return counts


def objective_of(kind: str, extra: dict[str, Any]) -> dict[str, Any]:
    drawing = (
        {"rewards": [REGEX], "rollout": {"num_generations": 4, "max_completion_length": 4}}
        if OBJECTIVES[kind].draws
        else {}
    )
    return {"kind": kind, **drawing, **extra}


def shop_for(root: Path, kind: str) -> TuneEnv:
    return make_env(root, (pairs if kind in PAIRS else thumbs if kind == "kto" else examples)(12))


def step_of(**fields: Any) -> Tune:
    usual = {"data": "data", "technique": {"kind": "lora", "r": 4}, "batch_size": 4, "learning_rate": 1e-3,
             "dtype": "float32"}  # fmt: skip
    return Tune.model_validate({**usual, **fields})


def files(env: TuneEnv, step: Tune) -> dict[str, bytes]:
    """What a training writes, made anew."""
    if env.tune_digest(step) in set(env.store.digests()):
        env.store.remove(env.tune_digest(step))
    made = env.tune(step)
    return {entry.path: (made.folder / entry.path).read_bytes() for entry in made.manifest.files}


def numbers(found: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in found["log.jsonl"].splitlines()]


def alike(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Two logs tell the same within the order of sums; how much was computed differs by the prefixes read twice."""
    for first, second in zip(numbers(one), numbers(other), strict=True):
        assert first.pop("computed") >= second.pop("computed")
        first.pop("samples", None)
        second.pop("samples", None)
        assert first == pytest.approx(second, rel=2e-3, abs=2e-5)


def compared(env: TuneEnv, step: Tune, together: list[int], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Train twice as it comes and once one pack after another; the packs that were read at once."""
    first = files(env, step)
    found = set(together)
    assert first == files(env, step)
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 1 << 30)
    together.clear()
    alike(first, files(env, step))
    assert set(together) == {1}
    return found


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        pytest.param(
            *way, marks=() if (way[0], "".join(way[1])) in QUICK else pytest.mark.slow, id="-".join([way[0], *way[1]])
        )
        for way in WAYS
    ],
)
def test_every_objective_is_the_same_side_by_side(
    kind: str, extra: dict[str, Any], tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = "teacher" if OBJECTIVES[kind].needs_teacher else None
    step = step_of(objective=objective_of(kind, extra), teacher=teacher)
    found = compared(shop_for(tmp_path, kind), step, together, monkeypatch)
    assert found == ({1} if kind in ALONE else {LANES})


@pytest.mark.parametrize("technique", [pytest.param(kind, marks=pytest.mark.slow) for kind in TECHNIQUES])
def test_every_technique_is_the_same_side_by_side(
    technique: str, tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared(make_env(tmp_path, examples(12)), step_of(technique={"kind": technique}), together, monkeypatch)
    assert found == {LANES}


def test_an_average_and_more_packs_than_two_are_the_same_side_by_side(
    tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = step_of(batch_size=8, ema=0.9, max_tokens_per_microbatch=250, validation={"rows": 4, "every": 2})
    found = compared(make_env(tmp_path, examples(24)), step, together, monkeypatch)
    assert LANES in found
    assert len(together) > 1 + 3, "more than one pack a step"


def test_steps_are_left_out_or_end_a_training_side_by_side(
    tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(tmp_path, examples(12))
    spiking(monkeypatch, {1}, float("nan"))
    with pytest.raises(ModelError, match="diverged at step 2: loss nan, on examples"):
        env.tune(step_of())
    assert LANES in together
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("learning")]
    left_out = files(env, step_of(on_loss_spike="skip"))
    assert [line["step"] for line in numbers(left_out) if "skipped" in line] == [2]
    assert left_out == files(env, step_of(on_loss_spike="skip"))

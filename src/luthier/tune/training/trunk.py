"""The trunk of a training: the steps that it has in common with a longer one, and the digest of what determines them.

Up to the decay of the learning rate, a training under `wsd` does not depend on its length. See
`luthier.tune.training.trunk_states` for the states that are stored under the digest.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.core.system.process import cpu_features
from luthier.tune.technique import StandaloneTechnique
from luthier.tune.training.schedule import BatchSampler

if TYPE_CHECKING:
    from luthier.tune.steps.tune import Tune

ENDINGS = frozenset(
    {"epochs", "max_steps", "save_epochs", "lr_scheduler", "decay", "warmup_ratio", "warmup_steps", "learning_rate"}
)
"""Settings that the trunk does not depend on, directly or through others."""
_LIBRARIES = ("torch", "transformers", "peft")


def find_trunk_obstacle(step: Tune) -> str:
    """Return why no longer training can resume from a state of a training; empty when one can."""
    validation = step.validation
    obstacles = {
        f"{step.technique.kind} trains no network": isinstance(step.technique, StandaloneTechnique),
        f"under `lr_scheduler: {step.shape}` each step depends on their number, other than under wsd": (
            step.shape not in ("wsd", "constant")
        ),
        f"which answers the log of {step.objective.kind} shows depends on the number of steps": step.objective.draws,
        "a training that resumes from another's state begins as no other does": step.resume_from is not None,
        "save_epochs keeps weights of earlier steps": step.save_epochs > 0,
        "keep_states keeps states of earlier steps": step.keep_states > 0,
        "validation.every is a share of all steps; give a number of steps": (
            validation is not None and not isinstance(validation.every, int)
        ),
    }
    return next((reason for reason, holds in obstacles.items() if holds), "")


def digest_prefix(step: Tune, work: StepContext, rate: float, warmup_steps: int, *, reads_packs: bool) -> str:
    """Return the digest of all that determines the states of the trunk: the step's settings without those of its end,
    and the machine.

    `reads_packs`: whether the technique is initialized from packs of the training, which may include its last ones.
    """
    import torch

    apart = {*ENDINGS, *step.reads()}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    prefix: Mapping[str, Any] = {
        "settings": {name: value for name, value in step.hashed_settings().items() if name not in apart},
        "learning_rate": rate,
        "warmup_steps": warmup_steps,
        "epochs": step.epochs if reads_packs else None,
        "inputs": {name: artifact.digest for name, artifact in work.inputs.items()},
        "reads": step.contents(work.recipe_dir),
        "code": step.code(),
        "seed": work.seed,
        "machine": [platform.machine(), cpu_features(), gpu, *map(version, _LIBRARIES)],
    }
    return digest_of(prefix)


def _count_used(step: Tune, rows: int) -> int:
    return rows if step.max_train_samples is None else min(rows, step.max_train_samples)


def count_steps(step: Tune, rows: int) -> int:
    """Return the optimizer steps for `rows` training rows; 0 under a technique without steps."""
    if isinstance(step.technique, StandaloneTechnique):
        return 0
    count = _count_used(step, rows)
    return BatchSampler(
        seed=0, count=count, epochs=step.epochs, batch_size=step.batch_size, max_steps=step.max_steps
    ).steps


def shorten_training(step: Tune, share: float, rows: int) -> Tune:
    """Return a training of a share (0, 1] of the steps, or without steps of the budget or the rows; the step itself for
    1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, got {share:g}")
    if share == 1:
        return step
    if isinstance(step.technique, StandaloneTechnique):
        smaller = step.technique.at_share(share)
        if smaller is not None:
            return _change_settings(step, {"technique": smaller})
        return _change_settings(step, {"max_train_samples": max(1, round(share * _count_used(step, rows)))})
    whole = count_steps(step, rows)
    changes: dict[str, Any] = {
        "max_steps": max(1, round(share * whole)),
        "lr_scheduler": "constant" if step.shape == "constant" else "wsd",
        "warmup_steps": step.count_warmup_steps(whole),
        "warmup_ratio": type(step).model_fields["warmup_ratio"].default,
        "save_epochs": 0,
        "keep_states": 0,
        "keep_trunk": False,
    }
    if step.validation is not None:
        every = step.validation.count_steps_between(whole)
        changes["validation"] = step.validation.model_copy(update={"every": every})
    shorter = _change_settings(step, changes)
    return shorter.model_copy(update={"keep_trunk": not shorter.find_trunk_obstacle()})


def _change_settings(step: Tune, changes: Mapping[str, Any]) -> Tune:
    """Return the step with other settings, validated together."""
    return type(step).model_validate({**dict(step), **changes})

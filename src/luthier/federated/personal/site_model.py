"""A site's own part of a model from round to round, and the model that it makes of it in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.aggregator import Factors, GlobalWeights, list_modules, split_others
from luthier.federated.aggregators.mean import MeanAggregator
from luthier.federated.local_training import FederatedTraining
from luthier.federated.personal.adapter import PersonalAdapter
from luthier.tune.low_rank import LowRankTechnique

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.tune.steps.tune import Tune

MODEL = "personal"
"""The folder of a site's own model."""
FEDERATIONS = "federations"
"""Below a site's folder: what it keeps of each federation, by its digest."""
_OWN = "own/"
"""Before the names of a site's own weights in its state."""


def name_own_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a site's own trained weights, under their names in its state after a round."""
    return {f"{_OWN}{name}": value for name, value in weights.items()}


def select_own_weights(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the own weights by parameter name, from a site's state; empty before its first round."""
    return {name.removeprefix(_OWN): value for name, value in kept.items() if name.startswith(_OWN)}


def train_adapter(
    part: PersonalAdapter, tune: Tune, work: StepContext, given: GlobalWeights, classes: Mapping[str, str] | None
) -> tuple[FederatedTraining, GlobalWeights]:
    """Train a site's own adapter on top of the final weights; a killed training resumes from its checkpoint.

    The shared adapter's product is added to the frozen weights, like the changes of earlier rounds. Heads are trained
    further. The adapter has a seed of its own, so that its A differs from the shared one.
    """
    from luthier.tune.training.gradient_pull import ProximalPull

    own = part.build_tune(tune)
    work = replace(work, seed=derive_seed(work.seed))
    training = FederatedTraining(own, work, MeanAggregator(), keeps=lambda name: True, trusts=True, other=tune)
    ratio = _find_scale(tune) / _find_scale(own)
    base = {name: Factors(factors.up * ratio, factors.down) for name, factors in given.base.items()}
    for name, (down, up) in list_modules(given.moving).items():
        product = Factors(given.moving[up] * ratio, given.moving[down])
        base[name] = base[name].add(product) if name in base else product
    heads = split_others(given.moving)
    pulls = [ProximalPull(part.proximal)] if part.proximal else []
    update = training.train_round(GlobalWeights({}, base), 0, 1, classes, pulls, heads)
    return training, GlobalWeights({**heads, **update.own}, base)


def derive_seed(seed: int) -> int:
    """The seed of sites' own adapters."""
    return int(digest_of([seed, MODEL])[:8], 16)


def _find_scale(tune: Tune) -> float:
    """Return the scale of a low-rank product."""
    technique = tune.technique
    assert isinstance(technique, LowRankTechnique), "others are refused by the plan"
    return technique.lora_alpha / (technique.r**0.5 if technique.use_rslora else technique.r)

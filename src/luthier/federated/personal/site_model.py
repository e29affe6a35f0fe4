"""A site's own part of a model from round to round, and the model that it makes of it in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.aggregator import DOWN, UP, Factors, GlobalWeights, list_modules, split_others
from luthier.federated.aggregators.mean import MeanAggregator
from luthier.federated.local import FederatedTraining
from luthier.federated.messages import pack_tensors, unpack_tensors
from luthier.federated.personal.adapter import PersonalAdapter
from luthier.tune.low_rank import LowRankTechnique

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.tune.steps.tune import Tune

MODEL = "personal"
"""The folder of a site's own model, where its weights of earlier rounds lie too until then."""
FEDERATIONS = "federations"
"""Below a site's folder: what it keeps of each federation, by its digest."""
_OWN = "own.safetensors"


class OwnWeights:
    """What a site keeps of the trained weights for itself, sealed with its answers: the weights of a round count once
    its answer is on the disk, so a killed site goes on with those of the last round that it answered."""

    def __init__(self, folder: Path, answered: Collection[str]) -> None:
        """`answered` are digests of the messages whose answers are kept."""
        self._folder = folder
        for path in folder.glob(f"{_OWN}-*"):
            digest = path.name.removeprefix(f"{_OWN}-")
            if digest in answered:
                self.settle(digest)
            else:
                path.unlink()

    def read(self) -> dict[str, Tensor]:
        """Those of the last round that was answered, by parameter name; none before the first."""
        path = self._folder / _OWN
        return unpack_tensors(path.read_bytes()) if path.is_file() else {}

    def stage(self, digest: str, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a round, by the digest of its message, before the answer is kept."""
        if weights:
            path = self._folder / f"{_OWN}-{digest}"
            write_atomically(path, pack_tensors(weights))
            path.chmod(0o600)

    def settle(self, digest: str) -> None:
        """Let staged weights count, since the answer to the message is kept."""
        path = self._folder / f"{_OWN}-{digest}"
        if path.is_file():
            path.replace(self._folder / _OWN)


def train_adapter(
    part: PersonalAdapter, tune: Tune, work: StepContext, given: GlobalWeights, classes: Mapping[str, str] | None
) -> tuple[FederatedTraining, GlobalWeights]:
    """Train a site's own adapter on top of the last weights; a killed training goes on from its checkpoint.

    The shared adapter's product is added to the frozen weights, as what earlier rounds added is. Heads are trained on
    from where they are. The adapter begins by a seed of its own, so that its A is not the shared one.
    """
    own = part.build_tune(tune)
    work = replace(work, seed=derive_seed(work.seed))
    training = FederatedTraining(own, work, MeanAggregator(), keeps=lambda name: DOWN in name or UP in name)
    ratio = _find_scale(tune) / _find_scale(own)
    base = {name: Factors(factors.up * ratio, factors.down) for name, factors in given.base.items()}
    for name, (down, up) in list_modules(given.moving).items():
        product = Factors(given.moving[up] * ratio, given.moving[down])
        base[name] = base[name].add(product) if name in base else product
    begin = GlobalWeights(split_others(given.moving), base)
    update = training.train_round(begin, 0, 1, classes, part.proximal)
    return training, GlobalWeights({**begin.moving, **update.weights, **update.own}, base)


def derive_seed(seed: int) -> int:
    """The seed of sites' own adapters."""
    return int(digest_of([seed, MODEL])[:8], 16)


def _find_scale(tune: Tune) -> float:
    """What a low-rank product is multiplied by."""
    technique = tune.technique
    assert isinstance(technique, LowRankTechnique), "others are refused by the plan"
    return technique.lora_alpha / (technique.r**0.5 if technique.use_rslora else technique.r)

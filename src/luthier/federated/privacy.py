"""Differential privacy of a federation: of rows or groups of rows by noise in each site's steps, or of whole sites.

For rows and groups, each site trains by DP-SGD over the course of all rounds, and its own noise protects its own rows
against everybody else. For sites, each update is scaled down to a norm, and the sum gets Gaussian noise: under masks
each site adds its share, in the ring's integers (Kairouz et al. 2021, "The Distributed Discrete Gaussian Mechanism");
without, the coordinator adds all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.federated.masks import BeyondBound, MaskSettings, compute_scale
from luthier.tune.privacy.accountant import PrivacyAccount, find_noise
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.settings import ROW, Privacy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SITE = "site"
_TAIL = 10.0
"""Standard deviations of noise for which there must be room in the ring."""


class FederatedPrivacy(Privacy):
    """Differential privacy of the sites' training rows: whoever has the tuned model, the coordinator among them, can
    hardly tell whether any one unit was among them."""

    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The chance with which that may fail; well below one over the number of units."""
    unit: str = ROW
    """What is protected: `row`, all rows of one site that have the same value in a column, such as `meta.customer`, or
    a whole `site`."""

    def describe(self, epsilon: float | None = None) -> str:
        """`ε = 3.1 at δ = 1e-05 for each customer`."""
        unit = self.unit.rpartition(".")[2]
        return (
            f"\N{GREEK SMALL LETTER EPSILON} = {self.epsilon if epsilon is None else epsilon:.3g} at "
            f"\N{GREEK SMALL LETTER DELTA} = {self.delta:.2g} for each {unit}"
        )

    def for_steps(self) -> dict[str, Any] | None:
        """Settings of the training at a site; None where the whole site is protected, whose steps have no noise."""
        return None if self.unit == SITE else Privacy(**self.model_dump()).model_dump()


class PrivacySpending(BaseModel):
    """What some steps with noise cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: str
    noise: float = Field(gt=0)
    """Standard deviation of the noise, in units of the clipping norm."""
    sampling: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    delta: float = Field(default=0.0, ge=0, lt=1)
    """The chance of failing that comes on top of the noise's own: that of naming what one row alone has."""


class SpentPrivacy(NamedTuple):
    """What a site's rows gave away, by the units that orders protected."""

    spendings: tuple[PrivacySpending, ...]

    def count_epsilon(self, delta: float) -> float:
        """The ε of all together for one row, which is never above that of the group or site that it belongs to."""
        delta -= sum(spending.delta for spending in self.spendings)
        if delta <= 0:
            return math.inf
        steps: dict[tuple[float, float], int] = {}
        for spending in self.spendings:
            key = (spending.noise, spending.sampling)
            steps[key] = steps.get(key, 0) + spending.steps
        account: PrivacyAccount | None = None
        for (noise, sampling), count in sorted(steps.items()):
            own = PrivacyAccount.of(noise, sampling, count)
            account = own if account is None else account.join(own)
        return 0.0 if account is None else account.epsilon(delta)


def covers(promised: str, expected: str) -> bool:
    """Whether the protection of one unit is one of another: a site's of its groups, a group's of its rows."""
    return promised in (expected, SITE) or expected == ROW


def find_site_noise(privacy: FederatedPrivacy, rounds: int) -> float:
    """The noise multiplier with which so many sums keep the promise for a whole site."""
    return find_noise(privacy.epsilon, privacy.delta, 1.0, rounds)


def subtract_weights(weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a site changed, in fp64."""
    return {name: value.double() - given[name].double() for name, value in weights.items()}


def add_weights(change: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights after a change, in the weights' own type."""
    return {name: (given[name].double() + value.double()).to(given[name].dtype) for name, value in change.items()}


def measure_norm(change: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all numbers together."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in change.values()))


def clip_change(change: Mapping[str, Tensor], clip: float) -> dict[str, Tensor]:
    """The change, scaled down to a norm of `clip` where it is longer; nothing where it is not finite."""
    norm = measure_norm(change)
    scale = min(1.0, clip / norm) if norm and math.isfinite(norm) else float(math.isfinite(norm))
    if not scale:
        return {name: value.new_zeros(value.shape) for name, value in change.items()}
    return {name: value * scale for name, value in change.items()}


def encode_change(
    change: Mapping[str, Tensor],
    settings: MaskSettings,
    sites: int,
    clip: float,
    noise: float,
    key: NoiseKey,
    label: str,
) -> NDArray[Any]:
    """(numbers + 2,) uint64: a clipped change in fixed point with a site's share of the noise, as `encode_update` has
    weights; one in place of the rows, and nothing in place of the loss.

    `noise` is the standard deviation of this site's own noise. Numbers are cut towards zero, so that the norm stays
    within `clip`. `BeyondBound` where noise could leave the ring.
    """
    import numpy

    scale = compute_scale(settings, sites)
    if (clip + _TAIL * noise) * scale * sites >= 2.0**63:
        raise BeyondBound(f"noise of {noise:g} does not fit in the ring: set a smaller clip or smaller bounds")
    parts = [change[name].double().numpy().reshape(-1) for name in sorted(change)]
    numbers = numpy.concatenate([*parts, [0.0, 0.0]])
    encoded = numpy.trunc(numbers * scale).astype(numpy.int64)
    drawn = key.draw_normal(label, [len(numbers)]).numpy() * (noise * scale)
    drawn[-2:] = 0.0
    encoded += numpy.rint(drawn).astype(numpy.int64)
    encoded[-1] = 1
    found: NDArray[Any] = encoded.view(numpy.uint64)
    return found


def average_clipped_updates(
    changes: Iterable[Mapping[str, Tensor]], clip: float, noise: float, key: NoiseKey, label: str
) -> dict[str, Tensor]:
    """The mean of clipped changes with noise of a standard deviation in their sum."""
    total: dict[str, Tensor] = {}
    count = 0
    for change in changes:
        count += 1
        for name, value in clip_change(change, clip).items():
            total[name] = total[name] + value if name in total else value
    return {
        name: (value + key.draw_normal(f"{label}/{name}", value.shape) * noise) / count
        for name, value in sorted(total.items())
    }


def find_federated_privacy_obstacle(
    privacy: FederatedPrivacy, *, wants_classes: bool, metrics: bool, mean: bool
) -> str:
    """What breaks the promise in a federation; empty where nothing does. `mean`: whether the sum is an exact mean."""
    if wants_classes:
        return "the names of classes come from rows without noise; take an objective without them, such as sft"
    if metrics:
        return "sums over held-out rows have no noise; leave `metrics` out, and evaluate where rows may be read"
    if privacy.unit == SITE and not mean:
        return "only a mean of whole updates can be clipped site by site; take ffa, alternate or mean"
    return ""

"""Differential privacy of a federation: of rows or groups of rows by noise in each site's steps, or of whole sites.

For rows and groups, each site trains by DP-SGD over the steps of all rounds, and its own noise protects its own rows
against everybody else. For sites, each update is scaled down to a norm and cut to integers, and the sum gets discrete
Gaussian noise: under masks each site adds its share, in the ring (Kairouz, Liu and Steinke 2021, "The Distributed
Discrete Gaussian Mechanism"); without, the coordinator adds all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.federated.secure_aggregation.masks import BoundError, MaskSettings, compute_scale
from luthier.tune.privacy.accountant import PrivacyAccount, find_noise
from luthier.tune.privacy.discrete_gaussian import GREATEST_DEVIATION, draw_discrete_gaussian
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.settings import ROW, Privacy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SITE = "site"
SMOOTHING = 4.0
"""Standard deviation, in units of the ring, of the part of the noise that turns Gaussian noise into integers."""
LEAST_DEVIATION = 64
"""Minimum standard deviation of the noise, and of a clipped change, in units of the ring."""
COUNT_UNITS = 1 << 10
"""Units of one row in a count that gets noise: the noise is whole units, and the sum is rounded to whole rows."""
_TAIL = 10.0
"""Standard deviations of noise for which there must be room in the ring."""


class FederatedPrivacy(Privacy):
    """Differential privacy of the sites' training rows: from the tuned model, whoever has it (the coordinator included)
    can hardly tell whether any one unit was among them.
    """

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
    """Privacy cost of some steps with noise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: str
    noise: float = Field(gt=0)
    """Standard deviation of the noise, in units of the clipping norm."""
    sampling: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    delta: float = Field(default=0.0, ge=0, lt=1)
    """The chance of failing that comes on top of the noise's own: that of naming what one row alone has."""


class SpentPrivacy(NamedTuple):
    """Privacy spent by a site's rows, by the units that orders protected."""

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
    """Return whether the protection of one unit implies that of another: a site's implies its groups', a group's its
    rows'.
    """
    return promised in (expected, SITE) or expected == ROW


def find_site_noise(privacy: FederatedPrivacy, rounds: int) -> float:
    """Return the noise multiplier with which `rounds` sums stay within the budget for a whole site."""
    return find_noise(privacy.epsilon, privacy.delta, 1.0, rounds)


def subtract_weights(weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a site's change, in fp64."""
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


def bound_lattice_slack(deviation: float, shares: int, smoothing: float = SMOOTHING) -> float:
    """How far, for each number of a vector, integers with noise are from what Gaussian noise of the variance
    `shares * deviation**2 - smoothing**2` makes of the same integers: a bound on the log-ratio of probabilities.

    The sum of n discrete Gaussians of σ is within τ = 10 Σ exp(-2π² σ² k / (k + 1)), k = 1 … n - 1, of one of √n σ
    (Kairouz, Liu and Steinke 2021, theorem 1). One of variance a + s² is within 2 artanh η of Gaussian noise of
    variance a that is rounded at random by a discrete Gaussian of s around it, η = 2 exp(-2π² s²) / (1 - exp(-6π² s²)):
    the sum of exp(-(z - y)² / 2s²) over the integers z is √(2π) s to within a factor 1 ± η for any y, by Poisson's
    summation (Peikert 2010, "An Efficient and Parallel Gaussian Sampler for Lattices", theorem 3.1). What is computed
    from a sum with Gaussian noise gives away no more than that sum.

    So R rounds of d numbers keep (ε + 2Rdc, exp(Rdc) δ), where (ε, δ) is that of the Gaussian noise and c this slack.
    """
    several = 10 * sum(math.exp(-2 * math.pi**2 * deviation**2 * k / (k + 1)) for k in range(1, shares))
    ripple = 2 * math.exp(-2 * math.pi**2 * smoothing**2) / -math.expm1(-6 * math.pi**2 * smoothing**2)
    return several + 2 * math.atanh(ripple)


def find_share_deviation(noise: float, scale: int, shares: int) -> int:
    """Return σ of one site's discrete Gaussian in units of the ring, such that `shares` of them hide an integer vector
    as well as Gaussian noise of the standard deviation `noise * scale`; 0 without noise.

    It is at least `LEAST_DEVIATION`, at which `bound_lattice_slack` is below 1e-130: no recipe has enough rounds and
    numbers for that to change a digit of ε.
    """
    if not noise:
        return 0
    exact = math.sqrt((noise * scale) ** 2 + SMOOTHING**2) / math.sqrt(shares)
    return max(LEAST_DEVIATION, math.ceil(exact * (1 + 2.0**-50)))


def find_noise_obstacle(settings: MaskSettings, sites: int, clip: float, noise: float, shares: int) -> str:
    """Return why noise, to which each site adds its share, does not fit in the ring; empty where it does."""
    scale = compute_scale(settings, sites)
    own = find_share_deviation(noise, scale, shares)
    if own > GREATEST_DEVIATION or (clip * scale + _TAIL * own) * sites >= 2.0**63:
        return f"noise of {noise:g} does not fit in the ring: set a smaller clip or smaller bounds"
    if noise and clip * scale < LEAST_DEVIATION:
        return f"a clip of {clip:g} is {clip * scale:g} units of the ring: set a larger clip or smaller bounds"
    return ""


def cut_change(change: Mapping[str, Tensor], clip: float, scale: int) -> NDArray[Any]:
    """(numbers,) int64: a clipped change, by name, in units of 1 / scale. Numbers are cut towards zero, which makes
    none longer, and the norm of the integers themselves is within `clip * scale`, exactly."""
    import numpy

    numbers = numpy.concatenate([change[name].double().numpy().reshape(-1) for name in sorted(change)]) * scale
    most = Fraction(clip) * scale
    found: NDArray[Any] = numpy.trunc(numbers).astype(numpy.int64)
    while _square(found) > most * most:  # the norm that it was clipped to was rounded
        numbers *= 1 - 2.0**-40
        found = numpy.trunc(numbers).astype(numpy.int64)
    return found


def _square(numbers: NDArray[Any]) -> int:
    """The sum of squares of integers below 2^62, exact: by limbs of 21 bits, whose products fit."""
    import numpy

    total = 0
    for first in range(0, len(numbers), 1 << 20):
        part = numpy.abs(numbers[first : first + (1 << 20)])
        limbs = [(part >> shift) & ((1 << 21) - 1) for shift in (0, 21, 42)]
        for one, low in enumerate(limbs):
            for other, high in enumerate(limbs):
                total += int(numpy.dot(low, high)) << (21 * (one + other))
    return total


def encode_change(
    change: Mapping[str, Tensor],
    settings: MaskSettings,
    sites: int,
    clip: float,
    noise: float,
    shares: int,
    key: NoiseKey,
    label: str,
) -> NDArray[Any]:
    """(numbers + 2,) uint64: a clipped change in fixed point with a site's share of the noise, as `encode_update` has
    weights; one in place of the rows, and nothing in place of the loss.

    `noise` is the standard deviation in the sum of `shares` sites, the fewest that a round may have. `BoundError`
    where noise could leave the ring.
    """
    import numpy

    if why := find_noise_obstacle(settings, sites, clip, noise, shares):
        raise BoundError(why)
    scale = compute_scale(settings, sites)
    encoded = numpy.append(cut_change(change, clip, scale), [0, 1])
    if own := find_share_deviation(noise, scale, shares):
        encoded[:-2] += draw_discrete_gaussian(key, label, len(encoded) - 2, own)
    found: NDArray[Any] = encoded.view(numpy.uint64)
    return found


def average_clipped_updates(
    changes: Iterable[Mapping[str, Tensor]], sites: int, clip: float, noise: float, key: NoiseKey, label: str
) -> dict[str, Tensor]:
    """Return the mean of the clipped changes of `sites` sites, with noise of a standard deviation in their
    integer sum.
    """
    import numpy
    import torch

    scale = 1 << min(62, max(0, 59 - math.ceil(math.log2(sites * clip + _TAIL * noise))))
    total: NDArray[Any] = numpy.zeros(0, dtype=numpy.int64)
    shapes: Mapping[str, Tensor] = {}
    for change in changes:
        cut = cut_change(clip_change(change, clip), clip, scale)
        total, shapes = (total + cut if len(total) else cut), change
    if own := find_share_deviation(noise, scale, 1):
        total = total + draw_discrete_gaussian(key, label, len(total), own)
    mean, found, at = torch.from_numpy(total / scale / sites), dict[str, torch.Tensor](), 0
    for name in sorted(shapes):
        shape = shapes[name].shape
        found[name] = mean[at : at + shape.numel()].reshape(shape)
        at += shape.numel()
    return found


def add_count_noise(numbers: Sequence[int], noise: float, key: NoiseKey, label: str) -> list[int]:
    """Counts with noise, in whole rows. In units of which a row has `COUNT_UNITS`, one row moves a group of cells by
    that length, and the noise is a discrete Gaussian that hides it as well as Gaussian noise of the standard deviation
    `noise` hides one row; rounding comes after, in integers, and so tells no more."""
    if not numbers:
        return []
    drawn = draw_discrete_gaussian(key, label, len(numbers), find_share_deviation(noise, COUNT_UNITS, 1)).tolist()
    return [
        (COUNT_UNITS * number + units + COUNT_UNITS // 2) // COUNT_UNITS
        for number, units in zip(numbers, drawn, strict=True)
    ]


def find_name_threshold(noise: float, delta: float) -> int:
    """Rows with noise from which a name is told: one row alone passes it with a chance of `delta` at most.

    A discrete Gaussian is at m > 0 or beyond with a chance below that of a continuous one of the same σ beyond m - 1:
    its terms are below the integral before them, and their sum is no less than √(2π) σ (Poisson's summation).
    """
    from scipy.special import ndtri

    least = 1 - find_share_deviation(noise, COUNT_UNITS, 1) * float(ndtri(min(delta, 0.5)))
    return 1 + math.ceil((least + COUNT_UNITS // 2) / COUNT_UNITS * (1 + 2.0**-40))


def find_federated_privacy_obstacle(
    privacy: FederatedPrivacy, *, wants_classes: bool, metrics: bool, mean: bool
) -> str:
    """Return what breaks the guarantee in a federation; empty where nothing does. `mean`: whether the sum is an exact
    mean.
    """
    if wants_classes:
        return "the names of classes come from rows without noise; take an objective without them, such as sft"
    if metrics:
        return "sums over held-out rows have no noise; leave `metrics` out, and evaluate where rows may be read"
    if privacy.unit == SITE and not mean:
        return "only a mean of whole updates can be clipped site by site; take ffa, alternate or mean"
    return ""

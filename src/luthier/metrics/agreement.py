"""How far people who judged the same items agree, beyond what chance would give, with intervals.

Judgments come as a table: one row an item, one column an annotator, None where somebody did not judge. Every
coefficient is a function of sums over items, so that its 95 % interval comes from items without judging again: plain
agreement's from resampling them (BCa bootstrap), what is corrected for chance from leaving each out, on the scale of
Fisher's z, since resamples of few items may hold one category only. Imported inside verbs only: it needs numpy.

Cohen 1960 and 1968 (weighted); Scott 1955; Fleiss 1971; Light 1971 (several annotators in pairs); Krippendorff 2011,
"Computing Krippendorff's Alpha-Reliability"; Gwet 2008 and 2014 (AC1, AC2, and missing judgments for Fleiss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.metrics.distance import Level, Weights, agreements, distances, in_order
from luthier.metrics.judged import Coded, Table
from luthier.metrics.resample import Block, Floats, Job, Method, Value, intervals

_NAMES: dict[Method, str] = {"bca": "bca95", "logit": "fisher z95 of the jackknife"}
Coefficient = Literal["percent", "cohen", "scott", "fleiss", "krippendorff", "gwet"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A coefficient with its 95 % interval, and what it was computed from."""

    value: float
    low: float
    high: float
    standard_error: float
    items: int
    """Items that at least two annotators judged."""
    judgments: int
    signature: str
    """Which coefficient, over which distances."""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Every field by its name; the note only when there is one."""
        return {name: value for name, value in vars(self).items() if name != "note" or value}


def percent(table: Table, *, seed: int = 0) -> Agreement:
    """The share of pairs of judgments of the same item that are equal, averaged over items: chance is not taken out."""
    coded = Coded.of(table)
    return _measured(coded, "percent", coded.equal_pairs("identity"), _equal, seed, "bca")


def cohen(table: Table, *, weights: Weights = "identity", seed: int = 0) -> Agreement:
    """Cohen's kappa of two annotators; of more, the mean over all pairs (Light 1971).

    `linear` and `quadratic` weigh how many categories lie between two judgments, in the categories' order.
    """
    coded = Coded.of(table)
    apart = 1 - agreements(weights, coded.categories)
    pairs = [coded.confusions(a, b) for a, b in combinations(range(coded.codes.shape[1]), 2)]
    kept = [pair for pair in pairs if pair.sum() > 0]

    def value(sums: Sequence[Floats]) -> Floats:
        return np.asarray(np.mean([_kappa(one, apart) for one in sums], axis=0))

    return _measured(coded, f"cohen|weights:{weights}", kept, value, seed)


def scott(table: Table, *, seed: int = 0) -> Agreement:
    """Scott's pi of two annotators: both are taken to share one distribution of categories."""
    if len(table) and len(table[0]) != 2:
        raise DataError(f"Scott's pi is for two annotators; {len(table[0])} came", remedy="use fleiss or krippendorff")
    both = [row for row in table if None not in row]
    return _chance_corrected(Coded.of(both), "scott", "identity", _shared_chance, seed)


def fleiss(table: Table, *, seed: int = 0) -> Agreement:
    """Fleiss' kappa of any number of annotators; items may have different numbers of judgments (Gwet 2014).

    An item that one annotator judged cannot be compared, but says how often each category is used.
    """
    return _chance_corrected(Coded.of(table, least=1), "fleiss", "identity", _shared_chance, seed)


def gwet(table: Table, *, weights: Weights = "identity", seed: int = 0) -> Agreement:
    """Gwet's AC1, and with other weights AC2: steady where one category is much more frequent than the others.

    An item that one annotator judged cannot be compared, but says how often each category is used.
    """
    coded = Coded.of(table, least=1)
    spread = float(agreements(weights, coded.categories).sum())
    number = len(coded.categories)

    def chance(shares: Floats) -> Floats:
        return np.asarray(spread / (number * (number - 1)) * (shares * (1 - shares)).sum(axis=1))

    return _chance_corrected(coded, f"gwet|weights:{weights}", weights, chance, seed)


def krippendorff(table: Table, *, level: Level = "nominal", seed: int = 0) -> Agreement:
    """Krippendorff's alpha: any number of annotators, missing judgments, and four levels of measurement."""
    coded = Coded.of(table)
    blocks, value = _alpha(coded, level)
    return _measured(coded, f"krippendorff|level:{level}", blocks, value, seed)


def measure(coefficient: Coefficient, table: Table, *, level: Level = "nominal", seed: int = 0) -> Agreement:
    """One coefficient by its name; where it has weights, an ordinal level takes linear ones, a higher one quadratic."""
    weights: Weights = "identity" if level == "nominal" else "linear" if level == "ordinal" else "quadratic"
    match coefficient:
        case "percent":
            return percent(table, seed=seed)
        case "cohen":
            return cohen(table, weights=weights, seed=seed)
        case "scott":
            return scott(table, seed=seed)
        case "fleiss":
            return fleiss(table, seed=seed)
        case "gwet":
            return gwet(table, weights=weights, seed=seed)
        case "krippendorff":
            return krippendorff(table, level=level, seed=seed)


def _measured(
    coded: Coded, signature: str, blocks: Sequence[Block], value: Value, seed: int, method: Method = "logit"
) -> Agreement:
    found = intervals([Job(blocks=tuple(blocks), value=value, span=(-1.0, 1.0), method=method)], seed=seed)[0]
    return Agreement(
        value=found.value,
        low=found.low,
        high=min(found.high, 1.0),
        standard_error=found.standard_error,
        items=int((coded.counts.sum(axis=1) > 1).sum()),
        judgments=int((coded.codes >= 0).sum()),
        signature=f"{signature}|interval:{_NAMES[method]} over items",
        note=found.note,
    )


def _equal(sums: Sequence[Floats]) -> Floats:
    return _ratio(sums[0][:, 1], sums[0][:, 0])


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _beyond(observed: Floats, chance: Floats) -> Floats:
    """(observed - chance) / (1 - chance); 1 for a resample in which chance leaves nothing to explain."""
    room = 1 - chance
    return np.divide(observed - chance, room, out=np.ones_like(observed), where=room > 1e-12)


def _shared_chance(shares: Floats) -> Floats:
    return np.asarray((shares**2).sum(axis=1))


def _chance_corrected(
    coded: Coded, name: str, weights: Weights, chance: Callable[[Floats], Floats], seed: int
) -> Agreement:
    """Agreement of pairs against what the categories' shares would give, an item's judgments weighing one together."""
    counts = coded.counts
    blocks = [*coded.equal_pairs(weights), counts / counts.sum(axis=1, keepdims=True)]

    def value(sums: Sequence[Floats]) -> Floats:
        items = sums[1].sum(axis=1, keepdims=True)
        return _beyond(_ratio(sums[0][:, 1], sums[0][:, 0]), chance(sums[1] / np.maximum(items, 1)))

    return _measured(coded, name, blocks, value, seed)


def _kappa(sums: Floats, apart: Floats) -> Floats:
    """Cohen's kappa from sums of confusions, (b, categories²), and how far categories lie apart."""
    number = len(apart)
    table = sums.reshape(-1, number, number)
    rows = np.maximum(table.sum(axis=(1, 2)), 1)
    observed = (table * apart).sum(axis=(1, 2)) / rows
    expected = np.einsum("bi,ij,bj->b", table.sum(axis=2), apart, table.sum(axis=1)) / rows**2
    return np.asarray(1 - np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 1e-12))


def _alpha(coded: Coded, level: Level) -> tuple[list[Block], Callable[[Sequence[Floats]], Floats]]:
    """What alpha is made of: an item's counts, and the disagreement of its pairs.

    Ordinal distances depend on how often each category was used in all, so that the pairs themselves are kept there.
    """
    from scipy.sparse import csr_matrix

    counts = coded.counts
    many = counts.sum(axis=1)
    if level == "ordinal":
        in_order(coded.categories)
        pairs = counts[:, :, None] * (counts[:, None, :] - np.eye(counts.shape[1]))
        return [counts, csr_matrix((pairs / (many - 1)[:, None, None]).reshape(len(counts), -1))], _ordinal_alpha
    apart = distances(level, coded.categories)
    own = (counts * (counts @ apart)).sum(axis=1) / (many - 1)

    def value(sums: Sequence[Floats]) -> Floats:
        used, observed = sums[0], sums[1][:, 0]
        return _one_less(observed, np.einsum("bi,ij,bj->b", used, apart, used), used.sum(axis=1))

    return [counts, own[:, None]], value


def _ordinal_alpha(sums: Sequence[Floats]) -> Floats:
    used = sums[0]
    before = np.cumsum(used, axis=1) - used / 2
    apart = (before[:, :, None] - before[:, None, :]) ** 2
    pairs = np.asarray(sums[1]).reshape(apart.shape)
    expected = np.einsum("bi,bij,bj->b", used, apart, used)
    return _one_less((pairs * apart).sum(axis=(1, 2)), expected, used.sum(axis=1))


def _one_less(observed: Floats, expected: Floats, judgments: Floats) -> Floats:
    """1 - observed / expected disagreement; 1 for a resample without any."""
    share = np.divide(observed * (judgments - 1), expected, out=np.zeros_like(observed), where=expected > 1e-12)
    return 1 - share

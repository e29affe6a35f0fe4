"""Inter-annotator agreement: percent agreement and the chance-corrected coefficients, with intervals.

Annotations are a table with one row an item and one column an annotator, None where an annotator gave none. Each
coefficient is a function of sums over items. The 95 % interval of percent agreement is a BCa bootstrap over items. The
intervals of chance-corrected coefficients are a jackknife on the scale of Fisher's z, since resamples of few items may
hold one category only. Krippendorff's levels of measurement and the weights of kappa and AC2 define the distance of two
categories. The module loads numpy: import it inside functions.

Cohen 1960 and 1968 (weighted); Scott 1955; Fleiss 1971; Light 1971 (several annotators in pairs); Krippendorff 2011,
"Computing Krippendorff's Alpha-Reliability"; Gwet 2008 and 2014 (AC1, AC2, and missing annotations for Fleiss).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.metrics.intervals import Block, Floats, IntervalJob, Method, Value, compute_intervals

_BEGIN = re.compile(r"-?\d+(\.\d+)?")
Level = Literal["nominal", "ordinal", "interval", "ratio"]
Weights = Literal["identity", "linear", "quadratic"]


def krippendorff_distances(level: Level, categories: Sequence[Any]) -> NDArray[np.float64]:
    """(categories, categories): Krippendorff's squared difference; that of ordinal data needs counts, too."""
    number = len(categories)
    if level == "nominal":
        return np.asarray(1.0 - np.eye(number))
    values = _numbers(level, categories)
    apart = values[:, None] - values[None, :]
    if level == "ratio":
        whole = values[:, None] + values[None, :]
        apart = np.divide(apart, whole, out=np.zeros_like(apart), where=whole != 0)
    return np.asarray(apart**2)


def build_agreement_weights(weights: Weights, categories: Sequence[Any]) -> NDArray[np.float64]:
    """(categories, categories): 1 for the same category, less the more categories lie between two."""
    number = len(categories)
    if weights == "identity":
        return np.eye(number)
    check_categories_ordered(categories)
    steps = np.abs(np.arange(number)[:, None] - np.arange(number)[None, :]) / (number - 1)
    return np.asarray(1.0 - steps ** (1 if weights == "linear" else 2))


def check_categories_ordered(categories: Sequence[Any]) -> None:
    """Refuse categories whose order nobody can know: numbers have one, single signs, and names that begin with
    numbers."""
    begins = [_BEGIN.match(str(category)) for category in categories]
    numbers = [float(found[0]) if found else None for found in begins]
    known = [number for number in numbers if number is not None]
    if all(len(str(entry)) == 1 for entry in categories) or (len(known) == len(numbers) and known == sorted(known)):
        return
    odd = next((item for item, number in zip(categories, numbers, strict=True) if number is None), categories[0])
    what = f"nobody says in what order the categories stand; a judgment is {odd!r}"
    raise DataError(what, hint="use level nominal, or numbers; names such as '1 low', '2 high' have an order, too")


def _numbers(level: Level, categories: Sequence[Any]) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in categories])
    except (TypeError, ValueError) as error:
        what = f"level {level} wants numbers; a judgment is {_odd(categories)!r}"
        raise DataError(what, hint="use level nominal, or ordinal for ordered categories") from error
    if level == "ratio" and (values < 0).any():
        raise DataError(f"level ratio wants numbers from 0 up; a judgment is {values.min():g}", hint="use interval")
    return values


def _odd(categories: Sequence[Any]) -> Any:
    for value in categories:
        try:
            float(value)
        except (TypeError, ValueError):
            return value
    return None


JudgmentValue = Hashable | None
Table = Sequence[Sequence[JudgmentValue]]
"""(items, annotators); None where there is no judgment."""


@dataclass(frozen=True)
class AnnotationCodes:
    """An annotation table as category codes (items, annotators), -1 where missing; items with too few annotations are
    left out."""

    codes: NDArray[np.int64]
    """(items, annotators)."""
    categories: list[Any]
    """In their order."""

    @classmethod
    def of(cls, table: Table, *, least: int = 2) -> AnnotationCodes:
        """Read a table, items with at least so many judgments; `DataError` when nothing in it can be compared."""
        if len({len(row) for row in table}) > 1:
            raise DataError("rows of judgments have different lengths", hint="give one column an annotator")
        ratings = [[value for value in row if value is not None] for row in table]
        values = {value for row in ratings for value in row}
        if not any(len(row) > 1 for row in ratings):
            raise DataError("no item was judged by two annotators", hint="let some items be judged twice")
        if len(values) < 2:
            what = f"all judgments are {next(iter(values))!r}: agreement beyond chance cannot be told"
            raise DataError(what, hint="let items of other categories be judged, too")
        categories = _sorted(values)
        number = {value: at for at, value in enumerate(categories)}
        kept = [row for row, judged in zip(table, ratings, strict=True) if len(judged) >= least]
        codes = np.array([[-1 if value is None else number[value] for value in row] for row in kept], dtype=np.int64)
        return cls(codes, categories)

    @property
    def counts(self) -> Floats:
        """(items, categories): how many annotators chose each."""
        items, number = len(self.codes), len(self.categories)
        indices = (self.codes + np.arange(items)[:, None] * number)[self.codes >= 0]
        return np.bincount(indices, minlength=items * number).reshape(items, number).astype(np.float64)

    def equal_pairs(self, weights: Weights) -> list[Block]:
        """(items, 2): one, and the mean agreement of the item's pairs; nothing of an item that has none."""
        counts = self.counts
        many = counts.sum(axis=1)
        alike = (counts * (counts @ build_agreement_weights(weights, self.categories) - 1)).sum(axis=1)
        return [np.stack([(many > 1).astype(np.float64), alike / np.maximum(many * (many - 1), 1)], axis=1)]

    def confusions(self, first: int, second: int) -> Block:
        """(items, categories²): which categories two annotators chose, where both judged."""
        from scipy.sparse import csr_matrix

        one, two = self.codes[:, first], self.codes[:, second]
        rows = np.flatnonzero((one >= 0) & (two >= 0))
        number = len(self.categories)
        indices = one[rows] * number + two[rows]
        return csr_matrix((np.ones(len(rows)), (rows, indices)), shape=(len(self.codes), number**2))


def _sorted(values: set[Any]) -> list[Any]:
    """Numbers by size, everything else by its text."""
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return sorted(values) if plain else sorted(values, key=str)


_NAMES: dict[Method, str] = {"bca": "bca95", "logit": "fisher z95 of the jackknife"}
Coefficient = Literal["percent", "cohen", "scott", "fleiss", "krippendorff", "gwet"]


@dataclass(frozen=True, kw_only=True)
class InterAnnotatorAgreement:
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


def percent_agreement(table: Table, *, seed: int = 0) -> InterAnnotatorAgreement:
    """The share of pairs of judgments of the same item that are equal, averaged over items: chance is not taken out."""
    coded = AnnotationCodes.of(table)
    return _measured(coded, "percent", coded.equal_pairs("identity"), _equal, seed, "bca")


def cohen_kappa(table: Table, *, weights: Weights = "identity", seed: int = 0) -> InterAnnotatorAgreement:
    """Cohen's kappa of two annotators; of more, the mean over all pairs (Light 1971).

    `linear` and `quadratic` weigh how many categories lie between two judgments, in the categories' order.
    """
    coded = AnnotationCodes.of(table)
    apart = 1 - build_agreement_weights(weights, coded.categories)
    pairs = [coded.confusions(a, b) for a, b in combinations(range(coded.codes.shape[1]), 2)]
    kept = [pair for pair in pairs if pair.sum() > 0]

    def value(sums: Sequence[Floats]) -> Floats:
        return np.asarray(np.mean([_kappa(entry, apart) for entry in sums], axis=0))

    return _measured(coded, f"cohen|weights:{weights}", kept, value, seed)


def scott_pi(table: Table, *, seed: int = 0) -> InterAnnotatorAgreement:
    """Scott's pi of two annotators: both are taken to share one distribution of categories."""
    if len(table) and len(table[0]) != 2:
        raise DataError(f"Scott's pi is for two annotators; {len(table[0])} came", hint="use fleiss or krippendorff")
    both = [row for row in table if None not in row]
    return _chance_corrected(AnnotationCodes.of(both), "scott", "identity", _shared_chance, seed)


def fleiss_kappa(table: Table, *, seed: int = 0) -> InterAnnotatorAgreement:
    """Fleiss' kappa of any number of annotators; items may have different numbers of judgments (Gwet 2014).

    An item that one annotator judged cannot be compared, but says how often each category is used.
    """
    return _chance_corrected(AnnotationCodes.of(table, least=1), "fleiss", "identity", _shared_chance, seed)


def gwet_ac1(table: Table, *, weights: Weights = "identity", seed: int = 0) -> InterAnnotatorAgreement:
    """Gwet's AC1, and with other weights AC2: steady where one category is much more frequent than the others.

    An item that one annotator judged cannot be compared, but says how often each category is used.
    """
    coded = AnnotationCodes.of(table, least=1)
    spread = float(build_agreement_weights(weights, coded.categories).sum())
    number = len(coded.categories)

    def chance(shares: Floats) -> Floats:
        return np.asarray(spread / (number * (number - 1)) * (shares * (1 - shares)).sum(axis=1))

    return _chance_corrected(coded, f"gwet|weights:{weights}", weights, chance, seed)


def krippendorff_alpha(table: Table, *, level: Level = "nominal", seed: int = 0) -> InterAnnotatorAgreement:
    """Krippendorff's alpha: any number of annotators, missing judgments, and four levels of measurement."""
    coded = AnnotationCodes.of(table)
    blocks, value = _alpha(coded, level)
    return _measured(coded, f"krippendorff|level:{level}", blocks, value, seed)


def compute_agreement(
    coefficient: Coefficient, table: Table, *, level: Level = "nominal", seed: int = 0
) -> InterAnnotatorAgreement:
    """One coefficient by its name; where it has weights, an ordinal level takes linear ones, a higher one quadratic."""
    weights: Weights = "identity" if level == "nominal" else "linear" if level == "ordinal" else "quadratic"
    match coefficient:
        case "percent":
            return percent_agreement(table, seed=seed)
        case "cohen":
            return cohen_kappa(table, weights=weights, seed=seed)
        case "scott":
            return scott_pi(table, seed=seed)
        case "fleiss":
            return fleiss_kappa(table, seed=seed)
        case "gwet":
            return gwet_ac1(table, weights=weights, seed=seed)
        case "krippendorff":
            return krippendorff_alpha(table, level=level, seed=seed)


def _measured(
    coded: AnnotationCodes, signature: str, blocks: Sequence[Block], value: Value, seed: int, method: Method = "logit"
) -> InterAnnotatorAgreement:
    interval = compute_intervals(
        [IntervalJob(blocks=tuple(blocks), value=value, span=(-1.0, 1.0), method=method)], seed=seed
    )[0]
    return InterAnnotatorAgreement(
        value=interval.value,
        low=interval.low,
        high=min(interval.high, 1.0),
        standard_error=interval.standard_error,
        items=int((coded.counts.sum(axis=1) > 1).sum()),
        judgments=int((coded.codes >= 0).sum()),
        signature=f"{signature}|interval:{_NAMES[method]} over items",
        note=interval.note,
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
    coded: AnnotationCodes, name: str, weights: Weights, chance: Callable[[Floats], Floats], seed: int
) -> InterAnnotatorAgreement:
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


def _alpha(coded: AnnotationCodes, level: Level) -> tuple[list[Block], Callable[[Sequence[Floats]], Floats]]:
    """What alpha is made of: an item's counts, and the disagreement of its pairs.

    Ordinal distances depend on how often each category was used in all, so that the pairs themselves are kept there.
    """
    from scipy.sparse import csr_matrix

    counts = coded.counts
    many = counts.sum(axis=1)
    if level == "ordinal":
        check_categories_ordered(coded.categories)
        pairs = counts[:, :, None] * (counts[:, None, :] - np.eye(counts.shape[1]))
        return [counts, csr_matrix((pairs / (many - 1)[:, None, None]).reshape(len(counts), -1))], _ordinal_alpha
    apart = krippendorff_distances(level, coded.categories)
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

"""Intervals from sufficient statistics: Wilson's for proportions, the bias-corrected bootstrap (BCa) for the rest.

Rows are put into a canonical order first, so that an interval does not depend on the order in which rows came.
Imported inside verbs only: it needs numpy.

The bootstrap of n rows is narrower than what n rows can tell, by a root of (n - 1) / n and by taking their spread for
known: BCa reads its quantiles at Student's t instead of the normal distribution's (Hesterberg's expanded percentiles).
Where a few rows decide, their spread is known less well still: the degrees of freedom are those that the rows' kurtosis
leaves (O'Neill). Others have the jackknife's standard error: areas under precision-recall curves the logit interval
(Boyd, Eng and Page), coefficients of agreement Fisher's z (Lin; Hall, Martin and Schucany), shares of right rows that
are no plain counts Wilson's with their effective number of rows (Korn and Graubard).

Wilson 1927, J. Am. Stat. Assoc. 22; Efron 1987, J. Am. Stat. Assoc. 82 (BCa); Hesterberg 2015, Am. Stat. 69; O'Neill
2014, Am. Stat. 68; Boyd, Eng and Page 2013, ECML PKDD; Lin 1989, Biometrics 45; Hall, Martin and Schucany 1989,
J. Stat. Comput. Simul. 33; Korn and Graubard 1998, Surv. Methodol. 24.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Block = Any
"""Statistics of rows, (rows, k): a float64 array, or a scipy CSR matrix where most entries are zero."""
Method = Literal["bca", "t", "logit", "share"]
Value = Callable[[Sequence[Floats]], Floats]
"""From sums of each block, (b, k) each, to values (b,)."""

RESAMPLES = 2000
Z95 = 1.959963984540054
_CELLS = 1_000_000
"""Weights drawn at once: keeps memory at some 30 MB whatever the number of rows."""
_JACKKNIFE_ROWS = 2048
_FEWEST = 3
"""Degrees of freedom that are always left, where so many rows are there."""


@dataclass(frozen=True, kw_only=True)
class IntervalJob:
    """One value to compute a confidence interval for: statistics by row, and the function of their sums."""

    blocks: tuple[Block, ...]
    value: Value
    span: tuple[float, float] | None
    """What a row usually lies between; None: a share (one block of columns hits and rows), or a function of one."""
    of_share: Callable[[float], float] = float
    """From a share to the value, never falling."""
    method: Method = "bca"
    """`t`: Student's t around the value with the bootstrap's standard error, where the bootstrap's bias misleads, as it
    does for a least by a greatest. `logit`: the jackknife's on the logit scale of the span, for a value that never
    leaves it; from -1 to 1 that is Fisher's z. `share`: Wilson's with as many rows as leave the jackknife's standard
    error, for a value that is nearly a share of right rows."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, its 95 % interval and the standard error behind it."""

    value: float
    low: float
    high: float
    standard_error: float
    note: str = ""


def compute_intervals(jobs: Sequence[IntervalJob], *, seed: int, resamples: int = RESAMPLES) -> list[Interval]:
    """A 95 % interval for each job; all jobs must be about equally many rows, and share their resamples."""
    sampled = [job for job in jobs if job.span is not None and job.method not in _ALONE]
    ordered = [_canonical(job.blocks) for job in sampled]
    bootstrapped = zip(sampled, ordered, _bootstrap(sampled, ordered, seed, resamples), strict=True)
    intervals = (_bootstrapped(*entry) for entry in bootstrapped)
    own = (_wilson if job.span is None else _ALONE.get(job.method) for job in jobs)
    return [make(job) if make else next(intervals) for job, make in zip(jobs, own, strict=True)]


def sum_rows(block: Block) -> Floats:
    """Sums over all rows, (1, k)."""
    return np.asarray(block.sum(axis=0), dtype=np.float64).reshape(1, -1)


def sum_by_cluster(block: Block, clusters: Sequence[str] | None) -> Block:
    """Sum the statistics of the rows of each cluster, (clusters, k); the rows themselves without clusters."""
    if clusters is None:
        return block
    from scipy.sparse import csr_array

    _, of = np.unique(np.asarray(clusters), return_inverse=True)
    return csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(of.max() + 1, len(of))) @ block


def stack_blocks(*blocks: Block) -> Block:
    """Rows below each other."""
    if hasattr(blocks[0], "toarray"):
        from scipy.sparse import vstack

        return vstack(blocks, format="csr")
    return np.concatenate(blocks)


def value_per_row(block: Block, value: Callable[[Floats], Floats]) -> Floats:
    """A value computed for each row alone, (rows,)."""
    return np.concatenate([value(rows) for rows in _dense_pieces(block)])


def wilson_interval(right: float, rows: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, of 95 % unless `z` says otherwise; `right` may be a sum of shares."""
    share = right / rows
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * math.sqrt(max(share * (1 - share), 0.0) / rows + z**2 / (4 * rows**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _wilson(job: IntervalJob) -> Interval:
    right, rows = (float(x) for x in sum_rows(job.blocks[0])[0])
    share, ends = (right / rows, wilson_interval(right, rows)) if rows else (0.0, (0.0, 1.0))
    low, high = (job.of_share(end) for end in ends)
    return Interval(value=job.of_share(share), low=low, high=high, standard_error=(high - low) / (2 * Z95))


def _logit(job: IntervalJob) -> Interval:
    """Student's t around the logit of where the value stands in its span, with the jackknife's standard error."""
    from scipy.special import expit, logit

    value, error, free = _jackknifed(job)
    assert job.span is not None
    least, wide = job.span[0], job.span[1] - job.span[0]
    fraction = (value - least) / wide
    if not 0 < fraction < 1 or error <= 1e-12:
        return _without_variance(value, job.span, free + 1)
    reach = _student(free) * error / (wide * fraction * (1 - fraction))
    low, high = (least + wide * float(expit(logit(fraction) + side * reach)) for side in (-1, 1))
    return Interval(value=value, low=low, high=high, standard_error=error)


def _share(job: IntervalJob) -> Interval:
    """Wilson's for as many rows as leave the jackknife's standard error, fewer by what that error is unsure of."""
    value, error, free = _jackknifed(job)
    assert job.span is not None
    if not 0 < value < 1 or error <= 1e-12:
        return _without_variance(value, job.span, free + 1)
    rows = value * (1 - value) / error**2 * (Z95 / _student(free)) ** 2
    low, high = wilson_interval(value * rows, rows)
    return Interval(value=value, low=low, high=high, standard_error=error)


_ALONE: dict[Method, Callable[[IntervalJob], Interval]] = {"logit": _logit, "share": _share}
"""Methods that need no resamples."""


def _jackknifed(job: IntervalJob) -> tuple[float, float, int]:
    """A value, the jackknife's standard error, and how many rows tell of it beyond one."""
    left_out = jackknife(job, job.blocks)[mark_informative_rows(job.blocks)]
    free = len(left_out) - 1
    return float(job.value([sum_rows(block) for block in job.blocks])[0]), float(left_out.std()) * math.sqrt(free), free


def mark_informative_rows(blocks: Sequence[Block]) -> NDArray[np.bool_]:
    """Mark the rows with any nonzero statistic, (rows,); all rows when none has one."""
    found = np.zeros(blocks[0].shape[0], dtype=bool)
    for block in blocks:
        found |= np.asarray(abs(block).sum(axis=1)).ravel() > 0
    return found if found.any() else ~found


def _student(free: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(max(free, 1), 0.975))


def _bootstrap(
    jobs: Sequence[IntervalJob], ordered: Sequence[Sequence[Block]], seed: int, resamples: int
) -> list[Floats]:
    """Values of each job on the same resamples, (resamples,) each."""
    if not jobs:
        return []
    values: list[list[Floats]] = [[] for _ in jobs]
    for weights in _weights(ordered[0][0].shape[0], seed, resamples):
        for job, blocks, found in zip(jobs, ordered, values, strict=True):
            found.append(job.value([np.asarray(weights @ block) for block in blocks]))
    return [np.concatenate(found) for found in values]


def _weights(rows: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each row is in each resample, (b, rows), piece by piece."""
    random = np.random.default_rng(seed)
    piece = max(1, _CELLS // rows)
    for start in range(0, resamples, piece):
        count = min(piece, resamples - start)
        picked = random.integers(0, rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(picked.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def _bootstrapped(job: IntervalJob, blocks: Sequence[Block], values: Floats) -> Interval:
    """BCa's interval or Student's t; Wilson's over the usual span where rows show no variance."""
    value = float(job.value([sum_rows(block) for block in blocks])[0])
    if np.ptp(values) <= 1e-12 * max(1.0, abs(value)):
        assert job.span is not None
        return _without_variance(value, job.span, int(mark_informative_rows(blocks).sum()))
    left_out, error = jackknife(job, blocks), float(values.std(ddof=1))
    if job.method == "t":
        assert job.span is not None
        half, least, most = _reach(left_out) * error, min(job.span[0], value), max(job.span[1], value)
        low, high = max(value - half, least), min(value + half, most)
        return Interval(value=value, low=low, high=high, standard_error=error)
    low, high = np.quantile(values, _levels(value, values, left_out))
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), standard_error=error)


def _without_variance(value: float, span: tuple[float, float], rows: int) -> Interval:
    """All rows agree: assume the worst that they could hide, rows that are wholly right or wholly wrong."""
    least, most = min(span[0], value), max(span[1], value)
    low, high = wilson_interval(rows * (value - least) / (most - least), rows)
    low, high = least + low * (most - least), least + high * (most - least)
    note = "the rows show no variance; the interval assumes that each is wholly right or wholly wrong"
    return Interval(
        value=value,
        low=min(low, value),
        high=max(high, value),
        standard_error=(high - low) / (2 * Z95),
        note=note,
    )


def _levels(value: float, values: Floats, jackknife: Floats) -> list[float]:
    """The two quantiles of the bootstrap distribution that BCa reads."""
    from scipy.special import ndtr, ndtri

    near = np.isclose(values, value, rtol=1e-12, atol=1e-12)
    below = float(np.mean((values < value) & ~near) + 0.5 * np.mean(near))
    bias = float(ndtri(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values))))
    spread = jackknife.mean() - jackknife
    scale = float((spread**2).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0
    levels = []
    reach = _reach(jackknife)
    for z in (-reach, reach):
        narrowing = 1 - acceleration * (bias + z)
        levels.append(float(ndtr(bias + (bias + z) / narrowing)) if narrowing > 0.05 else float(ndtr(z)))
    return sorted(levels)


def _reach(jackknife: Floats) -> float:
    """How many of the bootstrap's standard errors 95 % lie within: 1.96 for many rows, 2.08 for 30 that are alike."""
    rows = len(jackknife)
    return _quantile(jackknife) * math.sqrt(rows / (rows - 1)) if rows > 1 else Z95


def _quantile(jackknife: Floats) -> float:
    """Student's t for a spread that is known from these rows: fewer degrees of freedom where a few of them decide."""
    rows = len(jackknife)
    if rows <= _FEWEST:
        return _student(rows - 1)
    squares = (jackknife - jackknife.mean()) ** 2
    spread = float(squares.mean()) ** 2
    kurtosis = float((squares**2).mean()) / spread if spread > 0 else 3.0
    free = 2 * rows / max(kurtosis - (rows - 3) / (rows - 1), 1e-9)
    return _student(min(rows - 1, max(free, _FEWEST)))


def jackknife(job: IntervalJob, blocks: Sequence[Block]) -> Floats:
    """The value with each row left out, (rows,)."""
    sums = [sum_rows(block) for block in blocks]
    pieces = zip(*(_dense_pieces(block) for block in blocks), strict=True)
    found = [job.value([total - piece for total, piece in zip(sums, together, strict=True)]) for together in pieces]
    return np.concatenate(found)


def _dense_pieces(block: Block) -> Iterator[Floats]:
    for start in range(0, block.shape[0], _JACKKNIFE_ROWS):
        rows = block[start : start + _JACKKNIFE_ROWS]
        yield rows.toarray() if hasattr(rows, "toarray") else rows


def _canonical(blocks: Sequence[Block]) -> list[Block]:
    """The rows of all blocks in an order that depends on their content only."""
    key = np.zeros(blocks[0].shape[0])
    for number, block in enumerate(blocks):
        direction = np.random.default_rng(number).random(block.shape[1])
        product = block.multiply(direction) if hasattr(block, "toarray") else block * direction
        key += np.asarray(product.sum(axis=1)).ravel()
    order = np.argsort(key, kind="stable")
    return [block[order] for block in blocks]

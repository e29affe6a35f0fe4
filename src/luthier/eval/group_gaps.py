"""Gaps between groups: shares, spreads and ratios of summed statistics, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from luthier.metrics.intervals import Floats


def compute_group_shares(sums: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Each group's share and whether it has rows, (b, groups) both, from columns (so, rows) of each group."""
    so, rows = sums[:, 0::2], sums[:, 1::2]
    found: Floats = np.divide(so, rows, out=np.zeros(np.shape(so)), where=rows > 0)
    return found, rows > 0


def compute_share_spread(sums: Floats) -> Floats:
    """The greatest share minus the least."""
    share, there = compute_group_shares(sums)
    found: Floats = np.where(there, share, -np.inf).max(axis=1) - np.where(there, share, np.inf).min(axis=1)
    return np.where(np.isfinite(found), np.maximum(found, 0.0), 0.0)


def compute_share_ratio(sums: Floats) -> Floats:
    """Return the smallest share over the largest; 1 when all are zero."""
    share, there = compute_group_shares(sums)
    most = np.where(there, share, -np.inf).max(axis=1)
    least = np.where(there, share, np.inf).min(axis=1)
    usable = np.isfinite(most) & (most > 0)
    found: Floats = np.divide(least, most, out=np.ones(len(sums)), where=usable)
    return found


def compute_lowest_share(sums: Floats) -> Floats:
    """The least share."""
    share, there = compute_group_shares(sums)
    found: Floats = np.where(there, share, np.inf).min(axis=1)
    return np.where(np.isfinite(found), found, 0.0)


def compute_greater_spread(sums: Floats) -> Floats:
    """The greater of two spreads, of which each has one half of the columns."""
    half = sums.shape[1] // 2
    found: Floats = np.maximum(compute_share_spread(sums[:, :half]), compute_share_spread(sums[:, half:]))
    return found


def build_group_columns(so: Floats, counted: Floats, groups: Floats, count: int) -> Floats:
    """Columns (so, rows) of each group, (rows, 2 count): `so` and `counted` are 0 or 1, `groups` numbers, -1: none."""
    found = np.zeros((len(so), 2 * count))
    indices = np.flatnonzero(groups >= 0)
    at = groups[indices].astype(int)
    found[indices, 2 * at] = (so * counted)[indices]
    found[indices, 2 * at + 1] = counted[indices]
    return found


Ends = tuple[float, float]
Bounds = Callable[["Floats"], Ends]
"""From sums to the two ends of an interval."""
Above = Callable[["Floats", float], "Floats"]
"""From least shares and a gap to the greatest shares."""
_TAIL = 0.025
_HALVINGS = 30
_LOOKS = (64, 24, 24, 24)
"""At how many least shares likelihoods are compared, each time nearer to the best of those before."""
_Z = np.linspace(-6, 6, 97)
_CHANCE = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()
_LEAST = 1e-12


class _Groups(NamedTuple):
    share: Floats
    rows: Floats

    def misfit(self, shares: Floats) -> Floats:
        """By how much other shares are less likely than the groups' own, (…, groups): halves of deviances."""
        from scipy.special import rel_entr

        other = np.clip(shares, _LEAST, 1 - _LEAST)
        return np.asarray(self.rows * (rel_entr(self.share, other) + rel_entr(1 - self.share, 1 - other)))

    def errors(self, shares: Floats) -> Floats:
        """The standard errors that belong to shares."""
        return np.asarray(np.sqrt(np.maximum(shares * (1 - shares), _LEAST) / self.rows))


class _Guess(NamedTuple):
    misfit: float
    shares: Floats


def compute_spread_interval(sums: Floats) -> Ends:
    """Compute the 95 % interval of the greatest share of any group minus the least."""
    return _apart([_groups(sums)], _plus)


def compute_greater_spread_interval(sums: Floats) -> Ends:
    """Compute the 95 % interval of the greater of two spreads between groups (equalized odds); each has one half of the
    columns."""
    half = sums.shape[1] // 2
    return _apart([_groups(sums[:, :half]), _groups(sums[:, half:])], _plus)


def compute_ratio_interval(sums: Floats) -> Ends:
    """Compute the 95 % interval of the least share of any group divided by the greatest."""
    groups = _groups(sums)
    if not groups.share.any():
        return 0.0, 1.0
    low, high = _apart([groups], _times)
    return 1 - high, 1 - low


def bound_lowest_share(sums: Floats) -> Ends:
    """Return the interval of the smallest share."""
    from scipy.special import ndtr

    groups = _groups(sums)
    if not len(groups.rows):
        return 0.0, 1.0
    observed = float(groups.share.min())

    def as_high(value: float) -> float:
        """The chance of a least share as high as was seen, where it is some value."""
        shares = np.maximum(groups.share, value)
        if value < observed:
            shares[groups.misfit(np.full(len(shares), value)).argmin()] = value
        return float(ndtr((shares - observed) / groups.errors(shares)).prod())

    low = _first(lambda value: as_high(value) >= _TAIL, 0.0, observed)
    return low, _first(lambda value: 1 - as_high(value) < _TAIL, observed, 1.0)


def _groups(sums: Floats) -> _Groups:
    """The groups that have rows."""
    so, rows = sums[0, 0::2], sums[0, 1::2]
    there = rows > 0
    return _Groups(so[there] / rows[there], rows[there])


def _plus(least: Floats, gap: float) -> Floats:
    return least + gap


def _times(least: Floats, gap: float) -> Floats:
    """Return the interval of the smallest share from that of the gap, where the gap is one minus the ratio."""
    return least / max(1 - gap, _LEAST)


def _apart(families: Sequence[_Groups], above: Above) -> Ends:
    """Return the interval of the largest gap of any family of groups, from 0 to 1."""
    comparable = [groups for groups in families if len(groups.rows) > 1]
    if not comparable:
        return 0.0, 1.0
    observed = max(_gap(groups.share, above) for groups in comparable)

    def as_small(gap: float) -> float:
        """The chance of a gap as small as was seen, where it is some gap."""
        likeliest = _likeliest(comparable, gap, above)
        return float(np.prod([_at_most(*entry, observed, above) for entry in zip(comparable, likeliest, strict=True)]))

    low = _first(lambda gap: 1 - as_small(gap) >= _TAIL, 0.0, observed)
    return low, _first(lambda gap: as_small(gap) < _TAIL, observed, 1.0)


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a monotonic condition begins to hold."""
    if holds(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _gap(share: Floats, above: Above) -> float:
    least, most = float(share.min()), float(share.max())
    return most - least if above is _plus else 1 - least / most if most > 0 else 0.0


def _likeliest(families: Sequence[_Groups], gap: float, above: Above) -> list[Floats]:
    """The likeliest shares of each family when one has just this gap and no other a greater one."""
    just = [_guess(groups, gap, above, just=True) for groups in families]
    if len(families) == 1:
        return [just[0].shares]
    within = [_guess(groups, gap, above, just=False) for groups in families]
    more = [entry.misfit - other.misfit for entry, other in zip(just, within, strict=True)]
    found = [guess.shares for guess in within]
    index = int(np.argmin(more))
    found[index] = just[index].shares
    return found


def _guess(groups: _Groups, gap: float, above: Above, *, just: bool) -> _Guess:
    """The likeliest shares that are no farther apart than a gap, or `just` so far: looked for along the least."""
    best = _Guess(np.inf, groups.share)
    centre = reach = (1 - gap) / 2
    for count in _LOOKS:
        least = np.linspace(max(centre - reach, 0.0), min(centre + reach, 1 - gap), count)[:, None]
        most = np.minimum(above(least, gap), 1.0)
        shares = np.clip(groups.share, least, most)
        misfit = groups.misfit(shares)
        if just:
            _touch(groups, shares, misfit, least, most)
        index = int(misfit.sum(axis=1).argmin())
        best = min(best, _Guess(float(misfit[index].sum()), shares[index]), key=lambda guess: guess.misfit)
        centre, reach = float(least[index, 0]), 2 * reach / (count - 1)
    return best


def _touch(groups: _Groups, shares: Floats, misfit: Floats, least: Floats, most: Floats) -> None:
    """Move one group to the least share and another to the greatest, the two that this makes least unlikely."""
    down = groups.misfit(np.broadcast_to(least, shares.shape))
    up = groups.misfit(np.broadcast_to(most, shares.shape))
    both = (down - misfit)[:, :, None] + (up - misfit)[:, None, :]
    both[:, np.arange(len(groups.rows)), np.arange(len(groups.rows))] = np.inf
    rows = np.arange(len(shares))
    lower, upper = np.unravel_index(both.reshape(len(shares), -1).argmin(axis=1), both.shape[1:])
    shares[rows, lower], misfit[rows, lower] = least[:, 0], down[rows, lower]
    shares[rows, upper], misfit[rows, upper] = most[:, 0], up[rows, upper]


def _at_most(groups: _Groups, shares: Floats, gap: float, above: Above) -> float:
    """The chance that groups of some shares are seen with a gap at most so great, half a row more or less."""
    from scipy.special import ndtr

    error, number = groups.errors(shares), np.arange(len(shares))
    least = shares[:, None] + error[:, None] * _Z  # where each group in turn is the least
    most, half = above(least, gap), 0.5 / groups.rows.max()
    below = ndtr((least[:, :, None] - shares) / error)
    found = 0.0
    for edge in (most - half, most + half):
        others = np.maximum(ndtr((np.maximum(edge, least)[:, :, None] - shares) / error) - below, 0.0)
        others[number, :, number] = 1.0
        found += float((others.prod(axis=2) * _CHANCE).sum()) / 2
    return min(found, 1.0)

"""Gaps between groups as values of summed statistics: (b, k) to (b,). Groups without rows do not count.

Definitions as in fairlearn: demographic parity compares how often each group gets the positive answer, equal
opportunity how often those who should get it do, equalised odds the greater gap of that and of how often those do who
should not (Hardt, Price and Srebro 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """The least share by the greatest; 1 when nobody has any."""
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

"""Assign rows to train, validation and test by content, group and seed, so that no duplicate crosses.

Rows with the same prompt, or of the same group, are one unit and stay together. A unit's place in [0, 1) is a hash of
its key and the seed. With shares, a unit is tested when its place lies below the share, whatever else is in the data:
rows that are added later move nobody. With counts, units are taken in order of their places until the count is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.core.events import format_counted_noun
from luthier.data.dedup.exact import find_exact_copies
from luthier.data.dedup.memory_map import copy_to_memory, release_mapped_pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

Share = Annotated[float, Field(ge=0, lt=1)] | Annotated[int, Field(ge=0)]

TRAIN, VALIDATION, TEST, NOT_TAKEN = "train", "validation", "test", "not taken"
NAMES = (TRAIN, VALIDATION, TEST, NOT_TAKEN)
_AT_ONCE = 1 << 15
_NO_CHANCE = 10
"""Where so many rows are expected, none falls by chance once in 22,000 times (e^-10)."""


class Split(BaseModel):
    """How many rows are held out, and what must stay together."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    test: Share = 0.1
    """Rows for the final measure: a share below 1 (stable when rows are added), or a count."""
    validation: Share = 0
    """Rows for choosing between runs: a share below 1, or a count."""
    train: Annotated[int, Field(ge=0)] | None = None
    """At most so many rows to learn from, chosen by the same hash; the rest is left out and counted as not sampled. 0:
    none, in a data set whose rows are only measured on (the step `mix` puts it beside those that are learnt)."""
    group: str | None = None
    """`cluster` (twins, by the last operator that marks them, near_dedup or semantic_dedup), or the column whose rows
    stay together."""
    stratify: bool | None = None
    """Keep the classes' shares in every split; by default, for counted splits of labelled rows without groups."""

    @model_validator(mode="before")
    @classmethod
    def _whole_counts(cls, value: object) -> object:
        """`1.0` and `1` mean different things to people: refuse the first."""
        if isinstance(value, dict):
            for name in ("test", "validation"):
                if isinstance(value.get(name), float) and value[name] >= 1:
                    what = f"{name}: a share is below 1 and a count is a whole number, got {value[name]}"
                    raise ValueError(f"{what}; write a share such as 0.1, or a count such as 200")
        return refuse_unknown_settings(cls, value)

    @model_validator(mode="after")
    def _leaves_something(self) -> Split:
        shares = sum(part for part in (self.test, self.validation) if isinstance(part, float))
        if shares >= 1:
            what = f"test and validation take {shares:g} of the rows together, so that nothing is left to train on"
            raise ValueError(f"{what}; make them smaller")
        return self


@dataclass
class SplitKeys:
    """What the split needs to know of each row, in source order; keys may lie on the disk."""

    prompts: NDArray[np.uint64]
    groups: NDArray[np.uint64]
    """0 where a row has no group."""
    labels: NDArray[np.int32] | None
    """The class of each row, when there are classes."""


class SplitAssignment(NamedTuple):
    """Each row's split as an index into NAMES, and what the user should know."""

    splits: NDArray[np.int8]
    notes: list[str]


def assign_splits(split: Split, keys: SplitKeys, seed: int) -> SplitAssignment:
    """Decide the split of every row."""
    if (splits := _by_shares(split, keys, seed)) is not None:
        return SplitAssignment(splits, [])
    units = _units(keys)
    positions = _places(keys, units, seed)
    counted = any(isinstance(part, int) and part > 0 for part in (split.test, split.validation)) or split.train
    stratify = split.stratify if split.stratify is not None else bool(counted) and not keys.groups.any()
    labels = keys.labels if stratify else None
    taker = _Taker(_order(units, positions, labels), len(units))
    taker.share_or_count(split.test, TEST)
    taker.share_or_count(split.validation, VALIDATION)
    if split.train is not None:
        taker.at_most(split.train)
    return SplitAssignment(taker.splits(), taker.notes)


def count_held_out_rows(keys: SplitKeys, shares: Sequence[float], seed: int) -> list[int]:
    """How many of some rows each share holds out: by the same seed, nothing of what was left to train on before."""
    found = (assign_splits(Split(test=share), keys, seed).splits for share in shares)
    return [int((splits == NAMES.index(TEST)).sum()) for splits in found]


def _by_shares(split: Split, keys: SplitKeys, seed: int) -> NDArray[np.int8] | None:
    """Splits by shares alone, some rows after the other; None where units must be seen: one falls on no row, or leaves
    none."""
    if split.train is not None or split.stratify or any(_is_count(entry) for entry in (split.test, split.validation)):
        return None
    limits = ((split.test, split.test, TEST), (split.validation, split.test + split.validation, VALIDATION))
    thresholds = [(below, NAMES.index(name)) for share, below, name in limits if share]
    found = np.zeros(len(keys.prompts), dtype=np.int8)
    joined = _Joined.among(keys, seed)
    for start in range(0, len(found), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        positions = joined.unit_positions(keys.prompts[part], keys.groups[part])
        for below, code in thresholds:
            found[part][(positions < below) & (found[part] == 0)] = code
        release_mapped_pages(keys.prompts)
        release_mapped_pages(keys.groups)
    return found if all((found == code).any() for _, code in ((0, 0), *thresholds)) else None


class _Joined(NamedTuple):
    """Where units are that prompts join from several groups; of others, each row tells its own place."""

    seed: int
    groups: _Table
    prompts: _Table

    @classmethod
    def among(cls, keys: SplitKeys, seed: int) -> _Joined:
        """Only rows whose prompt comes again can join anything."""
        if not _any(keys.groups):
            return cls(seed, _Table.empty(), _Table.empty())
        rows = find_exact_copies(keys.prompts.reshape(-1, 1)).members()
        groups = copy_to_memory(keys.groups, rows)
        rows, groups = rows[groups != 0], groups[groups != 0]
        prompts, prompt = np.unique(copy_to_memory(keys.prompts, rows), return_inverse=True)
        known, group = np.unique(groups, return_inverse=True)
        unit = _components(prompt, group, len(prompts), len(known))
        least = np.full(len(prompts) + len(known), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(least, unit[len(prompts) :], _hashed(known, seed))
        return cls(seed, _Table(known, least[unit[len(prompts) :]]), _Table(prompts, least[unit[: len(prompts)]]))

    def unit_positions(self, prompts: NDArray[np.uint64], groups: NDArray[np.uint64]) -> NDArray[np.float64]:
        """The place in [0, 1) of the unit of each of some rows: what `_places` says of all rows at once."""
        grouped = groups != 0
        found = _hashed(np.where(grouped, groups, prompts), self.seed)
        self.groups.put(found, groups, grouped)
        self.prompts.put(found, prompts, ~grouped)
        return found / float(2**64)


class _Table(NamedTuple):
    """A value for each of some keys in order."""

    keys: NDArray[np.uint64]
    values: NDArray[np.uint64]

    @classmethod
    def empty(cls) -> _Table:
        """One without keys."""
        return cls(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))

    def put(self, into: NDArray[np.uint64], keys: NDArray[np.uint64], mask: NDArray[np.bool_]) -> None:
        """Put the value of each key that is here, among those that are wanted, into its place."""
        if len(self.keys):
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            here = mask & (self.keys[at] == keys)
            into[here] = self.values[at[here]]


def _components(one: NDArray[np.int64], two: NDArray[np.int64], ones: int, twos: int) -> NDArray[np.int64]:
    """(ones + twos,): which of them links join, by a number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(one), bool), (one, ones + two)), shape=(ones + twos, ones + twos))
    found: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return found


def _is_count(amount: float) -> bool:
    return isinstance(amount, int) and amount > 0


def _any(values: NDArray[np.uint64]) -> bool:
    found = any(values[start : start + _AT_ONCE].any() for start in range(0, len(values), _AT_ONCE))
    release_mapped_pages(values)
    return found


def _units(keys: SplitKeys) -> NDArray[np.int64]:
    """The unit of each row, as the place of its first row: joined by equal prompts and by equal groups."""
    rows = np.arange(len(keys.prompts), dtype=np.int64)
    firsts = _firsts(keys.prompts)
    if not keys.groups.any():
        return firsts
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    grouped = np.flatnonzero(keys.groups)
    ends = np.concatenate([firsts, grouped[_firsts(keys.groups[grouped])]])
    links = coo_array((np.ones(len(ends), bool), (np.concatenate([rows, grouped]), ends)), shape=(len(rows), len(rows)))
    return _firsts(connected_components(links, directed=False)[1])


def _firsts(keys: NDArray[Any]) -> NDArray[np.int64]:
    """For each key the place where it stands first."""
    found = np.arange(len(keys), dtype=np.int64)
    again = find_exact_copies(keys.astype(np.uint64, copy=False).reshape(-1, 1))
    found[again.indices] = again.firsts
    return found


def _places(keys: SplitKeys, units: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Each row's unit's place in [0, 1): the least hash of its groups, or of its prompts when it has none."""
    grouped = keys.groups != 0
    hashes = _hashes(keys, grouped, seed)
    if not grouped.any():  # equal prompts have equal hashes
        return hashes / float(2**64)
    least = np.full(len(units), np.iinfo(np.uint64).max, dtype=np.uint64)
    by_group = np.zeros(len(units), dtype=bool)
    np.logical_or.at(by_group, units, grouped)
    counted = grouped | ~by_group[units]
    np.minimum.at(least, units[counted], hashes[counted])
    return least[units] / float(2**64)


def _hashes(keys: SplitKeys, grouped: NDArray[np.bool_], seed: int) -> NDArray[np.uint64]:
    """A hash of each row's group, or of its prompt when it has none."""
    found = np.empty(len(grouped), dtype=np.uint64)
    for start in range(0, len(found), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = _hashed(np.where(grouped[part], keys.groups[part], keys.prompts[part]), seed)
    return found


def _hashed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A hash of each key and the seed."""
    import xxhash

    salt = seed.to_bytes(8, "little", signed=True)
    each = (xxhash.xxh3_64_intdigest(key.to_bytes(8, "little") + salt) for key in keys.tolist())
    return np.fromiter(each, np.uint64, len(keys))


class _Order(NamedTuple):
    """Units in the order in which they are taken for holding out."""

    positions: NDArray[np.float64]
    sizes: NDArray[np.int64]
    rank_of: NDArray[np.int64]
    """(rows,): where each row's unit stands in this order."""


def _order(units: NDArray[np.int64], positions: NDArray[np.float64], labels: NDArray[np.int32] | None) -> _Order:
    """Units by place; with classes, so interleaved that every beginning holds the classes in their shares."""
    firsts, number = np.unique(units, return_inverse=True)
    sizes, where = np.bincount(number, minlength=len(firsts)), positions[firsts]
    chosen = np.argsort(where, kind="stable")
    if labels is not None:
        shares = np.empty(len(firsts))
        shares[chosen] = _interleaved(labels[firsts[chosen]], sizes[chosen], np.bincount(labels))
        chosen = np.lexsort((where, shares))
        where = shares
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[chosen] = np.arange(len(firsts))
    return _Order(where[chosen], sizes[chosen], ranks[number])


def _interleaved(labels: NDArray[np.int32], sizes: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much of its class stands before each unit, of units in order."""
    by_label = np.argsort(labels, kind="stable")
    before = np.cumsum(sizes[by_label]) - sizes[by_label]
    grouped = labels[by_label]
    starts = np.searchsorted(grouped, grouped)
    found = np.empty(len(labels))
    found[by_label] = (before - before[starts] + 0.5) / totals[grouped]
    return found


class _Taker:
    """Takes units off the order, split by split."""

    def __init__(self, order: _Order, rows: int) -> None:
        self._order = order
        self._given = np.zeros(len(order.sizes), dtype=np.int8)
        self._left = np.arange(len(order.sizes))
        self._rows = rows
        self._below = 0.0
        self.notes: list[str] = []

    def splits(self) -> NDArray[np.int8]:
        """The split of each row."""
        return self._given[self._order.rank_of]

    def share_or_count(self, amount: float, name: str) -> None:
        """Hold out a share by place, or a count in order."""
        if isinstance(amount, int):
            self._count(amount, name)
        else:
            self._share(amount, name)

    def _share(self, share: float, name: str) -> None:
        if share == 0:
            return
        self._below += share
        taken = self._left[self._order.positions[self._left] < self._below]
        if not len(taken) and len(self._left) > 1:
            taken = self._left[:1]
            why = f"a share of {share:g} fell on none of {self._rows} rows"
            if share * len(self._left) >= _NO_CHANCE:
                why += (
                    " (a split by the same seed left them to train on before: read the rows of its other splits, too;"
                    " or set another `seed`, if no model that learnt some of them is measured on these)"
                )
            self._say_unit(name, taken, why, "taken nevertheless")
        elif len(taken) == len(self._left) > 1:
            why = f"a share of {share:g} fell on all of {self._rows} rows"
            self._say_unit(name, taken[-1:], why, "left to train on")
            taken = taken[:-1]
        self._give(taken, name)

    def _say_unit(self, name: str, unit: NDArray[np.int64], why: str, what: str) -> None:
        """That a unit went where the shares did not put it."""
        rows = int(self._order.sizes[unit].sum())
        belonging = "one row was" if rows == 1 else f"{rows:,} rows that belong together were"
        self.notes.append(f"{name}: {why}; {belonging} {what}")

    def _count(self, row_count: int, name: str) -> None:
        taken, size = self._fitting(row_count)
        if row_count and not len(taken) and len(self._left) > 1:
            taken, size = self._smallest()  # a split that was asked for is never empty
        if size != row_count:
            why = "rows that belong together are not torn apart" if len(taken) else "there are not enough rows"
            self.notes.append(f"{name}: {format_counted_noun(size, 'row')} instead of {row_count} ({why})")
        self._give(taken, name)

    def at_most(self, row_count: int) -> None:
        """Leave so many rows for training; the rest is not taken."""
        taken, size = self._fitting(row_count)
        if row_count and not len(taken) and len(self._left):
            taken, size = self._smallest()
        if size != row_count:
            why = "no more are left" if size < row_count else "rows that belong together are not torn apart"
            self.notes.append(f"{TRAIN}: {format_counted_noun(size, 'row')} instead of {row_count} ({why})")
        self._give(np.setdiff1d(self._left, taken, assume_unique=True), NOT_TAKEN)

    def _give(self, taken: NDArray[np.int64], name: str) -> None:
        self._given[taken] = NAMES.index(name)
        self._left = np.setdiff1d(self._left, taken, assume_unique=True)

    def _fitting(self, row_count: int) -> tuple[NDArray[np.int64], int]:
        """Units in order as long as they fit into the wanted number of rows, and their rows."""
        sizes = self._order.sizes[self._left]
        found: list[int] = []
        size = 0
        for start in range(0, len(sizes), _AT_ONCE):
            for index, rows in enumerate(sizes[start : start + _AT_ONCE].tolist(), start):
                if size == row_count:
                    return self._left[found], size
                if size + rows <= row_count:
                    found.append(index)
                    size += rows
        return self._left[found], size

    def _smallest(self) -> tuple[NDArray[np.int64], int]:
        """The first of the units with the fewest rows."""
        index = int(self._order.sizes[self._left].argmin())
        return self._left[index : index + 1], int(self._order.sizes[self._left[index]])

"""Augmentation jobs: which rows to make from which training rows, in which order, within a budget.

The order is a hash of seed, augmenter, row and copy: all first copies stand before all second ones, and no augmenter
or part of the file comes before the others. So a limit that is reached early cuts off a fair sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from luthier.data.augment.rows import SplitRows
from luthier.data.augmenter import Augmenter, AugmentRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


class AugmentJob(NamedTuple):
    """A wish, whose it is, and its class."""

    number: int
    """The index of the augmenter in the step's list."""
    request: AugmentRequest
    label: str | None


class NamedAugmenter(NamedTuple):
    """An augmenter and its name: its kind, numbered where the kind occurs twice."""

    name: str
    augmenter: Augmenter


def name_augmenters(augmenters: Sequence[Augmenter]) -> list[NamedAugmenter]:
    """Augmenters with their names."""
    kind_counts = Counter[str]()
    found = []
    for augmenter in augmenters:
        kind_counts[augmenter.kind] += 1
        found.append(
            NamedAugmenter(
                augmenter.kind
                if kind_counts[augmenter.kind] == 1
                else f"{augmenter.kind}-{kind_counts[augmenter.kind]}",
                augmenter,
            )
        )
    return found


def seed_of(seed: int, name: str, row: str, copy: int) -> int:
    """64 bits for one wish."""
    return xxhash.xxh3_64_intdigest(f"{seed}|{name}|{row}|{copy}".encode())


def order_augment_jobs(augmenters: Sequence[NamedAugmenter], train: SplitRows, seed: int) -> Iterator[AugmentJob]:
    """All wishes, the first copies of all rows before the second ones; a made row is no parent."""
    limits = [augmenter.augmenter.limits(train.labels) for augmenter in augmenters]
    able = [_able(train, own) for own in limits]
    for copy in range(max((augmenter.augmenter.copies for augmenter in augmenters), default=0)):
        for own, number, index in _shuffled(augmenters, train, able, seed, copy):
            yield AugmentJob(number, AugmentRequest(train.row(index), copy, own), train.label(index))


def _able(train: SplitRows, limits: Mapping[str, int] | None) -> NDArray[np.int64]:
    """Places of the real rows of which an augmenter may make others."""
    eligible = (
        index
        for index in range(len(train))
        if index not in train.made and (limits is None or limits.get(train.classes[index], 0))
    )
    return np.fromiter(eligible, np.int64)


def _shuffled(
    augmenters: Sequence[NamedAugmenter], train: SplitRows, able: Sequence[NDArray[np.int64]], seed: int, copy: int
) -> Iterator[tuple[int, int, int]]:
    """Seed, augmenter and place of all wishes for one copy, in the order of their seeds; kept as plain numbers."""
    chosen = [number for number, augmenter in enumerate(augmenters) if copy < augmenter.augmenter.copies]
    indices = np.concatenate([able[number] for number in chosen])
    numbers = np.repeat(np.array(chosen, np.int64), [len(able[number]) for number in chosen])
    seeds = np.fromiter(
        (
            seed_of(seed, augmenters[number].name, train.ids[index], copy)
            for number in chosen
            for index in able[number].tolist()
        ),
        np.uint64,
        len(indices),
    )
    for at in np.lexsort((indices, numbers, seeds)):
        yield int(seeds[at]), int(numbers[at]), int(indices[at])


@dataclass
class AugmentBudget:
    """The number of rows that may still be added."""

    whole: int
    classes: dict[str, int] | None
    """The number left in each class, where the share holds within classes."""
    own: list[dict[str, int] | None]
    """The number left of each augmenter and class, where the augmenter sets its own limits."""
    made: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, share: float, augmenters: Sequence[NamedAugmenter], train: SplitRows, *, per_class: bool
    ) -> AugmentBudget:
        """Return the numbers that the step's share and the augmenters allow, from the real training rows."""
        real = Counter(train.label(index) for index in range(len(train)) if index not in train.made)
        within = per_class and bool(train.classes)
        classes = {str(label): _made(share, rows) for label, rows in real.items()} if within else None
        own = [augmenter.augmenter.limits(train.labels) for augmenter in augmenters]
        return cls(
            max(0, _made(share, sum(real.values())) - len(train.made)),
            classes,
            [None if entry is None else dict(entry) for entry in own],
        )

    def has(self, job: AugmentJob) -> bool:
        """Whether a row for this wish could be kept."""
        own = self.own[job.number]
        fits = self.classes is None or job.label is None or self.classes[job.label] > 0
        return self.whole > 0 and fits and (own is None or own.get(job.label or "", 0) > 0)

    def take(self, job: AugmentJob) -> None:
        """A row was kept."""
        self.whole -= 1
        for counts in (self.classes, self.own[job.number]):
            if counts is not None and job.label is not None:
                counts[job.label] -= 1

    @property
    def done(self) -> bool:
        """Whether nothing more can be kept, whatever is wished."""
        return self.whole <= 0 or all(
            own is not None and not any(left > 0 for left in own.values()) for own in self.own
        )


def _made(share: float, real: int) -> int:
    """The most rows that can be made, so that they are no more than this share of all."""
    return floor(share / (1 - share) * real + 1e-9)

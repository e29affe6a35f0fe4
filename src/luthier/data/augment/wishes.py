"""Which rows are wanted of which training rows, in which order, and how many may be kept.

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

from luthier.data.augment.rows import Rows
from luthier.data.augmenter import Augmenter, Wish

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Asked(NamedTuple):
    """A wish, whose it is, and its class."""

    number: int
    """Of the augmenter in the step's list."""
    wish: Wish
    label: str | None


class Named(NamedTuple):
    """An augmenter and the name it goes by: its kind, numbered when it stands there twice."""

    name: str
    augmenter: Augmenter


def named(augmenters: Sequence[Augmenter]) -> list[Named]:
    """Augmenters with their names."""
    seen = Counter[str]()
    found = []
    for one in augmenters:
        seen[one.kind] += 1
        found.append(Named(one.kind if seen[one.kind] == 1 else f"{one.kind}-{seen[one.kind]}", one))
    return found


def seed_of(seed: int, name: str, row: str, copy: int) -> int:
    """64 bits for one wish."""
    return xxhash.xxh3_64_intdigest(f"{seed}|{name}|{row}|{copy}".encode())


def in_order(augmenters: Sequence[Named], train: Rows, seed: int) -> Iterator[Asked]:
    """All wishes, the first copies of all rows before the second ones; a made row is no parent."""
    limits = [one.augmenter.limits(train.labels) for one in augmenters]
    able = [_able(train, own) for own in limits]
    for copy in range(max((one.augmenter.copies for one in augmenters), default=0)):
        for own, number, place in _shuffled(augmenters, train, able, seed, copy):
            yield Asked(number, Wish(train.row(place), copy, own), train.label(place))


def _able(train: Rows, limits: Mapping[str, int] | None) -> NDArray[np.int64]:
    """Places of the real rows of which an augmenter may make others."""
    wanted = (
        place
        for place in range(len(train))
        if place not in train.made and (limits is None or limits.get(train.classes[place], 0))
    )
    return np.fromiter(wanted, np.int64)


def _shuffled(
    augmenters: Sequence[Named], train: Rows, able: Sequence[NDArray[np.int64]], seed: int, copy: int
) -> Iterator[tuple[int, int, int]]:
    """Seed, augmenter and place of all wishes for one copy, in the order of their seeds; kept as plain numbers."""
    chosen = [number for number, one in enumerate(augmenters) if copy < one.augmenter.copies]
    places = np.concatenate([able[number] for number in chosen])
    numbers = np.repeat(np.array(chosen, np.int64), [len(able[number]) for number in chosen])
    seeds = np.fromiter(
        (
            seed_of(seed, augmenters[number].name, train.ids[place], copy)
            for number in chosen
            for place in able[number].tolist()
        ),
        np.uint64,
        len(places),
    )
    for at in np.lexsort((places, numbers, seeds)):
        yield int(seeds[at]), int(numbers[at]), int(places[at])


@dataclass
class Room:
    """How many rows may still be made."""

    whole: int
    classes: dict[str, int] | None
    """Of each class, when the share holds within classes."""
    own: list[dict[str, int] | None]
    """Of each augmenter and class, where it sets limits itself."""
    made: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, share: float, augmenters: Sequence[Named], train: Rows, *, per_class: bool) -> Room:
        """What the step's share and the augmenters allow, by the real training rows."""
        real = Counter(train.label(place) for place in range(len(train)) if place not in train.made)
        within = per_class and bool(train.classes)
        classes = {str(label): _made(share, rows) for label, rows in real.items()} if within else None
        own = [one.augmenter.limits(train.labels) for one in augmenters]
        return cls(
            max(0, _made(share, sum(real.values())) - len(train.made)),
            classes,
            [None if one is None else dict(one) for one in own],
        )

    def has(self, asked: Asked) -> bool:
        """Whether a row for this wish could be kept."""
        own = self.own[asked.number]
        fits = self.classes is None or asked.label is None or self.classes[asked.label] > 0
        return self.whole > 0 and fits and (own is None or own.get(asked.label or "", 0) > 0)

    def take(self, asked: Asked) -> None:
        """A row was kept."""
        self.whole -= 1
        for counts in (self.classes, self.own[asked.number]):
            if counts is not None and asked.label is not None:
                counts[asked.label] -= 1

    @property
    def done(self) -> bool:
        """Whether nothing more can be kept, whatever is wished."""
        return self.whole <= 0 or all(
            own is not None and not any(left > 0 for left in own.values()) for own in self.own
        )


def _made(share: float, real: int) -> int:
    """The most rows that can be made, so that they are no more than this share of all."""
    return floor(share / (1 - share) * real + 1e-9)

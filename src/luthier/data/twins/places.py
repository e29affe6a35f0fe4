"""Places of rows that are left, without an array of all of them: where few are missing, those are what is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from luthier.data.twins.pieces import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Places(ABC):
    """Different whole numbers in order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...

    def __getitem__(self, at: int | slice | Sequence[int] | NDArray[np.integer[Any]]) -> int | NDArray[np.int64]:
        return self._one(at) if isinstance(at, int) else self._some(at)

    @abstractmethod
    def below(self, number: int) -> int:
        """How many of them are less than a number."""

    @abstractmethod
    def _one(self, at: int) -> int: ...

    @abstractmethod
    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...


class Rest(Places):
    """The numbers below `count`, without some: eight bytes for each that is missing, none for the others."""

    def __init__(self, count: int, without: NDArray[np.int64] | None = None) -> None:
        """`without` is in order."""
        self._count = count
        self._without = np.zeros(0, dtype=np.int64) if without is None else without
        self._before = self._without - np.arange(len(self._without))

    def __len__(self) -> int:
        return self._count - len(self._without)

    def _one(self, at: int) -> int:
        return at + bisect_right(self._before, at)

    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        places = np.arange(*at.indices(len(self))) if isinstance(at, slice) else np.asarray(at, dtype=np.int64)
        return places + np.searchsorted(self._before, places, "right") if len(self._before) else places

    def below(self, number: int) -> int:
        """How many of them are less than a number."""
        return number - int(np.searchsorted(self._without, number))

    def at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where some of them stand."""
        found: NDArray[np.int64] = numbers - np.searchsorted(self._without, numbers)
        return found

    def without(self, numbers: NDArray[np.int64]) -> Rest:
        """The same without some more."""
        return Rest(self._count, distinct(np.concatenate([self._without, numbers])))


class Listed(Places):
    """Numbers that are kept one by one, where most are missing."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        """They are in order."""
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _one(self, at: int) -> int:
        return int(self._numbers[at])

    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._numbers[at]
        return found

    def below(self, number: int) -> int:
        """How many of them are less than a number."""
        return int(np.searchsorted(self._numbers, number))

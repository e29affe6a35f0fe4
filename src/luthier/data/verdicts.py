"""What an operator says of many rows, in a few bytes a row: which go and why, and columns that are mostly the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from luthier.data.operator import Column, Drop
from luthier.data.passes.columns import column
from luthier.data.passes.columns import places as rows_at
from luthier.data.passes.tables import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.data.twins.places import Rest


class Reasons(NamedTuple):
    """Why rows go, row by row: each list, or column of Arrow, has a value for every one."""

    reasons: Sequence[str]
    twins: Sequence[str | None] | pa.Array
    similarities: Sequence[float | None] | pa.Array


class Drops(Mapping[int, Drop]):
    """Which rows go and why, by their places; a plain dictionary would take three hundred bytes for each."""

    def __init__(self, places: NDArray[np.int64], why: Reasons) -> None:
        order = np.argsort(places)
        self.places = places[order]
        numbers: dict[str, int] = {}
        codes = (numbers.setdefault(reason, len(numbers)) for reason in why.reasons)
        self._codes = np.fromiter(codes, np.int32, len(why.reasons))[order]
        self._reasons = list(numbers)
        self._twins = _column(why.twins, "text").take(rows_at(order))
        self._similarities = _column(why.similarities, "number").take(rows_at(order))

    @classmethod
    def of(cls, drops: Mapping[int, Drop]) -> Drops:
        """Those of any mapping."""
        if isinstance(drops, Drops):
            return drops
        told = list(drops.values())
        why = Reasons(*([getattr(drop, name) for drop in told] for name in ("reason", "twin", "similarity")))
        return cls(np.fromiter(drops, np.int64, len(told)), why)

    def arrays(self) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
        """Places, reasons, twins and similarities, row by row."""
        reasons = (
            _column(self._reasons, "text").take(rows_at(self._codes.astype(np.int64)))
            if len(self)
            else _column([], "text")
        )
        return rows_at(self.places), reasons, self._twins, self._similarities

    @classmethod
    def again(cls, places: pa.Array, reasons: pa.Array, twins: pa.Array, similarities: pa.Array) -> Drops:
        """Those of such arrays."""
        return cls(places.to_numpy(), Reasons(reasons.to_pylist(), twins, similarities))

    def at(self, places: Rest) -> Drops:
        """The same, of rows that are found at other places, in the same order."""
        found = object.__new__(Drops)
        found.__dict__.update(self.__dict__, places=places[self.places])
        return found

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[int]:
        return iter(self.places.tolist())

    def __getitem__(self, place: int) -> Drop:
        at = int(np.searchsorted(self.places, place))
        if at == len(self) or self.places[at] != place:
            raise KeyError(place)
        return self._drop(at)

    def among(self, places: NDArray[np.int64]) -> dict[int, Drop]:
        """Those of some rows in order, by their index."""
        index, at = self._found(places)
        return {one: self._drop(other) for one, other in zip(index.tolist(), at.tolist(), strict=True)}

    def stay(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows in order do not go."""
        found = np.ones(len(places), dtype=bool)
        found[self._found(places)[0]] = False
        return found

    def _found(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of some rows go, and where they stand here."""
        begin, end = np.searchsorted(self.places, [places[0], places[-1] + 1]) if len(places) else (0, 0)
        mine = self.places[begin:end]
        index = np.searchsorted(places, mine)
        found = np.flatnonzero(places[index] == mine)
        return index[found], found + begin

    def _drop(self, at: int) -> Drop:
        reason = self._reasons[self._codes[at]]
        return Drop(reason, twin=self._twins[at].as_py(), similarity=self._similarities[at].as_py())


class Sparse(Sequence[Any]):
    """A column in which most rows have the same value, `rest`: only the others are kept, by their places in order."""

    def __init__(
        self, rows: int, rest: Any, places: NDArray[np.int64], values: Sequence[Any] | pa.Array, kind: Column
    ) -> None:
        import pyarrow as pa

        self._rows = rows
        self._places = places
        self._values = pa.concat_arrays([_column(values, kind), column([rest], arrow_type(kind))])

    def arrays(self) -> tuple[pa.Array, pa.Array]:
        """The places of rows that are not like the rest; their values, and last that of the rest."""
        return rows_at(self._places), self._values

    @classmethod
    def again(cls, rows: int, places: NDArray[np.int64], values: pa.Array) -> Sparse:
        """The column of such arrays."""
        found = object.__new__(cls)
        found.__dict__.update(_rows=rows, _places=places, _values=values)
        return found

    def at(self, places: Rest) -> Sparse:
        """The same, of rows that are found at other places, in the same order."""
        found = object.__new__(Sparse)
        found.__dict__.update(self.__dict__, _places=places[self._places])
        return found

    def of(self, places: NDArray[np.int64]) -> pa.Array:
        """The values of some rows."""
        at = np.searchsorted(self._places, places)
        last = len(self._places)
        if last:
            at[self._places[np.minimum(at, last - 1)] != places] = last
        return self._values.take(rows_at(at))

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        found = self.of(np.atleast_1d(np.arange(self._rows)[place])).to_pylist()
        return found if isinstance(place, slice) else found[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.of(np.arange(self._rows)).to_pylist())

    def __eq__(self, other: object) -> bool:
        """Columns are equal to any sequence of the same values."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as lists have none


def _column(values: Sequence[Any] | pa.Array, kind: Column) -> pa.Array:
    """Values as a column of Arrow, which they may be already."""
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else column(values, arrow_type(kind))

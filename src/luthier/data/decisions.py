"""Compact records of an operator's decisions: drop reasons, and columns that are mostly one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from luthier.data.engine.columns import to_arrow_column
from luthier.data.engine.columns import to_arrow_indices as rows_at
from luthier.data.engine.tables import arrow_type
from luthier.data.operator import Column, Drop

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.data.dedup.shingles import ComplementIndexSet


class DropReasons(NamedTuple):
    """Why rows go, row by row: each list, or column of Arrow, has a value for every one."""

    reasons: Sequence[str]
    twins: Sequence[str | None] | pa.Array
    similarities: Sequence[float | None] | pa.Array


class Drops(Mapping[int, Drop]):
    """A memory-saving mapping from row index to drop reason."""

    def __init__(self, indices: NDArray[np.int64], why: DropReasons) -> None:
        order = np.argsort(indices)
        self.indices = indices[order]
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
        drop_list = list(drops.values())
        why = DropReasons(*([getattr(drop, name) for drop in drop_list] for name in ("reason", "twin", "similarity")))
        return cls(np.fromiter(drops, np.int64, len(drop_list)), why)

    def arrays(self) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
        """Places, reasons, twins and similarities, row by row."""
        reasons = (
            _column(self._reasons, "text").take(rows_at(self._codes.astype(np.int64)))
            if len(self)
            else _column([], "text")
        )
        return rows_at(self.indices), reasons, self._twins, self._similarities

    @classmethod
    def again(cls, indices: pa.Array, reasons: pa.Array, twins: pa.Array, similarities: pa.Array) -> Drops:
        """Those of such arrays."""
        return cls(indices.to_numpy(), DropReasons(reasons.to_pylist(), twins, similarities))

    def at(self, indices: ComplementIndexSet) -> Drops:
        """The same, of rows that are found at other places, in the same order."""
        drops = object.__new__(Drops)
        drops.__dict__.update(self.__dict__, indices=indices[self.indices])
        return drops

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    def __getitem__(self, index: int) -> Drop:
        at = int(np.searchsorted(self.indices, index))
        if at == len(self) or self.indices[at] != index:
            raise KeyError(index)
        return self._drop(at)

    def among(self, indices: NDArray[np.int64]) -> dict[int, Drop]:
        """Those of some rows in order, by their index."""
        index, at = self._found(indices)
        return {entry: self._drop(other) for entry, other in zip(index.tolist(), at.tolist(), strict=True)}

    def stay(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows in order do not go."""
        found = np.ones(len(indices), dtype=bool)
        found[self._found(indices)[0]] = False
        return found

    def _found(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of some rows go, and where they stand here."""
        begin, end = np.searchsorted(self.indices, [indices[0], indices[-1] + 1]) if len(indices) else (0, 0)
        mine = self.indices[begin:end]
        index = np.searchsorted(indices, mine)
        found = np.flatnonzero(indices[index] == mine)
        return index[found], found + begin

    def _drop(self, at: int) -> Drop:
        reason = self._reasons[self._codes[at]]
        return Drop(reason, twin=self._twins[at].as_py(), similarity=self._similarities[at].as_py())


class SparseColumn(Sequence[Any]):
    """A column in which most rows have the same value, `rest`: only the others are kept, by their places in order."""

    def __init__(
        self, rows: int, rest: Any, indices: NDArray[np.int64], values: Sequence[Any] | pa.Array, kind: Column
    ) -> None:
        import pyarrow as pa

        self._rows = rows
        self._places = indices
        self._values = pa.concat_arrays([_column(values, kind), to_arrow_column([rest], arrow_type(kind))])

    def arrays(self) -> tuple[pa.Array, pa.Array]:
        """The places of rows that are not like the rest; their values, and last that of the rest."""
        return rows_at(self._places), self._values

    @classmethod
    def again(cls, rows: int, indices: NDArray[np.int64], values: pa.Array) -> SparseColumn:
        """The column of such arrays."""
        sparse_column = object.__new__(cls)
        sparse_column.__dict__.update(_rows=rows, _places=indices, _values=values)
        return sparse_column

    def at(self, indices: ComplementIndexSet) -> SparseColumn:
        """The same, of rows that are found at other places, in the same order."""
        sparse_column = object.__new__(SparseColumn)
        sparse_column.__dict__.update(self.__dict__, _places=indices[self._places])
        return sparse_column

    def of(self, indices: NDArray[np.int64]) -> pa.Array:
        """The values of some rows."""
        at = np.searchsorted(self._places, indices)
        last = len(self._places)
        if last:
            at[self._places[np.minimum(at, last - 1)] != indices] = last
        return self._values.take(rows_at(at))

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        found = self.of(np.atleast_1d(np.arange(self._rows)[index])).to_pylist()
        return found if isinstance(index, slice) else found[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.of(np.arange(self._rows)).to_pylist())

    def __eq__(self, other: object) -> bool:
        """Columns are equal to any sequence of the same values."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as lists have none


def _column(values: Sequence[Any] | pa.Array, kind: Column) -> pa.Array:
    """Values as a column of Arrow, which they may be already."""
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else to_arrow_column(values, arrow_type(kind))

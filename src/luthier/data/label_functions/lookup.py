"""A column of the data that hints at a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


class ColumnLookup(LabelFunction):
    """Vote for what another column of the row says: its value itself, or what `values` makes of it."""

    kind: Literal["lookup"] = "lookup"
    column: str = Field(default="label", min_length=1)
    """A column of `meta`; dots lead into objects, as in `ticket.queue`."""
    values: dict[str, str] = Field(default_factory=dict)
    """Labels by the column's value; empty: the value is the label. Other values say nothing."""

    @property
    def says(self) -> str:
        """The column."""
        return self.column

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Look the values up."""
        return [self._one(get_dotted_path(row.meta, self.column)) for row in rows]

    def _one(self, value: Any) -> str | None:
        if value is None or isinstance(value, (dict, list)) or value == "":
            return None
        return self.values.get(str(value)) if self.values else str(value)


def get_dotted_path(meta: dict[str, Any], path: str) -> Any:
    """The value that a dotted path leads to; a column whose own name has dots is found as well."""
    if path in meta:
        return meta[path]
    first, dot, rest = path.partition(".")
    inner = meta.get(first)
    return get_dotted_path(inner, rest) if dot and isinstance(inner, dict) else None

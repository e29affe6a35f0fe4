"""The role label_format: a file of an annotation tool, read as items with annotations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from luthier.core.component import Component
from luthier.data.annotation.annotations import TOGETHER, AnnotatedItem
from luthier.data.row import BrokenRow, SourceRecord

Say = Callable[[str], None]
Rows = Sequence[dict[str, Any]]


class LabelFormat(Component):
    """The format in which a tool for annotators writes what was judged; it is recognised from the rows."""

    role: ClassVar[str] = "label format"
    home: ClassVar[str] = "luthier.data.label_formats"
    says: ClassVar[str]
    """What it is called when it was recognised."""
    order: ClassVar[int] = 100
    """The surer a format's marks, the lower: the first that fits is taken."""

    @abstractmethod
    def fits(self, rows: Rows) -> bool:
        """Whether these first rows of a file look like it."""

    def is_sure(self, rows: Rows) -> bool:
        """Whether these first rows can be nothing else, so that `luthier new` need not be told that people judged."""
        return False

    @abstractmethod
    def items(self, records: Sequence[SourceRecord], file: str, say: Say) -> Iterator[AnnotatedItem | BrokenRow]:
        """The items of one file, in order; an item may come in several parts, which bear one key."""


def to_optional_text(value: Any) -> str | None:
    """A name or a time as text; nothing as None."""
    return None if value is None or value == "" else str(value)


def normalize_label(value: Any) -> str | float | None:
    """A label as text or number; several labels of one judgment are joined, sorted."""
    if isinstance(value, (list, tuple)):
        found = sorted(str(entry) for entry in value if entry is not None)
        return TOGETHER.join(found) if found else None
    if isinstance(value, bool):
        return str(value).lower()
    return value if value is None or (isinstance(value, (str, int, float)) and value != "") else None

"""A labelling function: a cheap, imperfect rule that votes for a label, or is silent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from luthier.core.component import Component
from luthier.data.row import Row


class LabelFunction(Component):
    """A cheap, imperfect rule that votes for a label of a row, or says nothing; many of them are weighed together."""

    role: ClassVar[str] = "label function"
    home: ClassVar[str] = "luthier.data.label_functions"

    @abstractmethod
    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """A vote for each row; None says nothing. A row's vote does not depend on its neighbours."""

    @property
    def says(self) -> str:
        """What it is called in the books, beside its kind: the label that it votes for, or the column that it reads."""
        return ""


def name_label_functions(functions: Sequence[LabelFunction]) -> list[str]:
    """The functions' names: the kind and what it says, numbered when both come again."""
    kind_counts: dict[str, int] = {}
    found = []
    for function in functions:
        name = f"{function.kind}:{function.says}" if function.says else function.kind
        kind_counts[name] = kind_counts.get(name, 0) + 1
        found.append(name if kind_counts[name] == 1 else f"{name}-{kind_counts[name]}")
    return found

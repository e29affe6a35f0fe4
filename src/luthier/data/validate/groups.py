"""Rows that are hardly more than one: copies of a text, and what was made of a row.

Who has seen one of them has seen them all, so that a classifier which shall not know a row must not know them either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.artifacts.dataset import MADE
from luthier.data.dedup.shingles import normalize_for_comparison

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data.validate.context import CheckRow


def family_representatives(rows: Sequence[CheckRow], prompts: Sequence[str]) -> NDArray[np.int64]:
    """(rows,): the place of the row that stands for each row's family, itself where it has none.

    Rows of one text that show and play the same are of one family, and a made row is of that of its first parent, which
    need not be there. A row that nobody made stands for the others, the first of several.
    """
    import numpy as np

    above: dict[str, str] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        shown = " ".join(media.digest for message in row.messages for media in message.media)
        _join(above, f"row {row.id}", f"text {normalize_for_comparison(prompt)}\x1d{shown}")
        if parent := first_parent_id(row):
            _join(above, f"row {row.id}", f"row {parent}")
    families = [_top(above, f"row {row.id}") for row in rows]
    first: dict[str, int] = {}
    for index in sorted(range(len(rows)), key=lambda index: (first_parent_id(rows[index]) is not None, index)):
        first.setdefault(families[index], index)
    return np.array([first[family] for family in families], dtype=np.int64)


def first_parent_id(row: CheckRow) -> str | None:
    """Return the id of the first parent of an augmented row; None for a row that was not made."""
    made = row.meta.get(MADE)
    parents = made.get("parents") if isinstance(made, dict) else None
    return parents[0] if isinstance(parents, list) and parents and isinstance(parents[0], str) else None


def _join(above: dict[str, str], one: str, other: str) -> None:
    top, below = sorted((_top(above, one), _top(above, other)))
    if top != below:
        above[below] = top


def _top(above: dict[str, str], one: str) -> str:
    """What stands for a name; paths are halved on the way, so that they stay short."""
    while (up := above.get(one, one)) != one:
        above[one] = one = above.get(up, up)
    return one

"""Labels that hold several classes: taken apart for tools that know lists, and put together again behind them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

TOGETHER = " | "
"""What stands between the classes of a judgment that came as a list."""
_MARKS = (";", "|", ",")


class Between(NamedTuple):
    """What stands between the classes of one label."""

    text: str

    def apart(self, label: str) -> list[str]:
        """The classes of a label, each once, in its order."""
        parts = (part.strip() for part in label.split(self.text.strip()))
        return [*dict.fromkeys(part for part in parts if part)] or [label]

    def together(self, classes: Iterable[str], given: str | None = None) -> str:
        """Classes as one label; those of the label that was given are written as it was."""
        found = [*classes]
        same = given is not None and set(self.apart(given)) == set(found)
        return given if same and given is not None else self.text.join(found)


def joined(labels: Collection[str], mark: str) -> list[str]:
    """The labels that have a mark between two parts."""
    return [label for label in labels if mark in label.strip(f" {mark}")]


def between(labels: Collection[str], most: int | None = None) -> Between | None:
    """What stands between classes where labels hold several, which come again in other labels; None where each label
    is a class of its own. `most` is the number of labels, where only some are given."""
    for mark in _MARKS:
        found = joined(labels, mark)
        parts = {part.strip() for label in labels for part in label.split(mark)} - {""}
        if found and len(parts) < (len(labels) if most is None else most):
            spaced = all(f" {mark} " in label for label in found), all(f"{mark} " in label for label in found)
            return Between(f" {mark} " if spaced[0] else f"{mark} " if spaced[1] else mark)
    return None


def several(value: Any) -> tuple[str, ...]:
    """The classes of a judgment that came as a list of more than one, sorted; none of any other."""
    found = sorted(str(one) for one in value if one is not None) if isinstance(value, (list, tuple)) else []
    return tuple(found) if len(found) > 1 else ()

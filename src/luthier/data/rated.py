"""Answers that were rated, as pairs: two answers to one prompt of which one was rated higher by a margin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from luthier.core.errors import DataError, Where, did_you_mean
from luthier.text.messages import Example, answer_of, prompt_of
from luthier.text.preference import number_of, wanted_of

if TYPE_CHECKING:
    from luthier.text.messages import Message

Take = Literal["extremes", "all"]


class Better(NamedTuple):
    """A row whose answer is better than another row's, and by how much."""

    row: Example
    other: Example
    margin: float


class Left(NamedTuple):
    """A row of which no pair is made, and why."""

    row: Example
    why: str


def pairs_by_rating(rows: Sequence[Example], column: str, margin: float, take: Take) -> Iterator[Better | Left]:
    """Pairs among the answers to each prompt, in the order of the rows: the highest with the lowest, or all that are
    apart by `margin`; and each row that is in no pair."""
    groups: dict[tuple[Message, ...], list[tuple[Example, float]]] = {}
    for row in rows:
        if (rating := rating_of(row, column)) is None:
            yield Left(row, f"it has no rating in {column!r}")
        elif not answer_of(row).strip():
            yield Left(row, "its answer is empty")
        else:
            groups.setdefault(prompt_of(row), []).append((row, rating))
    for rated in groups.values():
        found = list(_among(rated, margin, take))
        yield from found
        used = {row.id for one in found for row in (one.row, one.other)}
        yield from (Left(row, _why(rated, margin)) for row, _ in rated if row.id not in used)


def rating_of(row: Example, column: str) -> float | None:
    """The number in a column; 1 and 0 for a yes and a no."""
    rating = number_of(row, column)
    if rating is None and (wanted := wanted_of(row, column)) is not None:
        return float(wanted)
    return rating


def check_column(rows: Sequence[Example], column: str) -> None:
    """`DataError` when no row has a rating."""
    if not any(rating_of(row, column) is not None for row in rows):
        known = {name for row in rows[:1000] for name in row.meta}
        remedy = did_you_mean(column, known)
        raise DataError(f"no row has a rating in {column!r}", where=Where(field="rating"), remedy=remedy)


def _among(rated: Sequence[tuple[Example, float]], margin: float, take: Take) -> Iterator[Better]:
    ordered = sorted(rated, key=lambda one: -one[1])
    chosen = [(ordered[0], ordered[-1])] if take == "extremes" else _all(ordered)
    for (row, high), (other, low) in chosen:
        if high - low >= margin and high > low and answer_of(row).strip() != answer_of(other).strip():
            yield Better(row, other, high - low)


def _all(ordered: Sequence[tuple[Example, float]]) -> list[tuple[tuple[Example, float], tuple[Example, float]]]:
    return [(one, other) for at, one in enumerate(ordered) for other in ordered[at + 1 :]]


def _why(rated: Sequence[tuple[Example, float]], margin: float) -> str:
    if len(rated) == 1:
        return "no other answer to its prompt was rated"
    ratings = [rating for _, rating in rated]
    apart = max(ratings) - min(ratings)
    return "a tie: all answers to its prompt are rated alike" if not apart else f"no other is {margin:g} points apart"

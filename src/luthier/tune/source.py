"""Where the rows of an optimizer step come from: lessons that are stored, or what the model itself writes at that step.

What a source gives for a step follows from recipe, seed, step and the weights before it, so that nothing of it is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.tune.rehearsal import largest, rows_of

if TYPE_CHECKING:
    from luthier.models.pack import Row
    from luthier.tune.lessons import Lessons
    from luthier.tune.objective import Objective
    from luthier.tune.rehearsal import Beside
    from luthier.tune.schedule import Course


class Drawn(NamedTuple):
    """What one optimizer step learns from."""

    rows: list[Row]
    """What is read; rows that cannot move anything may be left out."""
    denominator: float
    """What the sum over all of the step's rows is divided by, those that are not read included."""
    measures: dict[str, float] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    """What is known of the step before it is learnt."""
    nothing: str = ""
    """Why there is nothing to learn; empty when there is something."""
    samples: tuple[dict[str, Any], ...] = ()
    """Answers worth showing, with their prompts."""
    instead: tuple[int, ...] = ()
    """The lessons that are learnt in place of the course's; empty where they are the course's own."""


class Source(ABC):
    """Gives the loop the rows of each step."""

    @abstractmethod
    def draw(self, step: int) -> Drawn:
        """The rows of a step (from 0), under the weights as they are now."""

    @abstractmethod
    def largest(self, tokens: int, lanes: int = 1) -> Beside:
        """The largest packs that a step may read at once, of at most so many tokens together."""

    def begins(self, step: int) -> bool:
        """Whether a training can be taken up before this step: nothing that it learns was drawn earlier."""
        return True

    def hear(self, told: Mapping[str, Any]) -> str:
        """Take note of a step that is done, by its line in the log (a resumed training tells all again).

        Returns why training is to stop after it; empty when it is not.
        """
        return ""


class Stored(Source):
    """Lessons that were written before training began."""

    def __init__(
        self, lessons: Lessons, course: Course, objective: Objective, read: Callable[[Sequence[Row]], Sequence[float]]
    ) -> None:
        """`read` gives, under the weights as they are, the weighted sum of each row's log-probabilities."""
        self._lessons, self._course, self._objective, self._read = lessons, course, objective, read

    def draw(self, step: int) -> Drawn:
        """The rows of the lessons that the course has for the step."""
        rows = self._objective.prepared(rows_of(self._lessons, self._course, step), self._read)
        return Drawn(rows, self._objective.denominator(rows))

    def largest(self, tokens: int, lanes: int = 1) -> Beside:
        """Those of the steps that have most to read."""

        def prepared(rows: Sequence[Row]) -> list[Row]:
            return self._objective.prepared(rows, lambda some: [0.0] * len(some))

        return largest(self._lessons, self._course, tokens, lanes, prepared)

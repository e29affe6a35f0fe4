"""An objective says what is wanted: which rows are read, what is learnt of them, and a pure loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from luthier.core.component import Component
from luthier.text.messages import Example

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.pack import Pack, Row
    from luthier.text.ids import Text


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one example becomes: the rows that must be read together, and what was lost on the way."""

    id: str
    rows: tuple[Row, ...] = ()
    """Empty when the example cannot be learnt from."""
    cut: int = 0
    """Tokens that were cut off to fit the limit."""
    nothing: str = ""
    """Why nothing can be learnt from it, when that is so."""

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def learnt(self) -> int:
        """Learnt tokens of all its rows."""
        return sum(len(row.targets) for row in self.rows)


class Loss(NamedTuple):
    """A sum over one pack; the loop divides it by the step's denominator, so that any split gives the same gradient."""

    total: Tensor
    measures: dict[str, float] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    """Sums worth logging, divided like the loss."""


class Objective(Component):
    """What is wanted of the model."""

    role: ClassVar[str] = "objective"
    home: ClassVar[str] = "luthier.tune.objectives"
    needs_reference: ClassVar[bool] = False
    """Whether the loss also needs the log-probabilities of the model as it was."""

    @abstractmethod
    def lessons(self, examples: Sequence[Example], text: Text) -> list[Lesson]:
        """One lesson for each example, in order."""

    @abstractmethod
    def denominator(self, rows: Sequence[Row]) -> float:
        """What the sum over all packs of one optimizer step is divided by."""

    @abstractmethod
    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """The sum over one pack, from the log-probabilities (N,) of its learnt tokens; pure."""

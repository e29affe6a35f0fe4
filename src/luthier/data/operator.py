"""The role operator: it reads fields of rows and answers with edits, drops and attributes.

    Operator
    ├── RowOperator     sees one row at a time: fused with its neighbours into one streaming pass
    │   └── MediaOperator   sees each picture or sound of a row, and may put another one in its place
    └── SetOperator     sees all rows, through a sketch of each: duplicates, clusters, spellings of labels

An operator changes nothing itself. It says what should be edited (spans), dropped (reasons) or noted (attribute
columns); the engine does it and keeps the books, so that what `lineage` tells is what happened.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from luthier.chat.messages import Media
from luthier.core.component import Component
from luthier.data.row import Row
from luthier.pii.recognizer import TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.artifacts.dataset import PrecisionRecall
    from luthier.data.suggest.profile import SourceProfile

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Reads = TextPart
"""Parts of a row; where there is an answer that was not preferred, it is cleaned as the answer is."""
Column = Literal["text", "number", "count", "flag"]
"""Types of attribute columns: a string, a float, an integer, true or false."""


class TextEdit(NamedTuple):
    """One span of one text, and what it becomes."""

    field: str
    start: int
    end: int
    before: str
    after: str
    reason: str
    hidden: str | None = None
    """What the events keep instead of `before`, when that may not stand in clear."""


class MediaEdit(NamedTuple):
    """One picture or sound of one turn, and what stands in its place now."""

    turn: int
    number: int
    """Which of the turn's media, from 0."""
    before: str
    """The digest of what stood there."""
    after: Media
    reason: str

    @property
    def field(self) -> str:
        """What events call it: `messages[0].media/1`."""
        return f"messages[{self.turn}].media/{self.number}"


class Drop(NamedTuple):
    """Why a row is left out; what stands before a colon in `reason` is what it is counted under."""

    reason: str
    twin: str | None = None
    """For a duplicate: the id of the row that stays."""
    similarity: float | None = None


class LeftoverPii(NamedTuple):
    """What may not leave the data room and is in a row all the same; never the value itself."""

    field: str
    what: str
    hint: str


class RedactionSpan(NamedTuple):
    """A character span that events must not show, and the text shown in its place."""

    start: int
    end: int
    shown: str


@dataclass(frozen=True, slots=True)
class OperatorResult:
    """The edits, drops, attribute values, notes and counts that an operator returns, by index of the rows it was
    given."""

    edits: dict[int, list[TextEdit]] = field(default_factory=dict)
    drops: dict[int, Drop] = field(default_factory=dict)
    attributes: dict[str, Sequence[Any]] = field(default_factory=dict)
    """Values of each column that `columns` names, one for each row shown."""
    notes: list[str] = field(default_factory=list)
    """What the user should be told."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """A table for the summary, added up over all rows: by what was found, and where."""
    media: dict[int, list[MediaEdit]] = field(default_factory=dict)
    """Pictures and sounds that become others, by index of the row; row operators alone have them."""


class OperatorResultLike(Protocol):
    """What any operator found, however it is kept: an `OperatorResult`, or what takes less room for many rows."""

    @property
    def edits(self) -> Mapping[int, list[TextEdit]]:
        """Edits by row."""
        ...

    @property
    def drops(self) -> Mapping[int, Drop]:
        """Drops by row."""
        ...

    @property
    def attributes(self) -> Mapping[str, Sequence[Any]]:
        """Values of each column, one for each row shown."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the user should be told."""
        ...

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """A table for the summary."""
        ...


class Suggestion(NamedTuple):
    """Settings that an operator proposes for some data, and why."""

    settings: dict[str, Any]
    why: str


class RowCorpus(Protocol):
    """All rows that are left, as a set operator sees them."""

    @property
    def sketches(self) -> NDArray[np.uint8]:
        """(rows, width): what `sketch` made of each, in source order; read from the disk as needed."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> Row:
        """One row, read from the disk."""
        ...

    def id(self, index: int) -> str:
        """The id of one row."""
        ...

    def rows(self) -> Iterator[Row]:
        """All rows in order, streamed from the disk."""
        ...

    def map_rows(
        self, job: Callable[[list[Row], Argument], Result], requests: Iterable[tuple[Sequence[int], Argument]]
    ) -> Iterator[Result]:
        """What a job makes of what is said in the rows at some places, and of one value more, in order.

        Nothing but the turns of these rows need be there.
        The run's processes do it, where it has some: the job is a function of a module or a method of an operator.
        """
        ...

    def map_items(self, job: Callable[..., Result], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """What a job, a function of a module, makes of each of some values, in order.

        The run's processes do it, a few at a time, since each may hold a few dozen bytes for every row.
        """
        ...

    @property
    def scratch(self) -> Path | None:
        """The folder for files that are gone with the judging; None: where the system keeps such files."""
        ...

    def tick(self, done: int, total: int) -> None:
        """Say how far the judging is, in rows; for operators that take long over it."""
        ...


Judge = Callable[[Sequence[Row]], dict[int, Drop]]
"""Which of some rows are left out, by their places among them."""


class Operator(Component):
    """Something done to rows: cleaning, judging, redacting, finding duplicates."""

    role: ClassVar[str] = "operator"
    home: ClassVar[str] = "luthier.data.ops"
    reads: ClassVar[tuple[Reads, ...]]
    """The parts of a row that decide what it does."""
    writes: ClassVar[Mapping[str, Column]] = {}
    """Attribute columns that it adds, with their types."""
    suggested_at: ClassVar[int] = 100
    """Where it stands in a proposed recipe: lower numbers come first."""
    idempotent: ClassVar[bool] = True
    """Done twice, it changes nothing the second time."""

    sample_rows: ClassVar[int] = 0
    """Rows that `extra_s` looks at."""
    is_private: ClassVar[bool] = False
    """What it takes out tells of persons: examples of it show stars."""

    @classmethod
    def trial(cls) -> Operator | None:
        """What `luthier new` tries on a sample, so that `suggest` can say what it would do; None: it is not tried."""
        return None

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Propose itself for data with this profile, with settings and a reason; None when it is not needed."""
        return None

    def at(self, recipe_dir: Path, kept: Path | None = None) -> Operator:
        """The operator as it works for a recipe in this folder: where it reads files, their paths start there.

        `kept` is a folder in which it finds again what a model answered; None: nothing is kept.
        """
        return self

    def after_split(self, held_out: RowCorpus) -> Judge | None:
        """What it has against training rows, now that the rows that are held out are known; None: nothing."""
        return None

    def secrets(self, texts: Sequence[str]) -> list[list[RedactionSpan]]:
        """Spans of each text that may not stand in clear in the events of any operator."""
        return [[] for _ in texts]

    def untroubled(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_] | None:
        """Rows in which `leftover` can find nothing as long as no later operator edits them, from what was counted.

        `columns` are the counts that it wrote; None: that cannot be told.
        """
        return None

    def leftover(self, rows: Sequence[Row]) -> tuple[Row, LeftoverPii] | None:
        """The first row that holds at the very end, after all operators, what this one should have taken out."""
        return None

    def model_s(self, size: int) -> float:
        """Seconds that a model of its own is expected to take of one core over so many bytes."""
        return 0.0

    def extra_s(self, rows: int, sample: Sequence[Row] = ()) -> float:
        """Seconds that it is expected to take of one core, where they grow faster than the rows do.

        `sample` holds some of the rows, at most `sample_rows`.
        """
        return 0.0

    def prove(self, recipe_dir: Path) -> dict[str, PrecisionRecall]:
        """How right it is, by kind, on a labelled sample that its settings name; `recipe_dir` is the recipe's
        folder."""
        return {}


class RowOperator(Operator):
    """An operator that needs to see one row at a time."""

    @abstractmethod
    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Judge some rows; the outcome of a row never depends on its neighbours."""


class SetOperator(Operator):
    """An operator that needs to see all rows, through a sketch of each."""

    rewrites: ClassVar[bool] = False
    """Whether it edits rows: operators after it must see what it made of them."""

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """What must be remembered of each row: the same number of bytes for all; nothing by default."""
        return [b""] * len(rows)

    @abstractmethod
    def settle(self, corpus: RowCorpus) -> OperatorResultLike:
        """Judge all rows at once; numbers in what is said are places in the corpus."""

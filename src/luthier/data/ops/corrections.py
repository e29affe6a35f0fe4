"""Operator that applies corrections which people made to single rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.data.history.corrections import RowDecision, read_row_decisions
from luthier.data.operator import Drop, OperatorResult, Reads, RowOperator, TextEdit
from luthier.data.row import Row


class CorrectionsOperator(RowOperator):
    """Edit single rows, or leave them out, as people decided who read them.

    The decisions stand in a file of JSON lines, which the studio's data pages and `luthier correct` add to:
    `{"row": ID, "action": "edit", "field": "messages[1].content", "text": "refund", "by": "ana", "at":
    "2026-01-31T09:30:00Z"}`, or the action `drop`, or `restore`, which takes back what was decided of a row before. An
    id is a digest of the row as it was read: it stays the same when other operators or rows change. Put it last: what
    people saw is what the other operators left. It never suggests itself: which rows are wrong is for somebody who has
    read them to say.
    """

    kind: Literal["corrections"] = "corrections"
    reads: ClassVar[tuple[Reads, ...]] = ("system", "prompt", "answer")

    path: PathText | None = None
    """The file of decisions; a relative path starts at the recipe's folder."""

    def at(self, recipe_dir: Path, kept: Path | None = None) -> CorrectionsOperator:
        """The operator with its file's place written out."""
        return self if self.path is None else self.model_copy(update={"path": str(resolve_path(self.path, recipe_dir))})

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the decisions."""
        if self.path is None:
            return None
        path = resolve_path(self.path, recipe_dir)
        return file_digest(path) if path.is_file() else None

    @cached_property
    def _decisions(self) -> dict[str, RowDecision]:
        if self.path is None:
            return {}
        if not Path(self.path).is_file():
            hint = "take the operator `corrections` out, or give it the file of decisions"
            raise DataError("there is no such file", where=SourceLocation(file=self.path), hint=hint)
        return read_row_decisions(Path(self.path))

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Do what was decided about each row."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            decision = self._decisions.get(row.id)
            if decision is None:
                continue
            if decision.drop is not None:
                outcome.drops[index] = Drop(f"left out by hand: {decision.drop.signature()}")
            elif edits := list(_edits(row, decision)):
                outcome.edits[index] = edits
        return outcome


def _edits(row: Row, decision: RowDecision) -> Iterator[TextEdit]:
    """The texts that become others; those that the row has no more are passed over."""
    for name, correction in sorted(decision.edits.items()):
        at = int(name[len("messages[") : name.index("]")])
        before = row.messages[at].content if at < len(row.messages) else None
        if before is not None and before != correction.text:
            after = str(correction.text)
            yield TextEdit(name, 0, len(before), before, after, f"corrected by hand ({correction.signature()})")

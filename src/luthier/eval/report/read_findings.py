"""A validation's artifact, read for the report: its findings, and the first rows of each with their text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from luthier.core.artifact import Artifact
from luthier.eval.report.facts.data import FindingFacts, FoundRow, ValidationFacts
from luthier.text.dataset import columns, splits
from luthier.text.dropped import place_in_file
from luthier.text.findings import Mark, read_findings, read_marks
from luthier.text.messages import Example, answer_of, question_of

ROWS_OF_EACH = 12


def validation_facts(name: str, artifact: Artifact) -> ValidationFacts:
    """What the report says of one validation."""
    told = read_findings(artifact)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for mark in read_marks(artifact):
        if len(marks[mark.finding]) < ROWS_OF_EACH:
            marks[mark.finding].append(mark)
    wanted = {mark.id for found in marks.values() for mark in found}
    rows = {row.id: row for row in _rows(artifact.parent("data"), wanted)}
    findings = tuple(
        FindingFacts(
            finding=finding,
            shown=tuple(
                rows[mark.id].model_copy(update={"note": mark.note}) for mark in marks[finding.name] if mark.id in rows
            ),
        )
        for finding in told.findings
    )
    return ValidationFacts(
        name=name,
        sentence=told.sentence,
        rows=told.rows,
        looked_at=told.looked_at,
        findings=findings,
        skipped=told.skipped,
    )


def _rows(data: Artifact, wanted: set[str]) -> Iterable[FoundRow]:
    """The wanted rows of a data set, read a batch at a time."""
    for split in splits(data):
        for told in columns(data, split, "id", "file", "line", "row", "messages"):
            if told["id"] in wanted:
                example = _example(told["id"], told["messages"])
                place = place_in_file(told["file"], told["line"], told.get("row"))
                yield FoundRow(id=example.id, place=place, text=question_of(example), answer=answer_of(example))


def _example(name: str, messages: str) -> Example:
    import json

    origin = {"source": "", "file": "", "line": 0}
    return Example.model_validate({"id": name, "origin": origin, "kind": "chat", "messages": json.loads(messages)})

"""Collect the facts of a report on evaluations and validations.

Several evaluations are compared by each model's scores and by paired differences from the first evaluation. A
validation contributes its findings and the first rows of each with their text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from luthier.artifacts.dataset import list_splits, read_split_columns
from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.artifacts.findings import FlaggedRow, format_file_location, read_findings, read_flagged_rows
from luthier.chat.messages import Example, answer_of, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError
from luthier.eval.comparison import compare_evaluations
from luthier.eval.report.facts.data import FindingFacts, FindingRow, ValidationFacts
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import ComparisonFact, ModelRunFacts
from luthier.metrics.paired import adjust_holm


def build_run_facts(evaluations: Mapping[str, Artifact]) -> tuple[ModelRunFacts, ...]:
    """The models that the evaluations are about, the first one first; each is compared with it where that can be.

    The p values are corrected (Holm) over all comparisons that are shown.
    """
    found = []
    first = next(iter(evaluations.values()))
    for name, evaluation in evaluations.items():
        about = EvaluationSummary.read(evaluation)
        scores = EvaluationMetrics.read(evaluation).models[about.subject]
        compared, why = ((), "") if evaluation is first else _compared(evaluation, first, name)
        found.append(
            ModelRunFacts(
                name=name,
                model=about.subject,
                rows=about.rows,
                scores={metric: number_to_fact(score) for metric, score in scores.items()},
                compared=compared,
                why=why,
            )
        )
    return _corrected(found)


def number_to_fact(score: MetricScore) -> ScoreFact:
    """A number with its interval as a fact of a report."""
    return ScoreFact(value=score.value, low=score.low, high=score.high, signature=score.signature)


def _compared(evaluation: Artifact, first: Artifact, name: str) -> tuple[tuple[ComparisonFact, ...], str]:
    try:
        comparison = compare_evaluations(evaluation, first)
    except InputError as error:
        return (), error.message
    known = ComparisonFact.model_fields
    rows = [{**{key: row[key] for key in known if key in row}, "a": name, "b": ""} for row in comparison["comparisons"]]
    return tuple(ComparisonFact.model_validate(row) for row in rows), ""


def _corrected(runs: list[ModelRunFacts]) -> tuple[ModelRunFacts, ...]:
    adjusted = iter(
        adjust_holm(
            [
                1.0 if comparison_fact.p is None else comparison_fact.p
                for run in runs
                for comparison_fact in run.compared
            ]
        )
    )
    return tuple(
        run.model_copy(
            update={
                "compared": tuple(
                    comparison_fact.model_copy(update={"p_holm": next(adjusted)}) for comparison_fact in run.compared
                )
            }
        )
        for run in runs
    )


ROWS_OF_EACH = 12


def validation_facts(name: str, artifact: Artifact) -> ValidationFacts:
    """What the report says of one validation."""
    validation = read_findings(artifact)
    marks: dict[str, list[FlaggedRow]] = defaultdict(list)
    for mark in read_flagged_rows(artifact):
        if len(marks[mark.finding]) < ROWS_OF_EACH:
            marks[mark.finding].append(mark)
    marked_ids = {mark.id for found in marks.values() for mark in found}
    rows = {row.id: row for row in _rows(artifact.parent("data"), marked_ids)} if marked_ids else {}
    findings = tuple(
        FindingFacts(
            finding=finding,
            shown=tuple(
                rows[mark.id].model_copy(update={"note": mark.note}) for mark in marks[finding.name] if mark.id in rows
            ),
        )
        for finding in validation.findings
    )
    return ValidationFacts(
        name=name,
        sentence=validation.sentence,
        rows=validation.rows,
        looked_at=validation.looked_at,
        findings=findings,
        skipped=validation.skipped,
    )


def _rows(data: Artifact, ids: set[str]) -> Iterable[FindingRow]:
    """The wanted rows of a data set, read a batch at a time."""
    for split in list_splits(data):
        for record in read_split_columns(data, split, "id", "file", "line", "row", "messages"):
            if record["id"] in ids:
                example = _example(record["id"], record["messages"])
                location = format_file_location(record["file"], record["line"], record.get("row"))
                yield FindingRow(
                    id=example.id, location=location, text=user_text_of(example), answer=answer_of(example)
                )


def _example(name: str, messages: str) -> Example:
    import json

    origin = {"source": "", "file": "", "line": 0}
    return Example.model_validate({"id": name, "origin": origin, "kind": "chat", "messages": json.loads(messages)})

"""A technical record after Annex IV of the EU AI Act (Regulation (EU) 2024/1689), from what the store knows.

Each point of the annex is a heading. Facts of the artifacts stand below it; what no artifact can know is marked as
text that a person must write. The record is a draft for whoever is responsible, and no statement that a system
conforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.eval.report import formatting
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import EvaluationFacts
from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.markdown import escape_markdown, render_markdown_table

TO_WRITE = "**To be written by a person:**"


class OperationFacts(NamedTuple):
    """What is known of a model in use."""

    watched: Sequence[str] = ()
    """Numbers that a monitor of the recipe computes."""
    alerts: Sequence[tuple[str, str]] = ()
    """Name and condition of each alert."""
    releases: Sequence[str] = ()
    """Every change of what a name means to clients, in order of time."""
    redaction: str = ""
    """What is taken out of kept requests."""


class RecordPoint(NamedTuple):
    """One point of the annex."""

    number: str
    title: str
    parts: Sequence[str]
    """What the store knows, as Markdown; nothing where it knows nothing."""
    missing: str = ""
    """What a person must write; empty where nothing is left."""


def render_technical_record(facts: ReportFacts, operation: OperationFacts) -> str:
    """The record as one Markdown file."""
    points = list_record_points(facts, operation)
    known, left = sum(bool(point.parts) for point in points), [point for point in points if point.missing]
    parts = [
        f"# Technical record: {escape_markdown(facts.title)}",
        "After Annex IV of Regulation (EU) 2024/1689 (AI Act). Luthier wrote down what its store knows "
        f"({escape_markdown(facts.created)}). {known} of {len(points)} points have facts; at {len(left)} a person must "
        f"write: {', '.join(point.number for point in left)}. This file is a draft, and no statement of conformity.",
    ]
    chapter = ""
    for point in points:
        if (begins := point.number.partition(".")[0]) != chapter:
            chapter = begins
            parts.append(f"## {chapter}. {_CHAPTERS[chapter]}")
        parts.append(f"### {point.number} {point.title}")
        parts += point.parts
        if point.missing:
            parts.append(f"{TO_WRITE} {point.missing}")
    return "\n\n".join(part for part in parts if part) + "\n"


_CHAPTERS = {
    "1": "General description of the system",
    "2": "Elements of the system and its development",
    "3": "Monitoring, functioning and control",
    "4": "Performance metrics",
    "5": "Risk management (Article 9)",
    "6": "Changes through the life cycle",
    "7": "Standards applied",
    "8": "EU declaration of conformity (Article 47)",
    "9": "Post-market monitoring (Article 72)",
}


def list_record_points(facts: ReportFacts, operation: OperationFacts) -> list[RecordPoint]:
    """The points of the annex in order."""
    return [
        RecordPoint("1.a", "Purpose, provider, version", _version(facts),
                    "the intended purpose, the name of the provider, and how this version relates to earlier ones."),
        RecordPoint("1.b", "Interaction with other hardware and software", (),
                    "which systems ask the model, and what they do with its answers."),
        RecordPoint("1.c", "Versions of software", _versions(facts)),
        RecordPoint("1.d", "Forms in which it is put into service", _releases(operation),
                    "to whom it is given, as a service, a package or a device."),
        RecordPoint("1.e", "Hardware that it is to run on", _machine(facts),
                    "the hardware in use, where that is another than the one on which it was made."),
        RecordPoint("1.f", "Appearance of the product", (), "photographs or drawings, where the model is part of one."),
        RecordPoint("1.g", "User interface for the deployer", (), "what a user sees, and what can be set there."),
        RecordPoint("1.h", "Instructions for use", (), "the instructions that the deployer is given."),
        RecordPoint("2.a", "Methods and steps of development", _steps(facts),
                    "which parts others made, and under which contract, where the table does not say it."),
        RecordPoint("2.b", "Design choices and what is optimized", _tunings(facts),
                    "why these choices were made, with respect to the people that the system is for."),
        RecordPoint("2.c", "Architecture and computing resources", _costs(facts)),
        RecordPoint("2.d", "Data", _data(facts),
                    "how the data were obtained, for whom and where they are representative, and what they lack."),
        RecordPoint("2.e", "Human oversight and interpretation of outputs (Articles 13, 14)", _oversight(facts),
                    "who oversees the system in use, and how they can stop it."),
        RecordPoint("2.f", "Changes determined in advance", (),
                    "changes that are planned, and how conformity is kept through them."),
        RecordPoint("2.g", "Validation and testing", _evaluations(facts),
                    "the dates and signatures of those responsible for the tests."),
        RecordPoint("2.h", "Cybersecurity", _security(operation), "measures around the server."),
        RecordPoint("3.a", "Capabilities and limits of performance", _limits(facts),
                    "for which inputs the system is not meant."),
        RecordPoint("3.b", "Accuracy for groups of persons", _groups(facts),
                    "which groups are affected, and whether the measured ones are the right ones."),
        RecordPoint("3.c", "Foreseeable unintended outcomes and sources of risk", (),
                    "risks to health, safety, fundamental rights and of discrimination."),
        RecordPoint("3.d", "Specifications on input data", _inputs(facts)),
        RecordPoint("4", "Why the metrics fit", _metrics(facts), "why these metrics are appropriate for the purpose."),
        RecordPoint("5", "Risk management system", _gates(facts),
                    "the risk management system; gates are only a part of it."),
        RecordPoint("6", "Relevant changes", _releases(operation), "changes that are not releases of a model."),
        RecordPoint("7", "Harmonized standards", (), "the standards applied, or other ways of compliance."),
        RecordPoint("8", "Declaration of conformity", (), "a copy of the declaration."),
        RecordPoint("9", "Post-market monitoring", _monitoring(operation), "the post-market monitoring plan."),
    ]  # fmt: skip


def _listed(lines: Sequence[str]) -> tuple[str, ...]:
    return ("\n".join(f"- {line}" for line in lines),) if lines else ()


def _version(facts: ReportFacts) -> tuple[str, ...]:
    made = [
        f"`{artifact.step}` ({artifact.makes}): `{artifact.digest}`"
        for artifact in facts.provenance.artifacts
        if artifact.makes == "model"
    ]
    return _listed([f"recipe {escape_markdown(facts.title)}, seed {facts.provenance.seed}", *made])


def _versions(facts: ReportFacts) -> tuple[str, ...]:
    return _listed([f"{escape_markdown(name)} {escape_markdown(v)}" for name, v in facts.provenance.versions.items()])


def _machine(facts: ReportFacts) -> tuple[str, ...]:
    made = [f"{escape_markdown(name)}: {escape_markdown(text)}" for name, text in facts.provenance.machine.items()]
    return _listed([f"made on, {line}" for line in made])


def _steps(facts: ReportFacts) -> tuple[str, ...]:
    rows = [(one.step, one.kind, one.makes, one.digest[:16], one.code[:16]) for one in facts.provenance.artifacts]
    parts = [render_markdown_table(("Step", "Kind", "Makes", "Artifact", "Code"), rows)] if rows else []
    if facts.provenance.recipe:
        parts.append(f"```yaml\n{facts.provenance.recipe.strip()}\n```")
    if facts.provenance.commands:
        parts.append("Made again by:\n\n```sh\n" + "\n".join(facts.provenance.commands) + "\n```")
    return tuple(parts)


def _tunings(facts: ReportFacts) -> tuple[str, ...]:
    rows = [
        (
            tuning.name,
            tuning.technique,
            tuning.objective,
            tuning.optimizer,
            formatting.format_thousands(tuning.steps),
            formatting.format_large_number(tuning.trainable_parameters),
        )
        for tuning in facts.tunings
    ]
    head = ("Model", "Technique", "Objective", "Optimizer", "Steps", "Weights moved")
    return (render_markdown_table(head, rows),) if rows else ()


def _costs(facts: ReportFacts) -> tuple[str, ...]:
    rows = [
        (cost.step, formatting.format_duration_words(cost.seconds), formatting.format_byte_size(cost.peak_bytes))
        for cost in facts.costs
    ]
    sizes = [
        f"{escape_markdown(tuning.name)}: {formatting.format_large_number(tuning.parameters)} parameters"
        for tuning in facts.tunings
        if tuning.parameters
    ]
    table = (render_markdown_table(("Step", "Time", "Peak memory"), rows),) if rows else ()
    return (*_listed(sizes), *table)


def _data(facts: ReportFacts) -> tuple[str, ...]:
    parts: list[str] = []
    for data in facts.data:
        lines = [
            f"source {escape_markdown(source.name)}: {escape_markdown(', '.join(source.files) or 'no file')}, "
            f"{formatting.format_thousands(source.rows)} rows, "
            f"licence {escape_markdown(source.licence or 'not stated')}"
            for source in data.sources
        ]
        lines.append(f"rows read: {formatting.format_thousands(data.rows_in)}")
        lines += [f"kept in `{split}`: {formatting.format_thousands(rows)}" for split, rows in data.splits.items()]
        lines += [
            f"left out, {escape_markdown(why)}: {formatting.format_thousands(n)}" for why, n in data.dropped.items()
        ]
        lines += [f"edits by `{name}`: {formatting.format_thousands(count)}" for name, count in data.edited.items()]
        lines += [f"made by `{name}`: {formatting.format_thousands(count)}" for name, count in data.made.items()]
        labels = [f"{escape_markdown(label.label)} {sum(label.rows.values())}" for label in data.labels]
        lines += [f"labels: {', '.join(labels)}"] if labels else []
        parts += [f"Data set `{data.name}`:", *_listed(lines)]
    for validation in facts.validations:
        parts.append(f"Validation `{validation.name}`: {escape_markdown(validation.sentence)}")
        found = [escape_markdown(finding.finding.sentence) for finding in validation.worth_mending()]
        parts += _listed(found)
    return tuple(parts)


def _oversight(facts: ReportFacts) -> tuple[str, ...]:
    lines = [
        f"{escape_markdown(people.opinion.sentence)} ({people.opinion.judgments} judgments)" for people in facts.people
    ]
    lines += [
        f"explanations of {explained.summary.rows} held-out rows: {escape_markdown(explained.summary.sentence)}"
        for explained in facts.explanations
    ]
    return _listed(lines)


def _evaluations(facts: ReportFacts) -> tuple[str, ...]:
    parts: list[str] = []
    for evaluation in facts.evaluations:
        models = [model for model in evaluation.models if model.metrics]
        metrics = sorted({metric for model in models for metric in model.metrics})
        rows = [
            (
                formatting.get_metric_title(metric),
                *(
                    formatting.format_score_interval(model.metrics[metric], metric) if metric in model.metrics else ""
                    for model in models
                ),
            )
            for metric in metrics
        ]
        parts.append(
            f"`{evaluation.name}`, {formatting.format_thousands(evaluation.rows)} held-out rows, 95 % intervals:"
        )
        parts.append(render_markdown_table(("Metric", *(model.title for model in models)), rows))
        parts += [f"> {escape_markdown(note)}" for note in evaluation.notes]
    return tuple(parts)


def _security(operation: OperationFacts) -> tuple[str, ...]:
    return (f"{escape_markdown(operation.redaction)}",) if operation.redaction else ()


def _limits(facts: ReportFacts) -> tuple[str, ...]:
    return (escape_markdown(facts.verdict_sentence),) if facts.evaluations else ()


def _groups(facts: ReportFacts) -> tuple[str, ...]:
    rows = [row for evaluation in facts.evaluations for row in _group_rows(evaluation)]
    head = ("Evaluation", "Group or probe", "Model", "Metric", "Value", "Rows")
    return (render_markdown_table(head, rows),) if rows else ()


def _group_rows(evaluation: EvaluationFacts) -> list[tuple[str, ...]]:
    """Slices by a column, and what probes of bias found."""
    rows: list[tuple[str, ...]] = [
        (
            evaluation.name,
            f"{part.name} = {part.value}",
            evaluation.title(part.model),
            formatting.get_metric_title(part.metric),
            formatting.format_score_interval(part.score, part.metric),
            formatting.format_thousands(part.rows),
        )
        for part in evaluation.slices
    ]
    for model in evaluation.models:
        for name, measure in model.measures.items():
            value = formatting.format_score_interval(measure.score)
            rows.append((evaluation.name, name, model.title, "", value, formatting.format_thousands(measure.rows)))
    return rows


def _inputs(facts: ReportFacts) -> tuple[str, ...]:
    lines = [
        f"rows of `{tuning.name}` longer than its limit, which were cut: {formatting.format_thousands(tuning.cut_rows)}"
        for tuning in facts.tunings
        if tuning.cut_rows is not None
    ]
    lines += [
        f"held-out rows of `{one.name}` are rows of the data set: the same form of input" for one in facts.evaluations
    ]
    return _listed(lines)


def _metrics(facts: ReportFacts) -> tuple[str, ...]:
    return _listed(
        [f"`{one.name}` rules by {formatting.get_metric_title(one.main_metric)}" for one in facts.evaluations]
    )


def _gates(facts: ReportFacts) -> tuple[str, ...]:
    rows = [
        (
            gate.name,
            rule.rule,
            rule.verdict,
            formatting.format_score_interval(ScoreFact(value=rule.value, low=rule.low, high=rule.high)),
        )
        for gate in facts.gates
        for rule in gate.rules
    ]
    return (render_markdown_table(("Gate", "Rule", "Verdict", "Measured"), rows),) if rows else ()


def _releases(operation: OperationFacts) -> tuple[str, ...]:
    return _listed([escape_markdown(line) for line in operation.releases])


def _monitoring(operation: OperationFacts) -> tuple[str, ...]:
    parts = list(_listed([f"watched: {escape_markdown(number)}" for number in operation.watched]))
    if operation.alerts:
        parts.append(render_markdown_table(("Alert", "Condition"), operation.alerts))
    return tuple(parts)

"""The data card of an export: what the rows are, where they came from, what was done to them, what is wrong with them.

Every fact is read from the artifact and from what checks found in it; nothing is typed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from luthier.artifacts.dataset import DatasetSummary, list_source_datasets
from luthier.artifacts.findings import Findings
from luthier.core.artifact import Artifact
from luthier.models.export.model_card import data_licence, strip_absolute_paths

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Size categories in the hub's own words."""


def render_dataset_card(artifact: Artifact, name: str, findings: Findings | None) -> str:
    """The README of an export: front matter that the hub reads, then plain text."""
    dataset_summary = DatasetSummary.read(artifact)
    front = yaml.safe_dump(_front(artifact, name, dataset_summary), sort_keys=True, allow_unicode=True)
    parts = [
        f"---\n{front}---\n",
        f"# {name}\n",
        f"{_what(dataset_summary)} Prepared with Luthier; every row keeps its id, so that its story can be told.\n",
        _counts(dataset_summary),
        _sources(artifact, dataset_summary),
        _operators(artifact),
        _risks(artifact, findings),
        _provenance(artifact),
    ]
    return "\n".join(parts)


def _front(artifact: Artifact, name: str, dataset_summary: DatasetSummary) -> dict[str, Any]:
    rows, licences = sum(dataset_summary.rows.values()), _licences(artifact)
    return {
        "license": "other" if len(licences) > 1 else licences[0] if licences else "unknown",
        "pretty_name": name,
        "size_categories": [next((word for limit, word in _SIZES if rows < limit), "n>1M")],
        "tags": ["luthier"],
        "task_categories": ["text-classification" if dataset_summary.task == "label" else "text-generation"],
    }


def _what(dataset_summary: DatasetSummary) -> str:
    rows = ", ".join(f"{count:,} {split}" for split, count in dataset_summary.rows.items())
    if dataset_summary.task == "text":
        return f"Conversations with free answers: {rows} rows."
    shown = ", ".join(map(_cell, dataset_summary.labels[:20])) + (", …" if len(dataset_summary.labels) > 20 else "")
    return f"Texts with one of {len(dataset_summary.labels)} classes ({shown}): {rows} rows."


def _counts(dataset_summary: DatasetSummary) -> str:
    """Every row that went in, by what became of it."""
    lines = [f"| read | {dataset_summary.rows_in} |"]
    lines += [f"| {split} | {count} |" for split, count in dataset_summary.rows.items()]
    lines += [f"| dropped: {_cell(reason)} | {count} |" for reason, count in dataset_summary.dropped.items()]
    lines += [f"| made by {maker} | {count} |" for maker, count in dataset_summary.made.items()]
    lines += [f"| edited by {operator} | {count} |" for operator, count in dataset_summary.edited.items()]
    return "## Rows\n\n| what | rows |\n|---|---|\n" + "\n".join(lines) + "\n"


def _sources(artifact: Artifact, dataset_summary: DatasetSummary) -> str:
    licence = "; ".join(_licences(artifact)) or "not stated by the source; find it out before you pass the rows on"
    lines = [f"- `{source.source}`: {_name(source.file)}, {source.rows} rows" for source in dataset_summary.sources]
    read = sorted({pair for made in list_source_datasets(artifact) for pair in made.manifest.reads.items()})
    lines += [f"- bytes read by `{part}`: digest `{digest}`" for part, digest in read]
    return "## Sources and licences\n\n" + "\n".join([*lines, f"- licence: {licence}"]) + "\n"


def _origins(artifact: Artifact) -> list[Artifact]:
    """The data sets that this one began with, made of no other: itself, where nothing came before it."""
    return [
        source_dataset
        for source_dataset in list_source_datasets(artifact)
        if "source" in source_dataset.manifest.settings
    ] or [artifact]


def _licences(artifact: Artifact) -> list[str]:
    """What sources state, each once, and whether others state none."""
    stated = [data_licence(origin) for origin in _origins(artifact)]
    known = list(dict.fromkeys(entry for entry in stated if entry))
    return [*known, "not stated by the other sources"] if known and None in stated else known


def _operators(artifact: Artifact) -> str:
    """The settings that made the data set, and those before them that made what it was made of."""
    artifacts = [*list_source_datasets(artifact)][::-1]
    edited = sorted({operator for entry in artifacts for operator in DatasetSummary.read(entry).edited})
    sentence = f"Texts were edited by {', '.join(edited)}.\n\n" if edited else ""
    text = yaml.safe_dump([_settings(entry) for entry in artifacts], sort_keys=False, allow_unicode=True)
    return f"## What was done\n\n{sentence}```yaml\n{text}```\n"


def _settings(artifact: Artifact) -> dict[str, Any]:
    """A step's settings: of `prepare`, what rows came from and went through; of another, whatever it says."""
    settings = strip_absolute_paths(artifact.manifest.settings)
    kind = {"kind": artifact.manifest.kind}
    return kind | {
        key: settings[key]
        for key in (("source", "ops", "split") if "source" in settings else settings)
        if key in settings
    }


def _risks(artifact: Artifact, findings: Findings | None) -> str:
    """What checks found, and what nobody looked for."""
    lines = []
    origins = _origins(artifact)
    bare = sum("pii" not in map(_kind, origin.manifest.settings.get("ops", ())) for origin in origins)
    if bare:
        where = f" in {bare} of the {len(origins)} data sets that this one began with" if bare < len(origins) else ""
        lines.append(f"- Personal data: nobody looked for any{where} (no operator `pii`).")
    if findings is None:
        lines.append("- Nobody looked for wrong labels, conflicts, outliers, shift or bias here (no step `validate`).")
    else:
        lines.append(f"- {findings.sentence}")
        for finding in (*findings.of("serious"), *findings.of("warning")):
            lines.append(f"- {finding.severity}: {finding.title}. {finding.sentence} {finding.hint}".rstrip())
        if findings.looked_at < findings.rows:
            lines.append(f"- {findings.looked_at:,} of {findings.rows:,} rows were looked at.")
        lines += [f"- not looked at: {kind} ({why})" for kind, why in findings.skipped.items()]
    return "## Known risks\n\n" + "\n".join(lines) + "\n"


def _provenance(artifact: Artifact) -> str:
    manifest = artifact.manifest
    lines = [f"- artifact: `{artifact.digest}`", f"- seed: `{manifest.seed}`", f"- code: `{manifest.code}`"]
    lines += [f"- {entry.path}: {entry.size} bytes, `{entry.digest}`" for entry in manifest.files]
    return "## Provenance\n\n" + "\n".join(lines) + "\n"


def _kind(operator: Mapping[str, Any] | str) -> str:
    return operator if isinstance(operator, str) else str(operator["kind"])


def _cell(text: str) -> str:
    """Text of the data in Markdown: on one line, no mark-up of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


def _name(file: str) -> str:
    """A file as it may be told to others: where it lay is nobody's business."""
    return str(strip_absolute_paths(file))

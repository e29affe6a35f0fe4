"""Collect the facts of a report on trainings and data sets.

A tuned model contributes its settings, its training log and the number of truncated rows. A data set contributes its
row counts, labels, sources and examples of edits.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthier.artifacts.dataset import DatasetSummary, list_splits, read_split_frame
from luthier.artifacts.findings import format_file_location, read_dropped_rows
from luthier.artifacts.training import TrainingRecord, describe_privacy, kind_of_part
from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName
from luthier.eval.report.facts.data import (
    DataFacts,
    EditFact,
    LabelCount,
    LeftOutRow,
    OperatorAccuracy,
    OperatorCounts,
    SourceFacts,
)
from luthier.eval.report.facts.tuning import LogPoint, PolicySampleFact, PromptTrialFact, RenderedRowFact, TuningFacts
from luthier.models.load import get_training_data

MOST_POINTS = 2000
"""A longer log is taken at even distances; steps with a held-out measurement are always taken."""
MOST_TRIED = 12
"""Prompts of a search that are shown."""
DRAWN = ("reward", "kl", "entropy", "length", "clipped", "written_apart", "equal_prompts", "truncated")
"""What the log tells of a policy's own answers; `reward_…` are its parts."""
UNSHOWN = ("reward_spread", "reward_faults")
LATE = "training ended before its turn"
UNDRAWN = "not drawn: `max_train_samples` asks for fewer"
HELD_OUT = "held_out_"
"""Before the names of measures on held-out rows in the log."""


def tuning_facts(name: str, artifact: Artifact) -> TuningFacts:
    """What the report says of one tuning."""
    record = TrainingRecord.read(artifact)
    settings = artifact.manifest.settings
    base = find_lineage_origin(artifact)
    parameters = _json(base, "model.json").get("parameters")
    lines = _lines(artifact, "log.jsonl")
    trained = _trained(artifact) if record.trainable_parameters else {}
    return TuningFacts(
        name=name,
        technique=kind_of_part(record.technique or settings.get("technique") or ""),
        objective=kind_of_part(record.objective or settings.get("objective") or ""),
        optimizer=kind_of_part(record.optimizer or settings.get("optimizer") or ""),
        settings={
            **{key: value for key, value in flatten_settings(settings).items() if key != "kind"},
            **_chosen(record.as_json()),
        },
        steps=record.steps,
        stopped=record.stopped,
        rows=record.rows if record.rows_seen is None else record.rows_seen,
        **trained,
        tokens=_tokens_read(lines),
        learnt_tokens=record.learnt_tokens or None,  # a policy learns no token that was written before
        trainable_parameters=record.trainable_parameters,
        parameters=parameters,
        cut_rows=_cut_rows(artifact),
        rendered=tuple(RenderedRowFact.model_validate(row) for row in _json(artifact, "rendered.json").get("rows", ())),
        log=_log(lines),
        samples=_samples(lines),
        tried=_tried(artifact),
        prompts=record.prompts,
        why=record.prompt_why,
        merged=_merged(record, settings),
        privacy=describe_privacy(record),
    )


def _trained(artifact: Artifact) -> dict[str, Any]:
    """Which rows of the training split were trained on, and why the others were not."""
    if not any(entry.path == "training_examples.parquet" for entry in artifact.manifest.files):
        return {}
    import polars as pl

    rows = pl.read_parquet(artifact.path("training_examples.parquet"))
    if "seen" not in rows.columns:
        return {}
    rows = rows.unique("id", maintain_order=True)
    why = pl.col("nothing") if "nothing" in rows.columns else pl.lit(None, pl.String)
    rows = rows.select(pl.col("seen"), why.alias("why"))
    trained = rows.filter(pl.col("seen") > 0).height
    counts = rows.filter(pl.col("seen") == 0)["why"].fill_null(LATE).value_counts(sort=True)
    left_out = {str(reason): int(count) for reason, count in counts.iter_rows()}
    if (whole := _training_rows(artifact)) is None:
        return {"trained_rows": trained, "left_out": left_out}
    if whole > rows.height:
        left_out[UNDRAWN] = whole - rows.height
    return {"trained_rows": trained, "training_rows": whole, "left_out": left_out}


def _training_rows(artifact: Artifact) -> int | None:
    """Rows of the training split that a model was tuned on; None where the data set is no longer in the store."""
    try:
        data = get_training_data(artifact)
    except UnknownName:
        return None
    return DatasetSummary.read(data).rows.get("train") if data is not None else None


def find_lineage_origin(artifact: Artifact) -> Artifact:
    """The model that the lineage began with."""
    while "model" in artifact.manifest.inputs:
        artifact = artifact.parent("model")
    return artifact


def _tokens_read(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Tokens of all rows that were read, summed over the log."""
    counted = [line["tokens"] for line in lines if isinstance(line.get("tokens"), int)]
    return sum(counted) if counted else None


def flatten_settings(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, item in value.items():
            found |= flatten_settings(item, f"{prefix}.{key}" if prefix else str(key))
        return found
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {prefix: shown}


def _chosen(record: Mapping[str, Any]) -> dict[str, str]:
    """What was chosen while tuning, and why (`learning_rate`, `learning_rate_why`)."""
    return {
        key: value
        for key, value in flatten_settings(dict(record)).items()
        if f"{key}_why" in record or key.endswith("_why")
    }


def _merged(record: TrainingRecord, settings: Mapping[str, Any]) -> str:
    if record.merge is None:
        return ""
    parts = (f"{name} × {weight:g}" for name, weight in zip(settings["models"], record.weights, strict=True))
    return f"{', '.join(parts)}, by {kind_of_part(record.merge)}"


def _json(artifact: Artifact, name: str) -> dict[str, Any]:
    present = any(entry.path == name for entry in artifact.manifest.files)
    found: dict[str, Any] = artifact.read_json(name) if present else {}
    return found


def _cut_rows(artifact: Artifact) -> int | None:
    if not any(entry.path == "training_examples.parquet" for entry in artifact.manifest.files):
        return None
    import polars as pl

    trained_rows = pl.read_parquet(artifact.path("training_examples.parquet"))
    return int(trained_rows["cut"].sum()) if "cut" in trained_rows.columns else None


def _tried(artifact: Artifact) -> tuple[PromptTrialFact, ...]:
    """Each prompt where it ended, the latest round first and the best of each round before the others."""
    lines = _lines(artifact, "search.jsonl")
    ends = {line["candidate"]: index for index, line in enumerate(lines)}
    ordered = [lines[index] for index in sorted(ends.values(), key=lambda index: (-lines[index]["round"], index))]
    return tuple(
        PromptTrialFact(
            what=", ".join(dict.fromkeys((line["origin"], line["how"]))), **{name: line[name] for name in _OF_TRIED}
        )
        for line in ordered[:MOST_TRIED]
    )


_OF_TRIED = ("instruction", "rows", "score", "low", "high")


def _lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    if not any(entry.path == name for entry in artifact.manifest.files):
        return []
    lines = artifact.path(name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _log(lines: list[dict[str, Any]]) -> tuple[LogPoint, ...]:
    """The log's points; a policy's held-out loss, minus its held-out reward, is not shown beside the reward."""
    if len(lines) > MOST_POINTS:
        indices = {round(at * (len(lines) - 1) / (MOST_POINTS - 1)) for at in range(MOST_POINTS)}
        lines = [each for at, each in enumerate(lines) if at in indices or f"{HELD_OUT}loss" in each]
    return tuple(
        LogPoint(
            step=each["step"],
            loss=_number(each.get("loss")),
            held_out_loss=_number(each.get("held_out_loss")) if f"{HELD_OUT}{DRAWN[0]}" not in each else None,
            lr=_number(each.get("lr")),
            grad_norm=_number(each.get("grad_norm")),
            held_out=_held_out(each),
            drawn=_drawn(each),
        )
        for each in lines
        if "step" in each
    )


def _held_out(line: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the held-out rows in a line of the log, by metric name."""
    values = {name.removeprefix(HELD_OUT): _number(value) for name, value in line.items() if name.startswith(HELD_OUT)}
    return {name: value for name, value in values.items() if value is not None and name != "loss"}


def _drawn(line: Mapping[str, Any]) -> dict[str, float]:
    """What a line of the log tells of a policy's answers: the reward, its parts where there are several, the rest."""
    parts = sorted(name for name in line if name.startswith("reward_") and name not in UNSHOWN)
    names = [DRAWN[0], *(parts if len(parts) > 1 else ()), *DRAWN[1:]] if DRAWN[0] in line else []
    values = {name: _number(line.get(name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _samples(lines: Sequence[Mapping[str, Any]]) -> tuple[PolicySampleFact, ...]:
    """A policy's answers to the same prompts over time, prompt by prompt."""
    samples = [PolicySampleFact(step=line["step"], **entry) for line in lines for entry in line.get("samples", ())]
    order = list(dict.fromkeys(sample.id for sample in samples))
    return tuple(sorted(samples, key=lambda sample: order.index(sample.id)))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


DROPS_OF_EACH = 3
EDITS_OF_EACH = 4
MOST_EDITS = 20


def data_facts(name: str, artifact: Artifact) -> DataFacts:
    """What the report says of one data set."""
    data_summary = DatasetSummary.read(artifact)
    order = [split for split in list_splits(artifact) if split in data_summary.rows]
    order += [split for split in data_summary.rows if split not in order]
    return DataFacts(
        name=name,
        rows_in=data_summary.rows_in + sum(data_summary.made.values()),
        made=data_summary.made,
        splits={split: data_summary.rows[split] for split in order},
        dropped=data_summary.dropped,
        left_out=tuple(
            LeftOutRow(
                reason=dropped_row.reason, location=dropped_row.location, text=dropped_row.text, twin=dropped_row.twin
            )
            for dropped_row in read_dropped_rows(artifact, DROPS_OF_EACH)
        ),
        edited=data_summary.edited,
        labels=_labels(artifact, data_summary, order),
        counted=tuple(_counted(data_summary)),
        rightness=tuple(
            OperatorAccuracy(operator=operator, kind=kind, **right.model_dump())
            for operator, kinds in data_summary.measured.items()
            for kind, right in kinds.items()
        ),
        edits=tuple(_edits(artifact)),
        sources=_sources(artifact, data_summary),
    )


def _labels(artifact: Artifact, data_summary: DatasetSummary, order: list[str]) -> tuple[LabelCount, ...]:
    if not data_summary.labels:
        return ()
    present = set(list_splits(artifact))
    counts = {
        split: Counter(read_split_frame(artifact, split)["label"].to_list()) for split in order if split in present
    }
    return tuple(
        LabelCount(label=label, rows={split: count[label] for split, count in counts.items()})
        for label in data_summary.labels
    )


def _counted(data_summary: DatasetSummary) -> Iterable[OperatorCounts]:
    """The tables that operators kept, with all places in one order."""
    for operator, table in data_summary.counts.items():
        locations = tuple(sorted({location for row in table.values() for location in row}))
        yield OperatorCounts(operator=operator, locations=locations, rows=table)


def _edits(artifact: Artifact) -> Iterable[EditFact]:
    """A few edits of each operator and augmenter, different ones, in the order of the rows."""
    import polars as pl

    if not any(entry.path == "events.parquet" for entry in artifact.manifest.files):
        return
    edits = pl.scan_parquet(artifact.path("events.parquet")).filter(
        pl.col("action").is_in(["edit", "make"]) & pl.col("before").is_not_null()
    )
    few = edits.unique(["operator", "reason", "before", "after"], keep="first", maintain_order=True)
    few = few.filter(pl.int_range(pl.len()).over("operator") < EDITS_OF_EACH).head(MOST_EDITS)
    for event in few.collect().iter_rows(named=True):
        yield EditFact(
            operator=event["operator"],
            reason=event["reason"] or "",
            location=_place(event),
            before=event["before"] or "",
            after=event["after"] or "",
        )


def _place(event: dict[str, Any]) -> str:
    return format_file_location(event.get("file"), event.get("line"), event.get("row"))


def _sources(artifact: Artifact, data_summary: DatasetSummary) -> tuple[SourceFacts, ...]:
    by_name: dict[str, list[Any]] = {}
    for each in data_summary.sources:
        by_name.setdefault(each.source, []).append(each)
    reads = artifact.manifest.reads
    return tuple(
        SourceFacts(
            name=name,
            files=tuple(dict.fromkeys(each.file for each in files)),
            rows=sum(each.rows for each in files),
            digest=next((digest for part, digest in reads.items() if part.startswith(f"source.{name}.")), ""),
        )
        for name, files in by_name.items()
    )

"""A data set's artifact, read for the report: where rows went, labels, sources, and edits for example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from luthier.core.artifact import Artifact
from luthier.eval.report.facts.data import Counted, DataFacts, Edit, LabelCount, LeftOut, Rightness, Source
from luthier.text.dataset import DatasetSummary, frame, splits
from luthier.text.dropped import place_in_file, read_dropped

DROPS_OF_EACH = 3
EDITS_OF_EACH = 4
MOST_EDITS = 20


def data_facts(name: str, artifact: Artifact) -> DataFacts:
    """What the report says of one data set."""
    told = DatasetSummary.read(artifact)
    order = [split for split in splits(artifact) if split in told.rows]
    order += [split for split in told.rows if split not in order]
    return DataFacts(
        name=name,
        rows_in=told.rows_in + sum(told.made.values()),
        made=told.made,
        splits={split: told.rows[split] for split in order},
        dropped=told.dropped,
        left_out=tuple(
            LeftOut(reason=one.reason, place=one.place, text=one.text, twin=one.twin)
            for one in read_dropped(artifact, DROPS_OF_EACH)
        ),
        edited=told.edited,
        labels=_labels(artifact, told, order),
        counted=tuple(_counted(told)),
        rightness=tuple(
            Rightness(operator=operator, kind=kind, **right.model_dump())
            for operator, kinds in told.measured.items()
            for kind, right in kinds.items()
        ),
        edits=tuple(_edits(artifact)),
        sources=_sources(artifact, told),
    )


def _labels(artifact: Artifact, told: DatasetSummary, order: list[str]) -> tuple[LabelCount, ...]:
    if not told.labels:
        return ()
    present = set(splits(artifact))
    counts = {split: Counter(frame(artifact, split)["label"].to_list()) for split in order if split in present}
    return tuple(
        LabelCount(label=label, rows={split: count[label] for split, count in counts.items()}) for label in told.labels
    )


def _counted(told: DatasetSummary) -> Iterable[Counted]:
    """The tables that operators kept, with all places in one order."""
    for operator, table in told.counts.items():
        places = tuple(sorted({place for row in table.values() for place in row}))
        yield Counted(operator=operator, places=places, rows=table)


def _edits(artifact: Artifact) -> Iterable[Edit]:
    """A few edits of each operator and augmenter, different ones, in the order of the rows."""
    import polars as pl

    if not any(entry.path == "events.parquet" for entry in artifact.manifest.files):
        return
    edits = pl.scan_parquet(artifact.path("events.parquet")).filter(
        pl.col("action").is_in(["edit", "make"]) & pl.col("before").is_not_null()
    )
    few = edits.unique(["operator", "reason", "before", "after"], keep="first", maintain_order=True)
    few = few.filter(pl.int_range(pl.len()).over("operator") < EDITS_OF_EACH).head(MOST_EDITS)
    for told in few.collect().iter_rows(named=True):
        yield Edit(
            operator=told["operator"],
            reason=told["reason"] or "",
            place=_place(told),
            before=told["before"] or "",
            after=told["after"] or "",
        )


def _place(told: dict[str, Any]) -> str:
    return place_in_file(told.get("file"), told.get("line"), told.get("row"))


def _sources(artifact: Artifact, told: DatasetSummary) -> tuple[Source, ...]:
    by_name: dict[str, list[Any]] = {}
    for each in told.sources:
        by_name.setdefault(each.source, []).append(each)
    reads = artifact.manifest.reads
    return tuple(
        Source(
            name=name,
            files=tuple(dict.fromkeys(each.file for each in files)),
            rows=sum(each.rows for each in files),
            digest=next((digest for part, digest in reads.items() if part.startswith(f"source.{name}.")), ""),
        )
        for name, files in by_name.items()
    )

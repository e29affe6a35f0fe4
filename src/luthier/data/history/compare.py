"""Two versions of a data set, row by row: added, lost, changed, moved between splits."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.artifacts.dataset import MADE, list_source_datasets, list_splits
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions


class _Seen(NamedTuple):
    split: str
    position: tuple[str, int]
    content: int
    """A digest of text and label, for this process alone."""
    is_made: bool
    """Whether it was made of another row: then it stands at that row's place."""


class DatasetComparison(BaseModel):
    """Ids by what became of them from the first data set to the second, each list in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    same: int
    """Rows that are the same, in the same split."""
    added: list[str]
    lost: list[str]
    """Rows of the first that the second does not have."""
    lost_because: dict[str, int]
    """Why, as far as the second and the data sets that it was made from say: their reasons for dropping them; `not in
    its source` for the rest."""
    changed: list[str]
    """Rows whose text or label differs: cleaned in another way, or rewritten at the same place of the same file."""
    moved: dict[str, list[str]]
    """Rows in another split than before, by `train -> test`."""

    def counts(self) -> dict[str, int]:
        """The lengths of all lists."""
        moved = sum(len(ids) for ids in self.moved.values())
        return {
            "same": self.same,
            "added": len(self.added),
            "lost": len(self.lost),
            "changed": len(self.changed),
            "moved": moved,
        }


def compare_datasets(first: Artifact, second: Artifact) -> DatasetComparison:
    """Match rows by id (the content as it was read), and the rest by file and line."""
    before, after = _rows(first), _rows(second)
    both = [name for name in before if name in after]
    lost = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    at = {after[name].position: name for name in added if not after[name].is_made}
    rewritten = {
        name: at[before[name].position] for name in lost if before[name].position in at and not before[name].is_made
    }
    changed = [name for name in both if before[name].content != after[name].content]
    moved: dict[str, list[str]] = {}
    for name in both:
        if before[name].split != after[name].split:
            moved.setdefault(f"{before[name].split} -> {after[name].split}", []).append(name)
    gone = [name for name in lost if name not in rewritten]
    odd = {*changed, *(name for names in moved.values() for name in names)}
    return DatasetComparison(
        same=len(both) - len(odd),
        added=[name for name in added if name not in rewritten.values()],
        lost=gone,
        lost_because=_reasons(second, gone),
        changed=[*changed, *rewritten.values()],
        moved=dict(sorted(moved.items())),
    )


def _rows(artifact: Artifact) -> dict[str, _Seen]:
    import polars as pl

    content = pl.struct("messages", "label").hash().alias("content")
    columns = ("id", "file", "line", content, pl.col("meta").str.contains(f'"{MADE}"', literal=True))
    return {
        name: _Seen(split, (file, line), digest, made)
        for split in list_splits(artifact)
        for name, file, line, digest, made in pl.scan_parquet(artifact.path(f"examples/{split}.parquet"))
        .select(*columns)
        .collect()
        .iter_rows()
    }


def _reasons(artifact: Artifact, lost: list[str]) -> dict[str, int]:
    """Why the second data set, or one that it was made from, dropped these rows; the latest word counts."""
    import polars as pl

    found: dict[str, str] = {}
    for made in list_source_datasets(artifact):
        events = pl.read_parquet(made.path("events.parquet"))
        drops = events.filter((pl.col("action") == "drop") & pl.col("id").is_in(lost)).select("id", "reason")
        for name, reason in drops.iter_rows():
            found.setdefault(name, reason.partition(": ")[0])
    counts: dict[str, int] = {}
    for name in lost:
        reason = found.get(name, "not in its source")
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))

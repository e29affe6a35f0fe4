"""From scores back to the data: rows with file and line, harmful rows, and their removal as a suggested fix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import read_examples
from luthier.artifacts.findings import (
    EVENTS,
    Finding,
    FindingNumber,
    Findings,
    FlaggedRow,
    format_file_location,
    read_flagged_rows,
    write_findings,
)
from luthier.artifacts.influence import HARMFUL, SCORES, InfluentialRow, LabelDoubtAgreement
from luthier.chat.messages import answer_of, prompt_of
from luthier.core.events import format_counted_noun

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.core.artifact import Artifact

_CLIP = 160
_NAMED = 20
OUTLYING = 2.0
"""Robust standard deviations below the median from which a row's score counts as harmful."""
_NORMAL = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of normal scores."""
DOUBTS = "label_errors"
"""The finding of a validation that lists likely label errors."""


class ScoredRows:
    """The training rows with the scores of the best method."""

    def __init__(self, data: Artifact, keys: Sequence[str], scores: Sequence[float], findings: Artifact | None) -> None:
        by_id = {example.id: example for example in read_examples(data, "train")}
        self._data = data
        self._examples: list[Example] = [by_id[key] for key in keys]
        self._scores = list(scores)
        marks = read_flagged_rows(findings) if findings is not None else ()
        self._doubted = {mark.id for mark in marks if mark.finding == DOUBTS}
        self._has_findings = findings is not None

    def describe(
        self, most: int, p_values: Mapping[int, float] | None = None
    ) -> tuple[list[InfluentialRow], list[InfluentialRow]]:
        """Return proponents and opponents, strongest first; `p_values` are those of harmful rows, by index."""
        order = sorted(range(len(self._scores)), key=lambda at: -self._scores[at])
        ahead = [at for at in order[:most] if self._scores[at] > 0]
        behind = [at for at in order[::-1][:most] if self._scores[at] < 0]
        edits, twins = self._history({self._examples[at].id for at in (*ahead, *behind)})
        known = p_values or {}
        proponents = [self._build_row(at, edits, twins) for at in ahead]
        opponents = [self._build_row(at, edits, twins).model_copy(update={"p": known.get(at)}) for at in behind]
        return proponents, opponents

    def _build_row(
        self, at: int, edits: Mapping[str, Sequence[str]], twins: Mapping[str, Sequence[str]]
    ) -> InfluentialRow:
        example = self._examples[at]
        question = next((entry.content for entry in reversed(prompt_of(example)) if entry.role == "user"), "")
        return InfluentialRow(
            id=example.id,
            score=self._scores[at],
            file=example.origin.file,
            line=example.origin.line,
            label=example.label,
            text=" ".join(question.split())[:_CLIP],
            answer=" ".join(answer_of(example).split())[:_CLIP],
            edits=tuple(edits.get(example.id, ())),
            twins=tuple(twins.get(example.id, ())),
            doubted=example.id in self._doubted,
        )

    def _history(self, ids: set[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return the edits of some rows by operators, and the locations of their duplicates."""
        import polars as pl

        edits, twins = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        if not any(entry.path == EVENTS for entry in self._data.manifest.files):
            return edits, twins
        events = pl.scan_parquet(self._data.path(EVENTS)).filter(pl.col("id").is_in(ids) | pl.col("twin").is_in(ids))
        for event in events.collect().iter_rows(named=True):
            if event["action"] == "drop":
                if event["twin"] in ids:
                    twins[event["twin"]].append(format_file_location(event["file"], event["line"]))
            elif event["id"] in ids and event["operator"] not in edits[event["id"]]:
                edits[event["id"]].append(event["operator"])
        return edits, twins

    def harmful(self, share: float) -> list[int]:
        """Return the rows far below the others and below zero, worst first; at most a share of all."""
        import numpy

        values = numpy.asarray(self._scores)
        middle = float(numpy.median(values))
        spread = _NORMAL * float(numpy.median(numpy.abs(values - middle)))
        least = min(0.0, middle - OUTLYING * spread)
        worst = [at for at in sorted(range(len(values)), key=lambda at: self._scores[at]) if self._scores[at] < least]
        return worst[: int(share * len(values))]

    def agreement(self, harmful: Sequence[int]) -> LabelDoubtAgreement | None:
        """Compare the harmful rows with those whose labels a validation doubts."""
        if not self._has_findings:
            return None
        from scipy.stats import hypergeom

        doubted = sum(example.id in self._doubted for example in self._examples)
        both = sum(self._examples[at].id in self._doubted for at in harmful)
        expected = len(harmful) * doubted / len(self._examples)
        p = float(hypergeom.sf(both - 1, len(self._examples), doubted, len(harmful)))
        return LabelDoubtAgreement(harmful=len(harmful), doubted=doubted, both=both, expected=expected, p=min(1.0, p))

    def write_findings(self, folder: Path, harmful: Sequence[int], query: str, verified: str, tested: str = "") -> None:
        """Write the finding of harmful rows, with their removal as the suggested fix; `tested` describes its
        significance.
        """
        count, whole = len(harmful), len(self._examples)
        about = "share of training rows that raise the loss of what was asked"
        number = FindingNumber(value=count / whole, rows=whole, about=about, share=True)
        agreement = self.agreement(harmful)
        agreeing = ""
        if agreement is not None:
            agreeing = f" Confident learning doubts the labels of {agreement.both} of them (p {agreement.p:.2g})."
        finding = Finding(
            name=HARMFUL,
            severity="warning" if count else "info",
            title="Rows that hurt" if count else "Rows",
            sentence=f"{format_counted_noun(count, 'row')} of {whole:,} raise the loss of {query} ({verified})."
            + (f" {tested}" if tested else "")
            + (agreeing if count else ""),
            rows=count,
            numbers={HARMFUL: number},
            hint="Read the rows, the worst first; correct them at the source, or leave them out by their ids."
            if count
            else "",
            mend=self._suggest_exclusions(harmful),
        )
        marks = [FlaggedRow(HARMFUL, self._examples[at].id, "train", self._scores[at]) for at in harmful]
        write_findings(folder, Findings(rows=whole, looked_at=whole, findings=(finding,)), marks)

    def _suggest_exclusions(self, harmful: Sequence[int]) -> str:
        if not harmful:
            return ""
        ids = ", ".join(f'"{self._examples[at].id}"' for at in harmful[:_NAMED])
        more = f"  # and {len(harmful) - _NAMED:,} more: `rows.parquet`" if len(harmful) > _NAMED else ""
        return f"ops: [{{kind: exclude_ids, reason: it hurts held-out rows, ids: [{ids}]}}]{more}"

    def write_scores(self, folder: Path, scores: Mapping[str, Sequence[float]]) -> None:
        """Write every row with the scores of all methods."""
        import polars as pl

        columns: dict[str, Any] = {
            "id": [example.id for example in self._examples],
            "file": [example.origin.file for example in self._examples],
            "line": [example.origin.line for example in self._examples],
            "label": [example.label for example in self._examples],
            **{f"score.{method}": list(own) for method, own in scores.items()},
        }
        kinds = {"id": pl.String, "file": pl.String, "line": pl.Int64, "label": pl.String}
        pl.DataFrame(columns, schema_overrides=kinds).write_parquet(folder / SCORES, statistics=False)

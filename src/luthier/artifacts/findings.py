"""Findings of a validation, rows of probes and dropped rows, as files of artifacts.

- `findings.json` and `rows.parquet`: the findings of a validation, in total and for each row. `luthier.data` writes
  them; gates, reports and data cards read them.
- `probes.jsonl`: the questions of a probe and the model's completions, row by row. `luthier.eval` writes it; the
  augmenters that make training rows from failures read it.
- Dropped rows: the reason, the position in the user's file, the beginning of the text, and the row that each repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.artifacts.dataset import list_splits
from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.events import format_counted_noun
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json
from luthier.core.messages import gettext_noop

Severity = Literal["info", "warning", "serious"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "serious")
"""From the mildest to the worst."""
COUNTS: Mapping[str, Severity] = {"findings.serious": "serious", "findings.warning": "warning"}
"""Numbers that every validation has: how many findings are of this severity or worse."""
FILE, ROWS = "findings.json", "rows.parquet"
LEARNING_CURVE = ("training rows", "how")
"""The first columns of a table that is drawn as a learning curve; the metric, its low end and its high end follow.
`how` is `measured` or `foretold`."""
MEASURED, FORETOLD = "measured", "foretold"
FEWEST_ROWS = 10
"""Of fewer rows it is never said that they are fit to train on; OpenAI's fine-tuning takes no file of fewer."""
Cell = str | int | float | None


class _Plain(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )


class FindingNumber(_Plain):
    """A number with its 95 % interval where it is an estimate."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int = 0
    """Over how many rows it was taken."""
    about: str
    """What it is, in a few words."""
    share: bool = False
    """Whether it is a share of 1, to be read in per cent."""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the value itself twice when it is no estimate."""
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)


class FindingTable(_Plain):
    """Some figures under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Finding(_Plain):
    """The outcome of one data check: severity, title, sentence, numbers and a suggested fix."""

    name: str
    """What `rows.parquet` calls it: the kind of the check, and what it is about where a check has several findings."""
    severity: Severity
    title: str
    """In a few words, as a heading."""
    sentence: str
    """What was found, in plain words."""
    rows: int = 0
    """Rows that it is about; `rows.parquet` names them."""
    numbers: dict[str, FindingNumber] = {}
    """By the name that a gate's rule uses."""
    hint: str = ""
    """What to do about it."""
    mend: str = ""
    """Settings of `prepare` that do it, as YAML; empty where no setting can."""
    tables: tuple[FindingTable, ...] = ()


class Findings(_Plain):
    """All that a validation says of a data set."""

    rows: int
    """Rows of the data set."""
    looked_at: int
    """Rows that were looked at; the others are too many."""
    findings: tuple[Finding, ...]
    """The worst first."""
    skipped: dict[str, str] = {}
    """Checks that could not be made, with the reason."""

    def of(self, severity: Severity) -> list[Finding]:
        """Findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def sentence(self) -> str:
        """In plain words, whether the data are fit to train on."""
        serious, warnings = self.of("serious"), self.of("warning")
        if serious:
            return gettext_noop(
                f"The data are not fit to train on yet; {format_counted_noun(len(serious), 'serious finding')}: "
                f"{_titles(serious)}."
            )
        if self.rows < FEWEST_ROWS:
            return gettext_noop(
                f"The data are not fit to train on yet: {format_counted_noun(self.rows, 'row')}, at least "
                f"{FEWEST_ROWS} are needed."
            )
        if warnings:
            return gettext_noop(
                f"The data are fit to train on; {format_counted_noun(len(warnings), 'finding')} "
                f"{'deserves' if len(warnings) == 1 else 'deserve'} a look: {_titles(warnings)}."
            )
        return gettext_noop("No problems were found in the data.")

    @property
    def numbers(self) -> dict[str, FindingNumber]:
        """Every number by the name that a gate's rule uses."""
        found = {name: number for finding in self.findings for name, number in finding.numbers.items()}
        for name, severity in COUNTS.items():
            least = SEVERITIES.index(severity)
            count = sum(SEVERITIES.index(finding.severity) >= least for finding in self.findings)
            found[name] = FindingNumber(
                value=count, about=gettext_noop(f"findings that are {severity} or worse"), rows=self.looked_at
            )
        return found


class FlaggedRow(NamedTuple):
    """One row that a finding is about."""

    finding: str
    id: str
    split: str
    score: float | None = None
    """How far out or how doubtful the row is, by the finding's own measure."""
    note: str = ""
    """What is said of this row."""


def write_findings(folder: Path, findings: Findings, marks: Sequence[FlaggedRow]) -> None:
    """Write the findings as JSON and their flagged rows as Parquet, in the given order."""
    import polars as pl

    write_atomically(folder / FILE, (findings.model_dump_json(indent=1) + "\n").encode())
    columns = {"finding": pl.String, "id": pl.String, "split": pl.String, "score": pl.Float64, "note": pl.String}
    pl.DataFrame(marks, schema=columns, orient="row").write_parquet(folder / ROWS, statistics=False)


def read_findings(artifact: Artifact) -> Findings:
    """What a validation said."""
    return Findings.model_validate(artifact.read_json(FILE))


def read_flagged_rows(artifact: Artifact) -> Iterator[FlaggedRow]:
    """The rows of all findings, those of one finding together."""
    import polars as pl

    for row in pl.read_parquet(artifact.path(ROWS)).iter_rows():
        yield FlaggedRow(*row)


def _titles(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.title[:1].lower() + finding.title[1:] for finding in findings)


PROBED = "probes.jsonl"


class ProbeRow(BaseModel):
    """One prompt of a probe with one model's completion, the expected answer, and whether the row failed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    probe: str
    """Kind of the probe."""
    model: str
    row: str
    """Names the question; the same for all models."""
    group: str = ""
    """Whom it is about."""
    prompt: tuple[Message, ...]
    completion: str
    """What the model answered or preferred."""
    expected: str | None = None
    """What would have been right, where something would."""
    failed: bool
    """Whether this row counts against the model."""
    score: float | None = None
    """The row's own number, such as a shift of the score."""


def dump_probe_rows(rows: Sequence[ProbeRow]) -> bytes:
    """Rows as JSON lines."""
    lines = [canonical_json(row.model_dump(mode="json", exclude_defaults=True)) for row in rows]
    return "".join(line + "\n" for line in lines).encode()


def read_probe_rows(evaluation: Artifact) -> Iterator[ProbeRow]:
    """The rows of an evaluation; none when its probes asked nothing."""
    if not any(entry.path == PROBED for entry in evaluation.manifest.files):
        return
    with evaluation.path(PROBED).open(encoding="utf-8") as file:
        yield from (ProbeRow.model_validate(json.loads(line)) for line in file)


EVENTS = "events.parquet"


class DroppedRow(NamedTuple):
    """One row that was left out."""

    id: str
    file: str
    line: int | None
    row: int | None
    """Its number as a spreadsheet counts, where cells that span lines make it another one than the line's."""
    operator: str
    reason: str
    text: str
    """Its first words, personal data masked as in the data set; empty where they are not known."""
    twin: str
    """Where the row stands that it repeats, or what names it; empty where it repeats none."""
    similarity: float | None

    @property
    def category(self) -> str:
        """What it is counted under: the reason up to the colon."""
        return self.reason.partition(": ")[0]

    @property
    def location(self) -> str:
        """File and line, and the row where a spreadsheet counts another one."""
        return format_file_location(self.file, self.line, self.row)


def format_file_location(file: str | None, line: int | None, row: int | None = None) -> str:
    """`rows.csv:17`, or `rows.csv:17 (row 12)` where a spreadsheet calls the line another row."""
    where = file or "" if line is None else f"{file}:{line}"
    return where if row is None else f"{where} (row {row})"


def read_dropped_rows(artifact: Artifact, first: int | None = None) -> list[DroppedRow]:
    """All rows that were left out, or the first of each reason: the most frequent reason first, then by place."""
    import polars as pl

    if not any(entry.path == EVENTS for entry in artifact.manifest.files):
        return []
    category = pl.col("reason").str.split(": ").list.first()
    events = pl.scan_parquet(artifact.path(EVENTS)).filter(pl.col("action") == "drop").collect()
    events = events.with_columns(category=category).with_columns(count=pl.len().over("category"))
    events = events.sort("count", "category", "file", "line", descending=[True, False, False, False])
    if first is not None:
        events = events.filter(pl.int_range(pl.len()).over("category") < first)
    twins = _find_locations(artifact, events["twin"].drop_nulls().unique().to_list())
    return [_dropped(event, twins) for event in events.iter_rows(named=True)]


def _dropped(event: dict[str, Any], twins: dict[str, str]) -> DroppedRow:
    twin = event["twin"] or ""
    return DroppedRow(
        id=event["id"],
        file=event["file"] or "",
        line=event["line"],
        row=event.get("row"),
        operator=event["operator"],
        reason=event["reason"] or "",
        text=event.get("text") or event["after"] or "",  # a made row that was refused is kept as what it became
        twin=twins.get(twin, twin),
        similarity=event["similarity"],
    )


def _find_locations(artifact: Artifact, ids: Iterable[str]) -> dict[str, str]:
    """Where the rows with some ids stand, kept or dropped."""
    import polars as pl

    wanted_ids = list(ids)
    found: dict[str, str] = {}
    for name in (EVENTS, *(f"examples/{split}.parquet" for split in list_splits(artifact))):
        if wanted_ids:
            rows = pl.scan_parquet(artifact.path(name)).filter(pl.col("id").is_in(wanted_ids)).collect()
            for row in rows.iter_rows(named=True):
                found[row["id"]] = format_file_location(row["file"], row["line"], row.get("row"))
    return found

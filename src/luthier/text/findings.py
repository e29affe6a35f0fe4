"""What a validation found in a data set, as files: `findings.json` in words and numbers, `rows.parquet` row by row.

The room of data writes it; gates, reports and data cards read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.counted import counted
from luthier.core.described import described
from luthier.core.files import write_aside

Severity = Literal["info", "warning", "serious"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "serious")
"""From the mildest to the worst."""
COUNTS: Mapping[str, Severity] = {"findings.serious": "serious", "findings.warning": "warning"}
"""Numbers that every validation has: how many findings are of this severity or worse."""
FILE, ROWS = "findings.json", "rows.parquet"
FEWEST_ROWS = 10
"""Of fewer rows it is never said that they are fit to train on; OpenAI's fine-tuning takes no file of fewer."""
Cell = str | int | float | None


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)


class Number(_Plain):
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


class Table(_Plain):
    """Some figures under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Finding(_Plain):
    """One thing that was looked for, and what was found."""

    name: str
    """What `rows.parquet` calls it: the kind of the check, and what it is about where a check has several findings."""
    severity: Severity
    title: str
    """In a few words, as a heading."""
    sentence: str
    """What was found, in plain words."""
    rows: int = 0
    """Rows that it is about; `rows.parquet` names them."""
    numbers: dict[str, Number] = {}
    """By the name that a gate's rule uses."""
    remedy: str = ""
    """What to do about it."""
    mend: str = ""
    """Settings of `prepare` that do it, as YAML; empty where no setting can."""
    tables: tuple[Table, ...] = ()


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
            return (
                f"The data are not fit to train on yet; {counted(len(serious), 'serious finding')}: {_titles(serious)}."
            )
        if self.rows < FEWEST_ROWS:
            return (
                f"The data are not fit to train on yet: {counted(self.rows, 'row')}, at least {FEWEST_ROWS} are needed."
            )
        if warnings:
            verb = "deserves" if len(warnings) == 1 else "deserve"
            return (
                f"The data are fit to train on; {counted(len(warnings), 'finding')} {verb} a look: {_titles(warnings)}."
            )
        return "No problems were found in the data."

    @property
    def numbers(self) -> dict[str, Number]:
        """Every number by the name that a gate's rule uses."""
        found = {name: number for finding in self.findings for name, number in finding.numbers.items()}
        for name, severity in COUNTS.items():
            least = SEVERITIES.index(severity)
            count = sum(SEVERITIES.index(finding.severity) >= least for finding in self.findings)
            found[name] = Number(value=count, about=f"findings that are {severity} or worse", rows=self.looked_at)
        return found


class Mark(NamedTuple):
    """One row that a finding is about."""

    finding: str
    id: str
    split: str
    score: float | None = None
    """How far out or how doubtful the row is, by the finding's own measure."""
    note: str = ""
    """What is said of this row."""


def write_findings(folder: Path, findings: Findings, marks: Sequence[Mark]) -> None:
    """Write both files; marks keep their order."""
    import polars as pl

    write_aside(folder / FILE, (findings.model_dump_json(indent=1) + "\n").encode())
    columns = {"finding": pl.String, "id": pl.String, "split": pl.String, "score": pl.Float64, "note": pl.String}
    pl.DataFrame(marks, schema=columns, orient="row").write_parquet(folder / ROWS, statistics=False)


def read_findings(artifact: Artifact) -> Findings:
    """What a validation said."""
    return Findings.model_validate(artifact.read_json(FILE))


def read_marks(artifact: Artifact) -> Iterator[Mark]:
    """The rows of all findings, those of one finding together."""
    import polars as pl

    for row in pl.read_parquet(artifact.path(ROWS)).iter_rows():
        yield Mark(*row)


def _titles(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.title[:1].lower() + finding.title[1:] for finding in findings)

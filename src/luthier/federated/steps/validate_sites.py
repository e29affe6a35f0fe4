"""The step that checks the rows of all sites before anything is trained, by counts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.artifacts.findings import COUNTS, Finding, FindingNumber, Findings, FindingTable, Severity
from luthier.core.component import BasicMarker, components_by_kind
from luthier.core.files import json_bytes, write_atomically
from luthier.core.step import NotHashed, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.data.check import Check, RowNames, format_percent
from luthier.federated.analytics.run import SiteCounts
from luthier.federated.messaging.messages import CountPrivacy
from luthier.federated.obstacles import find_answers_obstacle, find_sites_obstacle
from luthier.federated.queries.schema import NO, ROWS, SCHEMA_FILE, YES, SchemaQuery
from luthier.federated.queries.validate import UNSUMMED, ValidateQuery, list_summed_checks
from luthier.federated.transport import Transport

EACH_S = 2.0
"""Seconds for a site's answers."""


class ValidateSites(Step):
    """Check the rows of all sites before training, by counts: no row, no text and no count of few rows leaves a site.

    Sites agree on the columns and the classes that enough rows have (`schema.json`), and sum what the checks of
    `validate` count. The findings have the form of those of `validate`, with each site's own numbers where there are no
    masks. What counts cannot tell is said, not passed over.
    """

    kind: Literal["validate_sites"] = "validate_sites"
    makes: ClassVar[str] = "findings"
    other_names: ClassVar[Mapping[str, str]] = {
        "clients": "sites",
        "k": "least_rows",
        "k_anonymity": "least_rows",
        "min_count": "least_rows",
    }

    sites: Annotated[tuple[str, ...], Reads("dataset"), BasicMarker()] = ()
    """The steps whose data sets are the sites, for sites on this machine. Leave it out with a transport to sites
    elsewhere, which bring their own rows."""
    checks: tuple[Check, ...] = Field(default_factory=list_summed_checks)
    """What is looked for; all checks that counts tell of and that take seconds, when not given. None: the schema
    alone."""
    least_rows: Annotated[int, BasicMarker()] = Field(default=10, ge=1)
    """Counts and names of fewer rows are not told: a site's own, or under masks those of all sites. A site's policy
    may ask for more."""
    secure: bool = False
    """Mask each site's counts, so that the coordinator learns sums over all sites alone."""
    least: int | None = Field(default=None, ge=1)
    """How many sites must answer; all of them when not given. Under masks more than two thirds."""
    privacy: CountPrivacy | None = None
    """Differential privacy of each row: every count has noise, in place of `least_rows`, and classes are named by
    counts with noise. Columns, and checks in which one row may mark others, are then left out."""
    transport: Annotated[Transport | None, NotHashed()] = None
    """How messages travel, as in `federate`."""

    @field_validator("checks", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Expand `all` and `quick` to their checks."""
        if value in ("quick", ["quick"]):
            return list_summed_checks()
        if value in ("all", ["all"]):
            return [name for name, kind in sorted(components_by_kind(Check).items()) if kind.summed != "no"]
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if why := find_sites_obstacle(self.sites, self.transport):
            raise ValueError(why)
        if why := find_answers_obstacle(len(self.site_names), self.least, secure=self.secure):
            raise ValueError(why)
        if why := ValidateQuery(checks=self.checks).refuses():
            raise ValueError(f"{why}; leave it out")
        return self

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites, in the order in which they are summed."""
        return self.sites or tuple(self.transport.members if self.transport is not None else ())

    def build_query(self) -> ValidateQuery:
        """Return the query of the checks; with noise, of those that it protects."""
        checks = self.checks
        if self.privacy is not None:
            checks = tuple(check for check in checks if check.summed == "pooled")
        return ValidateQuery(checks=checks)

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Query the sites, write `findings.json`, `rows.parquet` (without rows) and `schema.json`, and report serious
        findings.
        """
        from luthier.artifacts.findings import write_findings
        from luthier.federated.analytics.channel import open_query_channel
        from luthier.federated.analytics.run import CountSettings, QueryRun, find_count_noise

        schema, validate = SchemaQuery(), self.build_query()
        noise = None if self.privacy is None else find_count_noise(self.privacy, (schema, validate))
        settings = CountSettings(
            least_rows=self.least_rows, masks=self.secure, least=self.least, privacy=self.privacy, noise=noise
        )
        channel = open_query_channel(work, self.sites, self.transport, masks=self.secure)
        try:
            run = QueryRun(work, channel, settings)
            names = run.agree_on_names(schema)
            looks = run.count(schema, names)
            checked = run.count(validate, names) if validate.checks else SiteCounts({}, {})
            run.end()
        finally:
            channel.close()
        findings = self._conclude(validate, names, looks, checked)
        write_findings(work.folder, findings, [])
        write_atomically(work.folder / SCHEMA_FILE, json_bytes(self._record(names, looks, noise)))
        for kind, why in findings.skipped.items():
            work.events.note(f"{kind} is left out: {why}")
        for finding in (*findings.of("serious"), *findings.of("warning")):
            serious = "serious: " if finding.severity == "serious" else ""
            work.events.warning(f"{serious}{finding.title}: {finding.sentence}")
        return {"rows": findings.rows}

    def _conclude(self, query: ValidateQuery, names: RowNames, looks: SiteCounts, checked: SiteCounts) -> Findings:
        found = list(query.conclude(checked.total, names)) if query.checks else []
        slices = {site: list(query.conclude(counts, names)) for site, counts in checked.sites.items()}
        found = [_add_slices(finding, slices).model_copy(update={"mend": ""}) for finding in found]
        rows = looks.total[ROWS][ROWS]
        skipped = {} if len(self.checks) else {"checks": "the step names none"}
        for kind, every in sorted(components_by_kind(Check).items()):
            if every.summed == "no":
                skipped[kind] = f"counts cannot tell it: {UNSUMMED.get(kind, 'it reads all rows together')}"
        if self.privacy is not None:
            for check in self.checks:
                if why := ValidateQuery(checks=(check,)).find_noise_obstacle(names):
                    skipped[check.kind] = f"{why}, so that no noise protects it"
        reported = {finding.name.partition(".")[0] for finding in found}
        for check in query.checks:
            if check.kind not in reported:
                skipped[check.kind] = "no site has rows that it looks at"
        found.append(self._describe_schema(names, looks))
        found.sort(key=lambda finding: -("info", "warning", "serious").index(finding.severity))
        return Findings(rows=rows, looked_at=rows, findings=tuple(found), skipped=skipped)

    def _describe_schema(self, names: RowNames, looks: SiteCounts) -> Finding:
        """Describe the columns, and the differences between sites."""
        total = looks.total
        rows = total[ROWS][ROWS]
        table = [(name.removeprefix("has/"), cells[YES]) for name, cells in total.items() if name.startswith("has/")]
        fields = [(name, total[f"field/{name}"][YES]) for name in names.fields]
        apart = _list_differences(names, looks) if self.privacy is None else ""
        severity: Severity = "warning" if apart else "info"
        what = self._describe_promise()
        tables = [
            FindingTable(title="Rows with", columns=("what", "rows"), rows=tuple(table)),
            FindingTable(title="Turns of a row", columns=("turns", "rows"), rows=tuple(total["turns"].items())),
        ]
        if fields:
            tables.append(FindingTable(title="Columns", columns=("column", "rows with a value"), rows=tuple(fields)))
        if names.classes:
            ordered = sorted(total["class"].items(), key=lambda entry: (-entry[1], entry[0]))
            tables.append(FindingTable(title="Classes", columns=("class", "rows"), rows=tuple(ordered)))
        if looks.sites:
            by_site = tuple((site, counts[ROWS][ROWS]) for site, counts in looks.sites.items())
            tables.append(FindingTable(title="Rows of each site", columns=("site", "rows"), rows=by_site))
        return Finding(
            name="schema",
            severity=severity,
            title="Sites that differ" if apart else "Schema",
            sentence=f"{rows:,} rows, {len(names.classes)} classes and {len(names.fields)} columns; {what}."
            + (f" {apart}" if apart else ""),
            numbers={
                "schema.rows": FindingNumber(value=rows, rows=rows, about="rows of all sites"),
                "schema.classes": FindingNumber(value=len(names.classes), rows=rows, about="classes that are named"),
            },
            hint="Prepare the rows alike at all sites." if apart else "",
            tables=tuple(tables),
        )

    def _describe_promise(self) -> str:
        """Describe how small counts and single rows are protected."""
        if self.privacy is not None:
            return (
                f"\N{GREEK SMALL LETTER EPSILON} = {self.privacy.epsilon:g} at \N{GREEK SMALL LETTER DELTA} = "
                f"{self.privacy.delta:.2g} for each row, by noise in every count; what may be noise alone is told as 0"
            )
        if self.least_rows == 1:
            return "every count is told"
        return f"counts below {self.least_rows} are counted with the largest beside them"

    def _record(self, names: RowNames, looks: SiteCounts, noise: float | None) -> dict[str, Any]:
        privacy = None if self.privacy is None else self.privacy.model_dump()
        return {
            "classes": list(names.classes),
            "fields": list(names.fields),
            "least_rows": self.least_rows,
            "masked": self.secure,
            "privacy": privacy,
            "noise": noise,
            "counts": looks.total,
            "sites": looks.sites,
        }

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Describe what the coordinator sees."""
        sees = "the coordinator can see the counts of each site (there are no masks)"
        if self.secure:
            sees = "the coordinator can see sums over all sites alone (counts are masked)"
        return StepCostEstimate(
            seconds=EACH_S * max(1, len(self.site_names)),
            how="counts at each site",
            statement=f"{sees}; {self._describe_promise()}",
        )

    def measured(self) -> tuple[str, ...]:
        """The numbers of its checks, and the counts of findings."""
        return (*COUNTS, "schema.rows", "schema.classes", *(name for check in self.checks for name in check.measures))


def _add_slices(finding: Finding, slices: Mapping[str, Sequence[Finding]]) -> Finding:
    """A finding with each site's own numbers."""
    lines = [
        (site, name, _format(number), _format(number, number.low), _format(number, number.high), number.rows)
        for site, found in slices.items()
        for own in found
        if own.name == finding.name
        for name, number in own.numbers.items()
    ]
    if not lines:
        return finding
    columns = ("site", "number", "value", "low", "high", "rows")
    table = FindingTable(title="Each site", columns=columns, rows=tuple(lines))
    return finding.model_copy(update={"tables": (*finding.tables, table)})


def _format(number: FindingNumber, value: float | None = None) -> str | float | None:
    if value is None and number.low is not None:
        value = number.value
    chosen = number.value if value is None else value
    return format_percent(chosen) if number.share else chosen


def _list_differences(names: RowNames, looks: SiteCounts) -> str:
    """In what sites differ: columns and roles that some have for none of their rows, and others for many."""
    found = []
    cells = [(f"column {name!r}", f"field/{name}") for name in names.fields]
    cells += [(name.removeprefix("has/"), name) for name in looks.total if name.startswith("has/")]
    for what, group in cells:
        lacking = [site for site, counts in looks.sites.items() if not counts[group][YES] and counts[group][NO]]
        if lacking and len(lacking) < len(looks.sites):
            found.append(f"{what} at {_join(lacking)}")
    return f"There are hardly any rows with {'; '.join(found)}." if found else ""


def _join(names: Iterable[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last

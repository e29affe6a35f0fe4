"""The step that looks at a prepared data set before anything is trained on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.artifacts.findings import COUNTS
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import did_you_mean
from luthier.core.messages import gettext_noop
from luthier.core.step import DataRef, NotHashed, PlanContext, Step, StepContext, StepCostEstimate, TeacherRef
from luthier.data.check import Check

ROWS_PER_S = 300
"""Rows with all quick checks, measured on one core of a common server; many classes take longer."""
BASE_BYTES = 380 << 20
"""Memory of the process with scikit-learn and scipy."""
BYTES_A_ROW = 10_000
"""Rows with their features and probabilities."""


def _with_words(schema: dict[str, Any]) -> None:
    """The words that stand for several checks, in the schema that editors read."""
    words = {"enum": ["all", "quick"]}
    schema["anyOf"] = [words, {"type": schema.pop("type"), "items": {"anyOf": [words, schema.pop("items")]}}]


class Validate(Step):
    """Check a prepared data set; write findings with their rows, severity, numbers and remedies.

    What a check cannot do without (classes, held-out rows, a model) and does not have is said, not passed over.
    """

    kind: Literal["validate"] = "validate"
    makes: ClassVar[str] = "findings"

    data: DataRef
    """The step that made the data set."""
    model: TeacherRef = None
    """A model whose tokenizer counts tokens and whose perplexity tells unusual rows; `model` is the recipe's own."""
    checks: tuple[Check, ...] = Field(
        default=("quick",),  # type: ignore[arg-type]  # spelt out by the validator below
        min_length=1,
        json_schema_extra=_with_words,
    )
    """What is looked for: `quick` stands for all checks that take seconds, `all` for all; settings of a check that is
    named after them replace its defaults."""
    rows: int = Field(default=50_000, ge=1)
    """At most so many rows are looked at, drawn by content; that is said."""
    stop_on: Annotated[tuple[str, ...], NotHashed()] = ("few_rows",)
    """Checks whose serious finding ends the run before a step trains on these rows. `[]` trains whatever is found. Too
    few rows are a fact and stop by default; most other findings are estimates, to be read first."""

    @field_validator("checks", mode="before")
    @classmethod
    def _spelt_out(cls, value: Any) -> Any:
        """`all` and `quick` as the checks that they stand for; a check that comes again replaces the one before."""
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple):
            return value
        found: dict[str, Any] = {}
        for entry in value:
            if entry in ("all", "quick"):
                every = sorted(components_by_kind(Check).items())
                found |= {kind: kind for kind, check in every if entry == "all" or check.quick}
            else:
                found[_kind(entry) or f"{len(found)}"] = entry
        return list(found.values())

    @model_validator(mode="after")
    def _stops_on_own_checks(self) -> Self:
        if "stop_on" in self.model_fields_set:
            made = [check.kind for check in self.checks]
            for name in self.stop_on:
                if name not in made:
                    raise ValueError(
                        f"stop_on names {name!r}, which is not among the checks; {did_you_mean(name, made)}"
                    )
        return self

    def find_training_obstacle(self, artifact: Artifact) -> str:
        """The serious findings of the checks in `stop_on`."""
        from luthier.artifacts.findings import read_findings

        serious = [finding for finding in read_findings(artifact).of("serious") if finding.name in self.stop_on]
        return " ".join(finding.sentence for finding in serious)

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Look, write `findings.json` and `rows.parquet`, and say what is serious."""
        from luthier.artifacts.findings import write_findings
        from luthier.data.validate.context import CheckData
        from luthier.data.validate.run import run_checks

        started = time.perf_counter()
        data = CheckData.of(work.inputs["data"], self.rows, work.seed, work.inputs.get("model"), work.recipe_dir)
        if len(data.rows) < data.available:
            work.events.note(f"{len(data.rows):,} of {data.available:,} rows are looked at (rows: {self.rows:,})")
        count = len(self.checks)
        output = run_checks(self.checks, data, lambda at, name: work.events.progress(at, count, "checks", check=name))
        write_findings(work.folder, output.findings, output.marks)
        for kind, why in output.findings.skipped.items():
            work.events.note(f"{kind} is left out: {why}")
        for finding in (*output.findings.of("serious"), *output.findings.of("warning")):
            serious = "serious: " if finding.severity == "serious" else ""
            work.events.warning(f"{serious}{finding.title}: {finding.sentence}")
        return {"rows_per_s": len(data.rows) / max(time.perf_counter() - started, 1e-9), "rows": len(data.rows)}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows that there will be and the speed of the last time, or a common one."""
        outline = plan_context.outlines.get("data")
        rows = sum(outline.rows.values()) if outline and outline.rows else None
        if "data" in plan_context.inputs:
            from luthier.artifacts.dataset import DatasetSummary

            rows = sum(DatasetSummary.read(plan_context.inputs["data"]).rows.values())
        if rows is None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how=gettext_noop("the data are not here yet"))
        speed = plan_context.history.get("measures", {}).get("rows_per_s")
        looked, known = min(rows, self.rows), speed or ROWS_PER_S
        how = gettext_noop(f"{looked:,} rows at {known:,.0f} rows/s ({'as last time' if speed else 'typical'})")
        return StepCostEstimate(seconds=2 + looked / known, peak_bytes=BASE_BYTES + looked * BYTES_A_ROW, how=how)

    def measured(self) -> tuple[str, ...]:
        """The numbers of its checks, and the counts of findings."""
        return (*COUNTS, *(name for check in self.checks for name in check.measures))


def _kind(value: Any) -> str | None:
    if isinstance(value, Check):
        return value.kind
    kind = value.get("kind") if isinstance(value, dict) else value
    return kind if isinstance(kind, str) else None

"""The report of what a recipe made: gathered from its artifacts, written beside the recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName, Where
from luthier.core.files import write_aside
from luthier.core.step import Forecast
from luthier.flow.plan import Plan

if TYPE_CHECKING:
    from luthier.eval.report.facts import ReportFacts
    from luthier.flow.run import Result


def report_facts(plan: Plan) -> ReportFacts:
    """The facts of a report of every step that is made; `UnknownName` when none is."""
    from luthier.eval.report.collect import collect

    artifacts = {planned.name: plan.store.open(planned.digest) for planned in plan if planned.cached}
    if not any(planned.cached and not planned.step.shared for planned in plan):
        where, remedy = Where(file=plan.recipe.file), f"`luthier run {plan.recipe.file}` makes it"
        raise UnknownName("nothing of this recipe is made yet", where=where, remedy=remedy)
    return collect(
        plan.recipe.name,
        plan.recipe.text,
        artifacts,
        _forecasts(plan),
        created=time.strftime("%Y-%m-%d %H:%M"),
        recipe_file=plan.recipe.file,
    )


def facts_as_json(plan: Plan) -> dict[str, Any]:
    """The same facts for other programs."""
    return report_facts(plan).as_json()


def _forecasts(plan: Plan) -> Mapping[str, Mapping[str, Any]]:
    return {planned.name: asdict(planned.forecast or Forecast()) for planned in plan}


def write_report(plan: Plan, to: Path | None = None) -> Path:
    """Write the report as HTML (Markdown when `to` ends in .md, JSON in .json); returns the file."""
    from luthier.eval.report.page import as_json, render
    from luthier.eval.report.plain import markdown

    facts = report_facts(plan)
    path = to or plan.recipe.base / ".luthier" / "reports" / f"{plan.recipe.name}.html"
    if path.suffix == ".md":
        text = markdown(facts)
    elif path.suffix == ".json":
        text = as_json(facts)
    else:
        text = render(facts)
    write_aside(path, text.encode())
    return path


def write_run_report(result: Result) -> Path | None:
    """The report of a run; none when the recipe measures nothing and makes no data set or model."""
    from luthier.flow.plan import plan

    return write_report(plan(result.recipe, result.plan.store))


def headline(artifacts: Mapping[str, Artifact]) -> list[str]:
    """What a person wants to know first: whether the data are fit, how the models stand, what the gates say."""
    lines = []
    for artifact in artifacts.values():
        if artifact.manifest.makes == "findings":
            lines += _found(artifact)
        if artifact.manifest.makes == "evaluation":
            lines.append(str(artifact.read_json("summary.json")["verdict_sentence"]))
        if artifact.manifest.makes == "verdict":
            verdict = artifact.read_json("verdict.json")
            lines += [f"gate {rule['verdict']}: {rule['rule']}" for rule in verdict["rules"]]
    return lines


def _found(artifact: Artifact) -> list[str]:
    """Whether the data are fit to train on, and each serious finding."""
    from luthier.text.findings import read_findings

    told = read_findings(artifact)
    return [told.sentence, *(f"serious: {finding.title}: {finding.sentence}" for finding in told.of("serious"))]

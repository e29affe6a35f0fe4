"""The report of what a recipe made: gathered from its artifacts, written beside the recipe or into the store."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.digest import digest_of
from luthier.core.errors import InputError, UnknownName, Unwritable, Where
from luthier.core.files import write_aside
from luthier.core.step import Forecast
from luthier.flow.plan import STORE, Plan
from luthier.text.evaluation import EvaluationSummary

if TYPE_CHECKING:
    from luthier.eval.report.facts.report import ReportFacts
    from luthier.flow.run import Result


def report_facts(plan: Plan, beside: Sequence[str] = ()) -> ReportFacts:
    """The facts of a report of every step that is made (`UnknownName` when none is).

    `beside` names evaluations of other recipes, as recipes, RECIPE:STEP or digests.
    """
    from luthier.eval.report.collect import collect

    artifacts = {planned.name: plan.store.open(planned.digest) for planned in plan if planned.cached}
    if not any(planned.cached and not planned.step.shared for planned in plan):
        raise _nothing_made(plan)
    return collect(
        plan.recipe.name,
        plan.recipe.text,
        artifacts,
        _forecasts(plan),
        created=time.strftime("%Y-%m-%d %H:%M"),
        recipe_file=plan.recipe.file,
        overrides=plan.recipe.overrides,
        beside=dict(_evaluation(word) for word in beside),
    )


def _nothing_made(plan: Plan) -> UnknownName:
    """That there is nothing to report; runs with other settings are named."""
    error = _unmade(plan)
    yet = not any(plan.runs_that_made(name) for name in plan.unmade)
    what = "nothing of this recipe is made yet" if yet else error.message
    return UnknownName(what, where=Where(file=plan.recipe.file), remedy=error.remedy)


def _unmade(plan: Plan) -> UnknownName:
    """The error that a step is not made: of the last that an earlier run made with other settings, if any."""
    last = next((name for name in reversed(plan.unmade) if plan.runs_that_made(name)), plan.unmade[-1])
    return plan.not_made(last, "report {}", whole=True)


def tell_unmade(plan: Plan) -> str:
    """Which steps a report lacks, and the command that reports the run that made them; empty where it lacks none."""
    if not plan.unmade:
        return ""
    error = _unmade(plan)
    return f"without {', '.join(plan.unmade)}: {error.message}\n  → {error.remedy}"


def _evaluation(word: str) -> tuple[str, Artifact]:
    """An evaluation by its word, and what to call it."""
    from luthier.flow.compare import find_compared

    found = find_compared(word)
    makes = found.artifact.manifest.makes
    if makes != "evaluation":
        what = f"expected an evaluation to stand beside, got a {makes}"
        raise InputError(what, where=Where(field=word), remedy="name a step that evaluates, as RECIPE:STEP")
    return found.name, found.artifact


def facts_as_json(plan: Plan, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The same facts for other programs."""
    return report_facts(plan, beside).as_json()


def _forecasts(plan: Plan) -> Mapping[str, Mapping[str, Any]]:
    return {planned.name: asdict(planned.forecast or Forecast()) for planned in plan}


Form = Literal["html", "markdown", "json", "junit", "github"]
_FORMS: Mapping[str, Form] = {".md": "markdown", ".json": "json", ".xml": "junit"}
"""What the end of a file's name says of its form; any other is a page."""


def write_report(plan: Plan, to: Path | None = None, form: Form | None = None, beside: Sequence[str] = ()) -> Path:
    """Write the report, in the form that the end of the file's name says unless one is given; returns the file.

    Without a file's name, a report that lacks steps, and that of a past run, is a page of its own: it never takes the
    place of a whole report.
    """
    if to is None:
        return _write_page(plan, _ending(plan), report_text(plan, form or "html", beside))
    text = report_text(plan, form or _FORMS.get(to.suffix.lower(), "html"), beside)
    write_aside(to, text.encode(), _elsewhere(plan))
    return to


def _ending(plan: Plan) -> str:
    """How the name of a report's page ends."""
    if plan.run is not None:
        return f"-{plan.run}.html"
    return ".part.html" if plan.unmade else ".html"


def _write_page(plan: Plan, ending: str, text: str) -> Path:
    """Write a page beside the recipe, or into the store where that folder cannot be written; returns the file."""
    recipe = plan.recipe
    beside = recipe.base / STORE / "reports" / f"{recipe.name}{ending}"
    try:
        write_aside(beside, text.encode(), _elsewhere(plan))
    except Unwritable:
        if plan.store.root.absolute() == (recipe.base / STORE).absolute():
            raise
        of_folder = digest_of(str(recipe.base.absolute()))[:8]  # recipes of other folders may have the same name
        page = plan.store.root / "reports" / f"{recipe.name}-{of_folder}{ending}"
        write_aside(page, text.encode(), _elsewhere(plan))
        return page
    return beside


def _elsewhere(plan: Plan) -> str:
    return f"name another file: `luthier report {shlex.join([plan.recipe.file, *plan.recipe.overrides])} --to FILE`"


def report_text(plan: Plan, form: Form, beside: Sequence[str] = ()) -> str:
    """The report as a page, Markdown or JSON; or its gates' rules for a CI system (`InputError` when there is none)."""
    from luthier.eval.report.page import as_json, render
    from luthier.eval.report.plain import markdown
    from luthier.eval.report.verdicts import junit, workflow_commands

    facts = report_facts(plan, beside)
    if form in ("junit", "github") and not facts.gates:
        remedy = "add a step `{kind: gate, report: …, rules: [...]}`, or run the recipe so that its gate is made"
        where = Where(file=plan.recipe.file)
        raise InputError(f"{form} shows the rules of gates, and none is made", where=where, remedy=remedy)
    writers: Mapping[Form, Callable[[ReportFacts], str]] = {
        "html": render,
        "markdown": markdown,
        "json": as_json,
        "junit": junit,
        "github": lambda told: workflow_commands(told, _places(plan)),
    }
    return writers[form](facts)


def _places(plan: Plan) -> Mapping[tuple[str, int], Where]:
    """Where in the recipe each rule of each gate was written."""
    return {
        (planned.name, number): plan.recipe.where(("steps", planned.name, "rules", number))
        for planned in plan
        for number in range(len(getattr(planned.step, "rules", ())))
    }


def write_run_report(result: Result) -> Path | None:
    """The report of a run; none when nothing but a base model was made.

    A report that lacks steps is a page of its own, so that it never takes the place of a whole run's.
    """
    from luthier.flow.plan import plan

    if all(result.plan[name].step.shared for name in result.steps):
        return None
    now = plan(result.recipe, result.plan.store, ())
    return _write_page(now, ".part.html" if result.unmade else ".html", report_text(now, "html"))


def headline(artifacts: Mapping[str, Artifact]) -> list[str]:
    """What a person wants to know first: whether the data are fit, how the models stand, what the gates say."""
    lines = []
    for artifact in artifacts.values():
        if artifact.manifest.makes == "findings":
            lines += _found(artifact)
        if artifact.manifest.makes == "judgments":
            told = artifact.read_json("people.json")
            lines += [told["sentence"], told["stop"]]
        if artifact.manifest.makes == "evaluation":
            lines.append(EvaluationSummary.read(artifact).verdict_sentence)
        if artifact.manifest.makes == "verdict":
            verdict = artifact.read_json("verdict.json")
            lines += [f"gate {rule['verdict']}: {rule['rule']}" for rule in verdict["rules"]]
    return lines


def _found(artifact: Artifact) -> list[str]:
    """Whether the data are fit to train on, and each serious finding."""
    from luthier.text.findings import read_findings

    told = read_findings(artifact)
    return [told.sentence, *(f"serious: {finding.title}: {finding.sentence}" for finding in told.of("serious"))]

"""The report of what a recipe made: gathered from its artifacts, written beside the recipe or into the store."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.artifacts.evaluation import EvaluationSummary
from luthier.artifacts.explanation_kinds import read_explanation_sentence
from luthier.artifacts.search import SearchRecord, has_search_record
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, SourceLocation, SystemResourceError, UnknownName
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.core.step import StepCostEstimate
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import STORE

if TYPE_CHECKING:
    from luthier.eval.report.facts.report import ReportFacts
    from luthier.eval.report.html import PageLanguage
    from luthier.recipe.locate import CommandTarget
    from luthier.recipe.runner import RunResult


def report_facts(plan: RecipePlan, compare_with: Sequence[CommandTarget] = ()) -> ReportFacts:
    """The facts of a report of every step that is made (`UnknownName` when none is).

    `beside` names evaluations of other recipes, as recipes, RECIPE:STEP or digests.
    """
    from luthier.eval.report.collect import collect_report_facts

    artifacts = {planned.name: plan.store.open(planned.digest) for planned in plan if planned.cached}
    if not any(planned.cached and not planned.step.shared for planned in plan):
        raise _nothing_made(plan)
    return collect_report_facts(
        plan.recipe.name,
        plan.recipe.text,
        artifacts,
        _forecasts(plan),
        created=time.strftime("%Y-%m-%d %H:%M"),
        recipe_file=plan.recipe.file,
        overrides=plan.recipe.overrides,
        compare_with=dict(map(_evaluation, compare_with)),
    )


def _nothing_made(plan: RecipePlan) -> UnknownName:
    """That there is nothing to report; runs with other settings are named."""
    error = _unmade(plan)
    yet = not any(plan.runs_that_made(name) for name in plan.unmade)
    what = "nothing of this recipe is made yet" if yet else error.message
    return UnknownName(what, where=SourceLocation(file=plan.recipe.file), hint=error.hint)


def _unmade(plan: RecipePlan) -> UnknownName:
    """The error that a step is not made: of the last that an earlier run made with other settings, if any."""
    last = next((name for name in reversed(plan.unmade) if plan.runs_that_made(name)), plan.unmade[-1])
    return plan.not_made(last, "report {}", whole=True)


def describe_missing_steps(plan: RecipePlan) -> str:
    """Which steps a report lacks, and the command that reports the run that made them; empty where it lacks none."""
    if not plan.unmade:
        return ""
    error = _unmade(plan)
    return f"without {', '.join(plan.unmade)}: {error.message}\n  → {error.hint}"


def _evaluation(target: CommandTarget) -> tuple[str, Artifact]:
    """An evaluation, and what to call it."""
    from luthier.recipe.compare import find_comparable_artifact

    artifact_ref = find_comparable_artifact(target)
    makes = artifact_ref.artifact.manifest.makes
    if makes != "evaluation":
        what = f"expected an evaluation to compare with, got a {makes}"
        where, hint = SourceLocation(field=str(target)), "name a step that evaluates, as RECIPE:STEP"
        raise InputError(what, where=where, hint=hint)
    return artifact_ref.name, artifact_ref.artifact


def facts_as_json(plan: RecipePlan, compare_with: Sequence[CommandTarget] = ()) -> dict[str, Any]:
    """Return the report's facts as JSON."""
    return report_facts(plan, compare_with).as_json()


def _forecasts(plan: RecipePlan) -> Mapping[str, Mapping[str, Any]]:
    return {planned.name: asdict(planned.forecast or StepCostEstimate()) for planned in plan}


Form = Literal["html", "markdown", "json", "junit", "github"]
_FORMS: Mapping[str, Form] = {".md": "markdown", ".json": "json", ".xml": "junit"}
"""What the end of a file's name says of its form; any other is a page."""


def write_report(
    plan: RecipePlan, to: Path | None = None, form: Form | None = None, compare_with: Sequence[CommandTarget] = ()
) -> Path:
    """Write the report, in the form that the end of the file's name says unless one is given; returns the file.

    Without a file's name, a report that lacks steps, and that of a past run, is a page of its own: it never takes the
    place of a whole report.
    """
    if to is None:
        return _write_page(plan, _ending(plan), render_report(plan, form or "html", compare_with))
    text = render_report(plan, form or _FORMS.get(to.suffix.lower(), "html"), compare_with)
    write_atomically(to, text.encode(), _elsewhere(plan))
    return to


def _ending(plan: RecipePlan) -> str:
    """How the name of a report's page ends."""
    if plan.run is not None:
        return f"-{plan.run}.html"
    return ".part.html" if plan.unmade else ".html"


def _write_page(plan: RecipePlan, ending: str, text: str) -> Path:
    """Write a page beside the recipe, or into the store where that folder cannot be written; returns the file."""
    recipe = plan.recipe
    path = recipe.recipe_dir / STORE / "reports" / f"{recipe.name}{ending}"
    try:
        write_atomically(path, text.encode(), _elsewhere(plan))
    except SystemResourceError:
        if plan.store.root.absolute() == (recipe.recipe_dir / STORE).absolute():
            raise
        of_folder = digest_of(str(recipe.recipe_dir.absolute()))[:8]  # recipes of other folders may have the same name
        page = plan.store.root / "reports" / f"{recipe.name}-{of_folder}{ending}"
        write_atomically(page, text.encode(), _elsewhere(plan))
        return page
    return path


def _elsewhere(plan: RecipePlan) -> str:
    return f"name another file: `luthier report {shlex.join([plan.recipe.file, *plan.recipe.overrides])} --to FILE`"


def render_report(
    plan: RecipePlan, form: Form, compare_with: Sequence[CommandTarget] = (), language: PageLanguage | None = None
) -> str:
    """The report as a page, Markdown or JSON; or its gates' rules for a CI system (`InputError` when there is none).

    A page is in English unless a language is given; the other forms always are.
    """
    from luthier.eval.report.ci import render_github_annotations, render_junit_xml
    from luthier.eval.report.html import ENGLISH, render_report_page, report_facts_to_json
    from luthier.eval.report.markdown import render_report_markdown

    facts = report_facts(plan, compare_with)
    if form in ("junit", "github") and not facts.gates:
        hint = "add a step `{kind: gate, evaluation: …, rules: [...]}`, or run the recipe so that its gate is made"
        where = SourceLocation(file=plan.recipe.file)
        raise InputError(f"{form} shows the rules of gates, and none is made", where=where, hint=hint)
    writers: Mapping[Form, Callable[[ReportFacts], str]] = {
        "html": lambda record: render_report_page(record, language or ENGLISH),
        "markdown": render_report_markdown,
        "json": report_facts_to_json,
        "junit": render_junit_xml,
        "github": lambda record: render_github_annotations(record, _places(plan)),
    }
    return writers[form](facts)


def _places(plan: RecipePlan) -> Mapping[tuple[str, int], SourceLocation]:
    """Where in the recipe each rule of each gate was written."""
    return {
        (planned.name, number): plan.recipe.where(("steps", planned.name, "rules", number))
        for planned in plan
        for number in range(len(getattr(planned.step, "rules", ())))
    }


def write_run_report(result: RunResult) -> Path | None:
    """The report of a run; none when nothing but a base model was made.

    A report that lacks steps is a page of its own, so that it never takes the place of a whole run's.
    """
    from luthier.recipe.planner import build_recipe_plan

    if all(result.plan[name].step.shared for name in result.steps):
        return None
    now = build_recipe_plan(result.recipe, result.plan.store, ())
    return _write_page(now, ".part.html" if result.unmade else ".html", render_report(now, "html"))


def summarize_artifacts(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Summarize a run in a few lines: data findings, evaluation results and gate verdicts."""
    lines = []
    for artifact in artifacts.values():
        if artifact.manifest.makes == "findings":
            lines += _found(artifact)
        if artifact.manifest.makes == "judgments":
            human_eval = artifact.read_json("human_eval.json")
            lines += [human_eval["sentence"], human_eval["stop"]]
        if artifact.manifest.makes == "explanation":
            lines.append(read_explanation_sentence(artifact))
        if has_search_record(artifact):
            lines += _describe_search(artifact)
        if artifact.manifest.makes == "influence":
            lines.append(artifact.read_json("influence.json")["sentence"])
        if artifact.manifest.makes == "evaluation":
            lines.append(EvaluationSummary.read(artifact).verdict_sentence)
        if artifact.manifest.makes == "verdict":
            verdict = artifact.read_json("gate.json")
            lines += [_describe_rule(rule["verdict"], rule["rule"]) for rule in verdict["rules"]]
    return lines


def _describe_search(model: Artifact) -> list[str]:
    """What a search decided, and whether its best score may be luck."""
    record = SearchRecord.read(model)
    return [record.verdict.sentence, *([record.luck.sentence] if record.luck and not record.luck.believed else [])]


def _describe_rule(verdict: str, rule: str) -> str:
    match verdict:
        case "PASS":
            return gettext_noop(f"gate PASS: {rule}")
        case "FAIL":
            return gettext_noop(f"gate FAIL: {rule}")
        case _:
            return gettext_noop(f"gate INCONCLUSIVE: {rule}")


def _found(artifact: Artifact) -> list[str]:
    """Whether the data are fit to train on, and each serious finding."""
    from luthier.artifacts.findings import read_findings

    findings = read_findings(artifact)
    serious = ((finding.title, finding.sentence) for finding in findings.of("serious"))
    return [findings.sentence, *(gettext_noop(f"serious: {heading}: {sentence}") for heading, sentence in serious)]

"""The report as Markdown: for a pull request, a chat, a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from luthier.eval.report import formatting, search_charts
from luthier.eval.report.facts.data import DataFacts, ValidationFacts
from luthier.eval.report.facts.explanation import ExplanationFacts, InfluenceFacts, ModelExplanationFacts
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import ComparisonFact, EvaluationFacts
from luthier.eval.report.facts.report import CostFact, GateFacts, HumanEvalFacts, ReportFacts
from luthier.eval.report.facts.search import SearchFacts
from luthier.eval.report.facts.tuning import PromptTrialFact, RenderedRowFact, TuningFacts
from luthier.eval.report.formatting import verdict_sentence
from luthier.eval.report.report_charts import (
    build_data_flow_branches,
    order_metrics,
    select_model_comparisons,
    select_probe_comparisons,
)
from luthier.eval.report.views import (
    CLOSE,
    MODEL_EXPLANATION_TITLES,
    OPEN,
    describe_measure,
    describe_outcome,
    describe_trained_rows,
    list_run_metrics,
    shorten_token_spans,
)

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|&~])")


def render_report_markdown(facts: ReportFacts) -> str:
    """The report in Markdown, shorter than the page: the answer, the tables, how to make it again."""
    parts: list[str] = [
        f"# {escape_markdown(facts.title)}",
        f"**{escape_markdown(facts.verdict_sentence)}**",
        escape_markdown(facts.created),
    ]
    if facts.privacy_sentence:
        parts.append(escape_markdown(facts.privacy_sentence))
    for gate in facts.gates:
        parts += _gate(gate)
    for at, evaluation in enumerate(facts.evaluations):
        parts += _evaluation(evaluation, opening=at == 0)
    if facts.runs:
        parts += _runs(facts)
    parts += chain.from_iterable(map(_explanation, facts.explanations))
    parts += chain.from_iterable(map(_influence, facts.influences))
    parts += chain.from_iterable(map(_model_explanation, facts.model_explanations))
    parts += chain.from_iterable(map(_people, facts.people))
    parts += chain.from_iterable(map(_validation, facts.validations))
    parts += chain.from_iterable(map(_data, facts.data))
    parts += chain.from_iterable(map(_search, facts.searches))
    parts += chain.from_iterable(map(_tuning, facts.tunings))
    parts += _costs(facts.costs)
    if facts.provenance.commands:
        parts += ["## Make it again", "```sh\n" + "\n".join(facts.provenance.commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _gate(gate: GateFacts) -> list[str]:
    rows = [
        (
            rule.rule,
            rule.verdict,
            formatting.format_score_interval(ScoreFact(value=rule.value, low=rule.low, high=rule.high)),
            rule.why,
        )
        for rule in gate.rules
    ]
    title = f"## {escape_markdown(gate.name)}: {gate.verdict}"
    return [title, render_markdown_table(("Rule", "Verdict", "Measured", "Why"), rows)] if rows else [title]


def _evaluation(facts: EvaluationFacts, *, opening: bool) -> list[str]:
    parts = [f"## Results: {escape_markdown(facts.name)}"]
    parts += [] if opening else [escape_markdown(verdict_sentence(facts))]
    parts += [f"> {escape_markdown(note)}" for note in facts.notes]
    if facts.advice:
        parts.append("### What may change it")
        parts += [
            f"{escape_markdown(f'{fact.what} {fact.why}')}\n\n```sh\n{fact.command}\n```" for fact in facts.advice
        ]
    titles = [formatting.capitalize_title(model.title) for model in facts.models]
    rows = [
        (
            formatting.get_metric_title(metric),
            *(
                formatting.format_score_interval(model.metrics[metric], metric)
                if metric in model.metrics
                else formatting.MISSING
                for model in facts.models
            ),
        )
        for metric in order_metrics(facts)
    ]
    parts.append(render_markdown_table(("Metric", *titles), rows))
    if facts.comparisons:
        parts.append(_comparisons(facts, select_model_comparisons(facts)))
    if facts.probed:
        parts.append("Tasks and probes, paired by row:")
        parts.append(_comparisons(facts, select_probe_comparisons(facts)))
    return parts


def _comparisons(facts: EvaluationFacts, shown: Sequence[ComparisonFact]) -> str:
    rows = [
        (
            formatting.get_metric_title(each.metric),
            f"{formatting.capitalize_title(facts.title(each.a))} − {formatting.capitalize_title(facts.title(each.b))}",
            formatting.format_difference(each.difference, each.low, each.high, each.metric),
            formatting.format_p_value(each.p if each.p_holm is None else each.p_holm),
            describe_outcome(each),
            f"{formatting.format_thousands(each.fixed)} / {formatting.format_thousands(each.broken)}",
        )
        for each in shown
    ]
    return render_markdown_table(("Metric", "Comparison", "Difference", "p", "Outcome", "Fixed / broken"), rows)


def _runs(facts: ReportFacts) -> list[str]:
    metrics = list_run_metrics(facts)
    rows = [
        (
            run.name,
            *(
                formatting.format_score_interval(run.scores[metric], metric)
                if metric in run.scores
                else formatting.MISSING
                for metric in metrics
            ),
        )
        for run in facts.runs
    ]
    apart = [
        f"{run.name}: {formatting.get_metric_title(each.metric)} "
        f"{formatting.format_difference(each.difference, each.low, each.high, each.metric)}, {describe_outcome(each)}"
        for run in facts.runs
        for each in run.compared
    ]
    apart += [f"{run.name} is not compared: {run.why}" for run in facts.runs if run.why]
    table = render_markdown_table(("Evaluation", *map(formatting.get_metric_title, metrics)), rows)
    listed = "\n".join(f"- {escape_markdown(line)}" for line in apart)
    return ["## Side by side", table, f"From {escape_markdown(facts.runs[0].name)}, on the same rows:\n\n{listed}"]


def _people(facts: HumanEvalFacts) -> list[str]:
    opinion = facts.opinion
    rows = [
        (
            name,
            number.about,
            formatting.format_score_interval(ScoreFact(value=number.value, low=number.low, high=number.high)),
        )
        for name, number in opinion.numbers.items()
    ]
    title = f"## What people say: {escape_markdown(facts.name)}"
    return [
        title,
        escape_markdown(f"{opinion.sentence} {opinion.stop}"),
        render_markdown_table(("Number", "What it is", "Value"), rows),
    ]


def _explanation(facts: ExplanationFacts) -> list[str]:
    """The verdict on the methods, and their measures."""
    rows = [
        (
            method.method,
            *(
                ""
                if each is None
                else formatting.format_score_interval(ScoreFact(value=each.value, low=each.low, high=each.high))
                for each in (
                    method.comprehensiveness,
                    method.sufficiency,
                    method.rank_agreement,
                    method.gain_over_random,
                )
            ),
        )
        for method in facts.summary.methods
    ]
    titles = ("Method", "Comprehensiveness", "Sufficiency", "Agrees with leave-one-out", "Over random orders")
    title = f"## Why it answers so: {escape_markdown(facts.name)}"
    return [title, escape_markdown(facts.summary.sentence), render_markdown_table(titles, rows)]


def _influence(facts: InfluenceFacts) -> list[str]:
    """What was asked, how far the scores were verified, and the strongest rows."""
    summary = facts.summary
    title = f"## Which rows taught it: {escape_markdown(facts.name)}"
    rows = [
        (
            "for" if row.score > 0 else "against",
            f"{row.score:+.3g}",
            f"{row.file or ''}:{row.line or ''}",
            escape_markdown(row.label or ""),
            escape_markdown(row.text[:80]),
        )
        for row in (*summary.proponents, *summary.opponents)
    ]
    removals = [
        f"Without the {removal.rows} strongest {removal.what} the loss changed by {removal.change:+.3g} "
        f"when retrained, without as many random rows by {removal.random.value:+.3g}."
        for removal in (summary.verification.removals if summary.verification is not None else ())
    ]
    tested = [summary.significance.sentence] if summary.significance is not None else []
    escaped = escape_markdown(" ".join([summary.sentence, *tested, *removals]))
    return [title, escaped, render_markdown_table(_INFLUENCE, rows)]


_INFLUENCE = ("Speaks", "Nats", "Row", "Label", "Text")


def _model_explanation(facts: ModelExplanationFacts) -> list[str]:
    """What was found, and the measures."""
    rows = [
        (
            describe_measure(facts.kind, name),
            formatting.format_score_interval(ScoreFact(value=each.value, low=each.low, high=each.high)),
        )
        for name, each in facts.record.measures.items()
    ]
    title = f"## {MODEL_EXPLANATION_TITLES[facts.kind]}: {escape_markdown(facts.name)}"
    return [
        title,
        escape_markdown(facts.record.sentence),
        *([render_markdown_table(("Measure", "Value"), rows)] if rows else []),
    ]


def _validation(facts: ValidationFacts) -> list[str]:
    parts = [f"## Fit to train on? {escape_markdown(facts.name)}", escape_markdown(facts.sentence)]
    for each in facts.worth_mending():
        finding = each.finding
        parts += [
            f"### {escape_markdown(finding.title)} ({finding.severity})",
            escape_markdown(f"{finding.sentence} {finding.hint}"),
        ]
        parts += ["```yaml\n" + finding.mend.replace("`", "'") + "\n```"] if finding.mend else []
    rows = [(each.finding.title, each.finding.sentence) for each in facts.in_order()]
    rows += [(kind, f"not looked at: {why}") for kind, why in facts.skipped.items()]
    return [*parts, render_markdown_table(("Looked at", "Found"), rows)] if rows else parts


def _data(facts: DataFacts) -> list[str]:
    rows = [("rows in", formatting.format_thousands(facts.rows_in))]
    rows += [
        (f"of them made by {augmenter}", formatting.format_thousands(made)) for augmenter, made in facts.made.items()
    ]
    rows += [(branch.label, formatting.format_thousands(branch.rows)) for branch in build_data_flow_branches(facts)]
    rows += [(f"edited by {operator}", formatting.format_thousands(times)) for operator, times in facts.edited.items()]
    return [f"## Data: {escape_markdown(facts.name)}", render_markdown_table(("What", "Rows"), rows)]


def _search(facts: SearchFacts) -> list[str]:
    """The verdict first, then what was spent, the rungs, the finalists and what matters."""
    record = facts.record
    parts = [f"## Search: {escape_markdown(facts.name)}", escape_markdown(record.verdict.sentence)]
    parts += [escape_markdown(record.luck.sentence)] if record.luck else []
    parts.append(render_markdown_table(("What", "Value"), search_charts.list_search_figures(facts)))
    title = formatting.get_metric_title(record.metric)
    rungs = [
        (
            f"{rung.rung}, {search_charts.describe_share(rung.share)} of the training",
            formatting.format_thousands(rung.trials),
            formatting.format_thousands(rung.failed),
            formatting.format_thousands(rung.promoted),
            formatting.format_number(rung.best, formatting.count_decimals(record.metric)),
            search_charts.describe_work(rung.work),
        )
        for rung in facts.rungs
    ]
    titles: tuple[str, ...] = ("Rung", "Trials", "Failed", "Promoted", f"Best {title}", "Spent")
    parts += ["### Rungs", render_markdown_table(titles, rungs)] if rungs else []
    aims = [aim for aim in record.aims if aim.name not in (record.metric, "parameters")]
    finalists = [
        (
            f"{finalist.trial}{', taken' if finalist.trial == record.verdict.winner else ''}",
            search_charts.describe_settings(finalist.settings),
            search_charts.describe_finalist(facts, finalist),
            formatting.format_large_number(finalist.parameters),
            *(search_charts.describe_aim(aim, finalist) for aim in aims),
        )
        for finalist in record.finalists
    ]
    titles = ("Trial", "Settings", title, "Parameters", *(formatting.get_metric_title(aim.name) for aim in aims))
    parts += ["### Finalists", render_markdown_table(titles, finalists)] if finalists else []
    shares = [
        (
            importance.branch,
            importance.setting,
            formatting.format_percentage(importance.share, 1),
            formatting.format_thousands(importance.trials),
        )
        for importance in record.importance
    ]
    titles = ("Technique", "Setting", "Share", "Trials")
    return [*parts, "### Which settings matter", render_markdown_table(titles, shares)] if shares else parts


def _tuning(facts: TuningFacts) -> list[str]:
    known = (
        ("technique", facts.technique),
        ("objective", facts.objective),
        ("merged", facts.merged),
        ("optimizer steps", formatting.format_thousands(facts.steps)),
        ("rows seen", formatting.format_thousands(facts.rows)),
        ("rows trained on", describe_trained_rows(facts)),
        ("tokens learnt", formatting.format_large_number(facts.learnt_tokens)),
        ("weights moved", formatting.format_large_number(facts.trainable_parameters)),
        ("rows cut for length", formatting.format_thousands(facts.cut_rows)),
        ("prompts tried", formatting.format_thousands(facts.prompts)),
        *(_chosen(facts.tried[0], facts.why) if facts.tried else ()),
    )
    rows = [row for row in known if row[1] not in ("", formatting.MISSING)]
    return [
        f"## Tuning: {escape_markdown(facts.name)}",
        render_markdown_table(("What", "Value"), rows),
        *_rendered(facts.rendered),
    ]


def _rendered(rows: Sequence[RenderedRowFact]) -> list[str]:
    """Training rows as the model saw them."""
    if not rows:
        return []
    parts = [f"### Rows as the model sees them\n\nTokens between {OPEN} and {CLOSE} are trained on."]
    for row in rows:
        location = f"{escape_markdown(row.file)}:{row.line}"
        parts += [f"{location}: left out, {escape_markdown(row.left_out)}"] if row.left_out else []
        for sequence in row.sequences:
            name = f", {escape_markdown(sequence.name)}" if sequence.name else ""
            cut = f", {formatting.format_thousands(row.cut_tokens)} cut off" if row.cut_tokens else ""
            trained = formatting.format_thousands(sequence.trained_tokens)
            counts = f"{formatting.format_thousands(sequence.tokens)} tokens, {trained} trained on{cut}"
            text = "".join(
                f"{OPEN}{token_span.text}{CLOSE}" if token_span.trained else token_span.text
                for token_span in shorten_token_spans(sequence)
            )
            parts.append(f"{location}{name}: {counts}\n\n" + "\n".join(f"    {line}" for line in text.split("\n")))
    return parts


def _chosen(prompt: PromptTrialFact, why: str) -> list[tuple[str, str]]:
    instruction = "the rows' own" if prompt.instruction is None else prompt.instruction or "none"
    return [("prompt chosen", prompt.what), ("its instruction", instruction), ("why", why)]


def _costs(costs: Sequence[CostFact]) -> list[str]:
    rows = [
        (
            cost.step,
            formatting.format_duration_words(cost.seconds),
            _expected(formatting.format_duration_words, cost.predicted_seconds, cost.planned_seconds),
            formatting.format_byte_size(cost.peak_bytes),
            _expected(formatting.format_byte_size, cost.predicted_peak_bytes, cost.planned_peak_bytes),
        )
        for cost in costs
    ]
    head = ("Step", "Time", "predicted", "Peak memory", "predicted")
    return ["## Cost", render_markdown_table(head, rows)] if rows else []


def _expected(format_value: Callable[[float | None], str], expected: float | None, planned: float | None) -> str:
    """What was expected when a step began, and what the plan had said where that was far from it."""
    return format_value(expected) + (f" (planned: {format_value(planned)})" if planned is not None else "")


def render_markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        [escape_markdown(cell) for cell in head],
        ["---"] * len(head),
        *([escape_markdown(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Text that Markdown takes as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))

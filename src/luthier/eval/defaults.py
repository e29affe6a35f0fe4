"""Default metrics, baselines, tasks and probes of an evaluation, and whether those asked for fit it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.component import component_of_kind, components_by_kind
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.eval.baseline import Baseline
from luthier.eval.probe import Probe, ProbeContext
from luthier.eval.task import EvalTask, HeldOutTask, TaskType
from luthier.metrics.metric import Metric, Need

if TYPE_CHECKING:
    from luthier.core.step import PlanContext

LABEL_METRICS = ("accuracy", "macro_f1", "mcc", "ece", "brier")
PAIR_METRICS = ("accuracy", "ece", "brier")
TEXT_METRICS = ("rougeL", "chrf", "token_f1", "exact_match")
_LATIN_SHARE = 0.8
"""Below this share of Latin letters among all, ROUGE counts words of any script."""


def choose_default_metrics(task: HeldOutTask) -> tuple[Metric, ...]:
    """Metrics for a task, the most important first."""
    names = PAIR_METRICS if task.pairs else LABEL_METRICS if task.kind == "label" else TEXT_METRICS
    return tuple(_metric(name, task) for name in names)


def choose_default_baselines(task: HeldOutTask) -> tuple[Baseline, ...]:
    """The baselines that suit a task, in order of their kinds."""
    found = components_by_kind(Baseline)
    able = [found[kind] for kind in sorted(found) if found[kind].suits(task)]
    return tuple(Baseline.parse(kind.model_fields["kind"].default) for kind in able)


def choose_default_tasks(task: HeldOutTask, context: ProbeContext) -> tuple[EvalTask, ...]:
    """Return `forgetting`, where a tuned model is compared with its base and the held-out rows are at least as much to
    read.
    """
    from luthier.eval.tasks.forgetting import count_question_characters

    able = [eval_model for eval_model in context.eval_models.values() if "loglikelihood" in eval_model.able]
    held_out = sum(len(message.content) for example in task.examples for message in example.messages)
    return (EvalTask.parse("forgetting"),) if len(able) > 1 and held_out >= count_question_characters() else ()


def choose_probes(task: HeldOutTask, named: tuple[Probe, ...]) -> tuple[Probe, ...]:
    """Return the probes that were named and, for preference pairs, the default probe of length and format bias."""
    if not task.pairs or any(probe.kind == "preference" for probe in named):
        return named
    return (*named, Probe.parse("preference"))


def explain_unfit_metric(metric: Metric, task: HeldOutTask | TaskType, missing: frozenset[Need] = frozenset()) -> str:
    """Return why a metric cannot be measured on a task, with answers that lack something; empty when it can."""
    if task.pairs and metric.kind not in (*LABEL_METRICS, "macro_precision", "macro_recall", "micro_f1", "weighted_f1"):
        return (
            f"{metric.kind} is about written answers, and these rows ask which of two is better (or set pairs: false)"
        )
    if "label_scores" in metric.needs and task.kind != "label":
        return f"{metric.kind} needs scores of labels, and the data set holds texts"
    if task.kind == "label" and (metric.about == "texts" or "logprobs" in metric.needs):
        return f"{metric.kind} is about texts, and the data set holds labels"
    if task.kind == "text" and metric.about == "classes":
        return f"{metric.kind} is about classes, and the data set holds texts"
    if lacks := sorted(metric.needs & missing):
        return f"{metric.kind} needs {', '.join(lacks)}, which this endpoint's answers do not have"
    return ""


def check_metrics_fit_task(
    metrics: Sequence[Metric], task: HeldOutTask | TaskType, missing: frozenset[Need] = frozenset()
) -> None:
    """Raise `RecipeError`, at its place in `metrics`, for the first metric that cannot be computed on a task; it names
    those that can."""
    for at, metric in enumerate(metrics):
        if why := explain_unfit_metric(metric, task, missing):
            hint = f"metrics that apply: {', '.join(_applicable(task, missing))}"
            hint += "; `task` in the step that prepares the data says whether answers are classes or texts"
            raise RecipeError(why, where=SourceLocation(field=f"metrics.{at}"), hint=hint)


def _applicable(task: HeldOutTask | TaskType, missing: frozenset[Need]) -> list[str]:
    """The metrics that can be measured on a task without a scorer, those that are measured by default first."""
    usual = PAIR_METRICS if task.pairs else LABEL_METRICS if task.kind == "label" else TEXT_METRICS
    known = components_by_kind(Metric)
    names = [*usual, *(name for name in sorted(known) if name not in usual)]
    parsed = {name: Metric.parse(name) for name in names if _is_plain(known[name])}
    return [
        name for name, metric in parsed.items() if not metric.scored and not explain_unfit_metric(metric, task, missing)
    ]


def _is_plain(metric: type[Metric]) -> bool:
    """Return whether a metric needs no settings."""
    return not any(field.is_required() for field in metric.model_fields.values())


def check_baselines_fit_task(baselines: Sequence[Baseline], task: HeldOutTask | TaskType) -> None:
    """Raise `RecipeError` for the first baseline that cannot answer a task."""
    for at, baseline in enumerate(baselines):
        if not baseline.can(task):
            able = [kind for kind, other in components_by_kind(Baseline).items() if other.can(task)]
            what = f"baseline {baseline.kind!r} cannot do tasks of {'pairs' if task.pairs else f'{task.kind}s'}"
            raise RecipeError(
                what, where=SourceLocation(field=f"baselines.{at}"), hint=did_you_mean(baseline.kind, able)
            )


def check_judge_fits_task(task: HeldOutTask | TaskType) -> None:
    """Raise `RecipeError` when a reward model is set for a task without written answers."""
    if task.kind != "text":
        what = "a reward model judges written answers, and these rows ask for a choice"
        hint = "set pairs: false" if task.pairs else "leave reward_model out"
        raise RecipeError(what, where=SourceLocation(field="reward_model"), hint=hint)


def _metric(name: str, task: HeldOutTask) -> Metric:
    kind = component_of_kind(Metric, name)
    other = name.startswith("rouge") and not _mostly_latin(task.references)
    return kind.model_validate({"kind": name, "words": "unicode"} if other else {"kind": name})


def _mostly_latin(texts: list[str]) -> bool:
    letters = "".join(char for text in texts for char in text if char.isalpha())
    return len(re.findall("[A-Za-z]", letters)) >= _LATIN_SHARE * len(letters)


def predict_missing_metric_inputs(plan_context: PlanContext, normalize: str) -> frozenset[Need]:
    """Return the metric inputs (label scores, log-probabilities) that a model cannot give, which may not be made
    yet."""
    from luthier.models.load import is_remote_input
    from luthier.models.sources.endpoint import EndpointModelSource

    if (artifact := plan_context.inputs.get("model")) is not None:
        return find_missing_metric_inputs(artifact, normalize)
    if not is_remote_input(plan_context):
        return frozenset()
    source = getattr(plan_context.upstream.get("model"), "source", None)
    return _inputs_of_no_endpoint(
        normalize, by_text=isinstance(source, EndpointModelSource) and source.labels == "text"
    )


def find_missing_metric_inputs(model: Artifact, normalize: str) -> frozenset[Need]:
    """Return the metric inputs (label scores, log-probabilities) that a model behind an endpoint cannot give; empty for
    local weights."""
    from luthier.models.load import is_endpoint

    if not is_endpoint(model):
        return frozenset()
    from luthier.models.lm.openai_client import read_endpoint

    return _inputs_of_no_endpoint(normalize, by_text=read_endpoint(model).labels == "text")


def _inputs_of_no_endpoint(normalize: str, *, by_text: bool) -> frozenset[Need]:
    """Return what an endpoint does not provide, by whether it only writes a label."""
    if normalize != "sum":
        raise RecipeError("changes nothing for an endpoint; leave it out", where=SourceLocation(field="normalize"))
    return frozenset({"logprobs", "label_scores"}) if by_text else frozenset({"logprobs"})

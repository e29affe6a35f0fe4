"""The step that measures a model on held-out rows, beside its base and plain baselines, in pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.core.artifact import Artifact
from luthier.core.files import json_bytes, write_atomically
from luthier.core.messages import gettext_noop
from luthier.core.scorer import Scorer
from luthier.core.step import (
    DataRef,
    ModelRef,
    PlanContext,
    Reads,
    Step,
    StepContext,
    StepCostEstimate,
    TeacherRef,
    ThresholdsRef,
)
from luthier.eval.baseline import Baseline
from luthier.eval.probe import Probe
from luthier.eval.task import EvalTask, Turns
from luthier.metrics.metric import Metric

if TYPE_CHECKING:
    from luthier.eval.evaluator import ModelResult
    from luthier.eval.local_model import InferenceSettings
    from luthier.eval.media_ablation import EvalMedia
    from luthier.eval.model import EvalModel
    from luthier.eval.probe import ProbeContext
    from luthier.eval.task import HeldOutTask, TaskType

_DECIDED = gettext_noop("The labels of the model that this is about are decided by a threshold for each group.")


class Evaluate(Step):
    """Answer held-out rows with the tuned model, its base and plain baselines; measure all and compare in pairs."""

    kind: Literal["evaluate"] = "evaluate"
    makes: ClassVar[str] = "evaluation"
    tells_of_machine: ClassVar[bool] = True
    other_names: ClassVar[Mapping[str, str]] = {
        "max_samples": "limit",
        "max_tokens": "max_new_tokens",
        "torch_dtype": "dtype",
        "precision": "dtype",
        "dataset": "data",
    }

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the model; left out, the recipe's own model is measured untuned."""
    metrics: tuple[Metric, ...] | None = Field(default=None, min_length=1)
    """What is measured, the most important first; left out, accuracy, macro_f1, mcc, ece and brier for labels, and
    rougeL, chrf, token_f1 and exact_match for texts."""
    split: Literal["test", "validation", "train"] = "test"
    """Which rows are asked."""
    baselines: tuple[Baseline, ...] | None = None
    """Plain baselines beside the models; left out, all that can do the task, `tfidf` not beside `technique: plain`,
    which is the same."""
    compare_base: bool = True
    """Whether the model that the tuned one began with answers the same rows."""
    compare_with: Annotated[str | None, Reads("model", optional=True)] = None
    """The step that made a further model to be compared with on the same rows, such as the one that is released; rules
    of a gate call it `against`: `accuracy > against`."""
    tasks: tuple[EvalTask, ...] | None = None
    """Questions beyond the held-out rows, such as benchmarks; left out, `forgetting` for a tuned model, where the
    held-out rows hold at least as much text as it does."""
    probes: tuple[Probe, ...] = ()
    """Further measures of every model, such as the gap between groups."""
    scorers: tuple[Scorer, ...] = ()
    """What gives every answer further numbers for metrics to read: a judging model, an encoder, a run of tests."""
    reward_model: TeacherRef = None
    """The step whose reward model judges every written answer, for the metrics `reward` and `reward_wins`: one that the
    model never learnt to please. None: nothing is judged so."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, drawn by content; left out, all."""
    turns: Turns = "last"
    """Which turns of the assistant's are asked of a conversation: `last`, or `all`, each after the true history before
    it; intervals and tests then go over conversations. Probes look at last turns."""
    thresholds: ThresholdsRef = None
    """The step that chose thresholds for groups, by which the labels of the model are decided; others are not."""
    normalize: Literal["sum", "mean", "prior"] = "sum"
    """How the scores of labels are made alike: `sum` of log-probabilities; `mean` a token, against a bias to short
    labels; `prior` less the label's score when the question is empty, against a bias to frequent words."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest generated answer, for tasks of texts."""
    pairs: bool = True
    """Whether rows that all hold two answers (`chosen` and `rejected`) are asked which one people preferred: models
    choose by reward, or by how likely each answer is. Otherwise the preferred one is the reference of a written
    answer."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """What models compute in. `auto`: bfloat16 where the machine multiplies it, as it tunes and serves, in a third of
    the time of float32; float32 makes answers independent of what is asked beside them."""

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, metrics: tuple[Metric, ...] | None) -> tuple[Metric, ...] | None:
        kinds = [metric.kind for metric in metrics or ()]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"{twice} is named twice; keep one of them")
        return metrics

    @model_validator(mode="after")
    def _scorers_are_read(self) -> Self:
        from luthier.eval.evaluator import explain_metric_scorer_mismatch

        if why := explain_metric_scorer_mismatch(self.metrics, self.scorers, self._columns):
            raise ValueError(why)
        return self

    @property
    def _columns(self) -> tuple[str, ...]:
        """What a reward model adds to every answer."""
        from luthier.eval.evaluator import JUDGED

        return JUDGED if self.reward_model is not None else ()

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Answer, measure, compare, and write predictions, metrics, comparisons and summary."""
        from luthier.eval.cost import measure_answer_speed
        from luthier.eval.evaluator import (
            apply_label_thresholds,
            attach_scorer_columns,
            build_evaluated_models,
            build_trained_baselines,
            evaluate_baselines,
            evaluate_language_models,
            open_evaluation_cache,
        )
        from luthier.eval.media_ablation import EvalMedia, list_media_kinds
        from luthier.eval.task import read_held_out_task
        from luthier.models.load import is_endpoint
        from luthier.models.reward_model import get_judge_rubric

        task = self._turned(read_held_out_task(work.inputs["data"], self.split, self.limit, pairs=self.pairs), work)
        metrics, baselines = self._metrics(task, work), self._baselines(task, work.inputs["model"])
        seconds: dict[str, float] = {}
        data, model = work.inputs["data"], work.inputs["model"]
        artifacts = self._models(model, work.inputs.get("compare_with"))
        question = self._question(metrics, get_judge_rubric(model) if task.pairs else None)
        media = EvalMedia(data)
        blind = set() if is_endpoint(model) else list_media_kinds(task)
        speaking = apply_label_thresholds(
            build_evaluated_models(artifacts, question, work, media, blind=blind), work.inputs.get("thresholds")
        )
        learning = build_trained_baselines(baselines, data, model)
        answer_cache = open_evaluation_cache(work)
        models = evaluate_language_models(artifacts, speaking, task, answer_cache, work.events, seconds)
        models += evaluate_baselines(learning, task, seconds)
        models = self._judged(attach_scorer_columns(models, self.scorers, task, work), task, work)
        started = time.perf_counter()
        self.write(task, metrics, models, work, [*speaking, *learning], media)
        seconds["measuring"] = time.perf_counter() - started
        return {
            "seconds": seconds,
            "rows": len(task.examples),
            **measure_answer_speed(self, work, task.kind, answer_cache),
        }

    def _judged(self, models: list[ModelResult], task: HeldOutTask, work: StepContext) -> list[ModelResult]:
        """The same models with what the reward model says of their answers, when there is one."""
        if (artifact := work.inputs.get("reward_model")) is None:
            return models
        from luthier.artifacts.media import MediaReader
        from luthier.eval.defaults import check_judge_fits_task
        from luthier.eval.evaluator import add_reward_scores
        from luthier.models.reward_model import RewardModel

        check_judge_fits_task(task)
        data = work.inputs.get("data")
        read_media = MediaReader(data).read if data is not None else None
        return add_reward_scores(models, RewardModel(artifact, self.dtype, read_media), task)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Predict from an earlier evaluation of the same kind of rows, else from the model's size; refuse what rows of
        their kind cannot be measured by."""
        from luthier.eval.cost import forecast_evaluation_cost, predict_task_type

        expected = forecast_evaluation_cost(self, plan_context)  # which refuses a split without rows
        if (task := predict_task_type(self, plan_context)) is not None:
            self._refuse_unfit(task, plan_context)
        return expected

    def _refuse_unfit(self, task: TaskType, plan_context: PlanContext) -> None:
        """`RecipeError` for what the kind of the rows, or of the model, rules out."""
        from luthier.eval.defaults import (
            check_baselines_fit_task,
            check_judge_fits_task,
            check_metrics_fit_task,
            predict_missing_metric_inputs,
        )

        if self.reward_model is not None:
            check_judge_fits_task(task)
        check_metrics_fit_task(self.metrics or (), task, predict_missing_metric_inputs(plan_context, self.normalize))
        check_baselines_fit_task(self.baselines or (), task)

    def _turned(self, task: HeldOutTask, work: StepContext) -> HeldOutTask:
        """The rows that are asked, and a note of those that are not."""
        from luthier.eval.task import count_skipped_turns, expand_task_turns

        if len(task.examples) < task.available:
            work.events.note(f"{len(task.examples):,} of {task.available:,} rows are asked (rows: {self.limit})")
        if self.turns == "last":
            return task
        out_task = expand_task_turns(task)
        silent = count_skipped_turns(task.examples)
        left = f"; {silent:,} that say nothing or are only to be read are not" if silent else ""
        work.events.note(f"{len(out_task.examples):,} turns of {len(task.examples):,} conversations are asked{left}")
        return out_task

    def _metrics(self, task: HeldOutTask, work: StepContext) -> tuple[Metric, ...]:
        from luthier.eval.defaults import check_metrics_fit_task, choose_default_metrics, find_missing_metric_inputs
        from luthier.eval.evaluator import select_scored_metrics

        missing = find_missing_metric_inputs(work.inputs["model"], self.normalize)
        if self.metrics is None:
            chosen = tuple(metric for metric in choose_default_metrics(task) if not metric.needs & missing)
            chosen += select_scored_metrics(self.scorers, self._columns)
            holds = "pairs of answers" if task.pairs else f"{task.kind}s"
            work.events.note(f"measured in {', '.join(metric.kind for metric in chosen)} (the data holds {holds})")
            return chosen
        check_metrics_fit_task(self.metrics, task, missing)
        return self.metrics

    def _baselines(self, task: HeldOutTask, model: Artifact) -> tuple[Baseline, ...]:
        from luthier.eval.defaults import check_baselines_fit_task, choose_default_baselines
        from luthier.models.load import is_plain_classifier

        if self.baselines is None:
            return tuple(
                default_baseline
                for default_baseline in choose_default_baselines(task)
                if default_baseline.kind != "tfidf" or not is_plain_classifier(model)
            )
        check_baselines_fit_task(self.baselines, task)
        return self.baselines

    def _models(self, model: Artifact, against: Artifact | None) -> dict[str, Artifact]:
        """The models to ask: the tuned one, what it is held against and what it began with, or an untuned one alone."""
        from luthier.eval.evaluator import AGAINST, BASE, TUNED, find_origin_model
        from luthier.models.load import is_tuned

        base = find_origin_model(model)
        found = {TUNED if is_tuned(model) else BASE: model}
        found |= {} if against is None else {AGAINST: against}
        return found | ({BASE: base} if base is not None and self.compare_base else {})

    def _question(self, metrics: tuple[Metric, ...], verdict: dict[str, str] | None) -> InferenceSettings:
        from luthier.eval.local_model import InferenceSettings

        return InferenceSettings(
            normalize=self.normalize,
            max_new_tokens=self.max_new_tokens,
            dtype=self.dtype,
            likelihood=any("logprobs" in metric.needs for metric in metrics),
            verdict=verdict,
        )

    def _tasks(self, task: HeldOutTask, context: ProbeContext) -> tuple[EvalTask, ...]:
        from luthier.eval.defaults import choose_default_tasks

        return choose_default_tasks(task, context) if self.tasks is None else self.tasks

    def write(
        self,
        task: HeldOutTask,
        metrics: tuple[Metric, ...],
        models: list[ModelResult],
        work: StepContext,
        eval_models: Sequence[EvalModel] = (),
        media: EvalMedia | None = None,
    ) -> None:
        """Measure replies and write the artifact; probes may ask the `build_evaluated_models`, and show them `media`
        of their own."""
        from luthier.artifacts.findings import PROBED
        from luthier.artifacts.findings import dump_probe_rows as write_probed
        from luthier.eval.cached_model import CachedEvalModel
        from luthier.eval.defaults import choose_probes
        from luthier.eval.evaluator import open_evaluation_cache, run_eval_tasks
        from luthier.eval.predictions import PREDICTIONS, write_predictions
        from luthier.eval.probe import ProbeContext
        from luthier.eval.results import measure_evaluation

        write_predictions(work.folder / PREDICTIONS, task, {model.name: model.replies for model in models})
        request_settings: dict[str, Any] = (
            {"normalize": self.normalize} if task.kind == "label" else {"max_new_tokens": self.max_new_tokens}
        )
        request_settings |= {} if self.turns == "last" else {"turns": self.turns}
        context = ProbeContext(
            task=task,
            answers={model.name: task.answers(model.replies) for model in models},
            seed=work.seed,
            data=work.inputs["data"],
            model=work.inputs.get("model"),
            eval_models={
                eval_model.name: CachedEvalModel(
                    model=eval_model, task=task, kept=open_evaluation_cache(work), events=work.events
                )
                for eval_model in eval_models
            },
            recipe_dir=work.recipe_dir,
            events=work.events,
            media=media,
            notes=[_DECIDED] if "thresholds" in work.inputs else [],
        )
        whole = context.of_last_turns()
        measures = run_eval_tasks(self._tasks(task, whole), whole, work)
        measures += [found for probe in choose_probes(task, self.probes) for found in probe.measure(whole)]
        outcome = measure_evaluation(
            metrics, models, measures, context, name=work.name, request_settings=request_settings
        )
        for warning in outcome.warnings:
            work.events.warning(warning)
        if outcome.probed:
            write_atomically(work.folder / PROBED, write_probed(outcome.probed))
        outcome.metrics.write(work.folder)
        outcome.summary.write(work.folder)
        write_atomically(work.folder / "comparisons.json", json_bytes(outcome.comparisons))

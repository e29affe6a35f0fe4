"""The step `influence`: finds which training rows a model learned an answer from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luthier.core.component import BasicMarker, add_field_descriptions
from luthier.core.errors import DataError, ModelError, RecipeError, SourceLocation, UnknownName
from luthier.core.events import format_counted_noun, take_evenly_spaced
from luthier.core.step import (
    DataRef,
    EvaluationRef,
    FindingsRef,
    PlanContext,
    Reads,
    Step,
    StepContext,
    StepCostEstimate,
)
from luthier.tune.influence.method import (
    Engine,
    EngineSettings,
    GradientMethod,
    InfluenceMethod,
    find_training_obstacle,
)
from luthier.tune.influence.methods.adam import AdamInfluence
from luthier.tune.influence.methods.nearest import Nearest
from luthier.tune.steps.tune import Tune

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.artifacts.influence import InfluenceVerification, MethodInfluence
    from luthier.chat.messages import Example
    from luthier.core.artifact import Artifact
    from luthier.tune.influence.significance import HarmTest
    from luthier.tune.influence.study import InfluenceStudy

FEW_QUESTIONS = 4
"""Number of queries up to which a sweep reads less than an index."""
LEAST_RETRAININGS = 10
_PREDICTIONS = "predictions.parquet"


class InfluenceQuery(BaseModel):
    """What is asked: rows of a split, a slice of them, those that an evaluation counts as wrong, or a text."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    split: Literal["test", "validation", "train"] = "test"
    """Which rows. Rows that were learnt from ask what taught them, themselves included."""
    where: Mapping[str, str] = {}
    """A slice: columns of the data with the value of each; `label` is the class."""
    ids: tuple[str, ...] = ()
    """Only these rows, by their ids."""
    failing: bool = False
    """Only rows that the step in `evaluation` counts as wrong."""
    limit: int = Field(default=64, ge=1)
    """Maximum number of rows, evenly spaced."""
    each: bool = False
    """Whether each row is a query of its own, so that all count the same whatever their length; scores are means over
    the queries. Otherwise their mean loss is one query."""
    text: str | None = Field(default=None, min_length=1)
    """A question in place of rows."""
    answer: str | None = Field(default=None, min_length=1)
    """The answer to the question in `text` that is explained."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.text is None) != (self.answer is None):
            raise ValueError("`text` and `answer` belong together: whose answer is explained?")
        rows = {"split", "where", "ids", "failing", "limit", "each"} & self.model_fields_set
        if self.text is not None and rows:
            raise ValueError(f"a text is asked about, so `{sorted(rows)[0]}` changes nothing; leave it out")
        return self

    def describe(self, rows: int) -> str:
        """Return the query in words."""
        if self.text is not None:
            return f"the answer {(self.answer or '')[:60]!r}"
        what = format_counted_noun(rows, f"{self.split} row")
        parts = [f"{name} {value!r}" for name, value in self.where.items()]
        parts += ["answered wrongly"] if self.failing else []
        return f"{what} ({', '.join(parts)})" if parts else what


class Influence(Step):
    """Find which training rows taught a tuned model what it answers, and which rows hurt it.

    The training must have kept states (`keep_states`). With `retrainings`, the training is repeated without random
    halves of its rows, and without the strongest ones: how well the scores foresee these is their linear datamodeling
    score (LDS). Without, the artifact says "not verified". Rows that hurt are a finding, which
    `luthier new NAME --from explain` mends; each is tested against the chance of which rows were asked about.
    """

    kind: Literal["influence"] = "influence"
    makes: ClassVar[str] = "influence"
    checkpoints: ClassVar[tuple[str, ...]] = ("retrained.json",)

    model: Annotated[str, Reads("model")]
    """The step that tuned the model."""
    data: DataRef
    """The step whose rows it learnt; the question's rows are of it, too."""
    evaluation: EvaluationRef = None
    """The evaluation that says which rows are wrong, for `query.failing`."""
    findings: FindingsRef = None
    """A validation of the data, to compare the harmful rows with those whose labels it doubts."""
    query: Annotated[InfluenceQuery, BasicMarker()] = InfluenceQuery()
    """What is asked."""
    methods: Annotated[tuple[InfluenceMethod, ...], Field(min_length=1), BasicMarker()] = (AdamInfluence(), Nearest())
    """The methods. Without retraining, the first one is shown."""
    engine: Engine | Literal["auto"] = "auto"
    """`sweep` reads all rows twice for each question, shared prefixes once; `index` keeps each row's projected gradient
    on disk, for many questions. `auto`: a sweep for at most four questions."""
    readings: Literal[2, 4] = 2
    """Forward passes over each pack in a sweep; 4 are more exact where 2 err by the curvature."""
    dimensions: int = Field(default=4096, ge=64)
    """Numbers that the index stores for each row."""
    retrainings: int = Field(default=0, ge=0)
    """Number of retrainings for the verification, at least 10. 0: not verified."""
    top: int = Field(default=10, ge=1)
    """Number of strongest rows that are removed in the verification, and shown."""
    harmful: float = Field(default=0.05, gt=0, le=0.5)
    """Maximum share of the rows that is reported as harmful."""
    dtype: Literal["float32", "float64"] = "float32"
    """Dtype of losses and gradients."""

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[InfluenceMethod, ...]) -> tuple[InfluenceMethod, ...]:
        kinds = [method.kind for method in methods]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"{twice} is named twice; keep one of them")
        return methods

    @model_validator(mode="after")
    def _budget_suffices(self) -> Self:
        if 0 < self.retrainings < LEAST_RETRAININGS:
            raise ValueError(f"a proof takes {LEAST_RETRAININGS} retrainings at least, got {self.retrainings}")
        if self.query.failing and self.evaluation is None:
            raise ValueError("`query.failing` asks an evaluation; name its step in `evaluation`")
        if self.evaluation is not None and not self.query.failing:
            raise ValueError("nothing asks the evaluation; set `query.failing`, or leave `evaluation` out")
        return self

    def choose_engine(self, questions: int) -> Engine:
        """Return the engine for a number of queries."""
        if self.engine != "auto":
            return self.engine
        return "sweep" if questions <= FEW_QUESTIONS else "index"

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Score all training rows, and write `influence.json`, `influence.parquet`, `findings.json` and
        `rows.parquet`."""
        from luthier.artifacts.influence import InfluenceSummary
        from luthier.models.load import get_model_name
        from luthier.tune.influence.rows import ScoredRows

        started = time.perf_counter()
        model, data = work.inputs["model"], work.inputs["data"]
        examples = list(self._examples(work))
        study = self._study(work, model, data, examples)
        matrices, methods = self._score(study)
        scores = {kind: matrix.mean(0).tolist() for kind, matrix in matrices.items()}
        best, verification = methods[0].method, None
        if self.retrainings:
            scores, methods, best, verification = self._verify(study, scores, methods)
        rows = ScoredRows(data, study.keys, scores[best], work.inputs.get("findings"))
        harmful = rows.harmful(self.harmful) if _in_nats(self.methods, best) else []
        test = self._test_harm(study, harmful, best, matrices[best]) if _in_nats(self.methods, best) else None
        proponents, opponents = rows.describe(self.top, None if test is None else test.p_values)
        study.open_state(study.kept_steps[-1])
        loss = sum(study.mean_loss(query) for query in study.queries) / len(study.queries)
        summary = InfluenceSummary(
            model=get_model_name(model),
            digest=model.digest,
            query=self.query.describe(len(examples)),
            query_rows=len(examples),
            loss=loss,
            rows=len(study.keys),
            methods=tuple(methods),
            best=best,
            verification=verification,
            proponents=tuple(proponents),
            opponents=tuple(opponents),
            agreement=rows.agreement(harmful),
            significance=None if test is None else test.significance,
            sentence="",
        )
        summary = summary.model_copy(update={"sentence": _summarize(summary, len(harmful))})
        summary.write(work.folder)
        tested = "" if summary.significance is None else summary.significance.sentence
        rows.write_findings(work.folder, harmful, summary.query, summary.verified, tested)
        rows.write_scores(work.folder, scores)
        work.events.note(summary.sentence)
        return {"seconds": {"influence": time.perf_counter() - started}, "rows": len(study.keys)}

    def _study(self, work: StepContext, model: Artifact, data: Artifact, examples: Sequence[Example]) -> InfluenceStudy:
        import torch

        from luthier.tune.influence.study import InfluenceStudy

        step = work.upstream.get("model")
        if not isinstance(step, Tune):
            what = f"the model was made by `{model.manifest.kind}`, and only a training has rows that taught it"
            raise ModelError(what, where=SourceLocation(field="model"), hint="name the step that tunes")
        if model.manifest.inputs.get("data") != data.digest:
            what = "the model did not learn these rows"
            raise DataError(what, where=SourceLocation(field="data"), hint="name the step that it learnt from")
        try:
            inputs = {"data": data, "model": model.parent("model")}
        except UnknownName as error:
            what = "the base of the model is no longer here"
            raise ModelError(what, where=SourceLocation(field="model"), hint="make it anew: `luthier run`") from error
        seed = model.manifest.seed if step.seed is None else step.seed
        training = replace(work, inputs=inputs, seed=seed)
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        return InfluenceStudy(step, model, training, examples, each=self.query.each, dtype=dtype)

    def _test_harm(self, study: InfluenceStudy, harmful: Sequence[int], best: str, scores: Tensor) -> HarmTest:
        """Test whether the harmful rows hurt by more than chance; `scores` are (queries, rows)."""
        from luthier.tune.influence.significance import FEWEST, assess_harm, measure_row_effects

        questions, effects, why = len(study.question_rows), None, ""
        method = next(method for method in self.methods if method.kind == best)
        if harmful and questions >= FEWEST:
            if self.query.each:
                effects = scores[:, harmful].T.numpy() / questions
            elif isinstance(method, GradientMethod):
                effects = measure_row_effects(method, study, harmful, EngineSettings())
            else:
                why = f"{best} scores the question as a whole; set `query.each`"
        return assess_harm(harmful, effects, questions=questions, rows=len(study.keys), seed=study.work.seed, why=why)

    def _score(self, study: InfluenceStudy) -> tuple[dict[str, Tensor], list[MethodInfluence]]:
        """Return (queries, rows) scores by method."""
        from luthier.artifacts.influence import MethodInfluence

        engine = self.choose_engine(len(study.queries))
        scores, methods = {}, []
        for method in self.methods:
            settings = EngineSettings(engine=engine, readings=self.readings, dimensions=self.dimensions)
            scores[method.kind] = method.score(study, settings)
            used = engine if isinstance(method, GradientMethod) else ""
            methods.append(MethodInfluence(method=method.kind, engine=used, notes=tuple(settings.notes)))
        return scores, methods

    def _verify(
        self, study: InfluenceStudy, scores: dict[str, Any], methods: list[MethodInfluence]
    ) -> tuple[dict[str, Any], list[MethodInfluence], str, InfluenceVerification]:
        import torch

        from luthier.tune.influence.verify import verify_scores

        tensors = {kind: torch.tensor(values, dtype=torch.float64) for kind, values in scores.items()}
        top = min(self.top, len(study.keys) // 2)
        lds, best, verification = verify_scores(study, tensors, self.retrainings, top)
        parts = [entry.model_copy(update={"lds": lds[entry.method]}) for entry in methods]
        return scores, parts, best, verification

    def _examples(self, work: StepContext) -> Iterator[Example]:
        """Yield the queried examples; `DataError` when there is none."""
        from luthier.artifacts.dataset import has_split, read_examples
        from luthier.chat.messages import Example, ExampleOrigin, Message

        query, data = self.query, work.inputs["data"]
        if query.text is not None and query.answer is not None:
            messages = (Message(role="user", content=query.text), Message(role="assistant", content=query.answer))
            origin = ExampleOrigin(source="query", file="", line=0)
            yield Example(id="query", origin=origin, kind="chat", messages=messages, label=_label(data, query.answer))
            return
        where = SourceLocation(field="query.split")
        if not has_split(data, query.split):
            raise DataError(f"the data set has no {query.split} rows", where=where, hint="set `split` in its step")
        selected = [example for example in read_examples(data, query.split) if self._matches_query(example)]
        if query.failing:
            wrong = _list_failed_ids(work.inputs["evaluation"])
            selected = [example for example in selected if example.id in wrong]
        if not selected:
            what = f"no {query.split} row is asked about"
            raise DataError(what, where=SourceLocation(field="query"), hint="ask about rows that there are")
        yield from take_evenly_spaced(selected, query.limit)

    def _matches_query(self, example: Example) -> bool:
        values = {**{name: str(value) for name, value in example.meta.items()}, "label": example.label}
        chosen = not self.query.ids or example.id in self.query.ids
        return chosen and all(values.get(name) == value for name, value in self.query.where.items())

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate the passes over all rows, and the retrainings; refuse trainings without computable influence."""
        step = self._upstream(plan_context)
        if step is None:
            return StepCostEstimate(how="unknown until the model is made")
        where = SourceLocation(field="model")
        if why := find_training_obstacle(step):
            raise RecipeError(f"influence cannot be told here: {why}", where=where, hint="tune by sft, classify or dpo")
        if not step.keep_states:
            hint = "set `keep_states: 4` in the step that tunes"
            raise RecipeError("the training keeps no states", where=where, hint=hint)
        for number, method in enumerate(self.methods):
            if why := method.refuses(step):
                raise RecipeError(f"{method.kind}: {why}", where=SourceLocation(field=f"methods.{number}"))
        return self._forecast(step, plan_context)

    def _upstream(self, plan_context: PlanContext) -> Tune | None:
        """Return the step that trained the model; `RecipeError` where it is of another kind."""
        step = plan_context.upstream.get("model")
        if step is not None and not isinstance(step, Tune):
            what = f"a step `{step.kind}` learns from no row"
            raise RecipeError(what, where=SourceLocation(field="model"), hint="name the step that tunes")
        return step

    def _forecast(self, step: Tune, plan_context: PlanContext) -> StepCostEstimate:
        """Scale the time of the training: a forward and backward pass counts as three readings."""
        training = plan_context.forecasts.get("model")
        questions = self.query.limit if self.query.each else 1
        engine = self.choose_engine(questions)
        readings = sum(method.count_readings(step, engine, questions) for method in self.methods)
        readings += self._count_test_readings(step, plan_context)
        how = f"{readings:g} readings of all rows"
        how += f" and {self.retrainings} trainings without rows" if self.retrainings else "; not verified by retraining"
        if training is None or training.seconds is None:
            return StepCostEstimate(how=how)
        seconds = training.seconds * (readings / (3 * step.epochs) + self.retrainings)
        return StepCostEstimate(seconds=seconds, peak_bytes=training.peak_bytes, how=how)

    def _count_test_readings(self, step: Tune, plan_context: PlanContext) -> float:
        """Return the cost of the significance test, in passes over all rows: gradients of the harmful rows and of the
        queries.
        """
        states = next((method.count_states(step) for method in self.methods if isinstance(method, GradientMethod)), 0)
        if self.query.each or self.query.text is not None:
            return 0.0
        spec = plan_context.outlines.get("data")
        rows = dict(spec.rows or {}) if spec is not None else {}
        questions = min(self.query.limit, rows.get(self.query.split, self.query.limit))
        return 3 * states * (self.harmful + questions / max(1, rows.get("train", questions)))


def _in_nats(methods: Sequence[InfluenceMethod], kind: str) -> bool:
    return next(method for method in methods if method.kind == kind).in_nats


def _label(data: Artifact, answer: str) -> str | None:
    """Return the class of an answer, where the data have classes."""
    from luthier.artifacts.dataset import DatasetSummary

    return answer if answer in DatasetSummary.read(data).labels else None


def _list_failed_ids(evaluation: Artifact) -> set[str]:
    """Return the ids of the rows that the evaluated model got wrong."""
    import polars as pl

    from luthier.artifacts.evaluation import EvaluationSummary

    frame = pl.read_parquet(evaluation.path(_PREDICTIONS), columns=["id", "model", "correct"])
    mine = frame.filter((pl.col("model") == EvaluationSummary.read(evaluation).subject) & ~pl.col("correct"))
    return set(mine["id"].to_list())


def _summarize(summary: Any, harmful: int) -> str:
    """Return the outcome in words."""
    proof = summary.verified
    rows = f"{format_counted_noun(summary.rows, 'training row')} scored by {summary.best} for {summary.query} ({proof})"
    hurt = f"{format_counted_noun(harmful, 'row')} hurt" if harmful != 1 else "1 row hurts"
    return f"{rows}; {hurt}."

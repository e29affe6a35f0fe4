"""The step that explains held-out rows, and finds out which method is faithful for a model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.component import BasicMarker
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.step import DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.explain.explainer import Explainer

if TYPE_CHECKING:
    from luthier.artifacts.explanation import ExplanationRecord
    from luthier.chat.messages import Example
    from luthier.core.artifact import Artifact
    from luthier.explain.subject import ExplanationRequest

_USUAL = ("attnlrp", "leave_one_out", "integrated_gradients", "gradient_x_input")
_WITHOUT_WEIGHTS = ("leave_one_out", "shapley")


class Explain(Step):
    """Explain the answers to held-out rows by several methods, and measure how faithful each method is.

    Methods are compared in pairs with each other and with random orders of the same units; the artifact names the one
    for this model. Rules of a gate may use `explain.comprehensiveness`, `explain.sufficiency`, `explain.rank_agreement`
    and `explain.gain_over_random` of that method, or of another (`explain.shapley.comprehensiveness`).
    """

    kind: Literal["explain"] = "explain"
    makes: ClassVar[str] = "explanation"
    other_names: ClassVar[Mapping[str, str]] = {"explainers": "methods", "max_samples": "limit", "torch_dtype": "dtype"}

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the model; left out, the recipe's own model."""
    methods: Annotated[tuple[Explainer, ...] | None, Field(min_length=1), BasicMarker()] = None
    """The explainers; `random` always comes with them. Left out: attnlrp, leave_one_out, integrated_gradients and
    gradient_x_input, or leave_one_out and shapley where the weights are not here."""
    units: Literal["turns", "documents", "shots", "sentences", "words", "tokens", "patches", "seconds"] = "words"
    """What is scored, the same for all rows. Pictures are always cut into patches, and sounds into seconds or parts of
    them; with `patches` or `seconds`, the text of each message is one unit."""
    answers: Literal["own", "reference"] = "own"
    """Whether the model's own answers are explained, or those of the rows."""
    split: Literal["test", "validation", "train"] = "test"
    """Which rows are explained."""
    limit: int = Field(default=20, ge=2)
    """At most so many rows, evenly from the first to the last."""
    orders: int = Field(default=19, ge=9, le=999)
    """Random orders of each row's units."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the model computes in."""

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[Explainer, ...] | None) -> tuple[Explainer, ...] | None:
        kinds = [method.kind for method in methods or ()]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"{twice} is named twice; keep one of them")
        return methods

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Explain rows, compare the methods, and write `explanations.jsonl` and `explain.json`."""
        from luthier.artifacts.explanation import write_explanations
        from luthier.artifacts.media import MediaReader
        from luthier.explain.compare import summarize_methods
        from luthier.explain.run import explain_question
        from luthier.explain.subject import SubjectBuilder

        started = time.perf_counter()
        model = work.inputs["model"]
        methods = self._methods(model)
        reader = MediaReader(work.inputs["data"])
        builder = SubjectBuilder(model, units=self.units, dtype=self.dtype, seed=work.seed, read_media=reader.read)
        records: dict[str, list[ExplanationRecord]] = {method.kind: [] for method in methods}
        skipped: Counter[str] = Counter()
        questions = self._questions(work.inputs["data"], model)
        for number, question in enumerate(questions, start=1):
            try:
                explanation_records = explain_question(builder, question, methods, orders=self.orders)
            except DataError as error:
                skipped[error.message] += 1
                continue
            finally:
                work.events.progress(number, len(questions), "rows")
            for record in explanation_records:
                records[record.method].append(record)
        reader.close()
        summary = summarize_methods(records, skipped, work.seed)
        write_explanations(work.folder, [record for own in zip(*records.values(), strict=True) for record in own])
        summary.write(work.folder)
        work.events.note(summary.sentence)
        return {"seconds": {"explaining": time.perf_counter() - started}, "rows": summary.rows}

    def _methods(self, model: Artifact) -> list[Explainer]:
        from luthier.models.load import is_endpoint, is_plain_classifier

        if self.methods is not None:
            chosen = list(self.methods)
        else:
            remote = is_endpoint(model) or is_plain_classifier(model)
            chosen = [Explainer.parse(kind) for kind in (_WITHOUT_WEIGHTS if remote else _USUAL)]
        return (
            chosen if any(explainer.kind == "random" for explainer in chosen) else [*chosen, Explainer.parse("random")]
        )

    def _questions(self, data: Artifact, model: Artifact) -> list[ExplanationRequest]:
        from luthier.artifacts.dataset import DatasetSummary, has_split, read_evenly_spaced_examples, read_examples
        from luthier.chat.messages import answer_text_by_label
        from luthier.models.load import get_output_classes

        about, classes = DatasetSummary.read(data), get_output_classes(model)
        options: dict[str, str] = {}
        if about.task == "label" and not classes:
            trained = read_examples(data, "train") if has_split(data, "train") else ()
            options = answer_text_by_label(about.labels, trained)
        rows = read_evenly_spaced_examples(data, self.split, self.limit)
        return [self._question(row, options, classes) for row in rows]

    def _question(self, row: Example, options: Mapping[str, str], classes: tuple[str, ...]) -> ExplanationRequest:
        from luthier.chat.messages import answer_of, prompt_of
        from luthier.explain.subject import ExplanationRequest
        from luthier.models.sequence_head import REWARD

        reference = row.label if classes and row.label is not None else answer_of(row)
        own = self.answers == "own" and classes != (REWARD,)
        return ExplanationRequest(
            messages=prompt_of(row), tools=row.tools, answer=None if own else reference, options=options, row=row.id
        )

    def measured(self) -> tuple[str, ...] | None:
        """Names of its numbers in a gate's rules; they depend on the methods."""
        from luthier.artifacts.explanation import MEASURES

        usual = dict.fromkeys((*_USUAL, *_WITHOUT_WEIGHTS))
        methods = [*usual] if self.methods is None else [explainer.kind for explainer in self.methods]
        names = ["", *(f"{method}." for method in dict.fromkeys((*methods, "random")))]
        return tuple(f"explain.{name}{measure}" for name in names for measure in MEASURES)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Predict from an earlier step of this kind; refuse gradients of a model whose weights are not here."""
        from luthier.models.load import has_network, is_remote_input

        if is_remote_input(plan_context) or not has_network(plan_context):
            for number, method in enumerate(self.methods or ()):
                if method.needs_weights:
                    where = SourceLocation(field=f"methods.{number}")
                    what = f"{method.kind} reads gradients, and this model's weights are not here"
                    raise RecipeError(what, where=where, hint="take leave_one_out or shapley")
        history = plan_context.history
        rows, seconds = (history.get("measures") or {}).get("rows"), history.get("seconds")
        if not rows or not seconds:
            return StepCostEstimate(how="unknown until such a step has run here")
        return StepCostEstimate(seconds=seconds * self.limit / rows, how=f"from {rows} rows that were explained here")

"""Explain one answer by one or several methods, which share what was read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord
from luthier.core.artifact import Artifact
from luthier.explain.explainer import Explainer
from luthier.explain.faithfulness import ORDERS, measure_faithfulness
from luthier.explain.scorer import build_not_finite_error
from luthier.explain.subject import ExplanationRequest, Subject, SubjectBuilder
from luthier.models.load import get_model_name


def explain_subject(
    model: Artifact,
    subject: Subject,
    explainer: Explainer,
    *,
    row: str = "",
    faithful: bool = True,
    orders: int = ORDERS,
) -> ExplanationRecord:
    """Explain a subject by one method, and measure how faithful that is."""
    prompt = subject.prompt
    scorer = prompt.scorer
    attribution = explainer.attribute(prompt)
    scores = [float(score) for score in attribution.scores]
    if not all(map(math.isfinite, scores)):
        raise build_not_finite_error()
    faithfulness = measure_faithfulness(scorer, scores, seed=prompt.seed, orders=orders) if faithful else None
    gap = None if attribution.expected is None else sum(scores) + (attribution.template or 0.0) - attribution.expected
    flat = len({round(score, 12) for score in scores}) == 1
    notes = (
        *subject.notes,
        *attribution.notes,
        *(("All units have the same score: the target is flat",) if flat else ()),
    )
    return ExplanationRecord(
        row=row,
        model=get_model_name(model),
        digest=model.digest,
        method=explainer.kind,
        settings=explainer.settings(),
        unit=scorer.cut.kind,
        target=subject.target,
        value=scorer.full,
        without=scorer.empty,
        units=tuple(
            ExplainedUnit(
                text=unit.text, message=unit.message, role=unit.role, start=unit.start, end=unit.end,
                tokens=len(unit.tokens), score=score,
            )
            for unit, score in zip(scorer.cut.units, scores, strict=True)
        ),
        template=attribution.template,
        gap=gap,
        texts_read=scorer.texts_read,
        perturbation_only=scorer.perturbation_only,
        notes=notes,
        faithfulness=faithfulness,
    )  # fmt: skip


def explain_question(
    builder: SubjectBuilder,
    question: ExplanationRequest,
    explainers: Sequence[Explainer],
    *,
    faithful: bool = True,
    orders: int = ORDERS,
) -> list[ExplanationRecord]:
    """Explain one question by several methods; each variant of the prompt is read once for all of them."""
    subject = builder.build(question)
    return [
        explain_subject(builder.model, subject, explainer, row=question.row, faithful=faithful, orders=orders)
        for explainer in explainers
    ]

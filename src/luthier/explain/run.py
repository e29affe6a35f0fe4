"""Explain one answer by one or several methods, which share what was read; coarse units first, then their parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord, PartKind
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation
from luthier.explain.explainer import Attribution, ExplainedPrompt, Explainer
from luthier.explain.faithfulness import ORDERS, measure_faithfulness
from luthier.explain.gradients import PromptGradients
from luthier.explain.scorer import LocalPromptScorer, build_not_finite_error
from luthier.explain.subject import ExplanationRequest, Subject, SubjectBuilder
from luthier.explain.units import PromptUnit, refine_cut
from luthier.models.load import get_model_name

MOST_REFINED, WORTH_REFINING = 3, 0.25
"""Maximum number of units that are split, each with at least this share of the strongest score."""


def explain_subject(
    model: Artifact,
    subject: Subject,
    explainer: Explainer,
    *,
    row: str = "",
    faithful: bool = True,
    orders: int = ORDERS,
    refine: PartKind | None = None,
) -> ExplanationRecord:
    """Explain a subject by one method, and measure how faithful that is; `refine` cuts its strongest units into words
    or tokens and explains these as well."""
    prompt = subject.prompt
    scorer = prompt.scorer
    attribution, scores = _attribute(explainer, prompt)
    faithfulness = measure_faithfulness(scorer, scores, seed=prompt.seed, orders=orders) if faithful else None
    gap = None if attribution.expected is None else sum(scores) + (attribution.template or 0.0) - attribution.expected
    flat = len({round(score, 12) for score in scores}) == 1
    notes = (
        *subject.notes,
        *attribution.notes,
        *(("All units have the same score: the target is flat",) if flat else ()),
    )
    record = ExplanationRecord(
        row=row,
        model=get_model_name(model),
        digest=model.digest,
        method=explainer.kind,
        settings=explainer.settings(),
        unit=scorer.cut.kind,
        target=subject.target,
        value=scorer.full,
        without=scorer.empty,
        units=tuple(map(_to_explained, scorer.cut.units, scores)),
        template=attribution.template,
        gap=gap,
        texts_read=scorer.texts_read,
        perturbation_only=scorer.perturbation_only,
        notes=notes,
        faithfulness=faithfulness,
        pictures=subject.pictures,
    )
    return record if refine is None else _refine(record, subject, explainer, refine, orders if faithful else 0)


def _attribute(explainer: Explainer, prompt: ExplainedPrompt) -> tuple[Attribution, list[float]]:
    attribution = explainer.attribute(prompt)
    scores = [float(score) for score in attribution.scores]
    if not all(map(math.isfinite, scores)):
        raise build_not_finite_error()
    return attribution, scores


def _to_explained(unit: PromptUnit, score: float) -> ExplainedUnit:
    return ExplainedUnit(
        text=unit.text, message=unit.message, role=unit.role, start=unit.start, end=unit.end,
        tokens=len(unit.tokens), score=score, patch=unit.patch,
    )  # fmt: skip


def choose_strongest(scores: Sequence[float]) -> list[int]:
    """Numbers of the units that are worth a closer look: the strongest, whatever their sign."""
    strongest = max(map(abs, scores))
    ranked = sorted(range(len(scores)), key=lambda unit: -abs(scores[unit]))
    return [unit for unit in ranked[:MOST_REFINED] if strongest and abs(scores[unit]) >= WORTH_REFINING * strongest]


def _refine(
    record: ExplanationRecord, subject: Subject, explainer: Explainer, kind: PartKind, orders: int
) -> ExplanationRecord:
    """Return the explanation with the strongest units split into their parts."""
    prompt = subject.prompt
    if prompt.scorer.cut.kind in ("tokens", kind):
        raise DataError(
            f"units are {prompt.scorer.cut.kind} already", where=SourceLocation(field="refine"), hint="leave it out"
        )
    fine = subject.recut("words" if prompt.scorer.perturbation_only else kind)
    cut, origins = refine_cut(prompt.scorer.cut, fine, choose_strongest([unit.score for unit in record.units]))
    scorer = prompt.scorer.with_cut(cut)
    gradients = PromptGradients(scorer) if isinstance(scorer, LocalPromptScorer) else None
    _, scores = _attribute(explainer, ExplainedPrompt(scorer, gradients, prompt.seed))
    parts: dict[int, list[ExplainedUnit]] = {}
    for (unit, is_part), entry, score in zip(origins, cut.units, scores, strict=True):
        if is_part:
            parts.setdefault(unit, []).append(_to_explained(entry, score))
    units = tuple(
        unit.model_copy(update={"parts": tuple(parts.get(number, ()))}) for number, unit in enumerate(record.units)
    )
    faithfulness = measure_faithfulness(scorer, scores, seed=prompt.seed, orders=orders) if orders else None
    update = {"units": units, "part_unit": fine.kind, "part_faithfulness": faithfulness}
    return record.model_copy(update={**update, "texts_read": scorer.texts_read})


def explain_question(
    builder: SubjectBuilder,
    question: ExplanationRequest,
    explainers: Sequence[Explainer],
    *,
    faithful: bool = True,
    orders: int = ORDERS,
    refine: PartKind | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[ExplanationRecord]:
    """Explain one question by several methods; each variant of the prompt is read once for all of them.

    `say` tells a person what is done now.
    """
    say(f"loading {get_model_name(builder.model)} and reading its answer")
    subject = builder.build(question)
    units = len(subject.prompt.scorer.cut.units)
    found = []
    for number, explainer in enumerate(explainers, start=1):
        measured = f", then {orders} random orders of them" if faithful else ""
        say(f"method {number} of {len(explainers)}, {explainer.kind}: scores of {units} units{measured}")
        found.append(
            explain_subject(
                builder.model, subject, explainer, row=question.row, faithful=faithful, orders=orders, refine=refine
            )
        )
    return found

"""The cost of each technique on this machine, as the steps `tune` and `evaluate` predict it, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.auto.advice.predict import BASE, STANDALONE, TECHNIQUES, ModelChoice, TechniqueCost
from luthier.core.errors import LuthierError
from luthier.core.step import ArtifactSpec, PlanContext, StepCostEstimate
from luthier.core.timings import read_machine_timings
from luthier.eval.steps.evaluate import Evaluate
from luthier.models.cost import (
    describe_step_model,
    estimate_decode_step_seconds,
    estimate_rows,
    find_model_speed,
)
from luthier.models.load import cpu_has_bf16
from luthier.tune.steps.tune import Tune

_PLAIN_LATENCY_S = 0.002
_NO_TEXTS = "it chooses one of a few classes, and the answers are free text"


class AdviceMaterial(NamedTuple):
    """Inputs of cost estimates."""

    data: ArtifactSpec
    """The data set that will be prepared."""
    objective: str
    metrics: tuple[str, ...]
    training: Mapping[str, int]
    """Epochs and batch size, where they are not the defaults."""
    recipe_dir: Path
    answer_words: float = 0


class BaseModelSpec(NamedTuple):
    """A base model that may be tuned."""

    name: str
    spec: ArtifactSpec
    parameters: int
    here: bool
    """Whether its files are on this machine."""


def estimate_technique_costs(
    material: AdviceMaterial, model: BaseModelSpec, techniques: Iterable[str] = TECHNIQUES, *, latency: bool = False
) -> dict[ModelChoice, TechniqueCost]:
    """Estimate each technique's cost over a base model, training and evaluation together; `latency`: of an
    answer, too.
    """
    found: dict[ModelChoice, TechniqueCost] = {}
    measuring: dict[str, StepCostEstimate] = {}
    for technique in techniques:
        reads = technique != "plain"
        choice = ModelChoice(technique, model.name if reads else "", model.parameters if reads else 0)
        try:
            found[choice] = _estimate(technique, material, model, measuring, latency=latency)
        except LuthierError as error:
            found[choice] = TechniqueCost(refused=error.message)
    return found


def describe_model_speed(material: AdviceMaterial, model: BaseModelSpec) -> str:
    """Whether the speed behind the times over a base model was measured here, and with what; empty for a model that is
    not here."""
    context = _context(material, "tune", {"data": material.data, "model": model.spec})
    described = describe_step_model(context)
    if described is None:
        return ""
    return f"time over {model.name}: speed {find_model_speed(context, described, bf16=cpu_has_bf16()).how}"


def _estimate(
    technique: str,
    material: AdviceMaterial,
    model: BaseModelSpec,
    measuring: dict[str, StepCostEstimate],
    *,
    latency: bool,
) -> TechniqueCost:
    """Estimate the cost of one technique; the evaluation of tuned networks is the same, and estimated once."""
    if technique == "plain" and material.data.task == "text":
        return TechniqueCost(refused=_NO_TEXTS)
    training = StepCostEstimate(seconds=0.0, peak_bytes=0)
    outlines = {"data": material.data, "model": model.spec}
    tune = None
    if technique != BASE:
        tune = Tune.model_validate(_settings(technique, material))
        reads = {name: spec for name, spec in outlines.items() if name in tune.inputs()}
        context = _context(material, "tune", reads)
        outlines["model"] = tune.outline(context)
        training = tune.estimate_cost(context)
    key = technique if technique in {*STANDALONE, BASE} else "tuned"
    if key not in measuring:
        settings = {"kind": "evaluate", "data": "data", "model": "model", "metrics": [*material.metrics]}
        upstream = {"model": tune} if tune is not None else {}
        context = _context(material, "evaluate", outlines, upstream)
        measuring[key] = Evaluate.model_validate(settings).estimate_cost(context)
    measured = measuring[key]
    seconds = [training.seconds, measured.seconds]
    return TechniqueCost(
        seconds=round(sum(entry for entry in seconds if entry is not None), 1) if None not in seconds else None,
        peak_bytes=max(training.peak_bytes or 0, measured.peak_bytes or 0) or None,
        latency_s=_latency(technique, material, outlines["model"]) if latency else None,
        fetches=technique != "plain" and not model.here,
    )


def _settings(technique: str, material: AdviceMaterial) -> dict[str, Any]:
    """The step that would train so."""
    found: dict[str, Any] = {"kind": "tune", "data": "data", "technique": technique}
    if technique != "plain":
        found["model"] = "model"
    if technique not in STANDALONE:
        found |= {"objective": material.objective, **material.training}
    return found


def _context(
    material: AdviceMaterial, kind: str, outlines: Mapping[str, ArtifactSpec], upstream: Mapping[str, Any] | None = None
) -> PlanContext:
    return PlanContext(
        inputs={},
        upstream=upstream or {},
        recipe_dir=material.recipe_dir,
        outlines=outlines,
        paces=read_machine_timings(kind),
    )


def _latency(technique: str, material: AdviceMaterial, model: ArtifactSpec) -> float | None:
    """Seconds of one answer, asked alone: the prompt is read, then a class is weighed or a text is written."""
    if technique == "plain":
        return _PLAIN_LATENCY_S
    context = _context(material, "evaluate", {"data": material.data, "model": model})
    described, rows = describe_step_model(context), estimate_rows(None, context, "test")
    if described is None or rows is None:
        return None
    bf16 = cpu_has_bf16()
    speed = find_model_speed(context, described, bf16=bf16).flops_per_s
    answers = rows.answers * max(1, len(material.data.answers)) if material.data.task == "label" else 0.0
    read = 2 * described.parameters * (rows.tokens + answers) / speed
    if material.data.task == "label":
        return read
    token = estimate_decode_step_seconds(described.parameters, described.layers, 1, speed, bf16=bf16)
    return read + rows.answers * token

"""Collect the facts of a report from the artifacts of a recipe's steps."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.artifacts.explanation import SUMMARY, ExplanationRecord, ExplanationSummary, read_explanations
from luthier.artifacts.explanation_kinds import read_model_explanation
from luthier.artifacts.influence import InfluenceSummary
from luthier.artifacts.search import SEARCH, SearchRecord, read_trials
from luthier.artifacts.training import TUNED_CARD
from luthier.core.artifact import Artifact
from luthier.eval.human.results import read_human_summary
from luthier.eval.report import advice
from luthier.eval.report.collect_findings import build_run_facts, number_to_fact, validation_facts
from luthier.eval.report.collect_media import add_row_media
from luthier.eval.report.collect_tuning import data_facts, find_lineage_origin, tuning_facts
from luthier.eval.report.facts.explanation import (
    ExplainedRow,
    ExplanationFacts,
    HeatUnit,
    InfluenceFacts,
    ModelExplanationFacts,
)
from luthier.eval.report.facts.models import ComparisonFact, EvaluationFacts, ModelFacts, RowFact
from luthier.eval.report.facts.models import MeasureFact as MeasuredFacts
from luthier.eval.report.facts.report import (
    ArtifactFact,
    CostFact,
    GateFacts,
    HumanEvalFacts,
    ProvenanceFacts,
    ReportFacts,
    RuleFacts,
)
from luthier.eval.report.facts.search import SearchFacts

LIBRARIES = ("luthier", "torch", "transformers", "peft", "tokenizers", "polars", "scikit-learn", "sacrebleu")
MOST_ROWS = 20_000
"""More held-out rows than this are not taken into the browser of rows."""


def collect_report_facts(
    recipe_name: str,
    recipe_text: str,
    artifacts: Mapping[str, Artifact],
    forecasts: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    created: str = "",
    recipe_file: str = "recipe.yaml",
    overrides: Sequence[str] = (),
    compare_with: Mapping[str, Artifact] | None = None,
) -> ReportFacts:
    """Read the artifacts of a recipe's steps, by step name; parts that were not made are left out.

    `forecasts` holds what each step was expected to cost (`seconds`, `peak_bytes`, `tokens`, `how`); what was predicted
    before an artifact was made stands in its own timing and goes first. `created` is printed as it is. `compare_with`
    are evaluations of other recipes, by the name that they shall be given.
    """
    found = {
        makes: _of_kind(artifacts, makes)
        for makes in ("dataset", "model", "evaluation", "findings", "verdict", "judgments", "explanation", "influence")
    }
    tunings = [tuning_facts(name, each) for name, each in found["model"].items() if _has(each, TUNED_CARD)]
    tokens = {tuning.name: tuning.tokens for tuning in tunings}
    evaluations = [evaluation_facts(name, artifact) for name, artifact in found["evaluation"].items()]
    validations = tuple(validation_facts(name, artifact) for name, artifact in found["findings"].items())
    made = advice.RecipeArtifacts(
        artifacts=artifacts, text=recipe_text, file=recipe_file, tunings=tunings, validations=validations
    )
    evaluations = [
        facts.model_copy(update={"advice": advice.suggest_improvements(facts, made)}) for facts in evaluations
    ]
    evaluations.sort(key=lambda facts: not facts.of_role("tuned"))
    shown = {facts.name: found["evaluation"][facts.name] for facts in evaluations} | dict(compare_with or {})
    return ReportFacts(
        title=recipe_name,
        created=created,
        evaluations=tuple(evaluations),
        runs=build_run_facts(shown) if len(shown) > 1 else (),
        gates=tuple(gate_facts(name, artifact) for name, artifact in found["verdict"].items()),
        validations=validations,
        people=tuple(
            HumanEvalFacts(name=name, opinion=read_human_summary(artifact))
            for name, artifact in found["judgments"].items()
        ),
        data=tuple(data_facts(name, artifact) for name, artifact in found["dataset"].items()),
        tunings=tuple(tunings),
        searches=tuple(search_facts(name, each) for name, each in found["model"].items() if _has(each, SEARCH)),
        influences=tuple(
            InfluenceFacts(name=name, summary=InfluenceSummary.read(each)) for name, each in found["influence"].items()
        ),
        explanations=tuple(
            explanation_facts(name, each) for name, each in found["explanation"].items() if _has(each, SUMMARY)
        ),
        model_explanations=tuple(
            facts
            for name, each in found["explanation"].items()
            if (facts := model_explanation_facts(name, each)) is not None
        ),
        costs=tuple(
            build_cost_fact(name, artifact, (forecasts or {}).get(name, {}), tokens.get(name))
            for name, artifact in artifacts.items()
        ),
        provenance=_provenance(recipe_text, artifacts, _commands(recipe_file, overrides)),
    )


def evaluation_facts(name: str, artifact: Artifact) -> EvaluationFacts:
    """An evaluation's `summary.json` holds the facts; the rows come from its predictions and the data's examples."""
    summary = EvaluationSummary.read(artifact)
    record = replace_nonfinite(summary.as_json())
    known = {field: record[field] for field in EvaluationFacts.model_fields if field in record}
    facts = EvaluationFacts.model_validate({**known, "name": name})
    metrics = EvaluationMetrics.read(artifact)
    models = tuple(_with_metrics(model, metrics) for model in facts.models)
    everything = tuple(_rows(artifact, summary.split)) if facts.rows <= MOST_ROWS else ()
    probed = _probed(artifact)
    facts = facts.model_copy(update={"models": models, "everything": everything, "probed": probed})
    return add_row_media(facts, artifact, summary.split)


def _probed(evaluation: Artifact) -> tuple[ComparisonFact, ...]:
    """What tasks and probes measured of the model beside the others, row against row."""
    if not _has(evaluation, "comparisons.json"):
        return ()
    known = ComparisonFact.model_fields
    rows = [row for row in replace_nonfinite(evaluation.read_json("comparisons.json")) if row.get("family") == "probes"]
    return tuple(ComparisonFact.model_validate({key: row[key] for key in known if key in row}) for row in rows)


def gate_facts(name: str, artifact: Artifact) -> GateFacts:
    """A verdict's `gate.json`."""
    gate_record = replace_nonfinite(artifact.read_json("gate.json"))
    rules = [{key: rule[key] for key in RuleFacts.model_fields if key in rule} for rule in gate_record.get("rules", [])]
    return GateFacts(
        name=name, verdict=gate_record["verdict"], rules=tuple(RuleFacts.model_validate(rule) for rule in rules)
    )


def build_cost_fact(name: str, artifact: Artifact, forecast: Mapping[str, Any], tokens: int | None = None) -> CostFact:
    """What a step was predicted to cost, and what it did; `tokens` are those that a tuning read."""
    timing = replace_nonfinite(artifact.timing())
    estimate = timing.get("predicted") or {}
    predicted = (
        estimate if any(estimate.get(name) is not None for name in ("seconds", "peak_bytes", "tokens")) else forecast
    )
    planned = timing.get("planned") or {}
    return CostFact(
        step=name,
        predicted_seconds=predicted.get("seconds"),
        planned_seconds=planned.get("seconds"),
        seconds=timing.get("seconds"),
        predicted_peak_bytes=_whole(predicted.get("peak_bytes")),
        planned_peak_bytes=_whole(planned.get("peak_bytes")),
        peak_bytes=_whole(timing.get("peak_bytes")),
        predicted_tokens=_whole(predicted.get("tokens")),
        tokens=_whole((timing.get("measures") or {}).get("tokens", tokens)),
        how=str(predicted.get("how") or forecast.get("how") or ""),
    )


def replace_nonfinite(value: Any) -> Any:
    """Plain data with NaN and infinity as None: what could not be measured."""
    if isinstance(value, dict):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_kind(artifacts: Mapping[str, Artifact], makes: str) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in artifacts.items() if artifact.manifest.makes == makes}


def _has(artifact: Artifact, name: str) -> bool:
    return any(entry.path == name for entry in artifact.manifest.files)


def _whole(value: Any) -> int | None:
    return None if value is None else round(value)


def _with_metrics(model: ModelFacts, found: EvaluationMetrics) -> ModelFacts:
    """A model with whole signatures, which name the rows, and with what probes found."""
    scores = found.models.get(model.name, {})
    metrics = {kind: number_to_fact(scores[kind]) if kind in scores else score for kind, score in model.metrics.items()}
    measures = {
        name: MeasuredFacts(
            score=number_to_fact(score), rows=score.rows, detail=_numbers(score.detail), detectable=score.detectable
        )
        for name, score in found.measures.get(model.name, {}).items()
    }
    return model.model_copy(update={"metrics": metrics, "measures": measures})


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if isinstance(value, int | float)}


def _rows(evaluation: Artifact, split: str) -> Iterator[RowFact]:
    """Every held-out row with each model's answer, in the data's order."""
    import polars as pl

    from luthier.artifacts.dataset import read_examples
    from luthier.chat.messages import user_text_of
    from luthier.eval.task import expand_example_turns

    if not _has(evaluation, "predictions.parquet") or "data" not in evaluation.manifest.inputs:
        return
    answers: dict[str, list[dict[str, Any]]] = {}
    columns = ["id", "model", "reference", "prediction", "correct"]
    for record in pl.read_parquet(evaluation.path("predictions.parquet"), columns=columns).iter_rows(named=True):
        answers.setdefault(record["id"], []).append(record)
    for example in expand_example_turns(read_examples(evaluation.parent("data"), split)):
        told_of_row = answers.get(example.id)
        if told_of_row:
            yield RowFact(
                id=example.id,
                text=user_text_of(example),
                reference=told_of_row[0]["reference"] or "",
                answers={response["model"]: response["prediction"] or "" for response in told_of_row},
                correct={response["model"]: response["correct"] for response in told_of_row},
            )


def _provenance(recipe: str, artifacts: Mapping[str, Artifact], commands: tuple[str, ...]) -> ProvenanceFacts:
    manifests = [artifact.manifest for artifact in artifacts.values()]
    return ProvenanceFacts(
        recipe=recipe,
        seed=max((manifest.seed for manifest in manifests), default=None),
        artifacts=tuple(
            ArtifactFact(
                step=name,
                kind=artifact.manifest.kind,
                makes=artifact.manifest.makes,
                digest=artifact.digest,
                code=artifact.manifest.code,
                files=len(artifact.manifest.files),
                size=sum(entry.size for entry in artifact.manifest.files),
            )
            for name, artifact in artifacts.items()
        ),
        versions=_versions(),
        machine=_machine(artifacts),
        licences=_licences(artifacts),
        commands=commands,
    )


def _commands(recipe_file: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """How to check and make everything again; the recipe is named without its folder, which is nobody's business."""
    words = shlex.join([PurePath(recipe_file).name, *overrides])
    return f"luthier plan {words}", f"luthier run {words}", "luthier store verify"


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _machine(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """What the artifacts' timings say of the machine, without its name."""
    found: dict[str, str] = {}
    for artifact in artifacts.values():
        timing = artifact.timing()
        for record in (timing.get("machine"), timing.get("measures")):
            words = ("device", "dtype", "processor", "cores", "threads", "memory")
            found |= {word: str(record[word]) for word in words if isinstance(record, dict) and word in record}
    return found


def _licences(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Licences of the base models behind the artifacts."""
    found: dict[str, str] = {}
    for artifact in artifacts.values():
        if artifact.manifest.makes == "model":
            base = find_lineage_origin(artifact)
            model_info = base.read_json("model.json") if _has(base, "model.json") else {}
            if model_info.get("licence"):
                found[f"model {model_info.get('name', base.digest[:12])}"] = str(model_info["licence"])
    return found


def search_facts(name: str, artifact: Artifact) -> SearchFacts:
    """What the report says of one search."""
    return SearchFacts(name=name, record=SearchRecord.read(artifact), trials=tuple(read_trials(artifact)))


ROWS = 8
"""Rows that are shown at most."""
_RANKED = 5


def explanation_facts(name: str, artifact: Artifact) -> ExplanationFacts:
    """What the report says of one step that explained rows."""
    summary = ExplanationSummary.read(artifact)
    best = (record for record in read_explanations(artifact) if record.method == summary.best)
    rows = tuple(ExplainedRow(record=record, units=_heat(record)) for record in islice(best, ROWS))
    return ExplanationFacts(name=name, summary=summary, rows=rows)


def model_explanation_facts(name: str, artifact: Artifact) -> ModelExplanationFacts | None:
    """What the report says of one step that measured a whole model; None for one that explained rows."""
    record = read_model_explanation(artifact)
    return None if record is None else ModelExplanationFacts(name=name, kind=record.kind, record=record)


def _heat(record: ExplanationRecord) -> tuple[HeatUnit, ...]:
    """The units of text; patches are drawn on their pictures."""
    strongest = max((abs(unit.score) for unit in record.units), default=0.0) or 1.0
    order = sorted(range(len(record.units)), key=lambda at: -abs(record.units[at].score))
    ranks = {at: rank for rank, at in enumerate(order[:_RANKED], start=1)}
    texts = [at for at, unit in enumerate(record.units) if unit.patch is None]
    messages = [None, *(record.units[at].message for at in texts)]
    return tuple(
        HeatUnit(
            text=unit.text,
            role=unit.role if before != unit.message else "",
            score=unit.score,
            heat=abs(unit.score) / strongest,
            rank=ranks.get(at, 0),
        )
        for before, at, unit in ((before, at, record.units[at]) for before, at in zip(messages, texts, strict=False))
    )

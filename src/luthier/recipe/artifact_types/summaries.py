"""Summaries of each type of artifact, for `show` and the report."""

from __future__ import annotations

from typing import Any, Literal

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.evaluation import EvaluationMetrics
from luthier.artifacts.explanation import ExplanationSummary
from luthier.artifacts.explanation_kinds import read_model_explanation
from luthier.artifacts.findings import read_findings
from luthier.artifacts.influence import InfluenceSummary
from luthier.artifacts.media import count_row_media
from luthier.artifacts.search import SearchRecord, has_search_record, read_trials
from luthier.artifacts.training import TUNED_CARD, TrainingRecord
from luthier.core.artifact import Artifact, ArtifactType


class DatasetType(ArtifactType):
    """Rows to train on and rows to measure with, each with what became of it."""

    kind: Literal["dataset"] = "dataset"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        summary = DatasetSummary.read(artifact).model_dump(mode="json")
        names = ("rows_in", *(["made"] if summary.get("made") else []), "rows", "dropped", "edited", "task", "labels")
        media = count_row_media(artifact)
        shown = {"media": media.describe()} if media is not None else {}
        return {**{key: summary[key] for key in names if key in summary}, **shown}


class FindingsType(ArtifactType):
    """What checks found in a data set."""

    kind: Literal["findings"] = "findings"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        record = read_findings(artifact)
        return {
            "told": record.sentence,
            **{finding.name: f"{finding.severity}: {finding.sentence}" for finding in record.findings},
        }


class ModelType(ArtifactType):
    """A base model, or one that was trained, searched for or merged."""

    kind: Literal["model"] = "model"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        if any(entry.path == TUNED_CARD for entry in artifact.manifest.files):
            searched = _describe_search(artifact) if has_search_record(artifact) else {}
            return {**searched, **TrainingRecord.read(artifact).as_json()}
        described: dict[str, Any] = artifact.read_json("model.json")
        return described


def _describe_search(model: Artifact) -> dict[str, Any]:
    """What a search decided and spent, and the overrides that make its choice again."""
    record = SearchRecord.read(model)
    chosen = [row.overrides for row in read_trials(model) if row.trial == record.verdict.winner]
    return {
        "says": record.verdict.sentence,
        "trials": f"{record.trials}, of which {record.failed} failed" if record.failed else record.trials,
        "spent": f"{record.spent:.3g} of {record.budget:.3g} trainings, and {record.spent_finalists:.3g} for finalists",
        **({"overrides": " ".join(chosen[-1])} if chosen and chosen[-1] else {}),
    }


class EvaluationType(ArtifactType):
    """Models measured and compared on the same held-out rows."""

    kind: Literal["evaluation"] = "evaluation"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        return {
            name: ", ".join(f"{metric} {m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for metric, m in metrics.items())
            for name, metrics in EvaluationMetrics.read(artifact).models.items()
        }


class VerdictType(ArtifactType):
    """How a gate's rules came out."""

    kind: Literal["verdict"] = "verdict"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        verdict = artifact.read_json("gate.json")
        return {"verdict": verdict["verdict"], **{rule["rule"]: rule["verdict"] for rule in verdict["rules"]}}


class ThresholdsType(ArtifactType):
    """From which probability on each group's rows get a label."""

    kind: Literal["thresholds"] = "thresholds"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        record = artifact.read_json("thresholds.json")
        return {"positive": record["positive"], "by": record["column"], **record["by_group"]}


class ExplanationType(ArtifactType):
    """Answers explained with how faithful that is, what tuning changed, or what helps to decide with a classifier."""

    kind: Literal["explanation"] = "explanation"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        if (measured := read_model_explanation(artifact)) is not None:
            return {
                "says": measured.sentence,
                "rows": measured.rows,
                **{
                    name: f"{measure.value:.4g} ({measure.low:.4g} to {measure.high:.4g})"
                    for name, measure in measured.measures.items()
                },
            }
        summary = ExplanationSummary.read(artifact)
        return {
            "says": summary.sentence,
            "rows": summary.rows,
            **{
                method.method: f"comprehensiveness {method.comprehensiveness.value:.3f}, "
                f"sufficiency {method.sufficiency.value:.3f}, over random {method.gain_over_random.value:+.3f}"
                for method in summary.methods
            },
        }


class InfluenceType(ArtifactType):
    """Training rows with what each taught a model, and how far retraining agrees."""

    kind: Literal["influence"] = "influence"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        summary = InfluenceSummary.read(artifact)
        shown = [("proponents", summary.proponents), ("opponents", summary.opponents)]
        return {
            "says": summary.sentence,
            "verified": summary.verified,
            **{
                name: "; ".join(f"{row.file}:{row.line} {row.score:+.2g}" for row in rows[:5])
                for name, rows in shown
                if rows
            },
        }


class AssignmentType(ArtifactType):
    """Answers on sheets for people to judge."""

    kind: Literal["assignment"] = "assignment"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        from luthier.eval.human.study import read_rating_question

        about = artifact.read_json("about.json")
        sheets = {judge: f"{len(items)} items" for judge, items in artifact.read_json("sheets.json").items()}
        return {"question": read_rating_question(artifact).kind, "models": ", ".join(about["models"]), **sheets}


class JudgmentsType(ArtifactType):
    """What people said of answers, taken together."""

    kind: Literal["judgments"] = "judgments"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        record = artifact.read_json("human_eval.json")
        return {"told": record["sentence"], "stop": record["stop"], "judgments": record["judgments"]}


class MonitorType(ArtifactType):
    """Signals, alerts and references with which traffic is watched."""

    kind: Literal["monitor"] = "monitor"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        record = artifact.read_json("monitor.json")
        signals = [signal.get("name") or signal["kind"] for signal in record["signals"]]
        alerts = {alert.get("name") or alert["expr"]: alert["expr"] for alert in record["alerts"]}
        models = {"models": ", ".join(record["models"])} if record.get("models") else {}
        return {
            "interval": record["interval"],
            **models,
            "signals": ", ".join(signals),
            "alerts": alerts,
            "report": record["report"],
        }

"""What is shown of evaluations, and of what is decided by them."""

from __future__ import annotations

from typing import Any, Literal

from luthier.artifacts.evaluation import EvaluationMetrics
from luthier.artifacts.explanation import ExplanationSummary
from luthier.artifacts.explanation_kinds import read_model_explanation
from luthier.artifacts.influence import InfluenceSummary
from luthier.core.artifact import Artifact, ArtifactType


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

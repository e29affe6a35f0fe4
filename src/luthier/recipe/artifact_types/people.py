"""What is shown of what people judge."""

from __future__ import annotations

from typing import Any, Literal

from luthier.core.artifact import Artifact, ArtifactType


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

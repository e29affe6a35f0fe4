"""What is shown of monitors."""

from __future__ import annotations

from typing import Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.artifact_type import ArtifactType


class MonitorType(ArtifactType):
    """Signals, alerts and references with which traffic is watched."""

    kind: Literal["monitor"] = "monitor"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        told = artifact.read_json("monitor.json")
        signals = [signal.get("name") or signal["kind"] for signal in told["signals"]]
        alerts = {alert.get("name") or alert["when"]: alert["when"] for alert in told["alerts"]}
        models = {"models": ", ".join(told["models"])} if told.get("models") else {}
        return {
            "every": told["every"],
            **models,
            "signals": ", ".join(signals),
            "alerts": alerts,
            "report": told["report"],
        }

"""What is shown of monitors."""

from __future__ import annotations

from typing import Any, Literal

from luthier.core.artifact import Artifact, ArtifactType


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

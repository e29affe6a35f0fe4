"""The model card of an export: what it is, what it came from, how it was made and how it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from luthier.core.artifact import Artifact
from luthier.models.load import name_of, origin_artifact

LIBRARIES = {"hf": "transformers", "merged": "transformers", "adapter": "peft", "gguf": "gguf"}
_OPENING = {
    "hf": "from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(FOLDER)",
    "adapter": (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), FOLDER)'
    ),
    "gguf": "llama-cli -m FILE.gguf -cnv",
}
_OPENING["merged"] = _OPENING["hf"]


class Origin(NamedTuple):
    """The base model behind an artifact."""

    name: str
    licence: str | None
    origin: str

    @property
    def address(self) -> str:
        """What PEFT and the hub call the base model: its hub id when it came from there, else its name."""
        words = self.origin.split()
        return words[1] if words[:1] == ["hub"] and len(words) > 1 else self.name


def origin_of(artifact: Artifact) -> Origin:
    """Read the base model's card, up the lineage."""
    told = origin_artifact(artifact).read_json("model.json")
    return Origin(told["name"], told.get("licence"), told.get("origin", ""))


def card(artifact: Artifact, kind: str, measures: Mapping[str, Any] | None) -> str:
    """The README of an export: front matter that the hub reads, then plain text."""
    base = origin_of(artifact)
    tuned = "model" in artifact.manifest.inputs
    front: dict[str, Any] = {
        "base_model": base.address,
        "library_name": LIBRARIES[kind],
        "pipeline_tag": "text-generation",
    }
    front |= {"license": base.licence or "unknown", "tags": ["luthier"]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True, allow_unicode=True)}---\n",
        f"# {name_of(artifact)}\n",
        f"{'Tuned' if tuned else 'Exported'} with Luthier from {base.name} ({base.origin}).\n",
        f"```\n{_OPENING[kind].replace('BASE', base.address)}\n```\n",
        _provenance(artifact),
        _settings(artifact) if tuned else "",
        _measures(measures) if measures else "",
        f"## Licence\n\nThe base model's licence is {base.licence or 'not stated'}; it binds this model too.\n",
    ]
    return "\n".join(part for part in parts if part)


def _provenance(artifact: Artifact) -> str:
    rows = {"artifact": artifact.digest, "seed": artifact.manifest.seed}
    rows |= {f"made from ({field})": digest for field, digest in sorted(artifact.manifest.inputs.items())}
    return "## Provenance\n\n" + "\n".join(f"- {name}: `{value}`" for name, value in rows.items()) + "\n"


def _settings(artifact: Artifact) -> str:
    return (
        f"## Settings\n\n```yaml\n{yaml.safe_dump(artifact.manifest.settings, sort_keys=True, allow_unicode=True)}```\n"
    )


def _measures(measures: Mapping[str, Any]) -> str:
    """A table: one row a metric, with its interval when it has one."""
    rows = ["## Measures\n", "| metric | value | interval |", "|---|---|---|"]
    for name, value in sorted(measures.items()):
        told = value if isinstance(value, Mapping) else {"value": value}
        between = f"{told['low']:.4g} to {told['high']:.4g}" if told.get("low") is not None else ""
        rows.append(f"| {name} | {'–' if told['value'] is None else format(told['value'], '.4g')} | {between} |")
    return "\n".join(rows) + "\n"

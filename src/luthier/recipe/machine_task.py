"""A look at the machine that a job gets, which `luthier make` takes there for `luthier doctor --on EXECUTOR --job`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.recipe.workspace import Workspace


class MachineTask(BaseModel):
    """What a job is to find out, as JSON that `luthier make` opens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["machine"] = "machine"
    name: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Names the report in the store."""
    folder: Path
    """The recipe's folder, absolute."""
    store: str | None
    """The workspace's store, where it is named."""

    @property
    def workspace(self) -> Workspace:
        """The recipe's folder with its store."""
        return Workspace(self.folder, self.store)

    @property
    def report(self) -> str:
        """The file beside the artifacts that the job writes."""
        return f"tasks/doctor-{self.name}/report.json"


class MachineReport(BaseModel):
    """What a job found on its machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """The version of Luthier there."""
    code: str
    """The revision of its code."""
    store: str
    """What is wrong with the store as the job sees it; empty for nothing."""
    cores: int
    memory: int
    """Bytes of memory of the machine."""
    has_amx: bool
    """Whether its processor multiplies tiles of bfloat16 (AMX)."""
    has_bf16: bool
    """Whether its processor multiplies bfloat16 in hardware at all."""
    gpus: tuple[str, ...]
    """Names of the GPUs that PyTorch sees."""


def is_machine_task(found: Any) -> bool:
    """Whether JSON is a task of this kind."""
    return isinstance(found, dict) and found.get("kind") == "machine"

"""The base of executors of managed clouds: a container runs `luthier make` over a store that the cloud can read.

The submitted job names the task's location in the store; it contains no recipe, row or key. The container gets its
credentials from the job's identity.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from luthier.core.errors import InputError
from luthier.core.store import Store
from luthier.recipe.batch import BatchExecutor, BatchJob, require_remote_store
from luthier.recipe.scheduler_api import WHERE

_EXPANDED = re.compile(r"\$\(|\$\{\{|[\x00-\x1f\x7f]")
"""Characters that a cloud would expand, or that end a line."""


class CloudExecutor(BatchExecutor):
    """The base of executors whose jobs are containers of a managed cloud."""

    sends_task: ClassVar[bool] = True

    poll_s: float = Field(default=15.0, gt=0)
    """Seconds between two looks at the job; each is a call of the cloud's API."""
    hours: float = Field(default=24.0, gt=0)
    """Hours after which the job ends."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the container; the cloud shows them, so that keys belong to the job's identity."""
    python: str = "python"
    """The Python in the image."""

    @field_validator("env")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            check_word(name, r"[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of a variable")
            if _EXPANDED.search(text) or len(text) > 512:
                raise ValueError(f"expected at most 512 characters without $( and ${{{{ in {name}")
        return value

    @field_validator("python")
    @classmethod
    def _program(cls, value: str) -> str:
        return check_word(value, r"[\w./+-]+", "a program or its path")

    def check_reach(self, folder: Path, store: Store) -> None:
        """`InputError` for a store on this machine."""
        require_remote_store(store, folder)

    def get_command(self, job: BatchJob, *, starts_processes: bool = True) -> list[str]:
        """Return the container's command, word by word; `InputError` where the cloud would change a word."""
        if _EXPANDED.search(job.location) or len(job.location) > 256:
            message = "the address of the store is longer than 190 characters, or has $( or ${{, which a cloud replaces"
            raise InputError(message, where=WHERE, hint="give the store a plain address: LUTHIER_STORE")
        grouped = starts_processes and self.is_group
        count = ["--processes", str(self.processes_per_node)] if grouped else []
        return [self.python, "-P", "-m", "luthier", "make", *count, job.location]


def check_word(value: str, pattern: str, what: str) -> str:
    """A setting that is one word of a pattern; `ValueError` otherwise."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"expected {what}, got {value!r}")
    return value


def check_address(value: str | None) -> str | None:
    """The address of an API, which gets a token: encrypted, unless it is this machine."""
    pattern = r"https://[\w.-]+(:[0-9]+)?(/[\w./-]*)?|http://(127\.0\.0\.1|localhost)(:[0-9]+)?"
    return None if value is None else check_word(value, pattern, "an address such as https://api.example.org")


__all__ = ["CloudExecutor", "check_address", "check_word"]

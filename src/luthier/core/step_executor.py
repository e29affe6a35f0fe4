"""The role of executors, by which a step of a recipe names one; what they do stands in `luthier.recipe.executor`."""

from __future__ import annotations

from typing import ClassVar

from luthier.core.component import Component


class StepExecutor(Component):
    """Where the steps of a run are made."""

    role: ClassVar[str] = "executor"
    home: ClassVar[str] = "luthier.recipe.executors"

"""Regard of written texts: how well a text speaks of whom it is about."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from luthier.core.component import Component


class RegardScorer(Component):
    """A scorer of the sentiment towards the person in a text, from -1 (bad) to 1 (good)."""

    role: ClassVar[str] = "regard"
    home: ClassVar[str] = "luthier.eval.regards"

    @abstractmethod
    def score(self, texts: Sequence[str], recipe_dir: Path) -> list[float]:
        """A number for each text; relative paths start at `recipe_dir`, the recipe's folder."""

"""A way to choose which rows people should label next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from luthier.core.component import Component
from luthier.core.errors import DataError, SourceLocation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.models.embeddings.base import Embedder

Measure = Literal["entropy", "margin", "confidence"]


class SelectionCandidate(NamedTuple):
    """What is known of a row that could be labelled."""

    id: str
    file: str
    line: int
    text: str
    shares: Mapping[str, float] | None
    """The probability of each label that a model proposed; None where none did."""

    @property
    def is_told(self) -> bool:
        """Whether a model gave probabilities to choose by."""
        return self.shares is not None and len(self.shares) > 1


class SelectedCandidate(NamedTuple):
    """A candidate by its place, and how much spoke for it."""

    candidate_index: int
    score: float


@dataclass(frozen=True)
class LabelingPool:
    """What can be chosen, and what is labelled already."""

    candidates: Sequence[SelectionCandidate]
    labelled: Sequence[str]
    """Texts that people have judged: no more of the same is wanted."""
    seed: int
    recipe_dir: Path = Path()
    """The recipe's folder, where relative paths start."""

    def points(self, embedder: Embedder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(candidates, dimensions) and (labelled, dimensions): unit vectors of the texts."""
        import numpy as np

        texts = [*(candidate.text for candidate in self.candidates), *self.labelled]
        found = embedder.points(texts, recipe_dir=self.recipe_dir, seed=self.seed).astype(np.float64)
        return found[: len(self.candidates)], found[len(self.candidates) :]

    @property
    def silent(self) -> list[SelectionCandidate]:
        """Candidates without probabilities of labels."""
        return [candidate for candidate in self.candidates if not candidate.is_told]

    def uncertainty(self, measure: Measure) -> NDArray[np.float64]:
        """(candidates,): from 0 (sure) to 1 (no idea, as of a row for which the model named no label, or no
        probabilities); `DataError` where it did so for none."""
        import numpy as np

        if self.candidates and len(self.silent) == len(self.candidates):
            what, first = "a row has no proposal with a probability for each label", self.candidates[0]
            where = SourceLocation(file=first.file, line=first.line, field="by")
            raise DataError(what, where=where, hint="put the step `prelabel` before this one, or select by `k_center`")
        return np.array([self._uncertain(candidate, measure) for candidate in self.candidates], dtype=np.float64)

    def _uncertain(self, one: SelectionCandidate, measure: Measure) -> float:
        import math

        if not one.is_told:
            return 1.0
        assert one.shares is not None
        shares = sorted(one.shares.values(), reverse=True)
        if measure == "entropy":
            return -sum(share * math.log(share) for share in shares if share > 0) / math.log(len(shares))
        if measure == "margin":
            return 1 - (shares[0] - shares[1])
        return (1 - shares[0]) * len(shares) / (len(shares) - 1)


class Selector(Component):
    """A way to choose which rows people should label next, the most useful first."""

    role: ClassVar[str] = "selector"
    home: ClassVar[str] = "luthier.data.selectors"

    @abstractmethod
    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """At most `count` candidates, each once, in the order in which they should be asked about."""


def order_by_score_then_id(pool: LabelingPool, scores: Any) -> list[int]:
    """Places by falling score; equal scores by the rows' ids, so that the order in which rows came cannot be felt."""
    return sorted(range(len(pool.candidates)), key=lambda at: (-round(float(scores[at]), 12), pool.candidates[at].id))

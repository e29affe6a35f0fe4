"""Rows that say something quite unlike all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    PlantedFaults,
    Summed,
    damage_every_nth,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.checks.lengths import robust_z
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.models.embeddings.base import Points


class EmbeddingOutliers(Check):
    """Prompts whose nearest neighbours are far: another language, another topic, gibberish.

    Prompts become points of an embedder; a row's distance is the mean cosine distance to its nearest neighbours
    (Ramaswamy, Rastogi and Shim 2000). A row whose words stand nowhere else is farthest.
    """

    kind: Literal["embedding_outliers"] = "embedding_outliers"
    measures: ClassVar[Mapping[str, str]] = {"embedding_outliers": gettext_noop("share of rows unlike all others")}
    false_alarms: ClassVar[float] = 0.02
    summed: ClassVar[Summed] = "within"

    embedder: Embedder = LsaEmbedder(pieces=False, texts_a_dimension=8)
    """What makes points: by default words and pairs of words; an `encoder` also sees that other words mean the same."""
    neighbours: int = Field(default=5, ge=1)
    """How many nearest rows a row is held against."""
    far: float = Field(default=5.0, gt=0)
    """Modified z-score of that distance from which a row is an outlier."""
    warning: float = Field(default=0.02, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.3, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        distance = mean_neighbor_distance(data.points(self.embedder), self.neighbours, data.heads)
        scores = robust_z(distance)
        indices = np.flatnonzero((scores >= self.far) & (distance >= _NEAR)).tolist()
        indices.sort(key=lambda index: (-distance[index], data.rows[index].id))
        near, usual = max(1, min(self.neighbours, len(set(data.heads.tolist())) - 1)), float(np.median(distance))
        number = share_with_interval(len(indices), len(data.rows), self.measures["embedding_outliers"])
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(number.value, self.warning, self.serious),
                title=gettext_noop("Rows unlike all others" if indices else "Neighbours"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(indices), 'row')} of {len(data.rows):,} "
                    f"({format_percent(number.value)}) "
                    f"{'says' if len(indices) == 1 else 'say'} something unlike every other row, "
                    f"according to the embedder `{self.embedder.kind}` sees; the usual "
                    f"distance to the nearest {near} is {usual:.2f}."
                ),
                rows=len(indices),
                numbers={"embedding_outliers": number},
                hint=gettext_noop(
                    "Look at them: they may be of another language or topic, or the best rows there are; leave out "
                    "what does not belong by its ids."
                    if indices
                    else ""
                ),
                mend=format_exclude_setting([data.rows[index] for index in indices], "unlike all others"),
            ),
            [(data.rows[index], round(float(distance[index]), 4), "") for index in indices],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every fiftieth prompt is letters and digits that mean nothing."""
        return damage_every_nth(
            rows, 50, lambda row: row.saying(prompt=f"qz{row.id[:6]} xv{row.id[6:12]} {row.id[::-1]}")
        )


_NEAR = 0.1
"""Distances below this are near whatever the others do."""


def mean_neighbor_distance(
    points: Points, neighbours: int, heads: NDArray[np.int64] | None = None, piece: int = 1024
) -> NDArray[np.float64]:
    """(rows,): mean cosine distance to the nearest rows of other families, computed in pieces of bounded memory.

    `heads` says which row stands for a row and its copies: a row that nothing else is like is not near for them.
    """
    import numpy as np

    count = len(points)
    standing, mine = np.unique(np.arange(count) if heads is None else heads, return_inverse=True)
    neighbor_count = min(neighbours, len(standing) - 1)
    if neighbor_count < 1:
        return np.zeros(count)
    found = np.zeros(count)
    others = points[standing].T
    for start in range(0, count, piece):
        near = points[start : start + piece] @ others
        near[np.arange(len(near)), mine[start : start + len(near)]] = -2
        nearest = -np.partition(-near, neighbor_count - 1, axis=1)[:, :neighbor_count]
        found[start : start + piece] = 1 - nearest.mean(axis=1)
    return np.round(found, 5)

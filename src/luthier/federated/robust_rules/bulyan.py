"""Sites that Krum picks, and of those the values near each number's median."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.robust_rule import COLUMNS, RobustRule, measure_distances, score_neighbors

if TYPE_CHECKING:
    from torch import Tensor


class BulyanRule(RobustRule):
    """Pick sites by Krum, one after another, and take for each number the mean of the picked values that lie nearest to
    their median (El Mhamdi et al., 2018): a site cannot hide one far number among many near ones."""

    kind: Literal["bulyan"] = "bulyan"

    def combine(self, changes: Tensor) -> Tensor:
        """`sites - 2 poisoned` are picked, and `2 poisoned` fewer values of each number are kept."""
        import torch

        distances, left = measure_distances(changes), list(range(len(changes)))
        picked: list[int] = []
        chosen = len(changes) - 2 * self.poisoned
        while len(picked) < chosen:
            some = torch.tensor(left)
            near = distances[some][:, some]
            scores, apart = score_neighbors(near, self.poisoned).tolist(), near.sum(1).tolist()
            best = min(
                range(len(left)), key=lambda at: (scores[at], apart[at])
            )  # of a few, two are each other's nearest
            picked.append(left.pop(best))
        kept = max(1, chosen - 2 * self.poisoned)
        parts = []
        for values in torch.split(changes[torch.tensor(picked)], COLUMNS, 1):
            ordered = values.sort(0).values
            median = (ordered[(chosen - 1) // 2] + ordered[chosen // 2]) / 2
            nearest = (ordered - median).abs().argsort(dim=0, stable=True)[:kept]
            parts.append(ordered.gather(0, nearest).mean(0))
        return torch.cat(parts)

    def count_needed(self) -> int:
        """Four times as many and three."""
        return 4 * self.poisoned + 3

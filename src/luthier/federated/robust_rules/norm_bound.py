"""The mean of changes that are scaled down to a common length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.federated.robust_rule import RobustRule

if TYPE_CHECKING:
    from torch import Tensor


class NormBoundRule(RobustRule):
    """Scale each site's change down to a norm, and take the mean (Sun et al., 2019): a scaled update weighs no more
    than another. It bounds what a poisoned site does and does not leave it out."""

    kind: Literal["norm_bound"] = "norm_bound"

    bound: float | None = Field(default=None, gt=0)
    """The greatest norm of a site's change; the median of all norms when not given."""

    def combine(self, changes: Tensor) -> Tensor:
        """The mean of the scaled changes."""
        norms = changes.norm(dim=1)
        ordered = norms.sort().values
        count = len(norms)
        bound = self.bound or float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
        scales = (bound / norms.clamp_min(1e-300)).clamp_max(1.0)
        found: Tensor = scales @ changes / count
        return found

    def count_needed(self) -> int:
        """More than twice as many: the median of the norms must be an honest one."""
        return 2 * self.poisoned + 1

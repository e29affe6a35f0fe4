"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of any size, with positions by rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from luthier.models.media.family import MediaFamily

if TYPE_CHECKING:
    from torch import Tensor


class QwenVisionFamily(MediaFamily):
    """Patches of all pictures stand in one row, which `image_grid_thw` parts."""

    types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

    def reads_together(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        """Always: attention in the tower keeps to each picture."""
        return True

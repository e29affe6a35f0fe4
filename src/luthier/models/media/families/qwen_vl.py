"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and the thinkers of Qwen2.5-Omni and Qwen3-Omni: pictures of any size, with positions
by rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from luthier.models.media.family import MediaFamily

if TYPE_CHECKING:
    from torch import Tensor


class QwenVisionFamily(MediaFamily):
    """Patches of all pictures stand in one row, which `image_grid_thw` parts."""

    types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")

    def reads_together(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        """Always: attention in the tower keeps to each picture."""
        return True

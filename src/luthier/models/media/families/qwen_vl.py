"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, with positions by rows and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class QwenVisionFamily(MediaFamily):
    """Patches of all images are concatenated; `image_grid_thw` gives their grids."""

    types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

    def reads_together(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
        """Return True: attention in the encoder stays within each image."""
        return True

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tokens of the image resized to whole tokens within the processor's limits (Qwen's
        `smart_resize`).
        """
        images, merge = settings.images, int(settings.images.get("merge_size", 2))
        side = int(images.get("patch_size", 14)) * merge
        size = dict(images.get("size") or {})
        least = int(images.get("min_pixels") or size.get("shortest_edge") or 56 * 56)
        most = int(images.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280)
        rows, columns = round(height / side), round(width / side)
        if rows * columns * side * side > most:
            share = math.sqrt(height * width / most)
            rows, columns = (max(1, math.floor(edge / share / side)) for edge in (height, width))
        elif rows * columns * side * side < least:
            share = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(edge * share / side) for edge in (height, width))
        return ImageCount(rows * columns, rows * columns * merge * merge)

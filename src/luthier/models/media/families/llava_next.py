"""LLaVA-NeXT and LLaVA-OneVision: tiles of an image at the best resolution, with a feature at the end of each row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class LlavaNextFamily(MediaFamily):
    """Each image is read alone, since the number of tiles varies.

    LLaVA-OneVision divides an image into tiles only where it is the only one in its row, as its processor reports.
    """

    types = ("llava_next", "llava_onevision")

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the whole image, and the tiles of the best resolution without padding, with a feature at the end of
        each row.
        """
        grids = settings.images.get("image_grid_pinpoints") or settings.config.get("image_grid_pinpoints") or []
        edge, patch = settings.size("image_size", 336), settings.size("patch_size", 14)
        side = edge // patch
        best = max(grids, key=lambda grid: _fit(grid, width, height), default=(edge, edge))
        rows, columns = best[0] // edge * side, best[1] // edge * side
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        tiles = best[0] // edge * (best[1] // edge) + 1
        most = str(settings.processor.get("vision_aspect_ratio") or "").removeprefix("anyres_max_")
        if most.isdigit() and (share := math.sqrt(rows * columns / (int(most) * side**2))) > 1.1:
            rows, columns = int(rows // share), int(columns // share)
        return ImageCount(side * side + rows * columns + rows, tiles * side * side, marks=1)


def _fit(grid: Sequence[int], width: int, height: int) -> tuple[int, int]:
    """Return how much of an image a resolution (height, width) shows, then how little of it is padding."""
    scale = min(grid[1] / width, grid[0] / height)
    shown = min(int(width * scale) * int(height * scale), width * height)
    return shown, shown - grid[0] * grid[1]

"""InternVL: tiles of one size, and the whole image after them."""

from __future__ import annotations

import math

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class InternVLFamily(MediaFamily):
    """Tiles of all images are one batch; each has the same number of features."""

    types = ("internvl",)

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tiles in the grid with the nearest aspect ratio, and one of the whole where there are several."""
        images = settings.images
        least, most = int(images.get("min_patches", 1)), int(images.get("max_patches", 12))
        tile = dict(images.get("size") or {"height": 448, "width": 448})
        tiles, best, nearest = 1, (1, 1), math.inf
        if most > 1:  # its processor asks for tiles, whatever the image processor is told
            every = ((columns, rows) for columns in range(1, most + 1) for rows in range(1, most + 1))
            able = (grid for grid in every if least <= grid[0] * grid[1] <= most)
            for grid in sorted(able, key=lambda grid: grid[0] * grid[1]):
                away = abs(width / height - grid[0] / grid[1])
                larger = 2 * width * height > tile["height"] * tile["width"] * grid[0] * grid[1]
                if away < nearest or (away == nearest and larger):
                    best, nearest = grid, away
            tiles += best[0] * best[1] if best[0] * best[1] > 1 else 0
        each = int(settings.processor.get("image_seq_length") or settings.config.get("image_seq_length", 256))
        return ImageCount(tiles * each, tiles * (settings.square + 1))

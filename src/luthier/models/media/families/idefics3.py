"""Idefics3 and SmolVLM: an image is divided into tiles, each after a text with its position."""

from __future__ import annotations

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class IdeficsFamily(MediaFamily):
    """Each image is read alone: its tiles are a batch of their own."""

    types = ("idefics3", "smolvlm")

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tiles of the image at its longest edge, and one of the whole."""
        images = settings.images
        edge = int(dict(images.get("size") or {"longest_edge": 1456})["longest_edge"])
        tile = int(dict(images.get("max_image_size") or {"longest_edge": 364})["longest_edge"])
        rows = columns = 0
        if images.get("do_image_splitting", True):
            short = int(edge * min(width, height) / max(width, height))
            long_tiles, short_tiles = -(-edge // tile), max(1, -(-(short + short % 2) // tile))
            rows, columns = (short_tiles, long_tiles) if width >= height else (long_tiles, short_tiles)
        tiles = rows * columns + 1 if rows * columns > 1 else 1
        each = int(settings.processor.get("image_seq_len", 169))
        return ImageCount(tiles * each, tiles * settings.square, marks=2 * tiles + 1 + (rows + 1) * (tiles > 1))

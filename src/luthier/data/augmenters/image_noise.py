"""Noise on images of rows: blur, compression, light, color, perspective, crop."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.chat.messages import Media
from luthier.core.errors import DataError, MissingExtra, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import files_digest
from luthier.core.param_space import ParamDistribution
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest, change_media
from luthier.data.row import Row

if TYPE_CHECKING:
    from PIL.Image import Image

_DATA = "data:image/"
_DIMMEST_JPEG = 10
"""The lowest quality that strength 1 reaches."""
Strength = Annotated[float, Field(ge=0, le=1)]


class ImageNoise(Augmenter):
    """Blur, compress, lighten, color, tilt, turn and crop the images of a row; its texts stay as they are.

    The images are those that its turns show, or stand in a column that was not mapped (`meta`): as a path below
    `folder`, as a data URL, or as base64. In that column the made row has a data URL (PNG), so that it needs no file.
    Each strength bounds what is drawn for a row.
    """

    kind: Literal["image_noise"] = "image_noise"
    libraries: ClassVar[Mapping[str, str]] = {"PIL": "images"}
    changes: ClassVar[str] = "image"

    column: str = "image"
    """The column of `meta` with the image, or a list of images (`images`); rows without one are left alone."""
    folder: PathText | None = None
    """Where paths in that column start; the files below it decide what is made. None: the column holds no paths."""
    blur: Annotated[float, Field(ge=0, le=20)] = 0.8
    """Largest radius of a Gaussian blur, in pixels."""
    jpeg: Strength = 0.5
    """Strongest compression as JPEG: 1 goes down to quality 10, 0 leaves it out."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """By how much of itself the light goes up or down at most."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """By how much of itself the contrast goes up or down at most."""
    color: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """By how much of itself the saturation goes up or down at most, and, by half as much, red against blue; a gray
    image gets a tint."""
    perspective: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest share of width and height by which each corner moves inwards, as if the image were seen from the side."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn to either side, in degrees; what comes in at the corners is white."""
    noise: Strength = 0.0
    """Strongest noise of single pixels: its standard deviation as a share of white."""
    crop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest share of width and height that is cut off; the rest is brought back to the image's size."""

    @model_validator(mode="after")
    def _does_something(self) -> ImageNoise:
        light = (self.brightness, self.contrast, self.color)
        if not any((self.blur, self.jpeg, *light, self.perspective, self.rotate, self.noise, self.crop)):
            raise ValueError("every strength is 0, so that nothing would be done; raise blur, jpeg, brightness or crop")
        return self

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The contents of the folder of images."""
        if self.folder is None:
            return None
        folder = resolve_path(self.folder, recipe_dir)
        return files_digest(sorted(path for path in folder.rglob("*") if path.is_file()), folder)

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with another image."""
        return [self._noisy(request, around) for request in requests]

    def _noisy(self, request: AugmentRequest, around: AugmentContext) -> AugmentedDraft | None:
        if any(media.kind == "image" for message in request.row.messages for media in message.media):
            return self._noisy_turns(request, around)
        recipe_dir = around.recipe_dir
        value = request.row.meta.get(self.column)
        if not value:
            return None
        if not isinstance(value, list):
            url, did = self._other(request, str(value), recipe_dir)
            return AugmentedDraft(request.row.messages, did, meta={self.column: url}) if did else None
        made = [self._other(request, str(entry), recipe_dir) for entry in value]
        every = tuple(f"{number}: {entry}" for number, (_, did) in enumerate(made, 1) for entry in did)
        return (
            AugmentedDraft(request.row.messages, every, meta={self.column: [url for url, _ in made]}) if every else None
        )

    def _noisy_turns(self, request: AugmentRequest, around: AugmentContext) -> AugmentedDraft | None:
        """The row with other images in its turns."""
        from luthier.chat.media_codec import KeptMedia, decode_image, keep_media

        chance = request.chance

        def change(media: Media) -> tuple[KeptMedia, tuple[str, ...]] | None:
            if around.read_media is None:
                return None
            after, did = self.noisy(decode_image(around.read_media(media.digest)), chance)
            out = io.BytesIO()
            after.save(out, "PNG")
            return (keep_media(out.getvalue()), did) if did else None

        return change_media(request.row, "image", change)

    def _other(self, request: AugmentRequest, value: str, recipe_dir: Path) -> tuple[str, tuple[str, ...]]:
        """Return one image with noise as a data URL and a description of the change; the image unchanged when nothing
        was done.
        """
        before = _opened(self._bytes(request.row, value, recipe_dir), request.row, self.column)
        after, did = self.noisy(before, request.chance)
        if not did or after.tobytes() == before.tobytes():
            return value, ()
        out = io.BytesIO()
        after.save(out, "PNG")
        return f"{_DATA}png;base64,{base64.b64encode(out.getvalue()).decode()}", did

    def noisy(self, image: Image, chance: Random) -> tuple[Image, tuple[str, ...]]:
        """Add noise to one image; return it with a description of the change."""
        from PIL import Image as Images
        from PIL import ImageEnhance, ImageFilter

        did: list[str] = []
        if self.crop and (cut := chance.uniform(0, self.crop)):
            image, description = _cropped(image, cut, chance), f"cropped by {cut:.0%}"
            did.append(description)
        if self.blur:
            radius = chance.uniform(0, self.blur)
            image = image.filter(ImageFilter.GaussianBlur(radius))
            did.append(f"blurred by {radius:.2f} pixels")
        if self.brightness:
            factor = 1 + chance.uniform(-self.brightness, self.brightness)
            image = ImageEnhance.Brightness(image).enhance(factor)
            did.append(f"light times {factor:.2f}")
        image, recolored = self._recolored(image, chance)
        did += recolored
        if self.perspective:
            image = _tilted(image, [chance.uniform(0, self.perspective) for _ in range(8)])
            did.append("seen from the side")
        if self.rotate:
            degrees = chance.uniform(-self.rotate, self.rotate)
            image = image.rotate(degrees, resample=Images.Resampling.BILINEAR, fillcolor="white")
            did.append(f"turned by {degrees:.1f} degrees")
        if self.noise:
            strength = chance.uniform(0, self.noise)
            image = _with_pixel_noise(image, strength, chance)
            did.append(f"noise of {strength:.1%} of white")
        if self.jpeg:
            quality = round(95 - (95 - _DIMMEST_JPEG) * chance.uniform(0, self.jpeg))
            image = _compressed(image, quality)
            did.append(f"JPEG of quality {quality}")
        return image, tuple(did)

    def _recolored(self, image: Image, chance: Random) -> tuple[Image, list[str]]:
        from PIL import ImageEnhance

        did: list[str] = []
        if self.contrast:
            factor = 1 + chance.uniform(-self.contrast, self.contrast)
            image = ImageEnhance.Contrast(image).enhance(factor)
            did.append(f"contrast times {factor:.2f}")
        if self.color:
            image = image.convert("RGB")
            factor = 1 + chance.uniform(-self.color, self.color)
            image = ImageEnhance.Color(image).enhance(factor)
            warmth = 1 + chance.uniform(-self.color, self.color) / 2
            red, green, blue = image.split()
            bands = (red.point(_scaled_table(warmth)), green, blue.point(_scaled_table(1 / warmth)))
            image = _merge(bands)
            did.append(f"saturation times {factor:.2f}, red times {warmth:.2f}")
        return image, did

    def _bytes(self, row: Row, value: str, recipe_dir: Path) -> bytes:
        """Return the column's value as the bytes of a file."""
        where = SourceLocation(file=row.file, line=row.line, field=self.column)
        if value.startswith(_DATA) or self.folder is None:
            try:
                return base64.b64decode(value.partition(",")[2] if value.startswith(_DATA) else value, validate=True)
            except (binascii.Error, ValueError) as error:
                hint = "if it is a path, set `folder` to where it starts"
                what = f"expected an image as a data URL or base64, got {value[:40]!r}"
                raise DataError(what, where=where, hint=hint) from error
        try:
            folder = resolve_path(self.folder, recipe_dir).resolve()
            path = (folder / value).resolve()
            if path.is_relative_to(folder):
                return path.read_bytes()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, until Python 3.13; a NUL in a name
            why = error.strerror if isinstance(error, OSError) else str(error)
            hint = "look at `folder` and the column"
            raise DataError(f"{value!r} cannot be read: {why}", where=where, hint=hint) from error
        raise DataError(f"{value!r} leads out of the folder of images", where=where, hint="mend the path")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how far its image is blurred and cropped."""
        return {**super().search_space(), "blur": ParamDistribution(0.0, 2.0), "crop": ParamDistribution(0.0, 0.3)}


def _opened(data: bytes, row: Row, column: str) -> Image:
    """An image of a kind that can be changed; `DataError` for what is none, or far too large."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("images need Pillow", hint="pip install 'luthier[images]'") from error
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        where = SourceLocation(file=row.file, line=row.line, field=column)
        hint = "mend the image, or leave the row out"
        raise DataError(f"no image that can be read: {error}", where=where, hint=hint) from error
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _cropped(image: Image, cut: float, chance: Random) -> Image:
    width, height = image.size
    left, top = chance.uniform(0, cut) * width, chance.uniform(0, cut) * height
    box = (left, top, left + width * (1 - cut), top + height * (1 - cut))
    from PIL.Image import Resampling

    return image.resize(image.size, Resampling.BILINEAR, box=box)


def _scaled_table(factor: float) -> list[int]:
    """Return the lookup table that scales the 256 values of a channel."""
    return [min(255, round(value * factor)) for value in range(256)]


def _merge(bands: tuple[Image, ...]) -> Image:
    from PIL import Image as Images

    return Images.merge("RGB", bands)


def _tilted(image: Image, shares: Sequence[float]) -> Image:
    """The image with its corners moved inwards by shares of its width and height; what comes in is white."""
    import numpy as np
    from PIL.Image import Resampling, Transform

    width, height = image.size
    x, y = np.array(shares[:4]) * width, np.array(shares[4:]) * height
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    moved = [(x[0], y[0]), (width - x[1], y[1]), (width - x[2], height - y[2]), (x[3], height - y[3])]
    rows, values = [], []
    for (to_x, to_y), (from_x, from_y) in zip(moved, corners, strict=True):
        rows.append([to_x, to_y, 1, 0, 0, 0, -from_x * to_x, -from_x * to_y])
        rows.append([0, 0, 0, to_x, to_y, 1, -from_y * to_x, -from_y * to_y])
        values += [from_x, from_y]
    factors = np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))
    white = 255 if image.mode == "L" else (255, 255, 255)
    return image.transform(
        image.size, Transform.PERSPECTIVE, factors.tolist(), resample=Resampling.BILINEAR, fillcolor=white
    )


def _with_pixel_noise(image: Image, strength: float, chance: Random) -> Image:
    import numpy as np
    from PIL import Image as Images

    values = np.asarray(image, np.float32)
    noise = np.random.default_rng(chance.getrandbits(64)).normal(0, 255 * strength, values.shape)
    return Images.fromarray(np.clip(np.round(values + noise), 0, 255).astype(np.uint8))


def _compressed(image: Image, quality: int) -> Image:
    from PIL import Image as Images

    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Images.open(io.BytesIO(out.getvalue())).convert(image.mode)

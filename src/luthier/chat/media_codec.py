"""Pictures and sounds from bytes, bounded by what their header says before they are decoded, and the bytes to keep.

A kept picture is PNG, JPEG or WebP that any reader shows as `decode_image` does: turned as its EXIF said, without EXIF
and all other metadata, one frame, eight bits, red, green and blue or gray. A kept sound is WAV or FLAC without tags. A
file that is so already keeps its bytes but for what is left out; any other is encoded anew: what was JPEG as JPEG of
quality 95, any other picture as PNG, any other sound as FLAC of 16 bits. Pictures need Pillow (the extra `images`),
sounds other than plain WAV soundfile (the extra `audio`).
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from luthier.chat import media_bytes
from luthier.chat.media_bytes import AGAIN
from luthier.chat.media_fingerprint import fingerprint_audio, fingerprint_image, measure_brightness, measure_loudness
from luthier.chat.messages import Media
from luthier.core.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_BYTES: Final = 64 << 20
"""Bytes of one picture or sound."""
MAX_PIXELS: Final = 64 << 20
"""Width times height of a picture."""
MAX_SCANS: Final = 100
"""Passes of a JPEG; progressive ones have about ten."""
MAX_FRAMES: Final = 64 << 20
"""Samples of one channel of a sound: 70 minutes at 16 kHz."""
MAX_CHANNELS: Final = 8
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Samples in a second."""
IMAGE_FORMATS = frozenset({"png", "jpeg", "gif", "webp", "tiff", "bmp"})
_PILLOW = {"png": "PNG", "jpeg": "JPEG", "gif": "GIF", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP"}
_ORIENTATION = 0x0112
_TILE = (322, 323)
"""The tags of a TIFF's tiles: width and height."""
_QUALITY = 95
_BLOCK = 1 << 16
"""Frames of a sound that are decoded at once."""
_WHITE = (255, 255, 255)


class KeptMedia(NamedTuple):
    """A picture or a sound as it is kept: what it is, and its bytes."""

    media: Media
    content: bytes


class _AudioInfo(NamedTuple):
    rate: int
    channels: int
    frames: int


def decode_image(content: bytes) -> Image:
    """A picture as it is shown, in red, green and blue: turned by its EXIF, transparent parts white, the first frame.

    `DataError` for what is no picture, is broken, or would have more than `MAX_PIXELS`; that is told by its header.
    """
    return _open_image(content)[0]


def decode_audio(content: bytes) -> tuple[np.ndarray[Any, Any], int]:
    """A sound as float32 samples between -1 and 1, one channel (the mean of all), and its samples in a second.

    `DataError` for what is no sound, is broken, holds values that are no numbers, or is longer than `MAX_FRAMES`.
    """
    import numpy as np

    name = _sniff(content, "audio")
    samples, rate = _decode_wav(content) if name == "wav" else _decode_by_library(content, name)
    if not np.isfinite(samples).all():
        raise DataError("the sound holds samples that are no numbers", hint=AGAIN)
    return samples, rate


def resample_audio(samples: np.ndarray[Any, Any], rate: int, target: int) -> np.ndarray[Any, Any]:
    """The same sound with another number of samples in a second, as float32."""
    if rate == target:
        return samples
    try:
        import soxr
    except ImportError as error:
        what = f"a sound of {rate} samples a second needs soxr to be heard at {target}"
        raise MissingExtra(what, hint="pip install 'luthier[audio]'") from error
    import numpy as np

    return np.asarray(soxr.resample(samples, rate, target), dtype=np.float32)


def encode_wav(samples: np.ndarray[Any, Any], rate: int) -> bytes:
    """Samples of one channel between -1 and 1 as a WAV file of 16 bits; what is louder is cut off."""
    import numpy as np

    data = np.clip(np.round(samples * 32767), -32768, 32767).astype("<i2").tobytes()
    return media_bytes.join_wav(struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16), data)


def media_of_bytes(content: bytes) -> Media:
    """What a picture or a sound is, of bytes that stay as they are; it is decoded once, so that a broken one is found.

    `keep_media` gives the bytes that a data set keeps.
    """
    name = _sniff(content)
    if name in IMAGE_FORMATS:
        return _describe_image(content, name, decode_image(content))
    samples, rate = decode_audio(content)
    seconds = round(len(samples) / rate, 6)
    level, sound = measure_loudness(samples), fingerprint_audio(samples, rate)
    more: dict[str, Any] = {"seconds": seconds, "rate": rate, "level": level, "fingerprint": sound}
    digest = hashlib.sha256(content).hexdigest()
    return Media(kind="audio", digest=digest, format=name, size=len(content), **more)


def keep_media(content: bytes) -> KeptMedia:
    """The bytes that a data set keeps of a picture or a sound, and what they are; `DataError` for a broken one."""
    name = _sniff(content)
    if name in IMAGE_FORMATS:
        return _keep_image(content, name)
    kept = _keep_audio(content, name)
    return KeptMedia(media_of_bytes(kept), kept)


def _describe_image(content: bytes, name: str, shown: Image) -> Media:
    digest = hashlib.sha256(content).hexdigest()
    gray = shown.convert("L")
    level, look = measure_brightness(gray), fingerprint_image(gray)
    more: dict[str, Any] = {"width": shown.width, "height": shown.height, "level": level, "fingerprint": look}
    return Media(kind="image", digest=digest, format=name, size=len(content), **more)


def _sniff(content: bytes, kind: str | None = None) -> str:
    """The format of a file of a known kind."""
    if not content:
        raise DataError("the file is empty", hint=AGAIN)
    if len(content) > MAX_BYTES:
        raise DataError(f"the file has {len(content)} bytes, more than {MAX_BYTES}", hint="make it smaller")
    name = media_bytes.sniff_media_format(content)
    if name is None or (kind is not None and (name in IMAGE_FORMATS) != (kind == "image")):
        expected = {"image": "a picture", "audio": "a sound", None: "a picture or a sound"}[kind]
        known = "pictures: PNG, JPEG, GIF, WebP, TIFF, BMP; sounds: WAV, FLAC, OGG, MP3, AIFF"
        raise DataError(f"the file is not {expected}, whatever its name says", hint=known)
    return name


def _refuse_large(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        what = f"the picture says that it has {width} x {height} pixels; at most {MAX_PIXELS} are read"
        raise DataError(what, hint="make it smaller, or leave its row out")


def _open_image(content: bytes) -> tuple[Image, bool]:
    """A picture, and whether its pixels stand in its file otherwise: turned, with parts to see through, deeper."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pictures need Pillow", hint="pip install 'luthier[images]'") from error
    name = _sniff(content, "image")
    if name == "webp":
        _refuse_large(*media_bytes.webp_size(content))
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an EXIF that is broken costs no picture
            with Image.open(io.BytesIO(content), formats=(_PILLOW[name],)) as image:
                return _load(image, name, content)
    except (DataError, MemoryError):
        raise
    except bombs as error:
        raise DataError(f"the picture is far too large: {error}", hint="make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, LookupError, TypeError, ArithmeticError) as error:
        # what Pillow's readers raise on files that are not as they should be
        why = "its content is broken" if "BytesIO" in str(error) else str(error)  # no address of an object
        raise DataError(f"the picture cannot be read: {why}", hint=AGAIN) from error


def _load(image: Image, name: str, content: bytes) -> tuple[Image, bool]:
    _refuse_large(*image.size)
    _refuse_large_tiles(image, name)
    if name == "jpeg":
        _refuse_many_scans(content)
    turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    image.load()
    _refuse_large(*image.size)
    plain = not turned and image.mode in ("RGB", "L") and image.info.get("transparency") is None
    return _as_shown(image, turned=turned), not plain


def _refuse_large_tiles(image: Image, name: str) -> None:
    """Refuse a TIFF whose tiles are far larger than its picture: memory is taken for a whole one."""
    tags = getattr(image, "tag_v2", {}) if name == "tiff" else {}
    width, height = (tags.get(tag, 1) for tag in _TILE)
    _refuse_large(int(width), int(height))


def _refuse_many_scans(content: bytes) -> None:
    """Refuse a JPEG that is sent in far more passes than any encoder makes: each costs the time of a whole picture."""
    if (scans := media_bytes.count_jpeg_scans(content)) > MAX_SCANS:
        raise DataError(f"the JPEG has {scans} scans; at most {MAX_SCANS} are read", hint="save it anew")


def _as_shown(image: Image, *, turned: bool) -> Image:
    from PIL import Image as Images
    from PIL import ImageOps

    if turned:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        ground = Images.new("RGBA", image.size, (*_WHITE, 255))
        image = Images.alpha_composite(ground, image)
    return image.convert("RGB")


def _to_eight_bits(image: Image) -> Image:
    """A picture of 16 bits or more in eight: Pillow itself would cut what is lighter than 255."""
    import numpy as np
    from PIL import Image as Images

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if values.size and not 0 <= values.min() <= values.max() <= top:
        low, high = values.min(), values.max()
        values, top = values - low, max(high - low, 1e-300)
    return Images.fromarray(np.round(values / top * 255).astype(np.uint8), mode=None)


def _keep_image(content: bytes, name: str) -> KeptMedia:
    shown, otherwise = _open_image(content)
    kept = None if otherwise else _stripped(content, name)
    if kept is not None:  # the same pixels: it is not decoded again
        return KeptMedia(_describe_image(kept, name, shown), kept)
    made = io.BytesIO()
    if name == "jpeg":
        shown.save(made, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        shown.save(made, "PNG")
    return KeptMedia(media_of_bytes(made.getvalue()), made.getvalue())


def _stripped(content: bytes, name: str) -> bytes | None:
    """A picture without what is not shown; None where it must be encoded anew."""
    if name == "png":
        return media_bytes.strip_png(content)
    if name == "jpeg":
        return media_bytes.strip_jpeg(content)
    return media_bytes.strip_webp(content) if name == "webp" and not _is_animated_webp(content) else None


def _is_animated_webp(content: bytes) -> bool:
    return content[12:16] == b"VP8X" and bool(content[20] & 0x02)


def _refuse_long(info: _AudioInfo) -> None:
    if not MIN_RATE <= info.rate <= MAX_RATE:
        hint = f"sounds have {MIN_RATE} to {MAX_RATE} samples a second; write the right rate into the file"
        raise DataError(f"the sound says that it has {info.rate} samples a second", hint=hint)
    if not 1 <= info.channels <= MAX_CHANNELS:
        hint = f"at most {MAX_CHANNELS} are read"
        raise DataError(f"the sound says that it has {info.channels} channels", hint=hint)
    if info.frames < 1:
        raise DataError("the sound has no samples", hint=AGAIN)
    if info.frames > MAX_FRAMES:
        what = f"the sound says that it lasts {info.frames / info.rate:.0f} seconds: {info.frames} samples a channel"
        raise DataError(what, hint=f"at most {MAX_FRAMES} are read; cut it into pieces")


def _decode_wav(content: bytes) -> tuple[np.ndarray[Any, Any], int]:
    import numpy as np

    header = media_bytes.read_wav_header(content)
    _refuse_long(_AudioInfo(header.rate, header.channels, header.frames))
    if (header.codec, header.bits) not in _WAV_SAMPLES:
        return _decode_by_library(content, "wav")
    values = np.frombuffer(content, np.uint8, header.frames * header.block, header.begin)
    samples = np.empty(header.frames, np.float32)
    width = header.bits // 8
    for begin in range(0, header.frames, _BLOCK):
        block = values[begin * header.block : (begin + _BLOCK) * header.block]
        frames = _to_float(block, header.codec, width).reshape(-1, header.channels)
        samples[begin : begin + len(frames)] = frames.mean(axis=1)
    return samples, header.rate


_WAV_SAMPLES = frozenset({(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)})
"""Codec and bits of what is read without a library."""


def _to_float(values: np.ndarray[Any, Any], codec: int, width: int) -> np.ndarray[Any, Any]:
    """Samples as they stand in a WAV file, as floating point between -1 and 1."""
    import numpy as np

    if codec == 3:
        with np.errstate(over="ignore"):
            return np.asarray(values.view(f"<f{width}"), np.float32)
    if width == 1:
        return (values.astype(np.float32) - 128) / 128
    if width == 3:
        wide = np.zeros((len(values) // 3, 4), np.uint8)
        wide[:, 1:] = values.reshape(-1, 3)
        return (wide.reshape(-1).view("<i4") / 2**31).astype(np.float32)
    return np.asarray(values.view(f"<i{width}") / 2 ** (8 * width - 1), np.float32)


class _Seekable(io.BytesIO):
    """Bytes in which broken headers may seek before the beginning: that is the beginning, and no error."""

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(max(0, base + offset))


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtra("sounds other than plain WAV need soundfile", hint="pip install 'luthier[audio]'") from error
    return soundfile


def _without_address(error: Exception) -> str:
    """What a library says, without the address of an object, which differs in each run."""
    return re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "the file", str(error))


def _decode_by_library(content: bytes, name: str) -> tuple[np.ndarray[Any, Any], int]:
    import numpy as np

    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(_Seekable(content)) as file:
            _refuse_long(_AudioInfo(file.samplerate, file.channels, file.frames))
            blocks = [
                block.mean(axis=1, dtype=np.float32) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True)
            ]
            found = sum(map(len, blocks))
            if found < file.frames:
                what = f"{file.frames} samples are announced and {found} can be read"
                raise DataError(f"the sound ends before its end: {what}", hint=AGAIN)
            return np.concatenate(blocks), int(file.samplerate)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(f"the sound cannot be read as {name.upper()}: {_without_address(error)}", hint=AGAIN) from error


def _keep_audio(content: bytes, name: str) -> bytes:
    if name == "wav":
        header = media_bytes.read_wav_header(content)
        if (header.codec, header.bits) in _WAV_SAMPLES:
            return media_bytes.strip_wav(content)
    if name == "flac":
        return media_bytes.strip_flac(content)
    soundfile = _soundfile()
    made = io.BytesIO()
    try:
        with soundfile.SoundFile(_Seekable(content)) as file:
            _refuse_long(_AudioInfo(file.samplerate, file.channels, file.frames))
            with soundfile.SoundFile(
                made, "w", file.samplerate, file.channels, format="FLAC", subtype="PCM_16"
            ) as target:
                for block in file.blocks(_BLOCK, dtype="int16", always_2d=True):
                    target.write(block)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(f"the sound cannot be read as {name.upper()}: {_without_address(error)}", hint=AGAIN) from error
    return made.getvalue()

"""Patches of pictures and seconds of sounds: features of media that are units of a prompt, and media without some.

A picture cannot lose tokens: its layout, and in some models the positions of all tokens behind it, would be another's.
A patch is removed by the mean of the picture's features in the places of its own, and so is a stretch of a sound.
"""

from __future__ import annotations

import base64
import io
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from luthier.artifacts.explanation import ExplainedPicture, PatchRegion
from luthier.chat.media import MEDIA_IDS, build_media_ids, get_media_key, get_media_place
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.explain.units import CutPrompt, PromptUnit

if TYPE_CHECKING:
    from luthier.chat.media import MediaProcessor
    from luthier.chat.media_regions import Region

MOST = 6
"""Maximum rows and columns of an image's patches."""
MOST_STRETCHES = 12
"""Maximum number of segments of a clip."""
_STEPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Lengths of stretches in seconds."""
_SHOWN = 448
"""Pixels of the longer side of a displayed image."""
_QUALITY = 85


class LocatedPicture(NamedTuple):
    """Position of an image or clip in a conversation: indices of its message and character."""

    media: Media
    message: int
    start: int


def list_pictures(messages: Sequence[Message]) -> list[LocatedPicture]:
    """The pictures and sounds of a conversation, in order."""
    found = []
    for number, message in enumerate(messages):
        marks = [at for at, char in enumerate(message.content) if char == MEDIA_MARK]
        found += [
            LocatedPicture(media, number, at) for media, at in zip(message.media, marks, strict=bool(message.media))
        ]
    return found


def list_picture_tokens(ids: Sequence[int]) -> list[list[int]]:
    """The indices of each picture's or sound's features among ids, picture by picture."""
    found: list[list[int]] = []
    for at, token in enumerate(ids):
        if token >= MEDIA_IDS:
            if not get_media_place(token):
                found.append([])
            found[-1].append(at)
    return found


def cut_pictures(ids: Sequence[int], messages: Sequence[Message], processor: MediaProcessor) -> list[PromptUnit]:
    """The patches of all pictures and the seconds of all sounds of a prompt, in order."""
    units = list[PromptUnit]()
    for number, (tokens, picture) in enumerate(zip(list_picture_tokens(ids), list_pictures(messages), strict=True)):
        regions = processor.locate_features(get_media_key(ids[tokens[0]]))
        if picture.media.kind == "audio":
            units += _cut_sound(number, picture, tokens, regions)
            continue
        for (row, column), members in group_features(regions).items():
            own = [regions[member] for member in members]
            least = min(region.area for region in own)
            drawn = [region for region in own if region.area <= least * 1.5]  # not a feature of the whole picture
            patch = PatchRegion(
                picture=number,
                left=min(region.left for region in drawn),
                top=min(region.top for region in drawn),
                right=max(region.right for region in drawn),
                bottom=max(region.bottom for region in drawn),
            )
            text = f"picture {number + 1}, row {row + 1}, column {column + 1}"
            role, end = messages[picture.message].role, picture.start + 1
            at = tuple(tokens[member] for member in members)
            units.append(PromptUnit(text, picture.message, role, picture.start, end, at, patch=patch))
    return units


def _cut_sound(
    number: int, sound: LocatedPicture, tokens: Sequence[int], regions: Sequence[Region]
) -> list[PromptUnit]:
    """Stretches of a sound, each as long as the next but the last: at most `MOST_STRETCHES`, of a round length."""
    length = sound.media.seconds or 1.0
    step = next((step for step in _STEPS if length <= step * MOST_STRETCHES), length / MOST_STRETCHES)
    stretches: dict[int, list[int]] = {}
    for member, region in enumerate(regions):
        stretches.setdefault(int((region.left + region.right) / 2 * length / step), []).append(member)
    return [
        PromptUnit(
            f"sound {number + 1}, {at * step:.2f} to {min((at + 1) * step, length):.2f} s",
            sound.message,
            "user",
            sound.start,
            sound.start + 1,
            tuple(tokens[member] for member in members),
            patch=PatchRegion(
                picture=number, left=at * step / length, top=0, right=min(1.0, (at + 1) * step / length), bottom=1
            ),
        )
        for at, members in sorted(stretches.items())
    ]


def group_features(regions: Sequence[Region]) -> dict[tuple[int, int], list[int]]:
    """Return the features of each patch, by row and column: those with their centre in it.

    The smallest features define the grid; its rows and columns are merged above `MOST`.
    """
    least = min(region.area for region in regions)
    finest = [region for region in regions if region.area <= least * 1.5]
    tops = sorted({round(region.top, 9) for region in finest})
    lefts = sorted({round(region.left, 9) for region in finest})
    found: dict[tuple[int, int], list[int]] = {}
    for number, region in enumerate(regions):
        row = _find_band(tops, (region.top + region.bottom) / 2)
        column = _find_band(lefts, (region.left + region.right) / 2)
        found.setdefault((row, column), []).append(number)
    return dict(sorted(found.items()))


def _find_band(begins: Sequence[float], middle: float) -> int:
    return max(0, bisect_right(begins, middle) - 1) * min(MOST, len(begins)) // len(begins)


def add_patches(cut: CutPrompt, patches: Sequence[PromptUnit]) -> CutPrompt:
    """Return a prompt with its text units and patches of images, in the order of their tokens."""
    units = sorted((*cut.units, *patches), key=lambda unit: unit.tokens[0])
    owners = [-1] * len(cut.owners)
    for number, unit in enumerate(units):
        for token in unit.tokens:
            owners[token] = number
    return CutPrompt(cut.kind, tuple(units), tuple(owners))


def remove_features(ids: Sequence[int], removed: Collection[int], processor: MediaProcessor) -> list[int]:
    """The ids with a variant of each picture that has features among the `removed` indices."""
    found = list(ids)
    for tokens in list_picture_tokens(ids):
        bits = sum(1 << get_media_place(ids[at]) for at in tokens if at in removed)
        if bits:
            own = build_media_ids(processor.meet_variant(get_media_key(ids[tokens[0]]), bits), len(tokens))
            for at, token in zip(tokens, own, strict=True):
                found[at] = token
    return found


def show_pictures(messages: Sequence[Message], read_media: Callable[[str], bytes]) -> tuple[ExplainedPicture, ...]:
    """The pictures of a conversation, and the waveforms of its sounds, as a page shows them."""
    return tuple(
        ExplainedPicture(
            message=picture.message,
            digest=picture.media.digest,
            width=picture.media.width or _SHOWN,
            height=picture.media.height or _SHOWN // 4,
            url=_SHOW[picture.media.kind](read_media(picture.media.digest)),
            seconds=picture.media.seconds,
        )
        for picture in list_pictures(messages)
    )


def _draw_waveform(content: bytes) -> str:
    """The least and the greatest sample of each column, as SVG in a `data:` URL."""
    import numpy as np

    from luthier.chat.media_codec import decode_audio

    samples, _ = decode_audio(content)
    loudest = float(np.abs(samples).max()) or 1.0
    width, middle = _SHOWN, _SHOWN / 8
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    columns = (samples[begin : max(end, begin + 1)] for begin, end in pairwise(edges) if begin < len(samples))
    path = "".join(
        f"M{at + 0.5:g} {middle - middle * float(column.max()) / loudest:.1f}"
        f"V{middle - middle * float(column.min()) / loudest + 0.5:.1f}"
        for at, column in enumerate(columns)
    )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * middle:g}">'
        f'<rect width="{width}" height="{2 * middle:g}" fill="#fff"/><path d="{path}" stroke="#222"/></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def _build_data_url(content: bytes) -> str:
    from luthier.chat.media_codec import decode_image

    image = decode_image(content).convert("RGB")
    image.thumbnail((_SHOWN, _SHOWN))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


_SHOW: dict[str, Callable[[bytes], str]] = {"image": _build_data_url, "audio": _draw_waveform}

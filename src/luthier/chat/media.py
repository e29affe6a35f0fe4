"""Pictures and sounds as tokens: ids of their own for each medium, and the processor that turns bytes into numbers.

Each token of a medium has an id that names the medium's bytes, the settings of the processor and its place, so that
rows with the same picture share it wherever shared beginnings are found, and two pictures are never taken for one.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.chat.media_audio import AudioFrontEnd
from luthier.chat.media_regions import Region, find_visible_region, locate_features
from luthier.chat.messages import Media, Message
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.process import hide_transformers_output

if TYPE_CHECKING:
    from torch import Tensor

MEDIA_IDS = 1 << 62
"""Ids from here on are tokens of media; no vocabulary reaches so far."""
_PLACE_BITS = 15
_KEY_BITS = 47
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Either of them makes a folder that of a model with pictures or sounds."""
MediaKind = Literal["image", "audio"]


def build_media_ids(key: int, count: int) -> list[int]:
    """The ids of a medium's tokens, in order."""
    if count > 1 << _PLACE_BITS:
        raise DataError(
            f"a medium has {count} tokens; {1 << _PLACE_BITS} are allowed", hint="set max_pixels or max_seconds lower"
        )
    first = MEDIA_IDS | key << _PLACE_BITS
    return list(range(first, first + count))


def get_media_key(token: int) -> int:
    """Which medium a token of `MEDIA_IDS` and above belongs to."""
    return (token & MEDIA_IDS - 1) >> _PLACE_BITS


def get_media_place(token: int) -> int:
    """Which token of its medium it is, from 0."""
    return token & (1 << _PLACE_BITS) - 1


def list_media_keys(ids: Iterable[int]) -> list[int]:
    """The media whose tokens stand among ids, each once, in the order of their first tokens."""
    marked = dict.fromkeys([token >> _PLACE_BITS for token in ids if token >= MEDIA_IDS])
    return [key & (1 << _KEY_BITS) - 1 for key in marked]


def list_media_runs(ids: Iterable[int]) -> list[int]:
    """The media whose tokens stand among ids, in order, as often as they stand there."""
    return [get_media_key(token) for token in ids if token >= MEDIA_IDS and not get_media_place(token)]


class MediaSpan(NamedTuple):
    """Tokens of a row that stand for one medium, those that a processor writes around its features included."""

    digest: str
    tokens: tuple[int, int]


@dataclass(frozen=True)
class KnownMedium:
    """A medium that a processor has met: what it is, and what stands in its place."""

    media: Media
    text: str
    """What the processor writes for it."""
    count: int
    """How many of its tokens are features of it."""
    grid: tuple[int, int, int] = (0, 0, 0)
    """Frames, rows and columns of its tokens, for models that turn positions by them; zeros for others."""
    multi_image: bool = False
    """Whether other pictures stand in its row, where that changes what the processor makes of it."""
    source: int | None = None
    """For a variant of a picture, the key of that picture."""
    removed: int = 0
    """Which features of a variant are the mean of all of the picture's: bit n for the one at place n."""


@dataclass(frozen=True)
class MediaLayout:
    """What follows from a medium's size alone."""

    text: str
    count: int
    grid: tuple[int, int, int]


class MediaProcessor:
    """transformers' processor of a model with pictures or sounds, and the media that were met."""

    def __init__(
        self,
        processor: Any,
        feature_ids: dict[MediaKind, int],
        *,
        max_pixels: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        """`feature_ids` say which token of the vocabulary stands where a feature of each kind of medium does.

        Pictures of more than `max_pixels` are made smaller before the processor sees them; of sounds longer than
        `max_seconds` it hears the beginning.
        """
        self._processor, self.feature_ids, self.max_pixels = processor, feature_ids, max_pixels
        self.written = {
            kind: token for kind in feature_ids if (token := getattr(processor, f"{kind}_token", None)) is not None
        }
        """What a chat template writes for a medium of each kind."""
        settings = [json.loads(processor.to_json_string()), max_pixels]
        self.digest = digest_of(settings if max_seconds is None else [*settings, max_seconds])
        """Names all that decides the numbers of a medium."""
        self._known: dict[int, KnownMedium] = {}
        self._layouts: dict[tuple[Any, ...], MediaLayout] = {}
        self.audio = self._find_audio(max_seconds)
        """How sounds are read; None where the model reads none."""
        names = getattr(getattr(processor, "image_processor", None), "model_input_names", ())
        self._counts_pictures = "batch_num_images" in names  # of a row, and reads them otherwise when they are several

    @classmethod
    def load(
        cls, folder: Path, *, max_pixels: int | None = None, max_seconds: float | None = None
    ) -> MediaProcessor | None:
        """The processor in a Hugging Face folder; None where the model reads text alone. `max_pixels` and
        `max_seconds`, when not given, are what the model's own `model.json` says."""
        from luthier.chat.speech import SpeechProcessor, is_speech_folder

        if not any((folder / name).is_file() for name in PROCESSOR_FILES):
            return None
        if is_speech_folder(folder):
            return SpeechProcessor.load(folder, max_seconds=max_seconds)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        feature_ids: dict[MediaKind, int] = {}
        kinds: tuple[MediaKind, ...] = ("image", "audio")
        for kind in kinds:
            token = config.get(f"{kind}_token_id", config.get(f"{kind}_token_index"))
            if isinstance(token, int):
                feature_ids[kind] = token
        if not feature_ids:
            return None
        try:
            with hide_transformers_output():
                processor = load_processor(folder)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise ModelError(
                f"the processor of pictures and sounds cannot be loaded: {error}",
                where=SourceLocation(file=str(folder)),
                hint="`pip install 'luthier[images,audio]'` reads both (Granite Speech: torchaudio as well); else "
                "fetch the model again",
            ) from error
        card = folder / "model.json"
        known = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
        max_pixels = known.get("max_pixels") if max_pixels is None else max_pixels
        max_seconds = known.get("max_seconds") if max_seconds is None else max_seconds
        return cls(processor, feature_ids, max_pixels=max_pixels, max_seconds=max_seconds)

    def _find_audio(self, max_seconds: float | None) -> AudioFrontEnd | None:
        if "audio" not in self.feature_ids:
            return None
        feature = self._processor.tokenizer.convert_ids_to_tokens(self.feature_ids["audio"])
        return AudioFrontEnd(self._processor, feature, max_seconds=max_seconds)

    def meet(self, media: Media, *, multi_image: bool = False) -> int:
        """Take note of a medium, and return the key that its tokens bear. `multi_image`: others stand in its row."""
        multi_image = multi_image and self._counts_pictures
        found = hashlib.sha256(f"{media.digest} {self.digest}{' of several' * multi_image}".encode()).digest()
        key = int.from_bytes(found[:8], "big") >> 64 - _KEY_BITS
        known = self._known.get(key)
        if known is None:
            layout = self._lay_out(media, multi_image=multi_image)
            self._known[key] = KnownMedium(media, layout.text, layout.count, layout.grid, multi_image)
        elif known.media.digest != media.digest:
            raise DataError(
                f"the media {known.media.digest} and {media.digest} have one key by chance",
                hint="store either of them in another format",
            )
        return key

    def meet_variant(self, source: int, removed: int) -> int:
        """Take note of a picture in which some features are replaced by the mean of all, and return its key.

        Bit n of `removed` is set for the feature at place n. It lasts until `forget_variants`.
        """
        found = hashlib.sha256(f"{source} {self.digest} {removed:x}".encode()).digest()
        key = int.from_bytes(found[:8], "big") >> 64 - _KEY_BITS
        variant = replace(self._known[source], source=source, removed=removed)
        if self._known.setdefault(key, variant) != variant:
            raise DataError("a picture and a variant of one have one key by chance", hint="take other units")
        return key

    def refuses(self, messages: Sequence[Message]) -> str:
        """Why a conversation cannot be read; empty where it can."""
        sounds = (medium for message in messages for medium in message.media if medium.kind == "audio")
        return next(filter(None, map(self.audio.refuses, sounds)), "") if self.audio is not None else ""

    def is_cut(self, media: Media) -> bool:
        """Whether the end of a medium is left out."""
        return self.audio is not None and self.audio.is_cut(media)

    def restore(self, ids: Sequence[int]) -> list[int]:
        """Ids as transformers' processor gives them: one token of the vocabulary for every feature of a medium."""
        return [
            token if token < MEDIA_IDS else self.feature_ids[self._known[get_media_key(token)].media.kind]
            for token in ids
        ]

    def bind(self, ids: list[int]) -> list[int]:
        """The ids of a row in which media have their own, with what else of it must say whose row it is."""
        return ids

    def forget_variants(self) -> None:
        """Forget what `meet_variant` took note of."""
        self._known = {key: known for key, known in self._known.items() if known.source is None}

    def locate_features(self, key: int) -> list[Region]:
        """Where in its picture each feature of a medium lies; of a sound, the share of its time as left and right."""
        known = self._known[key]
        if known.media.kind == "audio":
            assert self.audio is not None, "only a processor of sounds meets one"
            length = known.media.seconds or 1.0
            spans = self.audio.locate_features(known.media)
            return [Region(begin / length, 0.0, end / length, 1.0) for begin, end in spans]
        feature = self._processor.tokenizer.convert_ids_to_tokens(self.feature_ids[known.media.kind])
        size = self._shrunk(known.media.width or 1, known.media.height or 1)
        visible = find_visible_region(self._processor.image_processor, *size)
        return locate_features(known.text, feature, known.grid, visible)

    def get(self, key: int) -> KnownMedium:
        """The medium that was met under a key."""
        return self._known[key]

    def export_known(self) -> list[dict[str, Any]]:
        """The media that were met, as JSON, for another process to meet them by `import_known`."""
        return [
            {**known.media.model_dump(mode="json"), **({"multi_image": True} if known.multi_image else {})}
            for known in self._known.values()
            if known.source is None
        ]

    def import_known(self, entry: dict[str, Any]) -> int:
        """Meet a medium as another process met it, and return its key."""
        own = {name: value for name, value in entry.items() if name != "multi_image"}
        return self.meet(Media.model_validate(own), multi_image=entry.get("multi_image", False))

    def build_inputs(self, key: int, content: bytes) -> dict[str, Tensor]:
        """What a model's tower reads of a medium, from its bytes."""
        from luthier.chat.media_codec import decode_image

        known = self._known[key]
        if known.media.kind == "audio":
            assert self.audio is not None, "only a processor of sounds meets one"
            return self.audio.build_inputs(known.media, content)
        image = self._shrink(decode_image(content))
        if (layout := self._lay_out_size(image.size, multi_image=known.multi_image)).count != known.count:
            raise DataError(
                f"the picture {known.media.digest} is {image.width} x {image.height} pixels and was said to be "
                f"{known.media.width} x {known.media.height} ({layout.count} tokens, not {known.count})",
                hint="prepare the data set again",
            )
        found, _ = self._process(image, multi_image=known.multi_image)
        return {name: value for name, value in found.items() if name not in self._processor.unused_input_names}

    def build_row_inputs(self, ids: Sequence[int], read: Callable[[str], bytes]) -> dict[str, Any]:
        """All that transformers' processor makes of one row of ids, media included, as if it had made the ids itself.

        `read` gives the bytes of a medium, by its digest. Tensors are (1, tokens) or as the model takes them.
        """
        from luthier.chat.media_codec import decode_image

        met = [self._known[key] for key in list_media_runs(ids)]
        if any(known.source is not None for known in met):
            hint = "explain by words, or choose a model whose pictures are packed"
            raise ModelError("parts of a picture cannot be removed where the model reads its rows itself", hint=hint)
        images = [self._shrink(decode_image(read(known.media.digest))) for known in met]
        plain = self.restore(ids)
        processor = copy(self._processor)
        processor.tokenizer = _GivenIds(self._processor.tokenizer, plain)
        text = "".join(self.written[known.media.kind] for known in met)
        try:
            found = processor(text=[text], images=[images] if images else None, return_tensors="pt")
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            name = type(self._processor).__name__
            hint = "choose a model of another family"
            raise ModelError(f"transformers' {name} does not take the ids of a row: {error}", hint=hint) from error
        return {name: value for name, value in found.items() if name != "labels"}

    def _lay_out(self, media: Media, *, multi_image: bool) -> MediaLayout:
        if media.kind not in self.written:
            names = {"image": "pictures", "audio": "sounds"}
            raise DataError(f"the model reads no {names[media.kind]}", hint="choose another model, or drop these rows")
        if media.kind == "audio":
            assert self.audio is not None, "a processor that writes for sounds reads them"
            found = self.audio.lay_out(media)
            return MediaLayout(found.text, found.count, (0, 0, 0))
        if not media.width or not media.height:
            raise DataError(f"the size of the picture {media.digest} is unknown", hint="prepare the data set again")
        return self._lay_out_size(self._shrunk(media.width, media.height), multi_image=multi_image)

    def _lay_out_size(self, size: tuple[int, int], *, multi_image: bool = False) -> MediaLayout:
        """What stands for a picture of so many pixels: its contents make no difference to the processor's text."""
        if (size, multi_image) not in self._layouts:
            from PIL import Image

            inputs, text = self._process(Image.new("RGB", size), multi_image=multi_image)
            tokenizer = self._processor.tokenizer
            feature = tokenizer.convert_ids_to_tokens(self.feature_ids["image"])
            grid = inputs["image_grid_thw"][0].tolist() if "image_grid_thw" in inputs else (0, 0, 0)
            if any(grid):
                merge = int(self._processor.image_processor.merge_size)
                grid = (grid[0], grid[1] // merge, grid[2] // merge)
            self._layouts[size, multi_image] = MediaLayout(text, text.count(feature), tuple(grid))
        return self._layouts[size, multi_image]

    def _process(self, image: Any, *, multi_image: bool = False) -> tuple[Any, str]:
        """The numbers of one picture, and what stands in its place."""
        processor = self._processor
        merged = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt")
        images, *_ = processor.prepare_inputs_layout(images=[[image, image]] if multi_image else [image])
        inputs, texts = processor._process_images(images, **merged["images_kwargs"])
        if multi_image:  # each is processed by itself: the first of the two is what it is next to any other
            inputs = {name: value[:1] if name != "batch_num_images" else value for name, value in inputs.items()}
        return inputs, texts[0]

    def _shrunk(self, width: int, height: int) -> tuple[int, int]:
        """The size of a picture that is brought down to the most pixels."""
        if self.max_pixels is None or width * height <= self.max_pixels:
            return width, height
        share = (self.max_pixels / (width * height)) ** 0.5
        return max(1, int(width * share)), max(1, int(height * share))

    def _shrink(self, image: Any) -> Any:
        from PIL import Image

        size = self._shrunk(image.width, image.height)
        return image.resize(size, Image.Resampling.BICUBIC) if size != image.size else image


class _GivenIds:
    """A tokenizer that gives the ids that are known already, and is otherwise another one."""

    def __init__(self, tokenizer: Any, ids: Sequence[int]) -> None:
        self._tokenizer, self._ids = tokenizer, list(ids)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": [self._ids], "attention_mask": [[1] * len(self._ids)]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def load_processor(folder: Path) -> Any:
    """transformers' own processor of pictures in a Hugging Face folder, with Pillow and without its part for films,
    which needs libraries that pictures do not."""
    named = (json.loads(path.read_text(encoding="utf-8")) for name in _NAMING if (path := folder / name).is_file())
    name = next((entry["processor_class"] for entry in named if entry.get("processor_class")), "")
    own = drop_video_processor(find_processor_class(name))
    return own.from_pretrained(str(folder), local_files_only=True, backend="pil")


def drop_video_processor(kind: Any) -> Any:
    """The same class of processor without its part for films, which needs torchvision."""
    from transformers import ProcessorMixin

    def start(self: Any, *parts: Any, **more: Any) -> None:
        ProcessorMixin.__init__(self, *(part for part in parts if part is not None), **more)

    attributes = [attribute for attribute in kind.get_attributes() if attribute != "video_processor"]
    without = type("WithoutVideos", (ProcessorMixin,), {"__init__": start})  # what the class itself calls
    return type(kind.__name__, (kind, without), {"get_attributes": classmethod(lambda cls: attributes)})


def find_processor_class(name: str) -> Any:
    """transformers' class of a processor; `ValueError` for a name that it does not know.

    Pixtral's module asks for torchvision, for a function that its module for Pillow has as well: it is given that one.
    """
    import transformers
    from transformers.utils import is_torchvision_available

    if name == "PixtralProcessor" and not is_torchvision_available():
        package = "transformers.models.pixtral"
        pillow = importlib.import_module(f"{package}.image_processing_pil_pixtral")
        sys.modules.setdefault(f"{package}.image_processing_pixtral", pillow)
        return importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor
    kind = getattr(transformers, name, None) if name.endswith("Processor") else None
    if kind is None:
        raise ValueError(f"transformers has no processor {name!r}")
    return kind


_NAMING = (*PROCESSOR_FILES, "tokenizer_config.json")
"""Files that may say which processor a model has."""

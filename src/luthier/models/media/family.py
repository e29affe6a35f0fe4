"""How a family of models reads pictures or sounds: what is the same in all of them, and the list of known ones.

A family is one class in one file of `luthier.models.media.families`. A model of a type that no family names is read row
by row, through its own forward (`luthier.models.media.row_forward`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class FrozenEncoder(NamedTuple):
    """An encoder that does not move, below a projector that does."""

    encoder: Any
    projector: Any
    layers: tuple[int, ...]
    """The layers whose states are read, side by side; none for what the encoder gives in the end."""
    classes: bool
    """Whether the first state stands for the whole picture and is left out."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What decides the states beside the encoder's weights."""
        return self.layers, self.classes

    @property
    def weight(self) -> Tensor:
        """A weight, of the kind in which it computes."""
        found: Tensor = next(self.encoder.parameters())
        return found

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(pictures, n, width) states that the projector reads."""
        import torch

        pixels = inputs["pixel_values"]
        if not self.layers:
            last: Tensor = self.encoder(pixel_values=pixels, return_dict=True).last_hidden_state
            return last
        outputs = self.encoder(pixels, output_hidden_states=True, return_dict=True).hidden_states
        return torch.cat([outputs[layer][:, int(self.classes) :] for layer in self.layers], -1)


class ImageCount(NamedTuple):
    """What a picture or a sound comes to."""

    features: int
    """Tokens that stand for it."""
    patches: int
    """What its encoder reads."""
    marks: int = 2
    """About how many further tokens stand around and between its features."""

    @property
    def tokens(self) -> int:
        """All of a row's tokens that come of it."""
        return self.features + self.marks


class MediaSettings(NamedTuple):
    """What the files of a model say of its pictures."""

    config: Mapping[str, Any]
    """`config.json`."""
    processor: Mapping[str, Any]
    """`processor_config.json`."""
    images: Mapping[str, Any]
    """What its image processor is told."""
    max_pixels: int | None = None
    """The most pixels that its `model.json` allows."""
    max_seconds: float | None = None
    """How much of a sound its `model.json` lets it have."""

    @property
    def vision(self) -> Mapping[str, Any]:
        """What the configuration says of the encoder."""
        found: Mapping[str, Any] = self.config.get("vision_config") or {}
        return found

    @property
    def audio(self) -> Mapping[str, Any]:
        """What the configuration says of the encoder of sounds."""
        found: Mapping[str, Any] = self.config.get("audio_config") or self.config.get("encoder_config") or {}
        return found

    def size(self, name: str, usual: int) -> int:
        """A size of the encoder in pixels: a number, or the first of a pair."""
        value = self.vision.get(name, usual)
        return int(value[0] if isinstance(value, list | tuple) else value)

    @property
    def square(self) -> int:
        """Patches of a picture of the encoder's own size."""
        return (self.size("image_size", 224) // self.size("patch_size", 14)) ** 2


class FrozenAudioEncoder(NamedTuple):
    """An encoder of sounds that does not move, below a projector that does and that reads each state by itself."""

    encoder: Any
    projector: Any
    read_states: Callable[[Mapping[str, Tensor]], Tensor]
    """From what a processor makes of one sound to the (n, width) states that the projector reads."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What decides the states beside the encoder's weights: nothing."""
        return ()

    @property
    def weight(self) -> Tensor:
        """A weight, of the kind in which it computes."""
        found: Tensor = next(self.encoder.parameters())
        return found

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width) states that the projector reads."""
        return self.read_states(inputs)


class MediaFamily:
    """How models of some types read pictures in packs. Defining a class with `types` adds them.

    What stands here fits a model whose `get_image_features` tells in `pooler_output` the features of all pictures, one
    after another, and whose decoder reads them in the places of its embeddings.
    """

    types: ClassVar[tuple[str, ...]] = ()
    """The `model_type` of each configuration."""
    mutual: ClassVar[bool] = False
    """Whether a picture's tokens see one another, later ones too."""

    alone: ClassVar[str] = ""
    """Why a row with pictures is read by itself through the model's own forward; empty for one that is packed."""

    prefix: ClassVar[bool] = False
    """Whether all that stands before what is learnt or written sees itself both ways (prefix-LM), pictures or not."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        family = cls()
        for name in cls.__dict__.get("types", ()):
            if name in _FAMILIES and type(_FAMILIES[name]).__qualname__ != cls.__qualname__:
                raise TypeError(f"both {type(_FAMILIES[name]).__name__} and {cls.__name__} read {name!r}")
            _FAMILIES[name] = family

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """What a plain model's tower says of media of one kind, from what its processor makes of them.

        `pooler_output` holds their features, one medium after another; `deepstack_features`, where there are any, what
        is added after the decoder's first layers.
        """
        reader = model.get_image_features
        known = inspect.signature(reader).parameters
        return reader(**{name: value for name, value in inputs.items() if name in known})

    def embed(self, model: Any, ids: Tensor) -> dict[str, Any]:
        """What a plain model's decoder reads of (rows, tokens) ids of its vocabulary: `inputs_embeds`, and whatever it
        makes of ids besides."""
        return {"inputs_embeds": model.get_input_embeddings()(ids)}

    def embeds_marks(self, model: Any, ids: Tensor) -> bool:
        """Whether marks around media stand among ids that the decoder's own table does not embed."""
        return False

    def reads_together(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        """Whether two media may be read in one call, their inputs one after another."""
        shapes = {name: value.shape for name, value in one.items()}
        return one["pixel_values"].dim() == 4 and shapes == {name: value.shape for name, value in other.items()}

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """What a picture of so many pixels comes to, told without the model or its processor."""
        return ImageCount(settings.square, settings.square)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """What a sound of so many seconds comes to, told without the model or its processor: as for Whisper's encoder
        whose states are averaged by two."""
        return ImageCount(ceil(25 * seconds), ceil(50 * seconds))

    def find_projection(self, model: Any) -> FrozenEncoder | FrozenAudioEncoder | None:
        """The encoder of a plain model and the projector over it, where what lies between is known; else None."""
        return None


_FAMILIES: dict[str, MediaFamily] = {}


def find_family(model_type: str) -> MediaFamily | None:
    """How models of a type read pictures in packs; None where that is not known."""
    _load_families()
    return _FAMILIES.get(model_type)


def list_family_types() -> tuple[str, ...]:
    """The types of all families, in order."""
    _load_families()
    return tuple(sorted(_FAMILIES))


def explain_alone(model_type: str) -> str:
    """Why rows with pictures of a type of models are read one by one; empty where they are packed."""
    family = find_family(model_type)
    return (
        family.alone if family is not None else f"how a model of type {model_type!r} reads media in packs is not known"
    )


@cache
def _load_families() -> None:
    from luthier.models.media import families

    for found in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{found.name}")

"""The base of multimodal model families, and their registry.

A family is one class in one file of `luthier.models.media.families`. A model of an unknown type is read row by row,
through its own forward (`luthier.models.media.row_forward`).
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
    """A frozen image encoder under a trained projector."""

    encoder: Any
    projector: Any
    layers: tuple[int, ...]
    """Layers whose states are concatenated; empty for the encoder's output."""
    classes: bool
    """Whether the first state is a class token and is left out."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What determines the states besides the encoder's weights."""
        return self.layers, self.classes

    @property
    def weight(self) -> Tensor:
        """A weight, for its dtype and device."""
        weight: Tensor = next(self.encoder.parameters())
        return weight

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (images, n, width) states for the projector."""
        import torch

        pixels = inputs["pixel_values"]
        if not self.layers:
            last: Tensor = self.encoder(pixel_values=pixels, return_dict=True).last_hidden_state
            return last
        outputs = self.encoder(pixels, output_hidden_states=True, return_dict=True).hidden_states
        return torch.cat([outputs[layer][:, int(self.classes) :] for layer in self.layers], -1)


class ImageCount(NamedTuple):
    """Token and patch counts of an image or clip."""

    features: int
    """Tokens of its features."""
    patches: int
    """Patches that its encoder reads."""
    marks: int = 2
    """Approximate number of further tokens around and between its features."""

    @property
    def tokens(self) -> int:
        """All of a row's tokens for it."""
        return self.features + self.marks


class MediaSettings(NamedTuple):
    """A model's settings of images and audio, from its files."""

    config: Mapping[str, Any]
    """`config.json`."""
    processor: Mapping[str, Any]
    """`processor_config.json`."""
    images: Mapping[str, Any]
    """Settings of its image processor."""
    max_pixels: int | None = None
    """Maximum pixels, by its `model.json`."""
    max_seconds: float | None = None
    """Maximum seconds of audio, by its `model.json`."""

    @property
    def vision(self) -> Mapping[str, Any]:
        """The configuration of the image encoder."""
        settings: Mapping[str, Any] = self.config.get("vision_config") or {}
        return settings

    @property
    def audio(self) -> Mapping[str, Any]:
        """The configuration of the audio encoder."""
        settings: Mapping[str, Any] = self.config.get("audio_config") or self.config.get("encoder_config") or {}
        return settings

    def size(self, name: str, usual: int) -> int:
        """Return a size of the encoder in pixels: a number, or the first of a pair."""
        value = self.vision.get(name, usual)
        return int(value[0] if isinstance(value, list | tuple) else value)

    @property
    def square(self) -> int:
        """Return the patches of an image of the encoder's own size."""
        return (self.size("image_size", 224) // self.size("patch_size", 14)) ** 2


class FrozenAudioEncoder(NamedTuple):
    """A frozen audio encoder under a trained projector that reads each state separately."""

    encoder: Any
    projector: Any
    read_states: Callable[[Mapping[str, Tensor]], Tensor]
    """Returns the (n, width) states for the projector from a processor's output for one clip."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What determines the states besides the encoder's weights: nothing."""
        return ()

    @property
    def weight(self) -> Tensor:
        """A weight, for its dtype and device."""
        weight: Tensor = next(self.encoder.parameters())
        return weight

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (n, width) states for the projector."""
        return self.read_states(inputs)


class MediaFamily:
    """How models of some types read images in packs; a subclass with `types` is registered.

    The defaults fit a model whose `get_image_features` returns the features of all images, concatenated, in
    `pooler_output`, and whose decoder reads them in place of token embeddings.
    """

    types: ClassVar[tuple[str, ...]] = ()
    """The `model_type` of each configuration."""
    mutual: ClassVar[bool] = False
    """Whether the tokens of an image attend to one another, later ones included."""

    alone: ClassVar[str] = ""
    """Why a row with images is read alone through the model's own forward; empty for packed rows."""

    prefix: ClassVar[bool] = False
    """Whether everything before the trained or generated tokens has bidirectional attention (prefix-LM), with or
    without images."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        family = cls()
        for name in cls.__dict__.get("types", ()):
            if name in _FAMILIES and type(_FAMILIES[name]).__qualname__ != cls.__qualname__:
                raise TypeError(f"both {type(_FAMILIES[name]).__name__} and {cls.__name__} read {name!r}")
            _FAMILIES[name] = family

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the encoder's output for media of one kind, from their processor's output.

        `pooler_output` has their features, concatenated; `deepstack_features`, if any, are added after the decoder's
        first layers.
        """
        reader = model.get_image_features
        known = inspect.signature(reader).parameters
        return reader(**{name: value for name, value in inputs.items() if name in known})

    def embed(self, model: Any, ids: Tensor) -> dict[str, Any]:
        """Return the decoder inputs for (rows, tokens) ids of its vocabulary: `inputs_embeds`, and whatever else it
        computes from ids.
        """
        return {"inputs_embeds": model.get_input_embeddings()(ids)}

    def embeds_marks(self, model: Any, ids: Tensor) -> bool:
        """Return whether ids have marks around media that the decoder's own embedding does not contain."""
        return False

    def reads_together(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
        """Return whether two media may be read in one call, with concatenated inputs."""
        shapes = {name: value.shape for name, value in first.items()}
        return first["pixel_values"].dim() == 4 and shapes == {name: value.shape for name, value in second.items()}

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tokens of an image by its pixels, without the model or its processor."""
        return ImageCount(settings.square, settings.square)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip by its seconds, without the model or its processor: by default as for Whisper's
        encoder with states averaged by two.
        """
        return ImageCount(ceil(25 * seconds), ceil(50 * seconds))

    def find_projection(self, model: Any) -> FrozenEncoder | FrozenAudioEncoder | None:
        """Return the encoder and the projector of a model, where the computation between them is known; else None."""
        return None


_FAMILIES: dict[str, MediaFamily] = {}


def find_family(model_type: str) -> MediaFamily | None:
    """Return the family of a model type; None where it is unknown."""
    _load_families()
    return _FAMILIES.get(model_type)


def list_family_types() -> tuple[str, ...]:
    """Return the types of all families, in order."""
    _load_families()
    return tuple(sorted(_FAMILIES))


def explain_alone(model_type: str) -> str:
    """Return why rows with images of a model type are read one by one; empty where they are packed."""
    family = find_family(model_type)
    return (
        family.alone if family is not None else f"how a model of type {model_type!r} reads media in packs is not known"
    )


@cache
def _load_families() -> None:
    from luthier.models.media import families

    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")

"""Features of media: encoders run outside of packed attention, once a step for each distinct medium.

Features of a frozen encoder are cached by medium while there is room, and so are the states of an encoder under a
trained projector: in memory, and in a folder on disk for later runs if one is given. A trained encoder runs once a
step: packs read its features as leaves, the gradients of the leaves are summed over packs, and backpropagated through
the encoder once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

from luthier.chat.media import MediaProcessor, list_media_keys
from luthier.chat.speech import SPEECH_TYPES
from luthier.core.errors import ModelError, SourceLocation
from luthier.models.media.family import (
    FrozenAudioEncoder,
    FrozenEncoder,
    MediaFamily,
    explain_alone,
    find_family,
    list_family_types,
)
from luthier.models.media.feature_files import FeatureFiles, name_tower
from luthier.models.packing.pack import TokenRow
from luthier.models.sequence_head import unwrap_peft_model
from luthier.models.shapes import ENCODERS, PROJECTORS, find_part

ReadMedia = Callable[[str], bytes]
"""Returns the bytes of a medium, by its digest."""
KEEP_BYTES = 1 << 30
"""Maximum bytes of cached features for a model."""


class MediaFeatures(NamedTuple):
    """An encoder's output for one medium of n tokens."""

    embeddings: Tensor
    """(n, width): in place of token embeddings; for a speech recognition model, the states that its decoder attends
    to."""
    deep: tuple[Tensor, ...] = ()
    """(n, width) each: added after each of the decoder's first layers (DeepStack)."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (self.embeddings, *self.deep)

    def detach_features(self, *, leaves: bool = False) -> MediaFeatures:
        """Return the features without their autograd history; as leaves, with gradients of their own."""
        first, *others = (value.detach().requires_grad_(leaves) for value in self.tensors)
        return MediaFeatures(first, tuple(others))

    def with_mean_at(self, removed: int) -> MediaFeatures:
        """Return the features with the mean of all at the positions whose bits are set."""
        at = [index for index in range(self.embeddings.shape[0]) if removed >> index & 1]
        removed_indices = [value.clone() for value in self.tensors]
        for value, own in zip(removed_indices, self.tensors, strict=True):
            value[at] = own.mean(0)
        return MediaFeatures(removed_indices[0], tuple(removed_indices[1:]))

    @property
    def bytes(self) -> int:
        """Their size in bytes."""
        return sum(value.numel() * value.element_size() for value in self.tensors)


class MediaTowers:
    """Reads media for one model, at its current weights, outside of packed attention."""

    def __init__(self, processor: MediaProcessor, read_media: ReadMedia, kept: Path | None = None) -> None:
        """Prepare the encoders; `kept` is a folder for the features of frozen encoders for later runs; None: none."""
        self.processor, self._read, self._kept = processor, read_media, kept
        self._features, self._states = _Shelf(), _Shelf()
        self._files: dict[str, FeatureFiles] = {}
        self._lock = RLock()
        self._own_forwards = 0
        """Layers before the decoder that had a forward of their own when a picture was read last."""

    def reads_by(self, processor: MediaProcessor, read_media: ReadMedia) -> bool:
        """Return whether it already uses this processor and reader."""
        return self.processor is processor and self._read == read_media

    def features(self, model: Any, key: int) -> MediaFeatures:
        """Return the features of one medium: the step's leaf, the cached ones, or newly computed ones.

        For a masked variant of an image they are those of the image, with the mean in the places of removed features.
        """
        if (known := self.processor.get(key)).source is not None:
            return self.features(model, known.source).with_mean_at(known.removed)
        if (step := _STEP.get()) is not None and step.holds(key):
            return step.leaf(key)

        def read() -> MediaFeatures:  # alone: its numbers depend on no neighbour
            return self.run(model, [key])[0].detach_features()

        with self._lock, torch.no_grad():
            modules = list(_tower_modules(model))
            if any(map(_is_trained, modules)):
                self._features.clear()
                return read()
            return self._features.get(key, lambda: self._find(model, modules, key, read))

    def _find(
        self, model: Any, modules: Sequence[Any], key: int, make: Callable[[], MediaFeatures], *about: Any
    ) -> MediaFeatures:
        """Return the output of frozen modules for a medium, from disk where it is stored; else computed and stored."""
        if self._kept is None:
            return make()
        name = f"{[id(module) for module in modules]} {torch.get_num_threads()}"
        if name not in self._files:  # frozen weights stay as they are
            tower = name_tower(modules, model, self.processor.digest, *about)
            self._files[name] = FeatureFiles(self._kept, tower)
        files, digest = self._files[name], self.processor.get(key).media.digest
        if (tensors := files.read(digest)) is not None:
            device = next(model.parameters()).device
            first, *others = (value.to(device) for value in tensors)
            return MediaFeatures(first, tuple(others))
        stored = make()
        files.write(digest, stored.tensors)
        return stored

    def run(self, model: Any, keys: Sequence[int]) -> list[MediaFeatures]:
        """Return the encoder's output for some media, with autograd history where gradients are enabled."""
        if not keys:
            return []
        self._warm_up(model, keys[0])
        if model.config.model_type in SPEECH_TYPES:
            from luthier.models.media.encoder_decoder import encode_sounds

            sounds = [self._inputs(key, next(tower_parameters(model))) for key in keys]
            return [MediaFeatures(states) for states in encode_sounds(model, sounds)]
        if (split := _find_frozen_encoder(model)) is not None:
            return self._project(model, split, keys)
        self._states.clear()
        family = require_family(model)
        inputs = [self._inputs(key, next(tower_parameters(model))) for key in keys]
        features: list[MediaFeatures] = []
        for batch in _batches(inputs, family):
            outputs = family.read_media(model, batch)
            features += _split(
                outputs, [self.processor.get(keys[len(features) + at]).count for at in range(batch["media"])]
            )
        return features

    def _warm_up(self, model: Any, key: int) -> None:
        """Read an image twice before the first result counts.

        Fused adapters learn in their first pass which of them share an input, and multiply together from then on;
        results must not depend on which image comes first.
        """
        from luthier.models.media.encoder_decoder import encode_sounds

        with self._lock, torch.no_grad():
            own = sum("forward" in part.__dict__ for module in _tower_modules(model) for part in module.modules())
            if own == self._own_forwards:
                return
            inputs = self._inputs(key, next(tower_parameters(model)))
            for _ in range(2):
                if model.config.model_type in SPEECH_TYPES:
                    list(encode_sounds(model, [inputs]))
                else:
                    require_family(model).read_media(model, inputs)
            self._own_forwards = own

    def _project(
        self, model: Any, split: FrozenEncoder | FrozenAudioEncoder, keys: Sequence[int]
    ) -> list[MediaFeatures]:
        """Return features where only a projector is trained: computed from the cached states of its encoder."""

        def encode(key: int) -> MediaFeatures:
            with torch.no_grad():
                return MediaFeatures(split.encode(self._inputs(key, split.weight)))

        def find(key: int) -> MediaFeatures:
            about = ["states", *split.settings]
            return self._find(model, [split.encoder], key, lambda: encode(key), *about)

        with self._lock:
            states = [self._states.get(key, lambda key=key: find(key)).embeddings for key in keys]  # type: ignore[misc]
        alike = len({value.shape for value in states}) == 1
        features = split.projector(torch.cat(states)) if alike else [split.projector(value) for value in states]
        return [
            MediaFeatures(own) for own in _split_features(features, [self.processor.get(key).count for key in keys])
        ]

    def build_row_inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return the processor's output for a row of ids, media included."""
        return self.processor.build_row_inputs(ids, self._read)

    def _inputs(self, key: int, weight: Tensor) -> dict[str, Tensor]:
        content = self._read(self.processor.get(key).media.digest)
        inputs = self.processor.build_inputs(key, content)
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }


class _Shelf:
    """A cache of features by medium with LRU eviction."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, MediaFeatures] = OrderedDict()
        self._held = 0

    def get(self, key: int, make: Callable[[], MediaFeatures]) -> MediaFeatures:
        """Return the features of a key, computed and cached if missing."""
        if key not in self._kept:
            self._kept[key] = make()
            self._held += self._kept[key].bytes
            while self._held > KEEP_BYTES and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].bytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Empty the cache."""
        self._kept.clear()
        self._held = 0


def _find_frozen_encoder(model: Any) -> FrozenEncoder | FrozenAudioEncoder | None:
    """Return a model's parts if its projector is trained and its encoder frozen; else None."""
    split = require_family(model).find_projection(model)
    return split if split is not None and not _is_trained(split.encoder) and _is_trained(split.projector) else None


def _is_trained(module: Any) -> bool:
    """Return whether a module has trained parameters, or adapters that may be switched."""
    return any(parameter.requires_grad for parameter in module.parameters()) or any(
        isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper) for part in module.modules()
    )


def _tower_modules(model: Any) -> Iterator[Any]:
    """Yield the encoders and projectors of a model."""
    if model.config.model_type in SPEECH_TYPES:
        return iter((model.get_encoder(),))
    names = frozenset((*ENCODERS, *PROJECTORS))
    return (module for name, module in model.named_modules() if name.rpartition(".")[2] in names)


_TOWERS: WeakKeyDictionary[torch.nn.Module, MediaTowers] = WeakKeyDictionary()


def attach_media(model: Any, processor: MediaProcessor | None, read_media: ReadMedia, kept: Path | None = None) -> None:
    """Let a model read a processor's media; does nothing for a text model.

    `kept` is a folder for the features of frozen encoders, which later runs reuse.
    """
    inner = unwrap_peft_model(model)
    if processor is None:
        return
    towers = _TOWERS.get(inner)
    if towers is None or not towers.reads_by(processor, read_media):
        _TOWERS[inner] = MediaTowers(processor, read_media, kept)


def require_family(model: Any) -> MediaFamily:
    """Return a model's family; `ModelError` where its features cannot be computed separately."""
    family = find_family(model.config.model_type)
    if family is None or family.alone:
        able = (name for name in list_family_types() if not explain_alone(name))
        raise ModelError(
            f"features of media are not known apart from their row: {explain_alone(model.config.model_type)}",
            where=SourceLocation(field="model"),
            hint=f"types of models whose are: {', '.join(able)}",
        )
    return family


def require_towers(model: Any) -> MediaTowers:
    """Return a model's media encoders; `ModelError` where there are none."""
    towers = find_towers(model)
    if towers is None:
        raise ModelError(f"{type(model).__name__} was not told where the bytes of pictures are")
    return towers


def find_towers(model: Any) -> MediaTowers | None:
    """Return a model's media encoders."""
    return _TOWERS.get(model)


def tower_parameters(model: Any) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters before a model's decoder: encoders and projectors."""
    return (parameter for name, parameter in model.named_parameters() if is_tower_parameter(name))


def is_tower_parameter(name: str) -> bool:
    """Return whether a parameter belongs to an encoder or a projector, by its name."""
    return find_part(name) != "language"


def learns_media(model: Any) -> bool:
    """Return whether any parameter before a model's decoder is trained."""
    return any(parameter.requires_grad for parameter in tower_parameters(model))


def _batches(inputs: Sequence[dict[str, Tensor]], family: MediaFamily) -> Iterator[dict[str, Any]]:
    """Yield inputs that may be read together, concatenated, with their number as `media`."""
    waiting: list[dict[str, Tensor]] = []
    for entry in inputs:
        if waiting and not family.reads_together(waiting[-1], entry):
            yield _concat_features(waiting)
            waiting = []
        waiting.append(entry)
    if waiting:
        yield _concat_features(waiting)


def _concat_features(inputs: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    return {**{name: torch.cat([entry[name] for entry in inputs]) for name in inputs[0]}, "media": len(inputs)}


def _split(outputs: Any, counts: Sequence[int]) -> list[MediaFeatures]:
    """Split the output for several media."""
    embeddings = _split_features(outputs.pooler_output, counts)
    layers = [_split_features(layer, counts) for layer in getattr(outputs, "deepstack_features", None) or ()]
    return [MediaFeatures(own, tuple(layer[at] for layer in layers)) for at, own in enumerate(embeddings)]


def _split_features(values: Any, counts: Sequence[int]) -> list[Tensor]:
    flat = torch.cat([value.reshape(-1, value.shape[-1]) for value in values])
    if flat.shape[0] != sum(counts):
        raise ModelError(
            f"the tower gives {flat.shape[0]} features for {sum(counts)} tokens: model and processor do not agree",
            hint="fetch the model again, or mend its processor_config.json",
        )
    ends = list(accumulate(counts))
    return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]


class StepMedia:
    """The media of an optimizer step under a trained encoder: features with autograd history, read as leaves."""

    def __init__(self, model: Any, towers: MediaTowers, keys: Sequence[int]) -> None:
        self._model = model
        with torch.enable_grad():
            self._features = dict(zip(keys, towers.run(model, keys), strict=True))
        self._sums: dict[int, tuple[Tensor, ...]] = {}

    def holds(self, key: int) -> bool:
        """Return whether a medium belongs to the step."""
        return key in self._features

    def leaf(self, key: int) -> MediaFeatures:
        """Return the features of a medium for the current pack, which collects their gradients."""
        pack = _PACK.get()
        if pack is None:
            return self._features[key].detach_features()
        if key not in pack.leaves:
            pack.leaves[key] = self._features[key].detach_features(leaves=True)
        return pack.leaves[key]

    def gather(self, gradients: Mapping[int, tuple[Tensor | None, ...]]) -> None:
        """Add one pack's gradients of the leaves, in at least fp32."""
        for key, own in gradients.items():
            sums = self._sums.get(key)
            wide = [
                None if gradient is None else gradient.to(torch.promote_types(gradient.dtype, torch.float32))
                for gradient in own
            ]
            zeros = [torch.zeros_like(value) for value in self._features[key].tensors] if sums is None else sums
            self._sums[key] = tuple(
                total if gradient is None else total + gradient for total, gradient in zip(zeros, wide, strict=True)
            )

    def gradients(self, parameters: Iterable[Tensor]) -> list[Tensor | None]:
        """Return the gradient of the loss by each parameter through the encoders; once, after all packs."""
        pairs = [
            (value, total.to(value.dtype))
            for key, sums in self._sums.items()
            for value, total in zip(self._features[key].tensors, sums, strict=True)
            if value.requires_grad
        ]
        requested = list(parameters)
        if not pairs:
            return [None] * len(requested)
        outputs, weights = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, requested, weights, allow_unused=True))


class PackLeaves:
    """The leaves that one pack reads."""

    def __init__(self) -> None:
        self.leaves: dict[int, MediaFeatures] = {}

    @property
    def tensors(self) -> list[Tensor]:
        """All leaves, in reading order."""
        return [value for features in self.leaves.values() for value in features.tensors]

    def name(self, gradients: Sequence[Tensor | None]) -> dict[int, tuple[Tensor | None, ...]]:
        """Return gradients of `tensors`, by medium."""
        given = iter(gradients)
        return {key: tuple(next(given) for _ in features.tensors) for key, features in self.leaves.items()}


_STEP: ContextVar[StepMedia | None] = ContextVar("luthier_step_media", default=None)
_PACK: ContextVar[PackLeaves | None] = ContextVar("luthier_pack_leaves", default=None)


@contextmanager
def learn_media(model: Any, keys: Callable[[], Sequence[int]]) -> Iterator[StepMedia | None]:
    """Let the packs of one optimizer step read the media under `keys` as leaves of a trained encoder; None where
    nothing before the decoder is trained.
    """
    inner = unwrap_peft_model(model)
    towers = find_towers(inner)
    if towers is None or not learns_media(inner) or explain_alone(inner.config.model_type):
        yield None  # a row that is read alone is read with its towers
        return
    step = StepMedia(inner, towers, keys())
    token = _STEP.set(step)
    try:
        yield step
    finally:
        _STEP.reset(token)


def list_row_media(rows: Sequence[TokenRow]) -> list[int]:
    """Return the distinct media of some rows, in order, as far as the rows are read."""
    return list_media_keys(token for row in rows for token in row.ids[: row.needed])


@contextmanager
def gather_leaves() -> Iterator[PackLeaves]:
    """Record the leaves that the pack read within the context uses."""
    pack = PackLeaves()
    token = _PACK.set(pack)
    try:
        yield pack
    finally:
        _PACK.reset(token)

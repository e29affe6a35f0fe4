"""The features of media: towers run outside of packed attention, once a step for each distinct medium.

Features of a tower that does not learn are kept by medium for as long as there is room, and so are the states of an
encoder below a projector that learns: in memory, and where a folder is given, on the disk for later runs. A tower that
learns runs once a step: packs read its features as leaves, the gradients of the leaves are summed over packs, and go
back through the tower once.
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
"""The bytes of a medium, by its digest."""
KEEP_BYTES = 1 << 30
"""Features that are kept of one model."""


class MediaFeatures(NamedTuple):
    """What a tower says of one medium of n tokens."""

    embeddings: Tensor
    """(n, width): what stands in the place of token embeddings; of a model that transcribes, what its decoder attends
    to."""
    deep: tuple[Tensor, ...] = ()
    """(n, width) each: what is added after each of the decoder's first layers (DeepStack)."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.embeddings, *self.deep)

    def detach_features(self, *, leaves: bool = False) -> MediaFeatures:
        """The features without their autograd history; as leaves, with gradients of their own."""
        first, *others = (value.detach().requires_grad_(leaves) for value in self.tensors)
        return MediaFeatures(first, tuple(others))

    def with_mean_at(self, removed: int) -> MediaFeatures:
        """The features with the mean of all at the positions whose bits are set."""
        at = [index for index in range(self.embeddings.shape[0]) if removed >> index & 1]
        found = [value.clone() for value in self.tensors]
        for value, own in zip(found, self.tensors, strict=True):
            value[at] = own.mean(0)
        return MediaFeatures(found[0], tuple(found[1:]))

    @property
    def bytes(self) -> int:
        """How much they hold."""
        return sum(value.numel() * value.element_size() for value in self.tensors)


class MediaTowers:
    """Reads media for one model; with its weights as they are, and never with a pack's attention."""

    def __init__(self, processor: MediaProcessor, read_media: ReadMedia, kept: Path | None = None) -> None:
        """`kept`: the folder in which what frozen towers say is kept for later runs; None: nowhere."""
        self.processor, self._read, self._kept = processor, read_media, kept
        self._features, self._states = _Shelf(), _Shelf()
        self._files: dict[str, FeatureFiles] = {}
        self._lock = RLock()
        self._own_forwards = 0
        """Layers before the decoder that had a forward of their own when a picture was read last."""

    def reads_by(self, processor: MediaProcessor, read_media: ReadMedia) -> bool:
        """Whether it reads so already."""
        return self.processor is processor and self._read == read_media

    def features(self, model: Any, key: int) -> MediaFeatures:
        """What a model's tower says of one medium: the step's leaf of it, what is kept, or what it says now.

        Of a variant of a picture, what it says of the picture, with the mean in the places of removed features.
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
        """What frozen modules say of a medium, from the disk where it is kept there; else it is made, and kept."""
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
        found = make()
        files.write(digest, found.tensors)
        return found

    def run(self, model: Any, keys: Sequence[int]) -> list[MediaFeatures]:
        """What the tower says of some media, with its history where gradients are wanted."""
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
        found: list[MediaFeatures] = []
        for batch in _batches(inputs, family):
            outputs = family.read_media(model, batch)
            found += _split(outputs, [self.processor.get(keys[len(found) + at]).count for at in range(batch["media"])])
        return found

    def _warm_up(self, model: Any, key: int) -> None:
        """Read a picture twice before the first one counts: adapters look in their first pass which of them read the
        same input, and multiply together from then on; no number may depend on which picture comes first."""
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
        """Features where a projector alone is trained: computed from the cached states of its encoder."""

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
        """What the model's own processor makes of a row of ids, media included."""
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
    """What is kept of media, the longest unused going first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, MediaFeatures] = OrderedDict()
        self._held = 0

    def get(self, key: int, make: Callable[[], MediaFeatures]) -> MediaFeatures:
        """What is kept under a key, or is made now and kept."""
        if key not in self._kept:
            self._kept[key] = make()
            self._held += self._kept[key].bytes
            while self._held > KEEP_BYTES and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].bytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._held = 0


def _find_frozen_encoder(model: Any) -> FrozenEncoder | FrozenAudioEncoder | None:
    """The parts of a model of which the projector moves, and the encoder before it does not; None for any other."""
    found = require_family(model).find_projection(model)
    return found if found is not None and not _is_trained(found.encoder) and _is_trained(found.projector) else None


def _is_trained(module: Any) -> bool:
    """Whether anything in a module learns, or holds adapters that may be switched."""
    return any(parameter.requires_grad for parameter in module.parameters()) or any(
        isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper) for part in module.modules()
    )


def _tower_modules(model: Any) -> Iterator[Any]:
    """The encoders and projectors of a model."""
    if model.config.model_type in SPEECH_TYPES:
        return iter((model.get_encoder(),))
    names = frozenset((*ENCODERS, *PROJECTORS))
    return (module for name, module in model.named_modules() if name.rpartition(".")[2] in names)


_TOWERS: WeakKeyDictionary[torch.nn.Module, MediaTowers] = WeakKeyDictionary()


def attach_media(model: Any, processor: MediaProcessor | None, read_media: ReadMedia, kept: Path | None = None) -> None:
    """Let a model read the media that a processor has met; nothing for a model of text alone. `kept` is a folder for
    what its towers say while they are frozen, which later runs find."""
    inner = unwrap_peft_model(model)
    if processor is None:
        return
    towers = _TOWERS.get(inner)
    if towers is None or not towers.reads_by(processor, read_media):
        _TOWERS[inner] = MediaTowers(processor, read_media, kept)


def require_family(model: Any) -> MediaFamily:
    """How a plain model reads pictures in packs; `ModelError` where their features cannot be taken apart from it."""
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
    """The same; `ModelError` where there are none."""
    towers = find_towers(model)
    if towers is None:
        raise ModelError(f"{type(model).__name__} was not told where the bytes of pictures are")
    return towers


def find_towers(model: Any) -> MediaTowers | None:
    """Who reads media for a plain model."""
    return _TOWERS.get(model)


def tower_parameters(model: Any) -> Iterator[torch.nn.Parameter]:
    """The parameters of a model that stand before its decoder: encoders and projectors."""
    return (parameter for name, parameter in model.named_parameters() if is_tower_parameter(name))


def is_tower_parameter(name: str) -> bool:
    """Whether a parameter belongs to an encoder or a projector, by its name."""
    return find_part(name) != "language"


def learns_media(model: Any) -> bool:
    """Whether anything before the decoder of a plain model learns."""
    return any(parameter.requires_grad for parameter in tower_parameters(model))


def _batches(inputs: Sequence[dict[str, Tensor]], family: MediaFamily) -> Iterator[dict[str, Any]]:
    """Inputs that may be read together, as one, with their number as `media`."""
    waiting: list[dict[str, Tensor]] = []
    for one in inputs:
        if waiting and not family.reads_together(waiting[-1], one):
            yield _concat_features(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield _concat_features(waiting)


def _concat_features(some: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    return {**{name: torch.cat([one[name] for one in some]) for name in some[0]}, "media": len(some)}


def _split(outputs: Any, counts: Sequence[int]) -> list[MediaFeatures]:
    """What was told of several media, one by one."""
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
    """The media of an optimizer step under a tower that learns: its features with their history, read as leaves."""

    def __init__(self, model: Any, towers: MediaTowers, keys: Sequence[int]) -> None:
        self._model = model
        with torch.enable_grad():
            self._features = dict(zip(keys, towers.run(model, keys), strict=True))
        self._sums: dict[int, tuple[Tensor, ...]] = {}

    def holds(self, key: int) -> bool:
        """Whether a medium belongs to the step."""
        return key in self._features

    def leaf(self, key: int) -> MediaFeatures:
        """The features of a medium for the pack that is read now, which gathers their gradients."""
        pack = _PACK.get()
        if pack is None:
            return self._features[key].detach_features()
        if key not in pack.leaves:
            pack.leaves[key] = self._features[key].detach_features(leaves=True)
        return pack.leaves[key]

    def gather(self, gradients: Mapping[int, tuple[Tensor | None, ...]]) -> None:
        """Add what one pack says of the leaves, in at least fp32."""
        for key, own in gradients.items():
            sums = self._sums.get(key)
            wide = [None if one is None else one.to(torch.promote_types(one.dtype, torch.float32)) for one in own]
            zeros = [torch.zeros_like(value) for value in self._features[key].tensors] if sums is None else sums
            self._sums[key] = tuple(
                total if one is None else total + one for total, one in zip(zeros, wide, strict=True)
            )

    def gradients(self, parameters: Iterable[Tensor]) -> list[Tensor | None]:
        """How the loss falls with each parameter through the towers; once, after all packs."""
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
        """All of them, in the order in which they were read."""
        return [value for features in self.leaves.values() for value in features.tensors]

    def name(self, gradients: Sequence[Tensor | None]) -> dict[int, tuple[Tensor | None, ...]]:
        """Gradients of `tensors`, by medium."""
        given = iter(gradients)
        return {key: tuple(next(given) for _ in features.tensors) for key, features in self.leaves.items()}


_STEP: ContextVar[StepMedia | None] = ContextVar("luthier_step_media", default=None)
_PACK: ContextVar[PackLeaves | None] = ContextVar("luthier_pack_leaves", default=None)


@contextmanager
def learn_media(model: Any, keys: Callable[[], Sequence[int]]) -> Iterator[StepMedia | None]:
    """Let the packs of one optimizer step read the media under `keys` as leaves of a tower that learns; None where
    nothing before the decoder learns."""
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
    """The media of some rows, as far as they are read, each once in the order of the rows."""
    return list_media_keys(token for row in rows for token in row.ids[: row.needed])


@contextmanager
def gather_leaves() -> Iterator[PackLeaves]:
    """Note which leaves are read by the pack that is read within."""
    pack = PackLeaves()
    token = _PACK.set(pack)
    try:
        yield pack
    finally:
        _PACK.reset(token)

"""Speech recognition models: the encoder's states of each clip, and the tokens of a pack that attend to them.

The encoder runs outside of packs, like other media encoders. In a packed forward call the decoder gets one empty state,
so that its layers use cross-attention at all; `use_cross_attention` holds the actual states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS, get_media_key
from luthier.chat.speech import SPEECH_TYPES
from luthier.core.errors import DataError
from luthier.models.attention.cross import CrossAttention, SoundSpan
from luthier.models.media.towers import find_towers, require_towers
from luthier.models.packing.pack import Pack

BATCH = 8
"""Maximum clips that a trained encoder reads at once."""


def attends_to_encoder(model: Any) -> bool:
    """Return whether a model's decoder attends to an encoder."""
    return model.config.model_type in SPEECH_TYPES


def build_transcript_inputs(model: Any, ids: Tensor) -> dict[str, Any]:
    """Return the decoder inputs for (rows, tokens) ids: those of its vocabulary."""
    towers = find_towers(model)
    if towers is None:
        return {"input_ids": ids}
    return {"input_ids": torch.tensor([towers.processor.restore(row) for row in ids.tolist()], device=ids.device)}


def build_pack_cross_attention(model: Any, pack: Pack, known: int = 0) -> CrossAttention | None:
    """Build the cross-attention of a pack, without its first `known` tokens; None without a clip."""
    starts, ids = pack.starts.tolist(), pack.ids.tolist()
    keys: list[int] = []
    for segment, parent in enumerate(pack.parent.tolist()):
        first = ids[starts[segment]]
        if parent >= 0:
            keys.append(keys[parent])
        elif first >= MEDIA_IDS:
            keys.append(get_media_key(first))
        elif not keys:
            return None
        elif any(ids[starts[segment] :]):
            raise DataError("a row without a sound stands among rows that are transcribed")
        else:
            keys.append(keys[-1])  # what fills a pack up, which nobody reads
    lengths = [end - begin for begin, end in pairwise(starts)]
    return build_cross_attention(model, list(zip(keys, lengths, strict=True)), known)


def build_cross_attention(model: Any, runs: Sequence[tuple[int, int]], known: int = 0) -> CrossAttention:
    """Build cross-attention for consecutive runs of tokens, each over the encoder states of one key."""
    towers = require_towers(model)
    spans, begin = list[SoundSpan](), 0
    for key, group in groupby(runs, key=lambda run: run[0]):
        end = begin + sum(count for _, count in group)
        if end > known:
            states = towers.features(model, key).embeddings
            spans.append(SoundSpan(max(0, begin - known), end - known, states))
        begin = end
    return CrossAttention(spans)


def build_row_states(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Return (1, S, width) states that a single row (1, tokens) attends to; empty without a clip."""
    first = int(ids[0, 0])
    if first < MEDIA_IDS:
        return {}
    return {"encoder_hidden_states": require_towers(model).features(model, get_media_key(first)).embeddings[None]}


def encode_sounds(model: Any, inputs: Sequence[dict[str, Tensor]]) -> Iterator[Tensor]:
    """Yield (S, width) states of each clip, with autograd history where gradients are enabled; clips of one length are
    batched.
    """
    encoder = model.get_encoder()
    begin = 0
    while begin < len(inputs):
        (name, first), *_ = inputs[begin].items()
        same = (one[name] for one in inputs[begin : begin + BATCH])
        batch = [value for _, value in zip(range(_count_alike(inputs, begin, name)), same, strict=False)]
        states = encoder(torch.cat(batch) if len(batch) > 1 else first).last_hidden_state
        yield from states
        begin += len(batch)


def _count_alike(inputs: Sequence[dict[str, Tensor]], begin: int, name: str) -> int:
    """Return the number of consecutive clips with the same shape; at most a batch."""
    shape = inputs[begin][name].shape
    batch = inputs[begin : begin + BATCH]
    return next((at for at, entry in enumerate(batch) if entry[name].shape != shape), len(batch))


def count_decoder_layers(config: Any) -> int:
    """Return the number of decoder layers, also where the settings list the encoder's first."""
    names = ("decoder_layers", "decoder_num_hidden_layers")
    own = config.get_text_config()
    if own.model_type in SPEECH_TYPES:
        return int(next(value for name in names if (value := getattr(own, name, None)) is not None))
    return int(own.num_hidden_layers)


def get_context_length(config: Any) -> int | None:
    """Return the context length in a model's settings."""
    own = config.get_text_config()
    length = getattr(own, "max_position_embeddings", None) or getattr(own, "max_target_positions", None)
    return int(length) if length else None

"""Decoder inputs of ids with media: embeddings with features in their places, and positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS, get_media_key, get_media_place, list_media_keys
from luthier.models.media.encoder_decoder import attends_to_encoder, build_transcript_inputs
from luthier.models.media.family import find_family
from luthier.models.media.towers import MediaFeatures, MediaTowers, require_towers
from luthier.models.packing.pack import Pack


def holds_media(ids: Tensor) -> bool:
    """Return whether ids contain tokens of media."""
    return ids.device.type != "meta" and bool(ids.numel()) and int(ids.max()) >= MEDIA_IDS


def build_decoder_inputs(model: Any, ids: Tensor) -> dict[str, Any]:
    """Return the decoder inputs for (rows, tokens) ids: the ids, or embeddings where they contain media."""
    if attends_to_encoder(model):
        return build_transcript_inputs(model, ids)
    family = find_family(model.config.model_type)
    if not holds_media(ids):
        return {"input_ids": ids} if family is None or not family.embeds_marks(model, ids) else family.embed(model, ids)
    media_mask = ids >= MEDIA_IDS
    features = _features(model, ids[media_mask].tolist())
    plain = ids.masked_fill(media_mask, 0)
    inputs = {"inputs_embeds": model.get_input_embeddings()(plain)} if family is None else family.embed(model, plain)
    words = inputs["inputs_embeds"]
    inputs["inputs_embeds"] = words.masked_scatter(media_mask[..., None], features.embeddings.to(words.dtype))
    if features.deep:
        inputs["visual_pos_masks"] = media_mask
        inputs["deepstack_visual_embeds"] = list(features.deep)
    return inputs


def embed_ids(model: Any, ids: Tensor) -> Tensor:
    """Return (rows, tokens, width) embeddings of a model's ids, media included."""
    inputs = build_decoder_inputs(model, ids)
    if "inputs_embeds" not in inputs:
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
    embeddings: Tensor = inputs["inputs_embeds"]
    return embeddings


def _features(model: Any, ids: Sequence[int]) -> MediaFeatures:
    """Return the features in the places of media tokens, concatenated."""
    towers = require_towers(model)
    known = {key: towers.features(model, key) for key in list_media_keys(ids)}
    begins = [at for at, token in enumerate(ids) if not at or token != ids[at - 1] + 1]
    spans = []
    for begin, end in pairwise([*begins, len(ids)]):
        offset = get_media_place(ids[begin])
        spans.append([value[offset : offset + end - begin] for value in known[get_media_key(ids[begin])].tensors])
    embeddings, *deep = (torch.cat(some) for some in zip(*spans, strict=True))
    return MediaFeatures(embeddings, tuple(deep))


def uses_mrope(model: Any) -> bool:
    """Return whether a model has rotary positions by rows and columns of an image (M-RoPE)."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" in rope


def has_bidirectional_media(model: Any, ids: Tensor) -> bool:
    """Return whether the tokens of an image in `ids` attend to one another, later ones included."""
    family = find_family(model.config.model_type)
    return family is not None and family.mutual and holds_media(ids)


class _Walk(NamedTuple):
    """Position state along a path of tokens."""

    next: int = 0
    """Position of the next text token."""
    base: int = 0
    """First position of the last medium."""


def compute_positions(model: Any, pack: Pack) -> Tensor:
    """Return (1, T) positions of a pack's tokens; (3, 1, T) where media have grid positions."""
    if not uses_mrope(model) or not holds_media(pack.ids):
        return pack.positions[None]
    towers, starts = require_towers(model), pack.starts.tolist()
    ids, ends, columns = pack.ids.tolist(), list[_Walk](), list[tuple[int, int, int]]()
    for segment, parent in enumerate(pack.parent.tolist()):
        walk = ends[parent] if parent >= 0 else _Walk()
        positions, walk = _walk(towers, ids[starts[segment] : starts[segment + 1]], walk)
        columns += positions
        ends.append(walk)
    return torch.tensor(columns, dtype=torch.int64, device=pack.ids.device).T[:, None]


def compute_row_positions(model: Any, ids: Sequence[int], before: int = 0) -> list[tuple[int, int, int]]:
    """Return the three positions of each token of one row, after `before` text tokens."""
    return _walk(require_towers(model), ids, _Walk(before, 0))[0]


def _walk(towers: MediaTowers, ids: Sequence[int], walk: _Walk) -> tuple[list[tuple[int, int, int]], _Walk]:
    positions: list[tuple[int, int, int]] = []
    following, base = walk
    for token in ids:
        grid = towers.processor.get(get_media_key(token)).grid if token >= MEDIA_IDS else (0, 0, 0)
        if not any(grid):  # text, or a sound
            positions.append((following, following, following))
            following += 1
            continue
        _, rows, columns = grid
        offset = get_media_place(token)
        if not offset:
            base, following = following, following + max(rows, columns)
        frame, rest = divmod(offset, rows * columns)
        positions.append((base + frame, base + rest // columns, base + rest % columns))
    return positions, _Walk(following, base)

"""Rows with media that are not packed: each is read by itself, through the model's own forward, with all that its own
processor makes of the row. Slower than a pack, and exact whatever the model does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.chat.media import list_media_runs
from luthier.core.errors import ModelError, SourceLocation
from luthier.models.media.family import explain_alone, find_family
from luthier.models.media.towers import require_towers
from luthier.models.packing.pack import Pack


def explain_media_alone(model: Any) -> str:
    """Why a plain model's rows with media are read one by one; empty where they are packed, and for one of text."""
    config = model.config
    return explain_alone(config.model_type) if config.get_text_config() is not config else ""


def is_prefix_lm(model: Any) -> bool:
    """Whether all that stands before an answer sees itself both ways in a plain model, pictures or not."""
    family = find_family(model.config.model_type)
    return family is not None and family.prefix


def refuses_chunked_prefill(model: Any) -> bool:
    """Whether a prompt of a plain model may not be read in parts, as a part could end within a picture."""
    family = find_family(model.config.model_type)
    return bool(explain_media_alone(model)) or (family is not None and family.mutual)


def base_reads_media(model: Any) -> bool:
    """Whether a plain model's base reads media as well, so that its head need not run at each token."""
    return "pixel_values" in inspect.signature(model.base_model.forward).parameters


def read_rows_alone(model: Any, pack: Pack, *, states: bool) -> Tensor:
    """(N, width) hidden states at the pack's sources, or (N, vocab) logits, each row read by itself."""
    part, name = (model.base_model, "last_hidden_state") if states else (model, "logits")
    rows = pack.unpack()
    unread = torch.full((len(rows),), pack.tokens, device=pack.ids.device)
    prompts = unread.scatter_reduce(0, pack.path, pack.positions[pack.sources] + 1, "amin").tolist()
    read = [
        _read_row(part, name, build_row_inputs(model, ids, prompt))
        for ids, prompt in zip(rows, prompts, strict=True)
        if ids
    ]
    begins = torch.tensor([0, *map(len, rows)], device=pack.ids.device).cumsum(0)
    return torch.cat(read).index_select(0, begins[pack.path] + pack.positions[pack.sources])


def _read_row(part: Any, name: str, inputs: dict[str, Any]) -> Tensor:
    """(tokens, x): what a part of a model says of one row."""
    found: Tensor = getattr(part(**inputs, use_cache=False), name)[0]
    count = inputs["input_ids"].shape[1]
    if found.shape[0] != count:
        raise ModelError(
            f"{type(part).__name__} makes {found.shape[0]} states of {count} tokens: which belongs to which is unknown",
            where=SourceLocation(field="model"),
            hint="choose another model",
        )
    return found


def build_row_inputs(model: Any, ids: Sequence[int], prompt: int) -> dict[str, Any]:
    """What a plain model's own forward takes for one row of ids, media included: (1, tokens) ids and their like.

    The first `prompt` tokens are given; what follows is learnt or was written.
    """
    weight = next(model.parameters())
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids)).long()}
    if list_media_runs(ids):
        inputs = require_towers(model).build_row_inputs(ids)
    if is_prefix_lm(model):
        inputs["token_type_ids"] = (torch.arange(len(ids)) >= prompt).long()[None]
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }


class GenerationRow:
    """One row that is being written, as transformers' own `generate` goes on with it: all that it keeps is its own."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        from transformers import DynamicCache

        self._model = model
        inputs = build_row_inputs(model, ids, len(ids))
        self._ids: Tensor = inputs.pop("input_ids")
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._kept: dict[str, Any] = {**inputs, "cache": cache, "use_cache": True}
        if "position_ids" in inspect.signature(model.forward).parameters:
            self._kept["position_ids"] = model._prepare_position_ids_for_generation(self._ids, self._kept)
        self._more = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self._begun = False

    def read(self, ids: Sequence[int]) -> Tensor:
        """(1, vocab) logits after the prompt, and at later calls after the next token, which is all of `ids`."""
        model = self._model
        if self._begun:
            self._ids = torch.cat([self._ids, self._ids.new_tensor([list(ids)])], 1)
        more: dict[str, Any] = {"next_sequence_length": len(ids)} if self._begun else {"is_first_iteration": True}
        inputs = model.prepare_inputs_for_generation(self._ids, **more, **self._kept)
        outputs = model(**{**inputs, **self._more}, return_dict=True)
        self._kept = model._update_model_kwargs_for_generation(outputs, self._kept, is_encoder_decoder=False)
        self._begun = True
        logits: Tensor = outputs.logits[:, -1]
        return logits

"""Rows with media that are not packed: each is read alone, through the model's own forward and processor.

Slower than a pack, and exact for any model.
"""

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
    """Return why a model's rows with media are read one by one; empty where they are packed, and for a text model."""
    config = model.config
    return explain_alone(config.model_type) if config.get_text_config() is not config else ""


def is_prefix_lm(model: Any) -> bool:
    """Return whether everything before an answer has bidirectional attention in a model, with or without images."""
    family = find_family(model.config.model_type)
    return family is not None and family.prefix


def refuses_chunked_prefill(model: Any) -> bool:
    """Return whether a prompt must not be read in chunks, since a chunk could end within an image."""
    family = find_family(model.config.model_type)
    return bool(explain_media_alone(model)) or (family is not None and family.mutual)


def base_reads_media(model: Any) -> bool:
    """Return whether a model's base accepts media, so that its head need not run at each token."""
    return "pixel_values" in inspect.signature(model.base_model.forward).parameters


def read_rows_alone(model: Any, pack: Pack, *, states: bool) -> Tensor:
    """Return (N, width) hidden states at the pack's sources, or (N, vocab) logits, with each row read alone."""
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
    """Return (tokens, x): a part's output for one row."""
    output: Tensor = getattr(part(**inputs, use_cache=False), name)[0]
    count = inputs["input_ids"].shape[1]
    if output.shape[0] != count:
        raise ModelError(
            f"{type(part).__name__} makes {output.shape[0]} states of {count} tokens: whose they are is unknown",
            where=SourceLocation(field="model"),
            hint="choose another model",
        )
    return output


def build_row_inputs(model: Any, ids: Sequence[int], prompt: int) -> dict[str, Any]:
    """Return the inputs of a model's own forward for one row of ids, media included: (1, tokens) tensors.

    The first `prompt` tokens are the prompt; the rest is trained on or generated.
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
    """One row during generation, continued as in transformers' own `generate` with a cache of its own."""

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
        """Return (1, vocab) logits after the prompt, and at later calls after the next token, the only one in `ids`."""
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

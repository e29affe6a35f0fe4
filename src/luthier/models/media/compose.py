"""Composes a decoder and an image encoder into transformers' `LlavaForConditionalGeneration` (Liu et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import read_json_object

IMAGE_TOKEN = "<image>"  # noqa: S105  # it is no password
VOCABULARY_UNIT = 64
"""The embeddings are padded to a multiple of this many rows, which suits matrix kernels."""
_FLATTEN = (
    "{%- set flat = namespace(turns=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string or message['content'] is none or message['content'] is not defined -%}"
    "{%- set flat.turns = flat.turns + [message] -%}{%- else -%}"
    "{%- set said = namespace(text='') -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'KIND' -%}{%- set said.text = said.text + 'WRITTEN' -%}"
    "{%- else -%}{%- set said.text = said.text + part['text'] -%}{%- endif -%}{%- endfor -%}"
    "{%- set flat.turns = flat.turns + [dict(message, content=said.text)] -%}{%- endif -%}{%- endfor -%}"
    "{%- set messages = flat.turns -%}"
)
"""Lets a template for texts render content parts: each turn's parts become one text, with a placeholder for each
medium."""


class VisionEncoder:
    """An image encoder with its processor."""

    def __init__(self, config: Any, processor: Any, layer: int, *, classes: bool, weights: Any = None) -> None:
        """Wrap an encoder; `layer` is the one whose states are the features; `classes`: whether the first state is a
        class token and is left out.
        """
        self.config, self.processor, self.layer = config, processor, layer
        self.classes, self.weights = classes, weights

    @classmethod
    def new(cls, *, image_size: int, patch_size: int, hidden_size: int, layers: int, heads: int) -> VisionEncoder:
        """Build a small vision transformer with random weights."""
        config = SiglipVisionConfig(
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vision_use_head=False,
        )
        square = {"height": image_size, "width": image_size}
        return cls(config, SiglipImageProcessorPil(size=square), -1, classes=False)

    @classmethod
    def open(cls, folder: Path) -> VisionEncoder:
        """Load the encoder of a CLIP or SigLIP model in a Hugging Face folder, with the features that LLaVA uses."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        where = SourceLocation(file=str(folder))
        kind = str(read_json_object(folder / "config.json").get("model_type", ""))
        known: dict[str, tuple[Any, Any]] = {
            "siglip": (SiglipVisionConfig, SiglipVisionModel),
            "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
            "clip": (CLIPVisionConfig, CLIPVisionModel),
            "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
        }
        if kind not in known:
            hint = "give the folder of a CLIP or SigLIP model, or sizes for a new encoder"
            raise ModelError(f"is a model of type {kind!r}, which is no encoder of pictures", where=where, hint=hint)
        config_kind, model_kind = known[kind]
        try:
            with hide_transformers_output():
                config = config_kind.from_pretrained(folder, local_files_only=True)
                weights = model_kind.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True)
                processor = AutoImageProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False, backend="pil"
                )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"the encoder cannot be opened: {error}", where=where) from error
        return cls(config, processor, -2, classes=kind.startswith("clip"), weights=weights.state_dict())


def compose_llava(decoder: Any, tokenizer: Any, encoder: VisionEncoder, seed: int) -> tuple[Any, Any]:
    """Return the model and its processor; a projector, and an encoder without weights, are initialized from the seed
    alone.

    The decoder is changed: it gets an embedding for the image token.
    """
    token = add_media_tokens(decoder, tokenizer, (IMAGE_TOKEN,), {"image": IMAGE_TOKEN})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlavaConfig(
            vision_config=encoder.config,
            text_config=decoder.config,
            image_token_index=token,
            vision_feature_layer=encoder.layer,
            vision_feature_select_strategy="default" if encoder.classes else "full",
            tie_word_embeddings=decoder.config.tie_word_embeddings,
        )
        model = LlavaForConditionalGeneration(config)
    copy_decoder(decoder, model)
    if encoder.weights is not None:
        model.model.vision_tower.load_state_dict(encoder.weights)
    processor = LlavaProcessor(
        encoder.processor,
        tokenizer,
        patch_size=encoder.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(encoder.classes),
        chat_template=tokenizer.chat_template,
    )
    return model, processor


def copy_decoder(decoder: Any, model: Any) -> None:
    """Copy a decoder's dtype, weights, head and generation settings to a composed model."""
    model.to(decoder.dtype)
    model.model.language_model.load_state_dict(decoder.base_model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    model.generation_config = decoder.generation_config


def add_media_tokens(decoder: Any, tokenizer: Any, tokens: Sequence[str], written: Mapping[str, str]) -> int:
    """Add special tokens for media to a decoder and its tokenizer, and their placeholders to its chat template; returns
    the first token's id.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the decoder has no chat template, by which pictures and sounds could stand in a conversation",
            where=SourceLocation(field="decoder"),
            hint="take a model that was tuned for chat, or give its base step a `chat_template`",
        )
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    for kind, text in written.items():
        tokenizer.chat_template = _FLATTEN.replace("KIND", kind).replace("WRITTEN", text) + tokenizer.chat_template
    _make_room(decoder, len(tokenizer))
    return int(tokenizer.convert_tokens_to_ids(tokens[0]))


def _make_room(decoder: Any, tokens: int) -> None:
    """Add embeddings for new tokens: the mean of the others."""
    table = decoder.get_input_embeddings().weight
    known = table.shape[0]
    if tokens <= known:
        return
    with hide_transformers_output():
        decoder.resize_token_embeddings(tokens, pad_to_multiple_of=VOCABULARY_UNIT, mean_resizing=False)
    for part in (decoder.get_input_embeddings(), decoder.get_output_embeddings()):
        with torch.no_grad():
            part.weight[known:] = part.weight[:known].float().mean(0)

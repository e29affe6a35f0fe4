"""Tiny random models of several families that read pictures, as Hugging Face folders, and pictures to show them."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

from luthier.chat.messages import MEDIA_MARK, Media, Message
from workshop import tiny_tokenizer

PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "vocab_size": 420, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_SPECIAL = {
    "llava": ["<image>"],
    "qwen2_5_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "qwen2_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "qwen3_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "idefics3": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    + [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)],
    "gemma3": ["<image_soft_token>", "<start_of_image>", "<end_of_image>"],
}
_WRITTEN = {
    "llava": "<image>\n",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "idefics3": "<image>",
    "gemma3": "<start_of_image>",
}
FAMILIES = tuple(_SPECIAL)
QWEN = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}


def picture(seed: int, width: int = 36, height: int = 28) -> tuple[Media, bytes]:
    """A picture of noise as PNG."""
    from PIL import Image

    content = io.BytesIO()
    noise = random.Random(seed).randbytes(width * height * 3)
    Image.frombytes("RGB", (width, height), noise).save(content, "PNG")
    value = content.getvalue()
    digest = hashlib.sha256(value).hexdigest()
    media = Media(kind="image", digest=digest, format="png", size=len(value), width=width, height=height)
    return media, value


def shown(text: str, *media: Media, answer: str = "") -> tuple[Message, ...]:
    """A question with pictures before it, and its answer when there is one."""
    asked = Message(role="user", content=MEDIA_MARK * len(media) + text, media=media)
    return (asked, Message(role="assistant", content=answer)) if answer else (asked,)


def tiny_pictured(folder: Path, family: str = "llava", seed: int = 0) -> Path:
    """A random model of a family with its tokenizer and processor."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    more = dict(zip(("image_token", "boi_token", "eoi_token"), _SPECIAL[family], strict=False))
    tokenizer = AutoTokenizer.from_pretrained(folder, **({"extra_special_tokens": more} if family == "gemma3" else {}))
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL[family]})
    tokenizer.chat_template = PARTS.replace("IMAGE", _WRITTEN[family])
    id_of = tokenizer.convert_tokens_to_ids
    build_processor(family, tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **_config(family, id_of))
    model = AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def build_processor(family: str, tokenizer: Any) -> Any:
    """transformers' processor for small pictures."""
    import transformers
    from transformers import Gemma3Processor, Idefics3Processor, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    if family == "llava":
        square = {"height": 28, "width": 28}
        images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=square)
        return LlavaProcessor(
            images, tokenizer, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=tokenizer.chat_template,
        )  # fmt: skip
    if family in QWEN:
        images = Qwen2VLImageProcessorPil(min_pixels=64, max_pixels=4096, patch_size=4, merge_size=2)
        kind = getattr(transformers, QWEN[family])
        attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])
        kind = type(kind.__name__, (kind,), {"get_attributes": attributes})
        return kind(images, tokenizer, chat_template=tokenizer.chat_template)
    if family == "idefics3":
        images = Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
        return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)
    images = Gemma3ImageProcessorPil(size={"height": 24, "width": 24}, do_pan_and_scan=False)
    return Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template)


def _config(family: str, id_of: Any) -> dict[str, Any]:
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    if family == "llava":
        return {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {"model_type": "clip_vision_model", **vision, "image_size": 28, "patch_size": 7},
            "image_token_index": id_of("<image>"),
            "vision_feature_layer": -1,
        }
    if family == "qwen2_5_vl":
        return {
            "text_config": {**TEXT, "rope_parameters": rope},
            "vision_config": {
                "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                "patch_size": 4, "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
            },
            "image_token_id": id_of("<|image_pad|>"),
            "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
        }  # fmt: skip
    if family == "qwen2_vl":
        return {
            "text_config": {**TEXT, "rope_parameters": rope},
            "vision_config": {
                "depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2,
                "spatial_merge_size": 2,
            },
            "image_token_id": id_of("<|image_pad|>"),
            "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
        }  # fmt: skip
    if family == "qwen3_vl":
        return {
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": {**rope, "mrope_interleaved": True}},
            "vision_config": {
                "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                "patch_size": 4, "spatial_merge_size": 2, "deepstack_visual_indexes": [0, 1],
                "num_position_embeddings": 64,
            },
            "image_token_id": id_of("<|image_pad|>"),
            "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
        }  # fmt: skip
    if family == "idefics3":
        return {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {**vision, "image_size": 24, "patch_size": 6},
            "image_token_id": id_of("<image>"),
            "scale_factor": 2,
        }
    return {
        "text_config": {
            **TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "vision_config": {**vision, "image_size": 24, "patch_size": 6},
        "mm_tokens_per_image": 4,
        "image_token_index": id_of("<image_soft_token>"),
        "boi_token_index": id_of("<start_of_image>"),
        "eoi_token_index": id_of("<end_of_image>"),
    }  # fmt: skip

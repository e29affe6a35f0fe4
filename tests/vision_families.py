"""Tiny settings of every family of models that read pictures: special tokens, template, processor and configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from luthier.chat.media import drop_video_processor, find_processor_class

TEXT: dict[str, Any] = {
    "vocab_size": 420, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
Ids = Callable[[str], int]
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyFamily:
    """What a random model of one family is made of."""

    type: str
    """The `model_type` of its configuration."""
    special: Sequence[str]
    """Tokens that its tokenizer has beside the usual ones."""
    written: str
    """What its chat template writes for a picture."""
    processor: Callable[[Any], Any]
    """transformers' processor for small pictures, over a tokenizer."""
    config: Callable[[Ids], dict[str, Any]]
    """Settings, by the ids of tokens."""
    template: str = PARTS
    """The chat template, with IMAGE in a picture's place."""
    named: dict[str, str] = field(default_factory=dict)
    """Special tokens that the tokenizer itself knows by a name."""


def _llava(tokenizer: Any) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _clip(id_of: Ids, **more: Any) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION, "image_size": 28, "patch_size": 7},
        "image_token_index": id_of("<image>"),
        "vision_feature_layer": -1,
        **more,
    }


_PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def _llava_next(tokenizer: Any) -> Any:
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=_PINPOINTS
    )
    return LlavaNextProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _llava_onevision(tokenizer: Any) -> Any:
    from transformers import LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    images = LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=_PINPOINTS)
    kind = drop_video_processor(LlavaOnevisionProcessor)
    return kind(
        images, tokenizer, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip


def _internvl(tokenizer: Any) -> Any:
    from transformers import InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    images = GotOcr2ImageProcessorPil(size={"height": 24, "width": 24}, min_patches=1, max_patches=3)
    return drop_video_processor(InternVLProcessor)(
        images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )


def _pixtral(merge: int) -> Callable[[Any], Any]:
    def build(tokenizer: Any) -> Any:
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

        images = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
        return find_processor_class("PixtralProcessor")(
            images, tokenizer, patch_size=8, spatial_merge_size=merge, chat_template=tokenizer.chat_template
        )

    return build


def _mistral(id_of: Ids, **more: Any) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "mistral", **TEXT, "sliding_window": None, "head_dim": 8},
        "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 12, "image_size": 48, "patch_size": 8},
        "image_token_index": id_of("[IMG]"),
        "vision_feature_layer": -1,
        **more,
    }


def _qwen(kind: str) -> Callable[[Any], Any]:
    def build(tokenizer: Any) -> Any:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        images = Qwen2VLImageProcessorPil(min_pixels=64, max_pixels=4096, patch_size=4, merge_size=2)
        return drop_video_processor(getattr(transformers, kind))(
            images, tokenizer, chat_template=tokenizer.chat_template
        )

    return build


def _qwen_ids(id_of: Ids) -> dict[str, int]:
    return {
        "image_token_id": id_of("<|image_pad|>"),
        "video_token_id": id_of("<|video_pad|>"),
        "vision_start_token_id": id_of("<|vision_start|>"),
    }


def _qwen2_5_vl(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "vision_config": {
            "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 4, "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
        },
        **_qwen_ids(id_of),
    }  # fmt: skip


def _qwen2_vl(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "vision_config": {
            "depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2,
            "spatial_merge_size": 2,
        },
        **_qwen_ids(id_of),
    }  # fmt: skip


def _qwen3_vl(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "head_dim": 8, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        "vision_config": {
            "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 4, "spatial_merge_size": 2, "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
        },
        **_qwen_ids(id_of),
    }  # fmt: skip


def _omni(kind: str) -> Callable[[Any], Any]:
    def build(tokenizer: Any) -> Any:
        import transformers
        from transformers import WhisperFeatureExtractor
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        images = Qwen2VLImageProcessorPil(min_pixels=64, max_pixels=4096, patch_size=4, merge_size=2)
        own = drop_video_processor(getattr(transformers, kind))
        return own(
            image_processor=images,
            feature_extractor=WhisperFeatureExtractor(feature_size=16),
            tokenizer=tokenizer,
            chat_template=tokenizer.chat_template,
        )

    return build


def _omni_audio(id_of: Ids) -> dict[str, Any]:
    return {
        "audio_config": {
            "num_mel_bins": 16, "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16, "output_dim": 32, "n_window": 4, "downsample_hidden_size": 8,
        },
        "image_token_id": id_of("<|IMAGE|>"),
        "audio_token_id": id_of("<|AUDIO|>"),
        "video_token_id": id_of("<|VIDEO|>"),
        "image_token_index": id_of("<|IMAGE|>"),
        "audio_token_index": id_of("<|AUDIO|>"),
        "video_token_index": id_of("<|VIDEO|>"),
        "vision_start_token_id": id_of("<|vision_bos|>"),
        "vision_end_token_id": id_of("<|vision_eos|>"),
        "audio_start_token_id": id_of("<|audio_bos|>"),
        "audio_end_token_id": id_of("<|audio_eos|>"),
    }  # fmt: skip


def _qwen2_5_omni(id_of: Ids) -> dict[str, Any]:
    plain = _qwen2_5_vl(id_of)
    return {"text_config": plain["text_config"], "vision_config": plain["vision_config"], **_omni_audio(id_of)}


def _qwen3_omni(id_of: Ids) -> dict[str, Any]:
    plain = _qwen3_vl(id_of)
    text = {**plain["text_config"], **_MIXTURE}
    return {"text_config": text, "vision_config": plain["vision_config"], **_omni_audio(id_of)}


def _qwen3_vl_moe(id_of: Ids) -> dict[str, Any]:
    plain = _qwen3_vl(id_of)
    return {**plain, "text_config": {**plain["text_config"], **_MIXTURE}}


def _idefics3(tokenizer: Any) -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)


def _gemma3(tokenizer: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    images = Gemma3ImageProcessorPil(size={"height": 24, "width": 24}, do_pan_and_scan=False)
    return Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template)


def _gemma3_config(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {
            **TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "vision_config": {**VISION, "image_size": 24, "patch_size": 6},
        "mm_tokens_per_image": 4,
        "image_token_index": id_of("<image_soft_token>"),
        "boi_token_index": id_of("<start_of_image>"),
        "eoi_token_index": id_of("<end_of_image>"),
    }  # fmt: skip


def _paligemma(tokenizer: Any) -> Any:
    from transformers import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 24, "width": 24}, image_seq_length=16)
    return PaliGemmaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def _paligemma_config(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {
            "model_type": "gemma2",
            **TEXT,
            "vocab_size": 2500,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
        },
        "vision_config": {**VISION, "image_size": 24, "patch_size": 6, "vision_use_head": False},
        "projection_dim": 32,
        "hidden_size": 32,
        "image_token_index": id_of("<image>"),
    }


_PREFIXED = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{% if message['content'] is string %}"
    "{{ bos_token + message['content'] }}{% else %}{% for part in message['content'] if part['type'] == 'image' %}"
    "IMAGE{% endfor %}{{ bos_token }}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endfor %}{% endif %}{{ '\n' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""What PaliGemma's processor writes: pictures, the beginning, the question, a line's end; then the answer."""


def _mllama(tokenizer: Any) -> Any:
    from transformers import MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    images = MllamaImageProcessorPil(size={"height": 24, "width": 24}, max_image_tiles=2)
    return MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def _mllama_config(id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": {
            **TEXT, "cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "vision_config": {
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 2, "image_size": 24, "patch_size": 6, "max_num_tiles": 2, "vision_output_dim": 48,
            "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        "image_token_index": id_of("<|image|>"),
    }  # fmt: skip


def _gemma3n(tokenizer: Any) -> Any:
    from transformers import Gemma3nProcessor
    from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    return Gemma3nProcessor(
        Gemma3nAudioFeatureExtractor(), images, tokenizer, image_seq_length=4, audio_seq_length=4,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _gemma3n_config(id_of: Ids) -> dict[str, Any]:
    first = id_of("<image_soft_token>")
    return {
        "text_config": {
            **TEXT, "head_dim": 8, "sliding_window": 16, "num_hidden_layers": 4, "intermediate_size": [48] * 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": first, "vocab_size": first + 6, "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        },
        "vision_config": {
            "architecture": "test_convnext", "hidden_size": 64, "vocab_size": 3, "vocab_offset": first,
            "do_pooling": False,
        },
        "audio_config": {
            "vocab_size": 3, "vocab_offset": first + 3, "hidden_size": 16, "input_feat_size": 16,
            "conf_num_hidden_layers": 1, "conf_num_attention_heads": 2, "sscp_conv_channel_size": [4, 4],
        },
        "vision_soft_tokens_per_image": 4,
        "audio_soft_tokens_per_image": 4,
        **{f"{name}_id": id_of(token) for name, token in _GEMMA3N.items()},
    }  # fmt: skip


_GEMMA3N = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
_QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
_QWEN_WRITTEN = "<|vision_start|><|image_pad|><|vision_end|>"
_OMNI = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_OMNI_WRITTEN = "<|vision_bos|><|IMAGE|><|vision_eos|>"
_GEMMA = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
_INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
FAMILIES: dict[str, TinyFamily] = {
    "llava": TinyFamily("llava", ["<image>"], "<image>\n", _llava, _clip),
    "qwen2_5_vl": TinyFamily("qwen2_5_vl", _QWEN, _QWEN_WRITTEN, _qwen("Qwen2_5_VLProcessor"), _qwen2_5_vl),
    "qwen2_vl": TinyFamily("qwen2_vl", _QWEN, _QWEN_WRITTEN, _qwen("Qwen2VLProcessor"), _qwen2_vl),
    "qwen3_vl": TinyFamily("qwen3_vl", _QWEN, _QWEN_WRITTEN, _qwen("Qwen3VLProcessor"), _qwen3_vl),
    "qwen3_vl_moe": TinyFamily("qwen3_vl_moe", _QWEN, _QWEN_WRITTEN, _qwen("Qwen3VLProcessor"), _qwen3_vl_moe),
    "idefics3": TinyFamily(
        "idefics3",
        ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
        + [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)],
        "<image>",
        _idefics3,
        lambda id_of: {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {**VISION, "image_size": 24, "patch_size": 6},
            "image_token_id": id_of("<image>"),
            "scale_factor": 2,
        },
    ),
    "gemma3": TinyFamily("gemma3", [*_GEMMA.values()], "<start_of_image>", _gemma3, _gemma3_config, named=_GEMMA),
    "llava_next": TinyFamily(
        "llava_next", ["<image>"], "<image>\n", _llava_next, lambda id_of: _clip(id_of, image_grid_pinpoints=_PINPOINTS)
    ),
    "llava_onevision": TinyFamily(
        "llava_onevision",
        ["<image>", "<video>"],
        "<image>\n",
        _llava_onevision,
        lambda id_of: {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {
                "model_type": "siglip_vision_model",
                **VISION,
                "image_size": 28,
                "patch_size": 7,
                "vision_use_head": False,
            },
            "image_token_index": id_of("<image>"),
            "video_token_index": id_of("<video>"),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
            "image_grid_pinpoints": _PINPOINTS,
        },
    ),
    "internvl": TinyFamily(
        "internvl",
        [*_INTERN.values()],
        "<IMG_CONTEXT>\n",
        _internvl,
        lambda id_of: {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {**VISION, "image_size": [24, 24], "patch_size": [6, 6]},
            "image_token_id": id_of("<IMG_CONTEXT>"),
            "image_seq_length": 4,
        },
        named=_INTERN,
    ),
    "pixtral": TinyFamily(
        "llava",
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        "[IMG]",
        _pixtral(1),
        lambda id_of: _mistral(id_of, vision_feature_select_strategy="full", image_seq_length=1),
    ),
    "qwen2_5_omni": TinyFamily(
        "qwen2_5_omni_thinker",
        [*_OMNI.values()],
        _OMNI_WRITTEN,
        _omni("Qwen2_5OmniProcessor"),
        _qwen2_5_omni,
        named=_OMNI,
    ),
    "qwen3_omni": TinyFamily(
        "qwen3_omni_moe_thinker",
        [*_OMNI.values()],
        _OMNI_WRITTEN,
        _omni("Qwen3OmniMoeProcessor"),
        _qwen3_omni,
        named=_OMNI,
    ),
    "mistral3": TinyFamily(
        "mistral3",
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        "[IMG]",
        _pixtral(2),
        lambda id_of: _mistral(id_of, spatial_merge_size=2),
    ),
}
"""By name: each is proven in packs (`tests/models/test_media_packs.py`)."""
NEEDS_TIMM: dict[str, TinyFamily] = {
    "gemma3n": TinyFamily(
        "gemma3n", [*_GEMMA3N.values()], "<image_soft_token>", _gemma3n, _gemma3n_config, named=_GEMMA3N
    ),
}
"""Those whose encoder is one of timm's: proven where timm is."""
if find_spec("timm") is not None:
    FAMILIES |= NEEDS_TIMM
ALONE: dict[str, TinyFamily] = {
    "mllama": TinyFamily("mllama", ["<|image|>"], "<|image|>", _mllama, _mllama_config),
    "paligemma": TinyFamily(
        "paligemma", ["<image>"], "<image>", _paligemma, _paligemma_config, _PREFIXED, {"image_token": "<image>"}
    ),
}
"""Those whose rows with pictures are read one by one (`tests/models/test_media_rows.py`)."""

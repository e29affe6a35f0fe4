"""Tiny random models of several families that hear, as Hugging Face folders, and sounds to play them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from luthier.chat.media_codec import encode_wav
from luthier.chat.messages import MEDIA_MARK, Media, Message
from tiny_models import tiny_tokenizer
from vision_models import tiny_vision_model

PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "vocab_size": 430, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_SPECIAL = {
    "qwen2_audio": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"],
    "audioflamingo3": ["<sound>"],
    "voxtral": [*(f"[CONTROL_{number}]" for number in range(20)), "[BEGIN_AUDIO]", "[AUDIO]"],  # [AUDIO] is 24
    "granite_speech": ["<|audio|>"],
}
_WRITTEN = {
    "qwen2_audio": "<|audio_bos|><|AUDIO|><|audio_eos|>\n",
    "audioflamingo3": "<sound>",
    "voxtral": "[BEGIN_AUDIO][AUDIO]",
    "granite_speech": "<|audio|>",
}
OMNI = ("qwen2_5_omni", "qwen3_omni")
"""Families that see as well, and are made by `pictured`."""
FAMILIES = (*_SPECIAL, *OMNI)
MELS = 16
SECONDS = 2
"""What the small models hear at once."""


def sound(seed: int, seconds: float = 0.5, rate: int = 16_000) -> tuple[Media, bytes]:
    """A sound of noise as WAV."""
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    value = encode_wav(samples, rate)
    digest = hashlib.sha256(value).hexdigest()
    length = round(len(samples) / rate, 6)
    return Media(kind="audio", digest=digest, format="wav", size=len(value), seconds=length, rate=rate), value


def played(text: str, *media: Media, answer: str = "") -> tuple[Message, ...]:
    """A question with sounds before it, and its answer when there is one."""
    asked = Message(role="user", content=MEDIA_MARK * len(media) + text, media=media)
    return (asked, Message(role="assistant", content=answer)) if answer else (asked,)


def tiny_audio_model(folder: Path, family: str = "qwen2_audio", seed: int = 0) -> Path:
    """A random model of a family with its tokenizer and processor."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    if family in OMNI:
        tiny_vision_model(folder, family, seed)
        template = PARTS.replace("AUDIO{%", "<|audio_bos|><|AUDIO|><|audio_eos|>{%")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["audio_config"]["n_window"] = 50  # whole seconds, as the processor counts tokens
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, _SPECIAL[family])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if family == "voxtral":
        tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL[family]})
    tokenizer.chat_template = PARTS.replace("AUDIO{%", _WRITTEN[family] + "{%")
    build_processor(family, tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **_config(family, tokenizer.convert_tokens_to_ids))
    model = AutoModelForSeq2SeqLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if family == "voxtral":
        tokenizer.save_pretrained(folder)
    return folder


def build_processor(family: str, tokenizer: Any) -> Any:
    """transformers' processor for short sounds."""
    from transformers import (
        AudioFlamingo3Processor,
        GraniteSpeechFeatureExtractor,
        GraniteSpeechProcessor,
        Qwen2AudioProcessor,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    template = tokenizer.chat_template
    if family == "granite_speech":
        return GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer, chat_template=template)
    if family == "voxtral":
        return VoxtralProcessor(WhisperFeatureExtractor(feature_size=MELS), tokenizer)
    whisper = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)
    if family == "audioflamingo3":
        return AudioFlamingo3Processor(whisper, tokenizer, chat_template=template, max_audio_len=3 * SECONDS)
    return Qwen2AudioProcessor(whisper, tokenizer, chat_template=template)


def _config(family: str, id_of: Any) -> dict[str, Any]:
    encoder = {
        "num_mel_bins": MELS, "d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "max_source_positions": 50 * SECONDS,
    }  # fmt: skip
    text = {"model_type": "llama", **TEXT}
    if family == "granite_speech":
        narrow = {
            "input_dim": 160, "num_layers": 2, "hidden_dim": 24, "feedforward_mult": 2, "num_heads": 2,
            "dim_head": 12, "output_dim": 20, "context_size": 8, "max_pos_emb": 16, "conv_kernel_size": 3,
        }  # fmt: skip
        query = {
            "model_type": "blip_2_qformer", "hidden_size": 24, "encoder_hidden_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 32, "use_qformer_text_input": False,
        }  # fmt: skip
        return {
            "text_config": text, "encoder_config": narrow, "projector_config": query, "has_lora_adapter": False,
            "audio_token_index": id_of("<|audio|>"), "downsample_rate": 5, "window_size": 15,
        }  # fmt: skip
    if family == "voxtral":
        wide = {
            "num_mel_bins": MELS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 64,
        }  # fmt: skip
        return {"text_config": text, "audio_config": wide, "audio_token_id": id_of("[AUDIO]")}
    if family == "audioflamingo3":
        audio = {
            "num_mel_bins": MELS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_source_positions": 50 * SECONDS,
        }  # fmt: skip
        return {"text_config": text, "audio_config": audio, "audio_token_id": id_of("<sound>")}
    return {"text_config": text, "audio_config": encoder, "audio_token_index": id_of("<|AUDIO|>")}

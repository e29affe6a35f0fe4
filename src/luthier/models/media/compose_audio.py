"""Composes a decoder and Whisper's encoder into transformers' `Qwen2AudioForConditionalGeneration` (Chu et al., 2024).

Qwen2-Audio's encoder is Whisper's, with every two states averaged: 25 tokens a second. Its projector is one linear
layer. A model with a window below Whisper's 30 seconds keeps the first of its positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import read_json_object
from luthier.models.media.compose import add_media_tokens, copy_decoder

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
"""Tokens of one audio feature, before the first and after the last."""
_PLACES = 50
"""Positions of Whisper's encoder a second."""


class AudioEncoder:
    """Whisper's encoder with its feature extractor."""

    def __init__(self, config: Qwen2AudioEncoderConfig, extractor: Any, weights: Any = None) -> None:
        """Wrap an encoder; without `weights` it is untrained."""
        self.config, self.extractor, self.weights = config, extractor, weights

    @classmethod
    def new(cls, *, seconds: int, mel_bands: int, hidden_size: int, layers: int, heads: int) -> AudioEncoder:
        """Build a small encoder with random weights and Whisper's sinusoidal positions."""
        from transformers.models.whisper.modeling_whisper import sinusoids

        config = _build_config(seconds, mel_bands, hidden_size, layers, heads, 4 * hidden_size)
        extractor = WhisperFeatureExtractor(feature_size=mel_bands, chunk_length=seconds)
        encoder = cls(config, extractor)
        encoder.positions = sinusoids(config.max_source_positions, hidden_size)
        return encoder

    positions: Any = None
    """(positions, width) embeddings of a new encoder."""

    @classmethod
    def open(cls, folder: Path, seconds: int) -> AudioEncoder:
        """Load the encoder of a Whisper model in a Hugging Face folder, for a window of `seconds`."""
        from transformers import AutoFeatureExtractor, WhisperModel

        where = SourceLocation(file=str(folder))
        kind = str(read_json_object(folder / "config.json").get("model_type", ""))
        if kind != "whisper":
            hint = "give a Whisper model, or sizes for a new encoder"
            raise ModelError(f"is a model of type {kind!r}, which is no encoder of sounds", where=where, hint=hint)
        try:
            with hide_transformers_output():
                model = WhisperModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
                own = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"the encoder cannot be opened: {error}", where=where) from error
        encoder_config, weights = model.config, model.encoder.state_dict()
        most = encoder_config.max_source_positions // _PLACES
        if seconds > most:
            what = f"seconds is {seconds}, and the encoder of {folder.name} hears at most {most} at once"
            raise ModelError(what, where=SourceLocation(field="seconds"), hint=f"set seconds: {most} or fewer")
        config = _build_config(
            seconds,
            encoder_config.num_mel_bins,
            encoder_config.d_model,
            encoder_config.encoder_layers,
            encoder_config.encoder_attention_heads,
            encoder_config.encoder_ffn_dim,
            activation_function=encoder_config.activation_function,
            scale_embedding=encoder_config.scale_embedding,
        )
        weights["embed_positions.weight"] = weights["embed_positions.weight"][: config.max_source_positions].clone()
        extractor = WhisperFeatureExtractor(
            feature_size=own.feature_size,
            sampling_rate=own.sampling_rate,
            hop_length=own.hop_length,
            n_fft=own.n_fft,
            chunk_length=seconds,
        )
        return cls(config, extractor, weights)


def compose_qwen2_audio(decoder: Any, tokenizer: Any, encoder: AudioEncoder, seed: int) -> tuple[Any, Any]:
    """Return the model and its processor; a projector, and an encoder without weights, are initialized from the seed
    alone.

    The decoder is changed: it gets embeddings for the audio tokens. The output head is not tied, as in Qwen2-Audio.
    """
    feature, begin, end = AUDIO_TOKENS
    token = add_media_tokens(decoder, tokenizer, AUDIO_TOKENS, {"audio": begin + feature + end})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen2AudioConfig(
            audio_config=encoder.config, text_config=decoder.config, audio_token_index=token, tie_word_embeddings=False
        )
        config.text_config.tie_word_embeddings = False
        model = Qwen2AudioForConditionalGeneration(config)
    copy_decoder(decoder, model)
    if encoder.weights is not None:
        model.model.audio_tower.load_state_dict(encoder.weights)
    elif encoder.positions is not None:
        with torch.no_grad():
            model.model.audio_tower.embed_positions.weight.copy_(encoder.positions)
    return model, Qwen2AudioProcessor(encoder.extractor, tokenizer, chat_template=tokenizer.chat_template)


def _build_config(
    seconds: int, mel_bands: int, hidden_size: int, layers: int, heads: int, inner: int, **more: Any
) -> Qwen2AudioEncoderConfig:
    return Qwen2AudioEncoderConfig(
        num_mel_bins=mel_bands,
        d_model=hidden_size,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        max_source_positions=_PLACES * seconds,
        **more,
    )

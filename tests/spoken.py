"""Tiny models that transcribe, with their processors, and sounds that differ."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from luthier.chat.media_codec import media_of_bytes
from luthier.chat.messages import MEDIA_MARK, Media, Message

RATE = 16_000
_SPECIAL = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>",
)  # fmt: skip
FAMILIES = ("whisper", "moonshine")


def sound(number: int, seconds: float = 0.4, rate: int = RATE) -> tuple[Media, bytes]:
    """A tone with some noise of its own, as a WAV file of 16 bits, and what names it; odd numbers are high tones."""
    import numpy as np
    import soundfile

    times = np.arange(int(seconds * rate)) / rate
    chance = np.random.default_rng(number)
    pitch = 180 + 90 * number + 3000 * (number % 2)
    values = 0.4 * np.sin(2 * np.pi * pitch * times) + 0.05 * chance.standard_normal(len(times))
    file = io.BytesIO()
    soundfile.write(file, values.astype("float32"), rate, format="WAV", subtype="PCM_16")
    content = file.getvalue()
    return media_of_bytes(content), content


def spoken(media: Media, answer: str, prompt: str = "") -> tuple[Message, ...]:
    """One sound and what is said in it."""
    return (
        Message(role="user", content=f"{prompt}{MEDIA_MARK}", media=(media,)),
        Message(role="assistant", content=answer),
    )


def tiny_speech(folder: Path, family: str = "whisper", *, english: bool = False, seed: int = 3) -> Path:
    """A model of two layers a side that has learnt nothing, in a Hugging Face folder."""
    import torch

    torch.manual_seed(seed)
    model, processor = _whisper(english=english) if family == "whisper" else _moonshine()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(kind: Any, special: tuple[str, ...], **names: str) -> Any:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("\u0120", "o"), ("n", "e"), ("\u0120o", "ne"), ("t", "w"), ("\u0120", "tw")]
    vocabulary = {token: number for number, token in enumerate([*letters, *("".join(pair) for pair in pairs)])}
    vocabulary |= {token: len(vocabulary) + number for number, token in enumerate(special)}
    tokenizer = kind(vocab=vocabulary, merges=pairs, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _whisper(*, english: bool) -> tuple[Any, Any]:
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    end = _SPECIAL[0]
    tokenizer = _tokenizer(
        WhisperTokenizer, _SPECIAL, **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), end)
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, num_mel_bins=80, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_source_positions=100, max_target_positions=64, decoder_start_token_id=ids["<|startoftranscript|>"],
        bos_token_id=ids[end], eos_token_id=ids[end], pad_token_id=ids[end],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    several = {"lang_to_id": {token: ids[token] for token in ("<|en|>", "<|zh|>", "<|de|>")}}
    several["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    model.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id, eos_token_id=ids[end], pad_token_id=ids[end],
        bos_token_id=ids[end], no_timestamps_token_id=ids["<|notimestamps|>"], is_multilingual=not english,
        prev_sot_token_id=ids["<|startofprev|>"], suppress_tokens=[1, 2, 7], begin_suppress_tokens=[220, ids[end]],
        return_timestamps=False, max_length=64, **({} if english else several),
    )  # fmt: skip
    return model, WhisperProcessor(WhisperFeatureExtractor(feature_size=80, chunk_length=2), tokenizer)


def _moonshine() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        PreTrainedTokenizerFast,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Processor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ("<unk>", "<s>", "</s>")
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    base = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))  # it is no password
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    config = MoonshineConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
        encoder_num_key_value_heads=4, decoder_num_key_value_heads=4, max_position_embeddings=64,
        decoder_start_token_id=1, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = MoonshineForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=1, bos_token_id=1, eos_token_id=2, pad_token_id=2, max_length=64
    )
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False, return_attention_mask=True)
    return model, Wav2Vec2Processor(extractor, tokenizer)


def write_ctranslate2(source: Path, folder: Path) -> Path:
    """A tiny Whisper of a Hugging Face folder in CTranslate2's format in half precision, as its converter writes it."""
    import shutil
    import struct

    import torch
    from safetensors.torch import load_file

    weights = {name: value.half() for name, value in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for half, layers in (("encoder", config["encoder_layers"]), ("decoder", config["decoder_layers"])):
        found[f"{half}/num_heads"] = torch.tensor(config[f"{half}_attention_heads"], dtype=torch.int16)
        found[f"{half}/position_encodings/encodings"] = weights[f"model.{half}.embed_positions.weight"]
        norms = {f"{half}/layer_norm": f"model.{half}.layer_norm"}
        for number in range(layers):
            own, name = f"{half}/layer_{number}", f"model.{half}.layers.{number}"
            norms |= {
                f"{own}/self_attention/layer_norm": f"{name}.self_attn_layer_norm",
                f"{own}/ffn/layer_norm": f"{name}.final_layer_norm",
            }
            found |= _joined(weights, f"{own}/self_attention/linear_0", f"{name}.self_attn", "qkv")
            found |= _joined(weights, f"{own}/self_attention/linear_1", f"{name}.self_attn.out_proj", "")
            found |= _joined(weights, f"{own}/ffn/linear_0", f"{name}.fc1", "")
            found |= _joined(weights, f"{own}/ffn/linear_1", f"{name}.fc2", "")
            if half == "decoder":
                norms[f"{own}/attention/layer_norm"] = f"{name}.encoder_attn_layer_norm"
                found |= _joined(weights, f"{own}/attention/linear_0", f"{name}.encoder_attn", "q")
                found |= _joined(weights, f"{own}/attention/linear_1", f"{name}.encoder_attn", "kv")
                found |= _joined(weights, f"{own}/attention/linear_2", f"{name}.encoder_attn.out_proj", "")
        for own, name in norms.items():
            found |= {f"{own}/gamma": weights[f"{name}.weight"], f"{own}/beta": weights[f"{name}.bias"]}
    for number in (1, 2):
        found |= _joined(weights, f"encoder/conv{number}", f"model.encoder.conv{number}", "")
    found["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]
    content = bytearray(struct.pack("<I", 6) + _text("WhisperSpec") + struct.pack("<II", 3, len(found)))
    kinds = {torch.float16: 4, torch.int16: 2}
    for name, value in sorted(found.items()):
        numbers = value.contiguous().numpy().tobytes()
        content += _text(name) + struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        content += struct.pack("<BI", kinds[value.dtype], len(numbers)) + numbers
    content += struct.pack("<I", 1) + _text("decoder/projection/weight") + _text("decoder/embeddings/weight")
    folder.mkdir()
    (folder / "model.bin").write_bytes(content)
    told = {"suppress_ids": [1, 2, 7], "suppress_ids_begin": [220], "lang_ids": [], "alignment_heads": [[0, 0]]}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    return folder


def _text(value: str) -> bytes:
    import struct

    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def _joined(weights: dict[str, Any], own: str, name: str, letters: str) -> dict[str, Any]:
    import torch

    names = [f"{name}.{letter}_proj" for letter in letters] or [name]
    matrices = [weights[f"{one}.weight"] for one in names]
    biases = [
        weights.get(f"{one}.bias", torch.zeros(len(matrix)).half()) for one, matrix in zip(names, matrices, strict=True)
    ]
    return {f"{own}/weight": torch.cat(matrices), f"{own}/bias": torch.cat(biases)}

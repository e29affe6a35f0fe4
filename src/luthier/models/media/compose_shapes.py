"""Settings and weight shapes of a planned composition, computed without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.models.describe import ModelDescription, read_config, read_safetensors_headers

Shapes = dict[str, tuple[int, ...]]
_VOCABULARY_UNIT = 64
"""The embeddings are padded to a multiple of this many rows (`luthier.models.media.compose`)."""
_PLACES = 50
"""Positions of Whisper's encoder a second."""


class ComposedSpec(NamedTuple):
    """A planned composition."""

    config: dict[str, Any]
    """The part of its `config.json` that determines sizes."""
    tensors: Shapes


def predict_llava(decoder: ModelDescription, encoder: Mapping[str, Any], shapes: Shapes | None = None) -> ComposedSpec:
    """Predict a decoder with an image encoder of these settings; `shapes` are those of an existing encoder."""
    width, hidden = int(encoder["hidden_size"]), decoder.hidden_size
    tower = _list_vision_shapes(encoder) if shapes is None else shapes
    classes = str(encoder.get("model_type", "")).startswith("clip")
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "tie_word_embeddings": decoder.tied,
        "vision_config": dict(encoder),
        "vision_feature_select_strategy": "default" if classes else "full",
    }
    projector: Shapes = {
        "linear_1.weight": (hidden, width), "linear_1.bias": (hidden,),
        "linear_2.weight": (hidden, hidden), "linear_2.bias": (hidden,),
    }  # fmt: skip
    language = _list_language_shapes(decoder, tokens=1, tied=decoder.tied)
    return _join(decoder, config, language, vision_tower=tower, multi_modal_projector=projector)


def predict_qwen2_audio(
    decoder: ModelDescription, encoder: Mapping[str, Any], shapes: Shapes | None = None
) -> ComposedSpec:
    """Predict a decoder with Whisper's encoder of these settings; `shapes` are those of an existing encoder."""
    width, hidden = int(encoder["d_model"]), decoder.hidden_size
    tower = _list_audio_shapes(encoder) if shapes is None else dict(shapes)
    tower["embed_positions.weight"] = (int(encoder["max_source_positions"]), width)
    config = {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "model_type": "qwen2_audio",
        "tie_word_embeddings": False,
        "audio_config": dict(encoder),
    }
    projector: Shapes = {"linear.weight": (hidden, width), "linear.bias": (hidden,)}
    language = _list_language_shapes(decoder, tokens=3, tied=False)
    return _join(decoder, config, language, audio_tower=tower, multi_modal_projector=projector)


def describe_new_vision_encoder(
    *, image_size: int, patch_size: int, hidden_size: int, layers: int, heads: int
) -> dict[str, Any]:
    """Return the settings of a new SigLIP image encoder."""
    return {
        "model_type": "siglip_vision_model", "image_size": image_size, "patch_size": patch_size,
        "hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }  # fmt: skip


def describe_new_audio_encoder(
    seconds: int, *, mel_bands: int, hidden_size: int, layers: int, heads: int
) -> dict[str, Any]:
    """Return the settings of a new Whisper audio encoder."""
    return {
        "num_mel_bins": mel_bands, "d_model": hidden_size, "encoder_layers": layers, "encoder_ffn_dim": 4 * hidden_size,
        "encoder_attention_heads": heads, "max_source_positions": _PLACES * seconds,
    }  # fmt: skip


def read_vision_encoder(folder: Path) -> tuple[dict[str, Any], Shapes]:
    """Return settings and shapes of the encoder of a CLIP or SigLIP model in a folder."""
    config = read_config(folder)
    settings = config.get("vision_config") or config
    return {"model_type": config.get("model_type"), **settings}, _select_shapes(folder, ("vision_model.", ""))


def read_audio_encoder(folder: Path, seconds: int) -> tuple[dict[str, Any], Shapes]:
    """Return settings and shapes of the encoder of a Whisper model in a folder, for a window of `seconds`."""
    config = read_config(folder)
    kept = ("num_mel_bins", "d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads")
    settings = {name: config[name] for name in kept} | {"max_source_positions": _PLACES * seconds}
    return settings, _select_shapes(folder, ("model.encoder.", "encoder."))


def _select_shapes(folder: Path, prefixes: tuple[str, ...]) -> Shapes:
    """Return the shapes of the tensors with the first prefix that exists, without the prefix."""
    tensors = {name: header.shape for name, header in read_safetensors_headers(folder).items()}
    for prefix in prefixes:
        if shapes := {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}:
            return shapes
    return {}


def _join(decoder: ModelDescription, config: dict[str, Any], language: Shapes, **parts: Shapes) -> ComposedSpec:
    """Return the whole composition, under transformers' names."""
    assert decoder.folder is not None, "a decoder whose files are here"
    own = json.loads((decoder.folder / "config.json").read_text(encoding="utf-8"))
    vocab = next(shape[0] for name, shape in language.items() if name.endswith("embed_tokens.weight"))
    config["text_config"] = {**own, "vocab_size": vocab, "tie_word_embeddings": config["tie_word_embeddings"]}
    tensors = {f"language_model.{name}": shape for name, shape in language.items()}
    tensors |= {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}
    return ComposedSpec(config, tensors)


def _list_language_shapes(decoder: ModelDescription, *, tokens: int, tied: bool) -> Shapes:
    """Return the decoder's shapes, with embeddings for new tokens; with a separate head unless it is tied."""
    shapes = dict(decoder.tensors)
    table = next(name for name in shapes if name.endswith("embed_tokens.weight"))
    rows, width = shapes[table]
    assert decoder.folder is not None, "a decoder whose files are here"
    if (needed := _count_tokens(decoder.folder) + tokens) > rows:
        rows = -(-needed // _VOCABULARY_UNIT) * _VOCABULARY_UNIT
    shapes[table] = (rows, width)
    shapes.pop("lm_head.weight", None)
    return shapes if tied else shapes | {"lm_head.weight": (rows, width)}


def _count_tokens(folder: Path) -> int:
    """Return the tokens of the tokenizer in a folder; 0 without a tokenizer file."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return 0
    written = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    known = set(vocabulary) if isinstance(vocabulary, dict) else {piece[0] for piece in vocabulary}
    return len(known | {token["content"] for token in written.get("added_tokens", ())})


def _list_vision_shapes(settings: Mapping[str, Any]) -> Shapes:
    """Return SigLIP's shapes, without its head."""
    width, inner, side = (int(settings[name]) for name in ("hidden_size", "intermediate_size", "patch_size"))
    shapes: Shapes = {
        "embeddings.patch_embedding.weight": (width, 3, side, side),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": ((int(settings["image_size"]) // side) ** 2, width),
        **_norm("post_layernorm", width),
    }
    for layer in range(int(settings["num_hidden_layers"])):
        at = f"encoder.layers.{layer}"
        shapes |= _norm(f"{at}.layer_norm1", width) | _norm(f"{at}.layer_norm2", width)
        shapes |= _linear(f"{at}.mlp.fc1", width, inner) | _linear(f"{at}.mlp.fc2", inner, width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{at}.self_attn.{name}", width, width)
    return shapes


def _list_audio_shapes(settings: Mapping[str, Any]) -> Shapes:
    """Return Whisper's shapes; its keys have no bias."""
    width, inner, bands = (int(settings[name]) for name in ("d_model", "encoder_ffn_dim", "num_mel_bins"))
    shapes: Shapes = {
        "conv1.weight": (width, bands, 3), "conv1.bias": (width,),
        "conv2.weight": (width, width, 3), "conv2.bias": (width,),
        **_norm("layer_norm", width),
    }  # fmt: skip
    for layer in range(int(settings["encoder_layers"])):
        at = f"layers.{layer}"
        shapes |= _norm(f"{at}.self_attn_layer_norm", width) | _norm(f"{at}.final_layer_norm", width)
        shapes |= _linear(f"{at}.fc1", width, inner) | _linear(f"{at}.fc2", inner, width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{at}.self_attn.{name}", width, width)
        del shapes[f"{at}.self_attn.k_proj.bias"]
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

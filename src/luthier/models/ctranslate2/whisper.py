"""Converts a CTranslate2 Whisper model (faster-whisper) to transformers' Whisper in a Hugging Face folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.system.process import hide_transformers_output
from luthier.models.ctranslate2.reader import CTranslate2File, read_ctranslate2_file
from luthier.models.describe import read_json_object
from luthier.models.source import Say, complete_model_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

END = "<|endoftext|>"
_START, _WITHOUT_TIMES = "<|startoftranscript|>", "<|notimestamps|>"
_PART = re.compile(r"(encoder|decoder)/layer_(\d+)/(self_attention|attention|ffn)/(layer_norm|linear_(\d))/(\w+)")
_SUFFIXES = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
_OUTSIDE = {
    "encoder/conv1": "model.encoder.conv1",
    "encoder/conv2": "model.encoder.conv2",
    "encoder/layer_norm": "model.encoder.layer_norm",
    "decoder/layer_norm": "model.decoder.layer_norm",
    "decoder/embeddings": "model.decoder.embed_tokens",
    "encoder/position_encodings": "model.encoder.embed_positions",
    "decoder/position_encodings": "model.decoder.embed_positions",
}
_MANY_LANGUAGES = 51865
"""Smallest vocabulary of the multilingual models."""
_LOCAL = frozenset({"is_local", "local_files_only", "name_or_path", "model_max_length"})
_TIMED = 50
"""Maximum initial timestamp in steps of 0.02 s (openai/whisper's `max_initial_timestamp` of 1 s)."""


def convert_ctranslate2_whisper(source: Path, folder: Path, say: Say) -> None:
    """Write transformers' `WhisperForConditionalGeneration` with its processor; weights keep the file's precision."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

    where = SourceLocation(file=str(source))
    file = read_ctranslate2_file(source / "model.bin")
    if file.specification != "WhisperSpec":
        hint = "take the model as a Hugging Face folder, or a Whisper model"
        raise ModelError(f"is a CTranslate2 model of kind {file.specification}, not Whisper", where=where, hint=hint)
    tokenizer = _open_tokenizer(source, folder)
    given_config = read_json_object(source / "config.json") if (source / "config.json").is_file() else {}
    weights = _name_weights(file)
    config = _build_config(file, weights, tokenizer)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    missing, unknown = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if unknown or set(missing) - {"proj_out.weight"}:
        what = f"its weights are not those of a Whisper model: {', '.join([*missing, *unknown][:3])}"
        raise ModelError(what, where=where, hint="fetch the model again")
    model.generation_config = _build_generation_config(config, tokenizer, given_config)
    bands = weights["model.encoder.conv1.weight"].shape[1]
    with hide_transformers_output(), translate_write_errors(folder):
        model.save_pretrained(folder, max_shard_size="1TB")
        WhisperProcessor(WhisperFeatureExtractor(feature_size=bands), tokenizer).save_pretrained(folder)
    written = read_json_object(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {key: written[key] for key in written if key not in _LOCAL})
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    complete_model_folder(folder, say)
    say(f"weights of {source.name} read from CTranslate2's model.bin")


def _open_tokenizer(source: Path, folder: Path) -> Any:
    from transformers import WhisperTokenizerFast

    path = source / "tokenizer.json"
    if not path.is_file():
        raise ModelError("holds no tokenizer.json", where=SourceLocation(file=str(source)), hint="fetch it again")
    shutil.copyfile(path, folder / path.name)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END),
        },
    )
    with hide_transformers_output():
        return WhisperTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _name_weights(file: CTranslate2File) -> dict[str, Tensor]:
    """Return the weights under transformers' names; projections that CTranslate2 fuses are split."""
    renamed: dict[str, Tensor] = {}
    for name in file.variables:
        if name.endswith("_scale"):
            continue
        if match := _PART.fullmatch(name):
            half, layer, part, _, number, suffix = match.groups()
            prefix = f"model.{half}.layers.{layer}"
            renamed |= _name_part(prefix, part, number, _SUFFIXES[suffix], file.get_weight(name))
            continue
        outside, _, suffix = name.rpartition("/")
        if outside in _OUTSIDE and suffix in (*_SUFFIXES, "encodings"):
            renamed[f"{_OUTSIDE[outside]}.{_SUFFIXES.get(suffix, 'weight')}"] = file.get_weight(name)
    return renamed


def _name_part(prefix: str, part: str, number: str | None, suffix: str, value: Tensor) -> dict[str, Tensor]:
    if part == "ffn":
        return {f"{prefix}.{'final_layer_norm' if number is None else f'fc{int(number) + 1}'}.{suffix}": value}
    name = "self_attn" if part == "self_attention" else "encoder_attn"
    if number is None:
        return {f"{prefix}.{name}_layer_norm.{suffix}": value}
    joined = {
        ("self_attention", "0"): ("q_proj", "k_proj", "v_proj"),
        ("attention", "0"): ("q_proj",),
        ("attention", "1"): ("k_proj", "v_proj"),
    }.get((part, number), ("out_proj",))
    pieces = zip(joined, value.chunk(len(joined)), strict=True)
    return {
        f"{prefix}.{name}.{projection}.{suffix}": piece.clone()
        for projection, piece in pieces
        if (projection, suffix) != ("k_proj", "bias")  # Whisper's keys have none; CTranslate2 writes zeros
    }


def _build_config(file: CTranslate2File, weights: dict[str, Tensor], tokenizer: Any) -> Any:
    from transformers import WhisperConfig

    def layers(half: str) -> int:
        return sum(
            name.startswith(f"{half}/layer_") and name.endswith("ffn/layer_norm/beta") for name in file.variables
        )

    vocabulary, width = weights["model.decoder.embed_tokens.weight"].shape
    end, start = tokenizer.convert_tokens_to_ids(END), tokenizer.convert_tokens_to_ids(_START)
    return WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=weights["model.encoder.conv1.weight"].shape[1],
        encoder_layers=layers("encoder"),
        decoder_layers=layers("decoder"),
        encoder_attention_heads=int(file.variables["encoder/num_heads"]),
        decoder_attention_heads=int(file.variables["decoder/num_heads"]),
        encoder_ffn_dim=weights["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=weights["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=weights["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=weights["model.decoder.embed_positions.weight"].shape[0],
        decoder_start_token_id=start,
        bos_token_id=start if _is_english(vocabulary) else end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        dtype=weights["model.encoder.conv1.weight"].dtype,
    )


def _is_english(vocabulary: int) -> bool:
    """Return whether a model is English-only, by the size of the vocabulary as in openai/whisper."""
    return vocabulary < _MANY_LANGUAGES


def _build_generation_config(config: Any, tokenizer: Any, given_config: dict[str, Any]) -> Any:
    """Build the generation settings with openai/whisper's suppressed and initial tokens, as Whisper's publishers write
    them.
    """
    from transformers import GenerationConfig

    without = tokenizer.convert_tokens_to_ids(_WITHOUT_TIMES)
    multilingual = not _is_english(config.vocab_size)
    languages = {
        tokenizer.convert_ids_to_tokens(number): number
        for number in given_config.get("lang_ids", ())
        if number in tokenizer.added_tokens_decoder
    }
    tasks = {task: tokenizer.convert_tokens_to_ids(f"<|{task}|>") for task in ("transcribe", "translate")}
    return GenerationConfig(
        alignment_heads=given_config.get("alignment_heads"),
        begin_suppress_tokens=given_config.get("suppress_ids_begin"),
        suppress_tokens=given_config.get("suppress_ids"),
        bos_token_id=config.bos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        is_multilingual=multilingual,
        **({"lang_to_id": languages, "task_to_id": tasks} if multilingual else {}),
        max_initial_timestamp_index=_TIMED,
        max_length=config.max_target_positions,
        no_timestamps_token_id=without,
        prev_sot_token_id=tokenizer.convert_tokens_to_ids("<|startofprev|>"),
        return_timestamps=False,
    )

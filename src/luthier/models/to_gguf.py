"""From a Hugging Face folder to a GGUF file for llama.cpp and what is built on it: in float16, 8 bits or 4 bits.

Only what is known to come out right is written: Llama, Mistral and Qwen2 with plain rotary positions, and byte-level
tokenizers whose way of cutting text llama.cpp knows. Everything else is refused with the reason. bfloat16 weights fit
float16 exactly, save those below 6e-5, which are far below what moves an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import ModelError, Where
from luthier.core.files import writing
from luthier.models.describe import read_config, read_object, read_template, weight_files

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter

Quant = Literal["f16", "q8_0", "q4_0"]
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""transformers' model type to llama.cpp's architecture, for those that are written."""
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}": "qwen2",
}
"""Split patterns of byte-level tokenizers, and llama.cpp's names for them."""
_HALF_MAX = 65504.0
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_gguf(folder: Path, target: Path, name: str, licence: str | None, quant: Quant = "f16") -> None:
    """Write the model in a Hugging Face folder as one GGUF file; `ModelError` when it cannot come out right."""
    from gguf import GGUFWriter

    config = _checked_config(folder)
    spoken = _Tokenizer(folder)
    with writing(target):
        writer = GGUFWriter(target, ARCHITECTURES[config.model_type])
        _add_shape(writer, config, name, licence)
        _add_quant(writer, quant)
        _add_sampling(writer, folder)
        spoken.add_to(writer, config)
        for title, values in _tensors(folder, config):
            _add_tensor(writer, title, values, quant, tied=config.tie_word_embeddings)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _checked_config(folder: Path) -> Any:
    from transformers import AutoConfig

    where = Where(file=str(folder / "config.json"))
    remedy = "export it as `hf` or `merged`, and convert that with llama.cpp's own script"
    kind = read_config(folder).get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"GGUF is written for {known}, not for {kind}", where=where, remedy=remedy)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(f"GGUF with {rope['rope_type']!r} rotary positions is not written", where=where, remedy=remedy)
    if kind != "qwen2" and getattr(config, "attention_bias", False):
        raise ModelError("GGUF of a Llama with attention biases is not written", where=where, remedy=remedy)
    if any(layer == "sliding_attention" for layer in getattr(config, "layer_types", None) or ()):
        raise ModelError("GGUF with sliding attention is not written", where=where, remedy=remedy)
    return config


def _add_shape(writer: GGUFWriter, config: Any, name: str, licence: str | None) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(_context(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    if head * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)


def _context(config: Any) -> int:
    """Tokens that are read: no more than a Mistral's window, since llama.cpp has none and would see beyond it."""
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def _add_quant(writer: GGUFWriter, quant: Quant) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_file_type(LlamaFileType[f"MOSTLY_{quant.upper()}"])
    if quant != "f16":
        writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_sampling(writer: GGUFWriter, folder: Path) -> None:
    """The sampling settings of generation_config.json, which llama.cpp takes as defaults."""
    path = folder / "generation_config.json"
    told = read_object(path) if path.is_file() else {}
    adders = {
        "temperature": writer.add_sampling_temp,
        "top_k": writer.add_sampling_top_k,
        "top_p": writer.add_sampling_top_p,
        "min_p": writer.add_sampling_min_p,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for name, add in adders.items():
        if told.get(name) is not None:
            add(told[name])


def _add_tensor(writer: GGUFWriter, title: str, values: np.ndarray[Any, Any], quant: Quant, *, tied: bool) -> None:
    """Vectors stay in float32; matrices are quantised, or stay in float16 where a row does not fill its blocks."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import quantize

    if values.ndim == 1:
        writer.add_tensor(title, values)
        return
    wanted = _quant_of(title, quant, tied=tied)
    if values.shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = type(wanted).F16
    if wanted.name == "F16":
        writer.add_tensor(title, values.astype(np.float16))
    else:
        writer.add_tensor(title, quantize(values, wanted), raw_dtype=wanted)


def _quant_of(title: str, quant: Quant, *, tied: bool) -> GGMLQuantizationType:
    """As llama.cpp's `llama-quantize`: in a 4-bit file the matrix that makes the logits keeps more bits.

    It takes Q6_K there, which the gguf package cannot write; Q8_0 is the next above it.
    """
    from gguf import GGMLQuantizationType

    logits = title == "output.weight" or (tied and title == "token_embd.weight")
    return GGMLQuantizationType["Q8_0" if quant == "q4_0" and logits else quant.upper()]


def _tensors(folder: Path, config: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every tensor under llama.cpp's name, in float32."""
    import gguf
    from safetensors import safe_open

    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                if key == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                title = names.get_name(key, try_suffixes=(".weight", ".bias"))
                if title is None:
                    raise ModelError(f"GGUF has no name for the weight {key!r}", where=Where(file=str(path)))
                yield title, _values(key, file.get_tensor(key).float(), config)


def _values(key: str, values: torch.Tensor, config: Any) -> np.ndarray[Any, Any]:
    if ARCHITECTURES[config.model_type] == "llama":
        if key.endswith("q_proj.weight"):
            values = _interleave(values, config.num_attention_heads)
        elif key.endswith("k_proj.weight"):
            values = _interleave(values, config.num_key_value_heads)
    if values.ndim > 1 and float(values.abs().max()) > _HALF_MAX:
        raise ModelError(f"the weight {key!r} is too large for float16", remedy="export it as `hf` or `merged`")
    found: np.ndarray[Any, Any] = values.contiguous().numpy()
    return found


def _interleave(values: torch.Tensor, heads: int) -> torch.Tensor:
    """From transformers' rotary order (halves, one after the other) to llama.cpp's (pairs side by side), by head."""
    rows, columns = values.shape
    return values.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


class _Tokenizer:
    """A byte-level tokenizer's `tokenizer.json`, in llama.cpp's terms."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = read_object(folder / "tokenizer.json")
        self.where = Where(file=str(folder / "tokenizer.json"))
        self.config = read_object(folder / "tokenizer_config.json")
        if self.json["model"].get("type") != "BPE" or self.json["model"].get("byte_fallback"):
            raise self._refusal("it is not a byte-level BPE tokenizer")
        self.pre = self._pre()

    def add_to(self, writer: GGUFWriter, config: Any) -> None:
        """Write vocabulary, merges, special tokens and chat template."""
        tokens, types = self._vocabulary(config.vocab_size)
        merges = [one if isinstance(one, str) else " ".join(one) for one in self.json["model"]["merges"]]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        ids = {token: index for index, token in enumerate(tokens)}
        adders = {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "unk": writer.add_unk_token_id,
            "pad": writer.add_pad_token_id,
        }
        for kind, add in adders.items():
            token = self.config.get(f"{kind}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token in ids:
                add(ids[token])
        writer.add_add_bos_token(self._adds_bos())
        writer.add_add_space_prefix(False)
        if (template := read_template(self.folder)) is not None:
            writer.add_chat_template(template)

    def _vocabulary(self, size: int) -> tuple[list[str], list[int]]:
        tokens = [f"[PAD{index}]" for index in range(size)]
        types = [_UNUSED] * size
        given = [
            *self.json["model"]["vocab"].items(),
            *((one["content"], one["id"]) for one in self.json["added_tokens"]),
        ]
        if outside := next((token for token, index in given if index >= size), None):
            raise self._refusal(f"its token {outside!r} lies outside the model's vocabulary")
        for token, index in self.json["model"]["vocab"].items():
            tokens[index], types[index] = token, _NORMAL
        for added in self.json["added_tokens"]:
            tokens[added["id"]] = added["content"]
            types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
        return tokens, types

    def _adds_bos(self) -> bool:
        from tokenizers import Tokenizer

        return bool(Tokenizer.from_str(json.dumps(self.json)).encode("").ids)

    def _pre(self) -> str:
        """llama.cpp's name for how text is cut before merging."""
        top = self.json.get("pre_tokenizer") or {}
        parts = top.get("pretokenizers", [top])
        kinds = [part.get("type") for part in parts]
        if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex", True):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and (known := SPLITS.get(parts[0]["pattern"].get("Regex"))):
            return known
        raise self._refusal("llama.cpp has no name for how it cuts text")

    def _refusal(self, why: str) -> ModelError:
        remedy = "export the model as `hf` or `merged`, and convert that with llama.cpp's own script"
        return ModelError(f"GGUF cannot be written with this tokenizer: {why}", where=self.where, remedy=remedy)

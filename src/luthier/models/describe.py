"""Describes a model from its folder without loading it: sizes, dtype, licence, chat template, training memory.

Parameters are counted from the safetensors headers, so the report matches the files on disk.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.chat.speech import SPEECH_TYPES
from luthier.core.errors import ModelError, SourceLocation

BYTES_OF = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INDEX = "model.safetensors.index.json"
_HEADER_LIMIT_BYTES = 100 << 20
KEEP_BYTES = 1 << 28
"""Maximum bytes of one layer's attention weights that are kept for the backward pass; larger ones are recomputed."""
_FAMILIES = (
    ("llama3", "<|start_header_id|>"),
    ("chatml", "<|im_start|>"),
    ("harmony", "<|channel|>"),
    ("gemma", "<start_of_turn>"),
    ("command-r", "<|START_OF_TURN_TOKEN|>"),
    ("granite", "<|start_of_role|>"),
    ("deepseek", "<｜User｜>"),
    ("llama2", "<<SYS>>"),
    ("mistral", "[INST]"),
    ("phi3", "<|end|>"),
    ("zephyr", "<|user|>"),
    ("vicuna", "USER:"),
)
"""Chat template families by a unique marker; the first match wins."""
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateDescription(BaseModel):
    """A description of a chat template."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    family: str
    """Name by its turn marker (`chatml`, `llama3`, `gemma`, …), else `custom`."""
    generation_marks: bool
    """Whether the template marks the assistant's text."""
    system_default: bool
    """Whether it adds a system message of its own when none is given."""
    tools: bool
    """Whether it renders tools."""


class ModelDescription(BaseModel):
    """A description of a model from its files: architecture, parameters, dtype, sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    architecture: str
    model_type: str
    parameters: int
    """Number of parameters; tied embeddings count once."""
    embedding_parameters: int
    tied: bool
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    dtype: str
    weight_bytes: int
    disk_bytes: int
    """Bytes of all files in the folder."""
    licence: str | None
    template: TemplateDescription | None
    parts: dict[str, int] = {}
    """Parameters of each part of a multimodal model: `language`, `projector`, `vision`, `audio`; else empty."""
    config: dict[str, Any] = Field(default={}, exclude=True, repr=False)
    """Its `config.json`; empty for a model that does not exist yet. Not printed."""
    tensors: dict[str, tuple[int, ...]] = Field(default={}, exclude=True, repr=False)
    """Shapes on disk by name; empty for a model that does not exist yet. Not printed."""
    folder: Path | None = Field(default=None, exclude=True, repr=False)
    """Its folder; None for a model that does not exist yet. Not printed."""

    def as_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return self.model_dump(mode="json")

    @property
    def reads_media(self) -> bool:
        """Whether it reads images or audio besides text."""
        return bool(self.parts)


class TrainingMemory(NamedTuple):
    """Estimated bytes at the peak of training, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(self)


class TensorHeader(NamedTuple):
    """One tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


_MEDIA_CONFIGS = frozenset({"vision_config", "audio_config", "encoder_config"})
"""Settings of which a multimodal model has at least one."""


def describe_model_folder(folder: Path) -> ModelDescription:
    """Describe a Hugging Face folder from `config.json` and the safetensors headers; loads no weights."""
    return _describe(read_config(folder), read_safetensors_headers(folder), folder)


def describe_composition(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], decoder: Path
) -> ModelDescription:
    """Describe a planned composition by its settings and shapes, over the decoder in a folder, whose dtype it will
    have.
    """
    own = find_majority_dtype(read_safetensors_headers(decoder))
    dtype = next((name for name, known in DTYPE_NAMES.items() if known == own), own.upper())
    tensors = {name: TensorHeader(dtype, shape) for name, shape in shapes.items()}
    description = _describe(dict(config), tensors, decoder)
    return description.model_copy(update={"disk_bytes": description.weight_bytes, "folder": None})


def _describe(config: dict[str, Any], tensors: dict[str, TensorHeader], folder: Path) -> ModelDescription:
    """Build a description from `config.json` and the headers of the weights, and other files of the folder."""
    text = config.get("text_config") or config  # models of several kinds of input keep the language part apart
    tied = _has_tied_embeddings(config, tensors)
    embedding = next((tensor.numbers for name, tensor in tensors.items() if name.endswith(EMBEDDINGS)), 0)
    _check_sizes(text, folder / "config.json")
    heads = int(
        _get_first_setting(
            text, "decoder_attention_heads", "decoder_num_attention_heads", "num_attention_heads", "n_head"
        )
        or 1
    )
    hidden = int(text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 0)
    duplicate = _duplicate_head(tensors) if tied else 0
    return ModelDescription(
        architecture=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
        model_type=config.get("model_type", "unknown"),
        parameters=sum(tensor.numbers for tensor in tensors.values()) - duplicate,
        embedding_parameters=embedding,
        tied=tied,
        hidden_size=hidden,
        intermediate_size=_mean(
            _get_first_setting(text, "decoder_ffn_dim", "intermediate_size", "n_inner") or 4 * hidden
        ),
        layers=int(
            _get_first_setting(text, "decoder_layers", "decoder_num_hidden_layers", "num_hidden_layers", "n_layer") or 0
        ),
        heads=heads,
        kv_heads=int(_get_first_setting(text, "decoder_num_key_value_heads", "num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab=int(text.get("vocab_size") or 0),
        context=int(_get_first_setting(text, "max_position_embeddings", "n_positions", "max_target_positions") or 0),
        dtype=find_majority_dtype(tensors),
        weight_bytes=sum(tensor.numbers * BYTES_OF.get(tensor.dtype, 1) for tensor in tensors.values()),
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        licence=read_licence(folder),
        template=describe_template(read_chat_template(folder)),
        parts=_count_parts(tensors, duplicate) if _MEDIA_CONFIGS & set(config) or is_speech_model(config) else {},
        config=config,
        tensors={name: tensor.shape for name, tensor in tensors.items()},
        folder=folder,
    )


def is_speech_model(config: dict[str, Any]) -> bool:
    """Return whether a configuration is that of a speech recognition model."""
    return config.get("model_type") in SPEECH_TYPES


def _get_first_setting(config: dict[str, Any], *names: str) -> Any:
    """Return the first of some settings that is set and not 0."""
    return next((value for name in names if (value := config.get(name))), None)


def _count_parts(tensors: dict[str, TensorHeader], duplicate: int) -> dict[str, int]:
    """Return the parameters of each part; a tied head counts once."""
    from luthier.models.shapes import find_part

    counts: Counter[str] = Counter(language=-duplicate)
    for name, tensor in tensors.items():
        counts[find_part(name)] += tensor.numbers
    return dict(sorted(counts.items()))


def _mean(size: int | list[int]) -> int:
    """Return a size, or the mean of those of all layers."""
    return round(sum(size) / len(size)) if isinstance(size, list) else int(size)


_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "head_dim", "max_position_embeddings", "n_embd", "n_head", "n_layer", "n_positions", "n_inner", "d_model",
    "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "max_target_positions", "decoder_num_hidden_layers",
    "decoder_num_attention_heads", "decoder_num_key_value_heads",
)  # fmt: skip


_HEADS = ("decoder_attention_heads", "decoder_num_attention_heads", "num_attention_heads", "n_head")


def _check_sizes(config: dict[str, Any], path: Path) -> None:
    """Refuse sizes that are not positive integers; a missing or null size is the architecture's default."""
    for name in _SIZES:
        value = config.get(name)
        sizes = value if name == "intermediate_size" and isinstance(value, list) and value else [value]  # one a layer
        if value is not None and any(not isinstance(size, int) or size < 1 for size in sizes):
            where = SourceLocation(file=str(path), field=name)
            message = f"expected a whole number above 0, got {value!r}"
            raise ModelError(message, where=where, hint="fetch the model again, or mend its config.json")


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Suffixes of the names of token embeddings."""


def describe_template(source: str | None) -> TemplateDescription | None:
    """Name a chat template by its turn marker; None for a model without one."""
    if source is None:
        return None
    family = next((name for name, marker in _FAMILIES if marker in source), "custom")
    default = re.search(r"messages\[0\]\[?.{0,8}role.{0,4}\]?\s*!=\s*['\"]system['\"]", source) is not None
    return TemplateDescription(
        family=family,
        generation_marks=_GENERATION_MARK.search(source) is not None,
        system_default=default,
        tools=re.search(r"\btools\b", source) is not None,
    )


def estimate_training_memory(
    description: ModelDescription, technique: str, trainable: int, tokens: int, *, head_rows: int | None = None
) -> TrainingMemory:
    """Estimate the bytes at the peak of training with AdamW.

    `tokens` are those of one forward pass, `head_rows` the positions for which the output head computes logits at once
    (all of them when None). The model is in its own dtype, with fp32 masters of trainable weights, unless it is fp32
    itself or an adapter, which is fp32. While gradients in the model's dtype are computed, activations are freed: the
    larger of both counts.
    """
    trainable, width = int(trainable), get_bytes_per_weight(description)
    weights = description.weight_bytes
    within = technique in ("full", "layers")
    return TrainingMemory(
        weights=weights + (0 if within and width >= 4 else 4 * trainable),
        gradients=4 * trainable,
        optimizer=8 * trainable,
        activations=max(estimate_activation_bytes(description, tokens, width), width * trainable),
        logits=3 * 4 * description.vocab * (tokens if head_rows is None else min(tokens, head_rows)),
    )


def estimate_activation_bytes(description: ModelDescription, tokens: int, width: int = 2) -> int:
    """Estimate the bytes of autograd's saved tensors between forward and backward, without checkpointing (`width` bytes
    a number).

    Per token of a gated-MLP layer, in numbers: the inputs of two norms and their outputs (4 hidden), scaled q, k, v,
    the attention's result and the output projection's input (3 q + 2 kv), and the MLP's gate, up, activation and
    product (4 intermediate). Attention weights are counted separately (`estimate_attention_bytes`).
    """
    q = description.heads * description.head_dim
    kv = description.kv_heads * description.head_dim
    numbers = 4 * description.hidden_size + 3 * q + 2 * kv + 4 * description.intermediate_size
    return tokens * width * (description.layers * numbers + 3 * description.hidden_size)


def estimate_attention_bytes(description: ModelDescription, tokens: int, keys: float) -> int:
    """Estimate the bytes of attention weights kept for the backward pass, when a token attends to `keys` others on
    average.
    """
    layer = tokens * description.heads * keys * get_bytes_per_weight(description)
    return int(description.layers * layer) if layer <= KEEP_BYTES else 0


def get_bytes_per_weight(description: ModelDescription) -> int:
    """Return the bytes of the weights' dtype."""
    return {"float64": 8, "float32": 4}.get(description.dtype, 2)


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`; `ModelError` when it is missing or not an object."""
    return read_json_object(folder / "config.json")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object."""
    where = SourceLocation(file=str(path))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "give a folder that you may read"
        raise ModelError(f"cannot be read: {error.strerror}", where=where, hint=hint) from error
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        why = error.msg if isinstance(error, json.JSONDecodeError) else "it is not UTF-8 text, or nested too deeply"
        where = SourceLocation(file=str(path), line=line)
        raise ModelError(f"is not JSON: {why}", where=where, hint="fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError("must hold a JSON object", where=where, hint="fetch the model again")
    return value


def list_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files and their index; a single whole file wins over shards, as in transformers."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / INDEX
    if not index.is_file():
        return []
    names = sorted(set(read_json_object(index).get("weight_map", {}).values()))
    if unsafe := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        message = f"names a shard that is not a safetensors file beside it: {unsafe[0]!r}"
        raise ModelError(
            message, where=SourceLocation(file=str(index)), hint="fetch the model again, from a source you trust"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        message = f"lacks {missing[0]} ({len(missing)} of {len(names)} shards)"
        raise ModelError(message, where=SourceLocation(file=str(folder)), hint="fetch the missing shards")
    return [index, *(folder / name for name in names)]


def read_safetensors_headers(folder: Path) -> dict[str, TensorHeader]:
    """Return every tensor of the folder's safetensors files by name, from their headers; each file's length
    is checked.
    """
    headers: dict[str, TensorHeader] = {}
    for path in list_weight_files(folder):
        if path.suffix == ".safetensors":
            headers.update(read_safetensors_header(path))
    if not headers:
        hint = "take a release with safetensors weights"
        raise ModelError("holds no safetensors weights", where=SourceLocation(file=str(folder)), hint=hint)
    return headers


def read_safetensors_header(path: Path) -> dict[str, TensorHeader]:
    """Return every tensor of a safetensors file by name, from its header; the file's length is checked."""
    where = SourceLocation(file=str(path))
    broken = ModelError("is not a whole safetensors file", where=where, hint="fetch it again")
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < size <= _HEADER_LIMIT_BYTES:
            raise broken
        try:
            header = json.loads(file.read(size))
        except (ValueError, RecursionError) as error:
            raise broken from error
    if not isinstance(header, dict):
        raise broken
    header.pop("__metadata__", None)
    try:
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        headers = {name: TensorHeader(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (KeyError, TypeError, IndexError) as error:
        raise broken from error
    if path.stat().st_size != 8 + size + end:
        raise broken
    return headers


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template's source, from its own file or from `tokenizer_config.json`."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    template = read_json_object(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def read_licence(folder: Path) -> str | None:
    """Return the licence, from Luthier's `model.json`, else from the model card's header."""
    own, card = folder / "model.json", folder / "README.md"
    if own.is_file():
        licence = read_json_object(own).get("licence")
        return licence if isinstance(licence, str) else None
    if card.is_file():
        head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
        match = re.search(r"^license: *['\"]?([^\s'\"]+)", head[1], re.M) if head else None
        return match[1] if match else None
    return None


def _has_tied_embeddings(config: dict[str, Any], tensors: dict[str, TensorHeader]) -> bool:
    """Return the config's setting; without one, whether the weights lack an output head."""
    text = config.get("text_config") or {}
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return bool(tied) if tied is not None else not any(name.endswith("lm_head.weight") for name in tensors)


def _duplicate_head(tensors: dict[str, TensorHeader]) -> int:
    """Return the parameters of an output head that is stored although it is tied to the embeddings."""
    heads = ("lm_head.weight", "proj_out.weight")
    return sum(tensor.numbers for name, tensor in tensors.items() if name.endswith(heads))


def find_majority_dtype(tensors: dict[str, TensorHeader]) -> str:
    """Return the dtype of most elements."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numbers
    most = max(sorted(counts), key=lambda name: counts[name])
    return DTYPE_NAMES.get(most, most.lower())

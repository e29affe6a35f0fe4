"""Converts a GGUF file to a Hugging Face folder: weights dequantized, tokenizer and chat template rebuilt.

The weights become bfloat16: models exported as GGUF were trained in it, it halves the folder, and its rounding (one
part in 256) is far below the file's own quantization error (Q4: one part in 16 of a block's range).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.models.describe import read_json_object
from luthier.models.gguf.tensors import FACTORS, LONG, SHORT, find_architecture
from luthier.models.gguf.vocabulary import PHI3_PLAIN, is_phi3
from luthier.models.quiet import silence_gguf_progress
from luthier.models.source import Say, complete_model_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGIT_SPLITTERS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Pre-tokenizers (llama.cpp's names, from its src/llama-vocab.cpp) that split digits before GPT-2's pattern."""
GPT2_SPLITTERS = frozenset(
    {"default", "gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "mpt", "olmo", "jais", "trillion"}
)
"""Pre-tokenizers with GPT-2's pattern alone."""
_UNSAID = {"_model_name_or_path", "_name_or_path"}
_LOCAL = {"is_local", "local_files_only", "name_or_path"}


class GgufHeader(NamedTuple):
    """The metadata of a GGUF file."""

    name: str | None
    licence: str | None
    architecture: str
    pre_tokenizer: str | None
    tokenizer: str | None
    prefix: bool
    """Whether a SentencePiece vocabulary adds a space before a text."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the file's metadata; `ModelError` when it is not a complete GGUF file."""
    from gguf import GGUFReader

    where = SourceLocation(file=str(path))
    if not path.is_file():
        raise ModelError("is not a file", where=where, hint="give the .gguf file itself")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("is not a GGUF file", where=where, hint="give a .gguf file, or a Hugging Face folder")
    try:
        fields = GGUFReader(path).fields
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelError(f"is not a whole GGUF file: {error}", where=where, hint="fetch it again") from error

    def text(key: str) -> str | None:
        return str(fields[key].contents()) if key in fields else None

    return GgufHeader(
        name=text("general.name"),
        licence=text("general.license"),
        architecture=text("general.architecture") or "unknown",
        pre_tokenizer=text("tokenizer.ggml.pre"),
        tokenizer=text("tokenizer.ggml.model"),
        prefix=text("tokenizer.ggml.add_space_prefix") != "False",
    )


def convert_gguf(path: Path, folder: Path, say: Say) -> GgufHeader:
    """Write the model in a GGUF file as a Hugging Face folder of bfloat16 safetensors; deterministic."""
    import torch

    head = read_gguf_header(path)
    tokenizer = _tokenizer(path, head, say)
    model = open_gguf(path).to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    with silence_gguf_progress(), translate_write_errors(folder):
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
    _remove_source_paths(folder / "config.json", _UNSAID)
    _remove_source_paths(folder / "tokenizer_config.json", _LOCAL)
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    complete_model_folder(folder, say)
    say(f"weights of {path.name} dequantized to bfloat16 (the file's own rounding is coarser)")
    return head


def open_gguf(path: Path) -> Any:
    """Load the model in a GGUF file with transformers, dequantized to float32."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    where = SourceLocation(file=str(path))
    try:
        config = _config(path)
        with silence_gguf_progress():
            model, info = AutoModelForCausalLM.from_pretrained(
                path.parent,
                config=config,
                gguf_file=path.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (ValueError, NotImplementedError, OSError, KeyError) as error:
        hint = "give the model as a Hugging Face folder or hub id instead"
        raise ModelError(f"transformers cannot read this GGUF file: {error}", where=where, hint=hint) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"lacks weights: {', '.join(missing[:3])} ({len(missing)} in all)", where=where)
    return model.eval()


def _config(path: Path) -> Any:
    """Return transformers' configuration, completed where its reader uses the defaults of another checkpoint."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
    )
    reader = GGUFReader(path)
    name = str(reader.fields["general.architecture"].contents())
    if (shape := find_architecture(name)) is None:
        return config
    fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith(f"{name}.")}
    tensors = {
        tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors if tensor.name in (FACTORS, LONG, SHORT)
    }
    try:
        shape.read(config, {key.removeprefix(f"{name}."): value for key, value in fields.items()}, tensors)
    except ModelError as error:
        hint = "give the model as a Hugging Face folder or hub id instead"
        raise ModelError(error.message, where=SourceLocation(file=str(path)), hint=hint) from error
    return config


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a GGUF file, with the file's own pre-tokenization."""
    return _tokenizer(path, read_gguf_header(path), lambda text: None)


def _tokenizer(path: Path, head: GgufHeader, say: Say) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, NotImplementedError, OSError, KeyError) as error:
        raise ModelError(
            f"transformers cannot read its tokenizer: {error}", where=SourceLocation(file=str(path))
        ) from error
    if head.tokenizer == "llama":
        _mend_spaces(tokenizer, prefix=head.prefix)
        if is_phi3(head.name):
            _mend_special(tokenizer)
    elif head.tokenizer == "gpt2":
        _mend_pre_tokenizer(tokenizer, head.pre_tokenizer, say)
    return tokenizer


def _mend_spaces(tokenizer: Any, *, prefix: bool) -> None:
    """Add a space before a text and write spaces as llama.cpp does for every SentencePiece vocabulary."""
    from tokenizers import normalizers

    space = "\N{LOWER ONE EIGHTH BLOCK}"
    steps = [normalizers.Prepend(space)] if prefix else []
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", space)])
    tokenizer.backend_tokenizer.pre_tokenizer = None


def _mend_special(tokenizer: Any) -> None:
    """Let special tokens strip the space after them, as Phi-3's do."""
    from tokenizers import Tokenizer

    config = json.loads(tokenizer.backend_tokenizer.to_str())
    for entry in config["added_tokens"]:
        entry["rstrip"] = entry["content"] not in PHI3_PLAIN
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(config))


def _mend_pre_tokenizer(tokenizer: Any, kind: str | None, say: Say) -> None:
    """Set the vocabulary's own pre-tokenizer, where transformers would fall back on GPT-2's pattern.

    Otherwise text such as a blank line before a digit becomes other tokens than those the model was trained on.
    """
    from tokenizers import pre_tokenizers

    if kind in DIGIT_SPLITTERS:
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), gpt2]
        )
        say(f"the tokenizer cuts digits apart, as the file's pre-tokenizer {kind!r} does")
    elif kind is not None and kind not in GPT2_SPLITTERS and _is_plain_gpt2(tokenizer):
        say(f"the file's pre-tokenizer {kind!r} is not known here: GPT-2's pattern may cut some text otherwise")


def _is_plain_gpt2(tokenizer: Any) -> bool:
    from tokenizers import pre_tokenizers

    return isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)


def _remove_source_paths(path: Path, names: set[str]) -> None:
    """Remove settings that say where the file was read from."""
    value = read_json_object(path)
    write_json(path, {key: item for key, item in value.items() if key not in names})

"""Converts a Hugging Face folder to a GGUF file for llama.cpp: in float16, 8 bits or 4 bits.

Only supported models are written: the architectures of `luthier.models.gguf.tensors` and the tokenizers of
`luthier.models.gguf.vocabulary`. Everything else is refused with the reason. bfloat16 weights fit float16 exactly,
except those below 6e-5, which are too small to matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.models.describe import list_weight_files, read_config, read_json_object
from luthier.models.gguf.tensors import SHAPES, GgufArchitecture
from luthier.models.gguf.vocabulary import read_llama_cpp_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter

Quant = Literal["f16", "q8_0", "q4_0"]
_HALF_MAX = 65504.0
_UNQUANTISED = ("position_embd.weight", "ffn_gate_inp.weight")
"""Matrices that stay in float32: positions, and routers of experts."""
_UNUSED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Suffixes of buffers that old checkpoints store with their weights."""
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+\.weight)")


def write_gguf(folder: Path, target: Path, name: str, licence: str | None, quant: Quant = "f16") -> None:
    """Write the model in a Hugging Face folder as one GGUF file; `ModelError` when it is not supported."""
    from gguf import GGUFWriter

    config = _checked_config(folder)
    shape, words = SHAPES[config.model_type], read_llama_cpp_tokenizer(folder)
    with translate_write_errors(target):
        writer = GGUFWriter(target, shape.name)
        writer.add_name(words.named(name))
        if licence:
            writer.add_license(licence)
        shape.say(writer, config)
        _add_quant(writer, quant)
        _add_sampling(writer, folder)
        words.add_to(writer, config.vocab_size)
        for title, values in _tensors(folder, config, shape):
            _add_tensor(writer, title, values, quant, tied=config.tie_word_embeddings)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _checked_config(folder: Path) -> Any:
    from transformers import AutoConfig

    where = SourceLocation(file=str(folder / "config.json"))
    hint = "export it as `hf` or `merged`, and convert that with llama.cpp's own script"
    kind = read_config(folder).get("model_type")
    if kind not in SHAPES:
        raise ModelError(f"GGUF is written for {', '.join(SHAPES)}, not for {kind}", where=where, hint=hint)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if why := SHAPES[kind].why_not(config):
        raise ModelError(f"GGUF of {kind} with {why} is not written", where=where, hint=hint)
    return config


def _add_quant(writer: GGUFWriter, quant: Quant) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_file_type(LlamaFileType[f"MOSTLY_{quant.upper()}"])
    if quant != "f16":
        writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_sampling(writer: GGUFWriter, folder: Path) -> None:
    """Write the sampling settings of generation_config.json, which llama.cpp uses as defaults."""
    path = folder / "generation_config.json"
    config = read_json_object(path) if path.is_file() else {}
    adders = {
        "temperature": writer.add_sampling_temp,
        "top_k": writer.add_sampling_top_k,
        "top_p": writer.add_sampling_top_p,
        "min_p": writer.add_sampling_min_p,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for name, add in adders.items():
        if config.get(name) is not None:
            add(config[name])


def _add_tensor(writer: GGUFWriter, title: str, values: np.ndarray[Any, Any], quant: Quant, *, tied: bool) -> None:
    """Write a tensor: vectors in float32, matrices quantized, or in float16 where a row does not fill its blocks."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import quantize

    if values.ndim == 1 or title.endswith(_UNQUANTISED):
        writer.add_tensor(title, values)
        return
    tensor_type = _quant_of(title, quant, tied=tied)
    if values.shape[-1] % GGML_QUANT_SIZES[tensor_type][0]:
        tensor_type = type(tensor_type).F16
    if tensor_type.name == "F16":
        writer.add_tensor(title, values.astype(np.float16))
    else:
        writer.add_tensor(title, quantize(values, tensor_type), raw_dtype=tensor_type)


def _quant_of(title: str, quant: Quant, *, tied: bool) -> GGMLQuantizationType:
    """Return the type of a matrix as in llama.cpp's `llama-quantize`: in a 4-bit file the output matrix has more bits.

    It uses Q6_K there, which the gguf package cannot write; Q8_0 is the next above it.
    """
    from gguf import GGMLQuantizationType

    logits = title == "output.weight" or (tied and title == "token_embd.weight")
    return GGMLQuantizationType["Q8_0" if quant == "q4_0" and logits else quant.upper()]


def _tensors(folder: Path, config: Any, shape: GgufArchitecture) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield every tensor under llama.cpp's name, in float32."""
    import gguf

    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[shape.name]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for title, values in shape.more(config):
        yield title, values.numpy()
    for key, values in _weights(folder):
        if key.endswith(_UNUSED) or (key == "lm_head.weight" and config.tie_word_embeddings):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"GGUF has no name for the weight {key!r}", where=SourceLocation(file=str(folder)))
        yield name, _check_range(key, shape.alter(key, values, config))


def _weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights in a folder in float32, all experts of a layer stacked."""
    import torch
    from safetensors import safe_open

    paths = [path for path in list_weight_files(folder) if path.suffix == ".safetensors"]
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        where = {key: file for file in files for key in file.keys()}  # noqa: SIM118  # it is no mapping
        for key in sorted(where):
            if (expert := _EXPERT.fullmatch(key)) is None:
                yield key, where[key].get_tensor(key).float()
            elif expert[2] == "0":
                number = sum(entry.startswith(f"{expert[1]}.") and entry.endswith(f".{expert[3]}") for entry in where)
                each = [f"{expert[1]}.{at}.{expert[3]}" for at in range(number)]
                yield (
                    f"{expert[1]}.{expert[3]}",
                    torch.stack([where[entry].get_tensor(entry).float() for entry in each]),
                )


def _check_range(key: str, values: torch.Tensor) -> np.ndarray[Any, Any]:
    if values.ndim > 1 and float(values.abs().max()) > _HALF_MAX:
        raise ModelError(f"the weight {key!r} is too large for float16", hint="export it as `hf` or `merged`")
    array: np.ndarray[Any, Any] = values.contiguous().numpy()
    return array

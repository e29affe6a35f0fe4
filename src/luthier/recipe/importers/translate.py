"""From another tuner's YAML file to a recipe that loads: which tool it is of, and what became of each option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.data.columns.recognize import list_file_extensions, recognize_path_source_kind
from luthier.data.source import Source
from luthier.data.split import Split
from luthier.data.suggest.settings import predict_dataset_spec
from luthier.recipe.importers.axolotl import AXOLOTL
from luthier.recipe.importers.build import build_tune_step
from luthier.recipe.importers.distributed import build_process_settings
from luthier.recipe.importers.import_report import ImportOptionReader, ImportReport
from luthier.recipe.importers.llamafactory import LLAMAFACTORY
from luthier.recipe.importers.llamafactory_v1 import LLAMAFACTORY_V1
from luthier.recipe.importers.objective import REINFORCE
from luthier.recipe.importers.tool import ImportedDataset, TrainingTool
from luthier.recipe.importers.trl import TRL
from luthier.tune.steps.tune import Tune

TOOLS = (AXOLOTL, LLAMAFACTORY, LLAMAFACTORY_V1, TRL)
MANY_BYTES = 64 << 20
"""Files up to here are counted row by row."""
KINDS = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "parquet": "parquet"}
"""Kinds of source by the ending of a file, or by what the other tool calls it."""


class RecipeTranslation(NamedTuple):
    """A recipe's text, and what became of each option."""

    text: str
    account: ImportReport


def translate_config(options: dict[str, Any], file: Path, folder: Path) -> RecipeTranslation:
    """The recipe, to be written into `folder`, that does what another tool's file asks for."""
    try:
        return _translated(options, file, folder)
    except (ValueError, TypeError, AttributeError) as error:
        what = f"the value of an option is not what its tool wants there: {' '.join(str(error).split())}"
        hint = "correct that value, or take the option out"
        raise InputError(what, where=SourceLocation(file=str(file)), hint=hint) from error


def _translated(options: dict[str, Any], file: Path, folder: Path) -> RecipeTranslation:
    tool = _tool_of(options, file)
    common_options, data = tool.read(options, file)
    account = common_options.account
    recipe: dict[str, Any] = {"luthier": 1, "name": folder.name}
    recipe["seed"] = int(common_options.take("seed", "seed") or 0)
    recipe["model"] = _model(common_options, file.parent, folder)
    held, settings, rows = _data(common_options, data, file.parent, folder)
    processes = build_process_settings(common_options, file.parent, Tune.model_fields)
    shows = data is not None and bool(data.shows)
    pixels = _max_pixels(common_options, shows=shows)
    steps = {"data": settings, "tune": build_tune_step(common_options, rows, shows=shows) | processes}
    if pixels is not None:
        steps = {"base": {"kind": "base", "source": _base_source(recipe.pop("model")), "max_pixels": pixels}, **steps}
        steps["tune"]["model"] = "base"
    if held:
        steps["report"] = {"kind": "evaluate", "data": "data", "model": "tune"}
    recipe["steps"] = steps
    return RecipeTranslation(_text(recipe, account, file, data), account)


def _tool_of(options: dict[str, Any], file: Path) -> TrainingTool:
    """The tool with most of its own options in the file."""
    where = SourceLocation(file=str(file))
    if "luthier" in options:
        raise InputError("is a recipe of Luthier's already", where=where, hint=f"`luthier plan {file}`")
    best = max(TOOLS, key=lambda tool: len(tool.own & options.keys()))
    if len(best.own & options.keys()) < 2:
        names = ", ".join(tool.name for tool in TOOLS)
        hint = "give your data itself (CSV, JSONL, Parquet), or a file of one of these"
        raise InputError(f"is not a file of {names}, as far as can be seen", where=where, hint=hint)
    return best


def _model(options: ImportOptionReader, recipe_dir: Path, folder: Path) -> Any:
    model, revision = options.take("model", "model"), options.take("revision", "model.revision")
    if model is None:
        raise InputError("the file names no model", hint="write its base model into it")
    if (recipe_dir / str(model)).is_dir():
        return _shown(recipe_dir / str(model), folder)
    return {"kind": "hub", "id": model, "revision": revision} if revision else str(model)


def _max_pixels(options: ImportOptionReader, *, shows: bool) -> int | None:
    """How many pixels a picture has at most, where rows show pictures or the file says so."""
    if not shows and not options.asks("max_pixels"):
        return None
    pixels = options.take("max_pixels", "steps.base.max_pixels")
    return None if pixels is None else int(pixels)


def _base_source(model: Any) -> dict[str, Any]:
    """A model as the source of a step `base`."""
    if isinstance(model, dict):
        return model
    return {"kind": "folder", "path": model} if model.startswith((".", "/")) else {"kind": "hub", "id": model}


def _data(
    options: ImportOptionReader, data: ImportedDataset | None, recipe_dir: Path, folder: Path
) -> tuple[bool, dict[str, Any], int | None]:
    """Whether rows are held out, the step `prepare`, and how many rows it leaves to learn from when that is known."""
    if data is None:
        raise InputError("the file names no data set", hint="name one in it, or make a recipe from your data itself")
    local = recipe_dir / data.path
    if folder_of_media := data.settings.get("media_folder"):
        data = data._replace(settings={**data.settings, "media_folder": _shown(recipe_dir / folder_of_media, folder)})
    if "video" in data.shows.values():
        fps = options.take("video_fps", "steps.data.source.video.fps")
        frames = options.take("video_frames", "steps.data.source.video.max_frames")
        sampling = {"fps": float(fps or 2.0), "max_frames": min(256, int(frames or 128))}
        data = data._replace(settings={**data.settings, "video": sampling})
    source = _source(data, local, folder)
    if options.get("method") in REINFORCE and local.is_file():
        source |= _asked_alone(source, data, recipe_dir)
    for name, setting in (("system", "system"), ("limit", "limit")):
        if (value := options.take(name, f"steps.data.source.{setting}")) is not None:
            source[setting] = value
    held = options.get("held") or 0
    split: dict[str, Any] = {"test": held}
    place_of = "steps.data.split.test (measured by the step `report`)"
    if options.get("patience") is not None:
        split["validation"] = held
        place_of += " and steps.data.split.validation (watched while tuning)"
    options.take("held", place_of)
    return bool(held), {"kind": "prepare", "source": source, "split": split}, _rows(source, data, recipe_dir, split)


def _source(data: ImportedDataset, local: Path, folder: Path) -> dict[str, Any]:
    ending = local.suffix.removeprefix(".").lower()
    if local.is_dir():
        return {"kind": "folder", "path": _shown(local, folder), **data.settings}
    if local.is_file() or f".{ending}" in list_file_extensions():
        likely_kind = KINDS.get(ending) or KINDS.get(data.format or "", "jsonl")
        kind = recognize_path_source_kind(local.name, local.parent) if local.is_file() else likely_kind
        return {"kind": kind, "path": _shown(local, folder), **data.settings}
    return {"kind": "jsonl", "path": f"data/{data.path.replace('/', '--')}.jsonl", **data.settings}


def _asked_alone(source: dict[str, Any], data: ImportedDataset, recipe_dir: Path) -> dict[str, Any]:
    """How TRL's rows of prompts alone are read, to be answered by the model itself; nothing where others are seen."""
    tried: tuple[dict[str, Any], ...] = ({}, {"messages": "prompt"}, {"prompt": "prompt", "prompt_only": True})
    for more in tried:
        try:
            Source.parse({**source, **more, "path": data.path}).glance(recipe_dir)
        except (DataError, ValueError):
            continue
        return more
    return {}


def _shown(path: Path, folder: Path) -> str:
    """A path as the recipe says it: from its own folder."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _rows(source: dict[str, Any], data: ImportedDataset, recipe_dir: Path, split: dict[str, Any]) -> int | None:
    """Rows to learn from: counted, or in a large file told from its size; None when it is not here."""
    if not (recipe_dir / data.path).exists():
        return None
    read = Source.parse({**source, "path": data.path})
    if (read.size(recipe_dir) or 0) > MANY_BYTES:
        return (predict_dataset_spec(read, Split.model_validate(split), recipe_dir).rows or {}).get("train")
    read.glance(recipe_dir)  # says what is wrong with the first rows
    number = min(sum(1 for _ in read.read(recipe_dir, lambda message: None)), source.get("limit") or MANY_BYTES)
    return max(1, number - sum(round(part * number) if part < 1 else int(part) for part in split.values()))


def _text(recipe: dict[str, Any], account: ImportReport, file: Path, data: ImportedDataset | None) -> str:
    lines = [f"# Made from {file.name}, a file of {account.tool}. What became of each of its options:"]
    lines += [f"#   {''.join(char if char.isprintable() else ' ' for char in line)}" for line in account.comments()]
    if data is not None and not (file.parent / data.path).exists():
        lines.append(f"# The data set {data.path} is not beside that file: put its rows where `source.path` says.")
    return "\n".join(lines) + "\n" + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)

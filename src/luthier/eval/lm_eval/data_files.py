"""Find the local data files of an lm-evaluation-harness task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, RecipeError, SourceLocation, did_you_mean

if TYPE_CHECKING:
    from luthier.eval.lm_eval.load import TaskSource

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}
"""`datasets` loaders by file extension."""
Splits = dict[str, list[Path]]


def find_rows(config: Mapping[str, Any], file: Path | None, source: TaskSource, scratch: Path) -> dict[str, Any]:
    """Settings that take a task's rows from files: those of `data`, or those that its YAML file names, from where it
    stands. None of them where the rows were fetched from the hub. `scratch` holds what is read on the way."""
    splits = _named(config, file) if source.data is None else _given(config, source.data)
    if not splits:
        return {}
    named = {key: config.get(f"{key}_split") for key in ("test", "validation", "training", "fewshot")}
    eval_split = named["test"] or named["validation"]
    shots = config.get("num_fewshot") if source.num_fewshot is None else source.num_fewshot
    drawn_from = (config.get("fewshot_config") or {}).get("split") or named["fewshot"]
    for name in [eval_split, drawn_from] if shots else [eval_split]:
        if name is not None and name not in splits:
            raise DataError(f"{config['task']} has no split {name!r}", hint=did_you_mean(str(name), splits))
    missing = {f"{key}_split": None for key, name in named.items() if name is not None and name not in splits}
    needed = {name: paths for name, paths in splits.items() if name in (*named.values(), drawn_from)} or splits
    readers = {_READERS.get(path.suffix) for paths in needed.values() for path in paths}
    if len(readers) != 1 or None in readers:
        first = next(path for paths in needed.values() for path in paths)
        what = f"cannot be read as rows: expected files that all end with one of {', '.join(_READERS)}"
        raise DataError(what, where=SourceLocation(file=str(first)))
    files = {name: [str(path) for path in paths] for name, paths in needed.items()}
    settings = {"data_files": files, "cache_dir": str(scratch), "keep_in_memory": True}
    return {"dataset_path": readers.pop(), "dataset_name": None, "dataset_kwargs": settings, **missing}


def list_named_files(config: Mapping[str, Any], file: Path) -> list[Path]:
    """The files of rows that a YAML file names itself; none for data sets of the hub."""
    return [path for paths in _named(config, file).values() for path in paths]


def _given(config: Mapping[str, Any], data: Path) -> Splits:
    """The files in `data`; with several tasks, those of the folder that bears the task's name."""
    if not data.exists():
        raise DataError("is not there", where=SourceLocation(file=str(data)))
    if data.is_file():
        names = [config.get(f"{key}_split") for key in ("test", "validation", "training", "fewshot")]
        return {str(name): [data] for name in names if name}
    own = data / str(config["task"])
    data = own if own.is_dir() else data
    for folder in (data, *([data / config["dataset_name"]] if config.get("dataset_name") else [])):
        if found := _folder(folder):
            return found
    hint = f"give it files named by split, such as {config.get('test_split') or 'test'}.jsonl"
    raise DataError("holds no rows that can be read", where=SourceLocation(file=str(data)), hint=hint)


def _named(config: Mapping[str, Any], file: Path | None) -> Splits:
    """Files, or a folder, that a YAML file names, from where it stands."""
    name, files = config.get("dataset_path"), (config.get("dataset_kwargs") or {}).get("data_files")
    folder = Path() if file is None else file.parent
    if files is None:
        return _folder(folder / name) if isinstance(name, str) and name and (folder / name).is_dir() else {}
    if name not in _READERS.values():
        return {}
    by_split = files if isinstance(files, dict) else {"train": files}
    found = {
        split: [
            path for entry in ([paths] if isinstance(paths, str) else paths) for path in _matching(folder, str(entry))
        ]
        for split, paths in by_split.items()
    }
    for path in (path for paths in found.values() for path in paths):
        if not path.is_file():
            raise RecipeError("is not there", where=SourceLocation(file=str(path), field="dataset_kwargs"))
    return found


def _matching(folder: Path, name: str) -> list[Path]:
    """A file by its name, or all that fit a pattern."""
    return (sorted(folder.glob(name)) if "*" in name else []) or [(folder / name).resolve()]


def _folder(folder: Path) -> Splits:
    """Files by split: those that `datasets` saved, or files and folders that bear a split's name."""
    if not folder.is_dir():
        return {}
    if (folder / "dataset_dict.json").is_file():
        names: Sequence[str] = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {name: _saved(folder / name) for name in names}
    found: Splits = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (inside := [entry for entry in sorted(path.iterdir()) if entry.suffix in _READERS]):
            found[path.name] = inside
        elif path.suffix in _READERS:
            found.setdefault(path.stem.split("-")[0], []).append(path)  # test-00000-of-00002.parquet
    return found


def _saved(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / entry["filename"] for entry in state["_data_files"]]

"""The rows of a harness task, by split: from files on this machine, or a folder that `datasets` saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, RecipeError, SourceLocation, did_you_mean
from luthier.eval.lm_eval.config import Config

Doc = dict[str, Any]
_READERS = {"json": (".jsonl", ".json"), "csv": (".csv",), "parquet": (".parquet",), "arrow": (".arrow",)}
_ENDINGS = tuple(ending for endings in _READERS.values() for ending in endings)


class HarnessDataset:
    """The splits of a task's data; a split is read when it is wanted."""

    def __init__(self, files: dict[str, list[Path]], location: str) -> None:
        self._files, self._place = files, location
        self._read: dict[str, list[Doc]] = {}

    @property
    def files(self) -> list[Path]:
        """All files, of every split."""
        return sorted({path for paths in self._files.values() for path in paths})

    def split(self, name: str) -> list[Doc]:
        """A split's rows, each with all fields that any of them has."""
        if name not in self._files:
            what = f"{self._place} has no split {name!r}"
            raise DataError(what, hint=did_you_mean(name, self._files))
        if name not in self._read:
            rows = [row for path in self._files[name] for row in _rows(path)]
            if not rows:
                raise DataError(f"split {name!r} of {self._place} has no rows")
            fields = dict.fromkeys(field for row in rows for field in row)
            self._read[name] = [{field: row.get(field) for field in fields} for row in rows]
        return self._read[name]


def open_harness_dataset(config: Config, file: Path, data: Path | None) -> HarnessDataset:
    """Where a task's rows lie: `data` when it is given, else what its file says."""
    splits = dict.fromkeys(name for name in _splits(config) if name)
    if data is None:
        return _told(config, file)
    if not data.exists():
        raise DataError("is not there", where=SourceLocation(file=str(data)))
    if data.is_file():
        return HarnessDataset({name: [data] for name in splits}, data.name)
    for folder in (data, *([data / config.dataset_name] if config.dataset_name else [])):
        if found := _folder(folder):
            return HarnessDataset(found, folder.name)
    hint = f"give it files named by split, such as {next(iter(splits), 'test')}.jsonl"
    raise DataError("holds no rows that can be read", where=SourceLocation(file=str(data)), hint=hint)


def _splits(config: Config) -> tuple[str | None, ...]:
    shots = config.shots.split
    return config.test_split, config.validation_split, config.training_split, shots


def _told(config: Config, file: Path) -> HarnessDataset:
    """Files that the YAML names itself, as `datasets` would read them."""
    name = config.dataset_path or ""
    files = (config.dataset_kwargs or {}).get("data_files")
    where = SourceLocation(file=str(file), field="dataset_path")
    if files is None and name and (file.parent / name).is_dir():
        return open_harness_dataset(config, file, file.parent / name)
    if files is None or name not in _READERS:
        what = f"its rows are {name!r} on the Hugging Face hub" if name else "it names no data"
        hint = "fetch them first, and name their folder or file in the task's `data`"
        raise RecipeError(what, where=where, hint=hint)
    by_split = files if isinstance(files, dict) else {"train": files}
    found = {
        split: [(file.parent / str(one)).resolve() for one in (paths if isinstance(paths, list) else [paths])]
        for split, paths in by_split.items()
    }
    for path in (path for paths in found.values() for path in paths):
        if not path.is_file():
            raise DataError("is not there", where=SourceLocation(file=str(path)))
    return HarnessDataset(found, file.name)


def _folder(folder: Path) -> dict[str, list[Path]]:
    """Files by split: those that `datasets` saved, or files and folders that bear a split's name."""
    if not folder.is_dir():
        return {}
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {name: _saved(folder / name) for name in names}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (inside := [one for one in sorted(path.iterdir()) if one.suffix in _ENDINGS]):
            found[path.name] = inside
        elif path.suffix in _ENDINGS:
            found.setdefault(path.stem.split("-")[0], []).append(path)  # test-00000-of-00002.parquet
    return found


def _saved(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / one["filename"] for one in state["_data_files"]]


def _rows(path: Path) -> Iterator[Doc]:
    readers: dict[str, Callable[[Path], Iterator[Doc]]] = {
        ".jsonl": _jsonl,
        ".json": _jsonl,
        ".csv": _csv,
        ".parquet": _parquet,
        ".arrow": _arrow,
    }
    if path.suffix not in readers:
        what = f"cannot be read as rows: expected one of {', '.join(readers)}"
        raise DataError(what, where=SourceLocation(file=str(path)))
    try:
        yield from readers[path.suffix](path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=SourceLocation(file=str(path))) from error


def _jsonl(path: Path) -> Iterator[Doc]:
    """One object a line, or one list of objects."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        yield from _objects(_json(text, path, 1), path)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield from _objects([_json(line, path, number)], path, number)


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError("is not JSON", where=SourceLocation(file=str(path), line=line)) from error


def _objects(records: Sequence[Any], path: Path, line: int | None = None) -> Iterator[Doc]:
    for one in records:
        if not isinstance(one, dict):
            what = f"expected an object, got {type(one).__name__}"
            raise DataError(what, where=SourceLocation(file=str(path), line=line))
        yield one


def _csv(path: Path) -> Iterator[Doc]:
    import polars as pl

    yield from pl.read_csv(path, infer_schema_length=None).iter_rows(named=True)


def _parquet(path: Path) -> Iterator[Doc]:
    import polars as pl

    yield from pl.read_parquet(path).iter_rows(named=True)


def _arrow(path: Path) -> Iterator[Doc]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        yield from pa.ipc.open_stream(source).read_all().to_pylist()

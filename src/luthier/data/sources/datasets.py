"""Folders that the library `datasets` has saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.files import resolve_path
from luthier.data.formats import tables
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import glob_inside
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say

_MARKS = ("state.json", "dataset_dict.json")
State = dict[str, Any]


class SaveToDiskSource(FileSource):
    """A folder written by `save_to_disk` of the library `datasets`, which need not be installed.

    Classes stand as their names. A row's line is its number in its file, from 1.
    """

    kind: Literal["datasets"] = "datasets"
    endings: ClassVar[tuple[str, ...]] = ()
    split: str | None = None
    """Which split of several is read; `train` when not set."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """The files that `save_to_disk` writes beside the data."""
        saved = "dataset_dict.json" in look.names or {"state.json", "dataset_info.json"} <= look.names
        return FormatMatch.EXACT if saved and not look.data else FormatMatch.NO

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The files of the folder."""
        path = resolve_path(self.path, recipe_dir)
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "there is no such folder"
            raise DataError(
                what, where=SourceLocation(file=self.path), hint="name the folder that `save_to_disk` has written"
            )
        source_files = glob_inside(path, "**/*", self.path.rstrip("/"))
        if not any(file.path.name in _MARKS for file in source_files):
            hint = "name the folder that `save_to_disk` has written"
            raise DataError("is no folder of `datasets`", where=SourceLocation(file=self.path), hint=hint)
        return source_files

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of the split."""
        files = {file.path: file for file in self.files(recipe_dir)}
        folder = self._split(resolve_path(self.path, recipe_dir), say)
        state = _state(folder / "state.json", self.path)
        info = folder / "dataset_info.json"
        classes = _classes(_state(info, self.path)) if info.is_file() else {}
        for part in state.get("_data_files") or []:
            name = str(part.get("filename"))
            path = folder / name
            if path not in files:
                location, hint = SourceLocation(file=f"{self.path}/{name}"), "save the data set anew"
                raise DataError("there is no such file in the folder", where=location, hint=hint)
            for found in self.read_file(files[path], say):
                yield _named(found, classes) if isinstance(found, SourceRecord) else found

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one Arrow file."""
        return tables.read_arrow(file)

    def _split(self, folder: Path, say: Say) -> Path:
        listed = folder / "dataset_dict.json"
        if not listed.is_file():
            return folder
        splits = [str(name) for name in _state(listed, self.path).get("splits") or []]
        split_name = self.split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
        if split_name not in splits:
            where = SourceLocation(file=self.path, field="split")
            raise DataError(f"there is no split {split_name!r}", where=where, hint=did_you_mean(split_name, splits))
        if self.split is None and len(splits) > 1:
            message = f"{self.path}: the split {split_name!r} is read; there are {', '.join(splits)}"
            say(message + (" (`luthier docs mix`: a test split that is given)" if "test" in splits else ""))
        return folder / split_name


def _state(path: Path, name: str) -> State:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        where, hint = SourceLocation(file=f"{name}/{path.name}"), "save the data set anew"
        raise DataError("cannot be read", where=where, hint=hint) from error
    return value if isinstance(value, dict) else {}


def _classes(info: State) -> dict[str, list[str]]:
    """Names of the classes by column."""
    features = info.get("features")
    found: dict[str, list[str]] = {}
    for column, feature in features.items() if isinstance(features, dict) else []:
        if (
            isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        ):
            found[column] = [str(name) for name in feature["names"]]
    return found


def _named(record: SourceRecord, classes: dict[str, list[str]]) -> SourceRecord:
    values = dict(record.values)
    for column, names in classes.items():
        number = values.get(column)
        if isinstance(number, int):
            values[column] = names[number] if 0 <= number < len(names) else None
    return record._replace(values=values)

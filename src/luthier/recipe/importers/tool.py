"""The base of importers: how to recognize another tool's files, its options, and which have no counterpart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from luthier.recipe.importers.import_report import EMPTY, ImportedOption, ImportOptionReader, ImportReport


class ImportedDataset(NamedTuple):
    """Where rows are, as far as the other tool's file says."""

    path: str
    """A local path or a data set's name, as written there."""
    settings: dict[str, Any]
    """Settings of the source beside its path."""
    format: str | None = None
    """The kind of file (`json`, `csv`, `parquet`), where it is told."""
    shows: Mapping[str, str] = {}
    """Columns that hold pictures, sounds or films, and which."""


DatasetOf = Callable[[dict[str, Any], ImportReport, Path], ImportedDataset | None]
"""Takes the options about data out of a mapping, and notes in the account what became of each."""


@dataclass(frozen=True, kw_only=True)
class TrainingTool:
    """Another tuner."""

    name: str
    own: frozenset[str]
    """Options by which its files are known: the tool with most of them made the file."""
    names: Mapping[str, str]
    """Its options under common names (see `build`)."""
    defaults: Mapping[str, Any]
    """What it does where a file is silent, under common names."""
    usual: Mapping[str, Mapping[str, Any]]
    """The same by objective, before the others."""
    left: Mapping[str, str]
    """Options without counterpart, and why; `*` in a name stands for anything."""
    dataset: DatasetOf
    prepared: Callable[[dict[str, Any], str], None] = field(default=lambda options, name: None)
    """Refuses what cannot be imported, and brings odd spellings into the usual one; the file's name may help."""
    folded: Mapping[str, str] = field(default_factory=dict)
    """Options that this makes into another one, and which."""

    def read(self, options: Mapping[str, Any], file: Path) -> tuple[ImportOptionReader, ImportedDataset | None]:
        """Sort a file's options: wishes under common names, and where the data is."""
        account, left = ImportReport(self.name), dict(options)
        self.prepared(left, file.stem)
        for option in self.folded.keys() & options.keys() - left.keys():
            if options[option] in EMPTY:
                account.empty.append(option)
            else:
                account.taken[f"{option}: {options[option]}"] = f"{self.folded[option]}, which see"
        data = self.dataset(left, account, file.parent)
        found: dict[str, ImportedOption] = {}
        for option, value in left.items():
            self._sort(option, value, found, account)
        method = str(found["method"].value) if "method" in found else "sft"
        for name, value in {**self.defaults, **self.usual.get(method, {})}.items():
            steps_go_before = name == "warmup_ratio" and "warmup_steps" in found
            if name not in found and not steps_go_before:
                found[name] = ImportedOption(option=_called(name, self.names), value=value, default=True)
        return ImportOptionReader(account, found), data

    def _sort(self, option: str, value: Any, found: dict[str, ImportedOption], account: ImportReport) -> None:
        why = next((why for name, why in self.left.items() if fnmatchcase(option, name)), None)
        if value in EMPTY:
            account.empty.append(option)
        elif (name := self.names.get(option)) in found:
            account.left[f"{option}: {value}"] = f"{found[str(name)].option} says the same"
        elif option in self.names:
            found[self.names[option]] = ImportedOption(option=option, value=value)
        elif why is not None:
            account.left[f"{option}: {value}"] = why
        else:
            account.unknown.append(f"{option}: {value}")


def _called(name: str, names: Mapping[str, str]) -> str:
    return next((option for option, common in names.items() if common == name), name)

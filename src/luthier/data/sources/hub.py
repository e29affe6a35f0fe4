"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.net import HubRepository
from luthier.data.columns.recognize import build_source_for_file, list_file_extensions
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source

_CARD = "README.md"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLITS = ("train", "test", "validation", "valid", "dev", "eval")


class HubSource(Source):
    """A data set by its name on the Hugging Face hub: its files are read as they are, and no code of it is run.

    `HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_TOKEN` apply. Which files make a split is read from the data set's card, else
    told from their names. Data sets that are made by a script cannot be read.
    """

    kind: Literal["hub"] = "hub"
    name: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name, as in `HuggingFaceH4/ultrachat_200k`."""
    revision: str = "main"
    """A branch, tag or commit; only a commit names the same bytes forever."""
    subset: str | None = None
    """The configuration, for a data set that has several."""
    split: str = Field(default="train", min_length=1)
    """The split that is read."""
    online: bool = False
    """Whether the hub may be asked. Otherwise the data set must already be in the local hub cache."""

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Fetch what is not here yet, and yield the rows of every file of the split."""
        commit, files = self._files()
        if self.revision != commit:
            message = f"revision {self.revision!r} of {self.name} is commit {commit}"
            say(f"{message}; write that to get the same bytes forever")
        for file in files:
            yield from build_source_for_file(file).read_file(file, say)

    @property
    def living(self) -> bool:
        """Only a commit names the same bytes forever."""
        return _COMMIT.fullmatch(self.revision) is None

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The name, the revision and what is read of it: a commit never changes."""
        return digest_of([self.name, self.revision, self.subset, self.split])

    def here(self, recipe_dir: Path) -> Source | None:
        """The same without asking the hub, when the files are here already."""
        offline = self.model_copy(update={"online": False})
        try:
            offline._files()
        except DataError:
            return None
        return offline

    def size(self, recipe_dir: Path) -> int | None:
        """The bytes of the files, when they are here already."""
        try:
            return sum(file.size() for file in self.model_copy(update={"online": False})._files()[1])
        except DataError:
            return None

    def _files(self) -> tuple[str, list[SourceFile]]:
        """The commit, and the files of the split."""
        published = HubRepository(
            id=self.name,
            revision=self.revision,
            online=self.online,
            holds="dataset",
            noun="data set",
            where=SourceLocation(file=self.name),
            error=DataError,
            example=f"write `source: {{kind: hub, name: {self.name}, online: true}}`",
        )
        card = published.snapshot([_CARD]) / _CARD
        card_patterns = self._patterns(card)
        patterns = card_patterns or [
            f"*{ending}{packing}" for ending in list_file_extensions() for packing in ("", ".gz", ".zst")
        ]
        folder = published.snapshot(patterns, [_CARD])
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CARD)
        names = [path.relative_to(folder).as_posix() for path in paths]
        chosen = [name for name in names if any(_fits(name, pattern) for pattern in patterns)]
        if not card_patterns:
            chosen = _of_split(chosen, self.split)
        if not chosen:
            where, hint = (
                SourceLocation(file=self.name, field="split"),
                f"its files are {', '.join(names[:8]) or 'none'}",
            )
            raise DataError(f"no file is of the split {self.split!r}", where=where, hint=hint)
        return folder.name, [SourceFile((folder / name).resolve(), f"{self.name}/{name}") for name in chosen]

    def _patterns(self, card: Path) -> list[str]:
        """What the card says of the split's files; nothing when it says nothing."""
        configs = _configs(card)
        names = [str(config.get("config_name")) for config in configs]
        if self.subset is not None and self.subset not in names:
            where, hint = SourceLocation(file=self.name, field="subset"), f"known: {', '.join(names) or 'none'}"
            raise DataError(f"there is no subset {self.subset!r}", where=where, hint=hint)
        if self.subset is None and len(configs) > 1 and "default" not in names:
            where, hint = SourceLocation(file=self.name, field="subset"), f"set `subset` to one of {', '.join(names)}"
            raise DataError("has several subsets", where=where, hint=hint)
        subset_name = self.subset or ("default" if "default" in names else None)
        config = next(
            (entry for entry in configs if subset_name is None or entry.get("config_name") == subset_name), {}
        )
        return _listed(config.get("data_files"), self.split, str(config.get("data_dir") or ""))


def _configs(card: Path) -> list[dict[str, Any]]:
    """The configurations in the head of a data set's card."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = text[3:].partition("\n---")[0] if text.startswith("---") else ""
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        return []
    listed = found.get("configs") if isinstance(found, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _listed(files: Any, split: str, folder: str) -> list[str]:
    """The patterns of one split, in any of the forms that a card may have."""
    if isinstance(files, list) and files and all(isinstance(file, dict) for file in files):
        files = {str(file.get("split")): file.get("path") for file in files}
    if isinstance(files, dict):
        files = files.get(split, [])
    paths = [files] if isinstance(files, str) else list(files or [])
    return [f"{folder}/{path}".lstrip("/") for path in paths]


def _fits(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern.removeprefix("./"))


def _of_split(names: list[str], split: str) -> list[str]:
    """Files whose name or folder says the split; all of them are `train` where none says any."""
    split_words = {name: {word for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS} for name in names}
    if split == "train" and not any(split_words.values()):
        return names
    same = {"validation", "valid", "dev", "eval"} if split in ("validation", "valid", "dev", "eval") else {split}
    return [name for name, words in split_words.items() if words & same or split in re.split(r"[^\w]+", name.lower())]

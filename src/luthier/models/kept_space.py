"""A space in a folder of its own, so that texts of next month lie among those of today.

`space.json` says which embedder opened the space, with which weights, and the digest of each file beside it; what was
learnt from texts stands in those files. Terms of an `lsa` are words of the texts themselves: keep the folder where the
texts may be kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from luthier.core.digest import file_digest
from luthier.core.errors import CorruptArtifact, ModelError, Where
from luthier.core.files import seal, unseal, write_aside, writing
from luthier.models.embedder import Embedder, Space

SPACE = "space.json"
_ANEW = "learn the space anew and save it again"


class KeptSpace(NamedTuple):
    """A space that was opened again, and whose it is."""

    embedder: Embedder
    space: Space


def save_space(embedder: Embedder, space: Space, folder: Path, *, base: Path) -> None:
    """Keep a space of this embedder in a folder that holds nothing else; `space.json` is written last."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPACE).unlink(missing_ok=True)
        embedder.keep(space, folder)
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    told = {"embedder": embedder.settings(), "fingerprint": embedder.fingerprint(base), "files": files}
    write_aside(folder / SPACE, seal({"format": 1, **told}))


def load_space(folder: Path, *, base: Path) -> KeptSpace:
    """Open a space again: its points are those that it made before, bit by bit on the same machine.

    `CorruptArtifact` when a file is missing or changed, `ModelError` when the weights that it reads from outside are
    others by now. Relative paths of weights start at `base`.
    """
    place = folder / SPACE
    try:
        told = unseal(place.read_bytes(), place)
    except OSError as error:
        what = f"no space was kept here: {error.strerror}"
        raise CorruptArtifact(what, where=Where(file=str(place)), remedy=_ANEW) from error
    if told.get("format") != 1:
        what = f"is a space of format {told.get('format')}, which this version of Luthier does not read"
        raise CorruptArtifact(what, where=Where(file=str(place)), remedy=_ANEW)
    for name, digest in told["files"].items():
        _check(folder / name, digest)
    embedder = Embedder.parse(told["embedder"])
    if embedder.fingerprint(base) != told["fingerprint"]:
        what = f"the weights of the embedder `{embedder.kind}` are others than those that this space was kept with"
        raise ModelError(what, where=Where(file=str(place)), remedy=f"bring the old weights back, or {_ANEW}")
    return KeptSpace(embedder, embedder.kept(folder, base=base))


def _check(path: Path, digest: str) -> None:
    what = "is missing" if not path.is_file() else "differs from what was kept" if file_digest(path) != digest else ""
    if what:
        raise CorruptArtifact(what, where=Where(file=str(path)), remedy=_ANEW)

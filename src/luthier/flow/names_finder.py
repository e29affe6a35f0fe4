"""Who finds names in the traffic of a model: those who found them in the rows that it was tuned on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName
from luthier.text.pii.found import NAME_KINDS, PiiKind
from luthier.text.recogniser import TEXT_PARTS, Recogniser, TextPart


class NamesFinder(NamedTuple):
    """How names are taken out; settings of `Keeping`."""

    names: tuple[Recogniser, ...] = ()
    names_in: tuple[TextPart, ...] = ()
    exclude_kinds: tuple[PiiKind, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Settings of `Keeping`; empty where no names are found."""
        return self._asdict() if self.names else {}


def finder_of(models: Iterable[Artifact], base: Path) -> NamesFinder:
    """What the operators `pii` that cleaned the data of some models find of names, all together.

    Names are looked for where one of them does, and a kind stays in clear where all leave it; `base` is the folder at
    which the paths of recognisers start.
    """
    seen: dict[str, Artifact] = {}
    for model in models:
        _collect(model, seen)
    found = [ops for artifact in seen.values() for ops in _operators(artifact) if ops.get("names")]
    names = dict.fromkeys(Recogniser.parse(ops["names"]).at(base) for ops in found)
    parts = {part for ops in found for part in ops.get("names_in", TEXT_PARTS)}
    left = [{kind for kind in NAME_KINDS if _stays(ops, kind)} for ops in found]
    kept = set.intersection(*left) if left else set()
    return NamesFinder(
        tuple(names),
        tuple(part for part in TEXT_PARTS if part in parts),
        tuple(kind for kind in NAME_KINDS if kind in kept),
    )


def _collect(artifact: Artifact, seen: dict[str, Artifact]) -> None:
    """An artifact and all that it was made from, as far as that is still here."""
    if artifact.digest in seen:
        return
    seen[artifact.digest] = artifact
    for digest in artifact.manifest.inputs.values():
        try:
            _collect(artifact.find(digest), seen)
        except UnknownName:
            continue  # removed from the store since: nothing more can be known of it


def _operators(artifact: Artifact) -> Iterator[Mapping[str, Any]]:
    """The settings of operators `pii` that an artifact was made by."""
    for one in artifact.manifest.settings.get("ops") or ():
        if isinstance(one, Mapping) and one.get("kind") == "pii":
            yield one


def _stays(ops: Mapping[str, Any], kind: PiiKind) -> bool:
    return (ops.get("actions") or {}).get(kind, ops.get("action")) in ("keep", "flag")

"""A data set out again: written aside by its form, then moved into place, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import translate_write_errors
from luthier.core.hashing import file_digest
from luthier.data.exporter import ExportDataset, Exporter, Say


def export_formats() -> tuple[str, ...]:
    """The kinds of forms, `jsonl` first: it is the one that is meant when none is named."""
    return tuple(sorted(components_by_kind(Exporter), key=lambda kind: (kind != "jsonl", kind)))


def export_dataset(
    artifact: Artifact, to: Path, form: str | Exporter = "jsonl", say: Say = lambda text: None
) -> list[Path]:
    """Write a data set below `to` in a form; a file that is there already and differs is never overwritten."""
    exporter = form if isinstance(form, Exporter) else _named(form)
    with translate_write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
    aside = to / f".export.{os.getpid()}.tmp"
    try:
        with translate_write_errors(to):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            data = ExportDataset(artifact)
            exporter.write(data, aside, say)
            if data.holds_media and not exporter.carries_media:
                forms = ", ".join(kind for kind, one in components_by_kind(Exporter).items() if one.carries_media)
                say(f"pictures and sounds are left out, with marks in their place; these forms carry them: {forms}")
        names = sorted(path.relative_to(aside) for path in aside.rglob("*") if path.is_file())
        for name in names:
            _refuse_foreign(to / name, aside / name)
        for name in names:
            with translate_write_errors(to / name):
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                (aside / name).replace(to / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [to / name for name in names]


def _named(kind: str) -> Exporter:
    found = components_by_kind(Exporter).get(kind.replace("-", "_"))
    if found is None:
        raise UnknownName(f"a data set cannot be exported as {kind!r}", hint=did_you_mean(kind, export_formats()))
    return found.model_validate({})


def _refuse_foreign(target: Path, aside: Path) -> None:
    """What is there already may stay only when it is the same."""
    if target.exists() and file_digest(target) != file_digest(aside):
        hint = "give another folder, or remove the file"
        raise DataError(
            "is there already and differs from what would be written", where=SourceLocation(file=str(target)), hint=hint
        )

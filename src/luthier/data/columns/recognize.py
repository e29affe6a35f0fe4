"""Recognize the kind of source of a file, a folder or a URL, by its content first and its name second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from luthier.chat.media_codec import MAX_BYTES
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, SourceLocation
from luthier.data.columns.media import PDF_ENDING, TABLES, is_media_path
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import format_file_names, is_url_or_glob, list_matching_files
from luthier.data.formats.pdf_pages import holds_text
from luthier.data.formats.sniff import ENDING, FileSample, FormatMatch
from luthier.data.row import SourceRecord
from luthier.data.source import FileSource, Source

_MOST_PATHS = 10_000
"""Files of a folder by which it is told what it holds."""
_LOOKED_AT = 5
"""PDFs of a folder by which it is told whether they have text."""
_SITEMAP = re.compile(r"<(?:urlset|sitemapindex)\b[^<>]{0,200}sitemaps\.org")


class RecognizedSource(NamedTuple):
    """A kind of source, and whether more than a guess speaks for it."""

    kind: str
    sure: bool


def file_kinds() -> dict[str, type[FileSource]]:
    """The kinds of source that read files, by kind."""
    return {kind: member for kind, member in components_by_kind(Source).items() if issubclass(member, FileSource)}


def list_file_extensions() -> list[str]:
    """All endings by which files are known."""
    return sorted({ending for member in file_kinds().values() for ending in member.endings})


def recognize_source_kind(look: FileSample, but: str = "") -> RecognizedSource | None:
    """The kind that fits best, one left out where asked; None for what nothing reads."""
    found: list[tuple[int, str]] = []
    for kind, member in file_kinds().items():
        if kind == but:
            continue
        fit = member.recognises(look)
        if fit > FormatMatch.NO:
            found.append((fit + ENDING * (look.ending in member.endings), kind))
    points, kind = max(found, default=(FormatMatch.NO, ""))
    sure = points > FormatMatch.POSSIBLE
    if not points or (not sure and look.ending in list_file_extensions()):
        return None  # its name says one thing, and its content does not bear it out
    return RecognizedSource(kind, sure)


def build_source_for_file(file: SourceFile, but: str = "") -> FileSource:
    """Build a source that reads one file, with its kind recognized from the content; `DataError` when no kind fits."""
    look = FileSample.at(file)
    if not look.data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DataError("is empty", where=file.where, hint="give a file with at least one row")
    if _SITEMAP.search(look.start[:2048]):
        hint = "write it as `source: {kind: web, sitemap: …}`; `luthier components source web` shows the settings"
        raise DataError("is a sitemap, which names pages and holds no text", where=file.where, hint=hint)
    source = recognize_source_kind(look, but)
    if source is None:
        if look.is_archive:
            hint = "unpack it, and name the folder; packed files and zips of files are read as they are"
            raise DataError(
                "is an archive of a kind that is not read, or in another archive", where=file.where, hint=hint
            )
        raise _unknown(look, file)
    return file_kinds()[source.kind].model_validate({"kind": source.kind, "path": file.name})


def _unknown(look: FileSample, file: SourceFile) -> DataError:
    """That nothing reads a file, and what its name would have it be."""
    what = "cannot tell what kind of file this is"
    if look.is_markup:
        hint = "export the table as CSV, JSON Lines or Parquet; a web page ends in .html"
        return DataError("is HTML or XML, not a table", where=file.where, hint=hint)
    if look.ending not in list_file_extensions():
        return DataError(what, where=file.where, hint=f"known endings: {', '.join(list_file_extensions())}")
    hint = "check that it is whole, and what it was saved as"
    if look.ending in (".json", ".jsonl", ".ndjson"):
        hint = "rows are objects: an array of them, one a line, or an object that holds such an array"
    return DataError(f"{what}: it holds something else than its ending {look.ending} says", where=file.where, hint=hint)


def build_source_for_path(path: Path | str) -> tuple[FileSource, Path]:
    """Build a source for a path as the user writes it (a file, a folder, a pattern, a URL), and return it with its base
    folder."""
    whole = is_url_or_glob(str(path))
    base, name = (Path(), str(path)) if whole else (Path(path).parent, Path(path).name)
    kind = recognize_path_source_kind(name, base)
    return file_kinds()[kind].model_validate({"kind": kind, "path": name, "on_error": "drop"}), base


def recognize_path_source_kind(path: str, recipe_dir: Path) -> str:
    """The kind of source for a path as somebody writes it; `folder` for files of several kinds."""
    if (recipe_dir / path).is_dir():
        return _kind_of_folder(path, recipe_dir)
    files = list_matching_files(path, recipe_dir, lambda file: True, "check `--from`")
    if len(files) == 1 and (members := files[0].inside()):
        packed = FileSample(files[0].path.name, "", b"", tuple(file.member for file in members))
        if (found := recognize_source_kind(packed)) is not None and found.sure:
            return found.kind
    if len(files) == 1 and recognize_source_kind(FileSample.at(files[0])) is None and (inside := files[0].inside()):
        return _kind_inside(files[0], inside)
    kinds = {build_source_for_file(file).kind for file in files}
    if kinds == {"pdf"} and not any(_has_text(file.path) for file in files if not file.url):
        row = f'{{"file_name": "{files[0].path.name}#page=1", "answer": "…"}}'
        hint = (
            f"to learn from its pages as pictures, name a folder in which a `metadata.jsonl` answers each page: {row}"
        )
        raise DataError("holds no text: it is a scan, and nothing says what to learn", where=files[0].where, hint=hint)
    if len(kinds) == 1:
        return kinds.pop()
    hint = "name the files of one kind, or put them into a folder"
    raise DataError(
        f"names files of several kinds: {', '.join(sorted(kinds))}", where=SourceLocation(file=path), hint=hint
    )


def _kind_inside(packed: SourceFile, inside: Sequence[SourceFile]) -> str:
    """The kind of the files in a zip, when they are of one kind and have the same columns."""
    one = f"name those that belong together, such as {inside[0].name}"
    kinds = {file.member: build_source_for_file(file) for file in inside}
    if len({source.kind for source in kinds.values()}) > 1:
        shown = format_file_names([f"{member} ({source.kind})" for member, source in kinds.items()])
        raise DataError(
            f"holds files of several kinds: {shown}", where=packed.where, hint=f"{one} or {packed.name}/*.csv"
        )
    columns = {file.member: _columns(kinds[file.member], file) for file in inside}
    if len(set(map(frozenset, columns.values()))) > 1:
        shown = format_file_names([f"{member}: {', '.join(names)}" for member, names in columns.items()], "; ")
        raise DataError(f"holds files with different columns ({shown})", where=packed.where, hint=one)
    return next(iter(kinds.values())).kind


def _columns(source: FileSource, file: SourceFile) -> tuple[str, ...]:
    """The columns of a file where all its rows have the same; nothing where every row says its own."""
    if source.names_columns:
        return ()
    records = (entry for entry in source.read_file(file, lambda text: None) if isinstance(entry, SourceRecord))
    return next((tuple(record.values) for record in records), ())


def _kind_of_folder(path: str, recipe_dir: Path) -> str:
    look = _look_at_folder(recipe_dir / path)
    if _is_text_pdfs(look.paths, recipe_dir / path):
        return "folder"
    for kind, member in file_kinds().items():
        if member.recognises(look) > FormatMatch.NO or (member.gathers and _is_all(kind, path, recipe_dir)):
            return kind
    media = sum(is_media_path(PurePosixPath(name)) for name in look.paths)
    if media * 2 > len(look.paths):
        hint = (
            "put them into a folder for each class, or beside a `metadata.jsonl` with each one's `file_name` and answer"
        )
        raise DataError(
            "holds pictures or sounds, and nothing says what to learn", where=SourceLocation(file=path), hint=hint
        )
    return "folder"


def _is_text_pdfs(names: Sequence[str], folder: Path) -> bool:
    """Whether all media of a folder are PDFs with text, which are read as documents, unless a table says what belongs
    to each."""
    media = [name for name in names if is_media_path(PurePosixPath(name))]
    if not media or not all(name.lower().endswith(PDF_ENDING) for name in media):
        return False
    if TABLES & {PurePosixPath(name).name for name in names}:
        return False
    return any(_has_text(folder / name) for name in media[:_LOOKED_AT])


def _has_text(path: Path) -> bool:
    """Whether a PDF has text; True for a file that is too large to be looked at."""
    return path.stat().st_size > MAX_BYTES or holds_text(path.read_bytes())


def _is_all(kind: str, path: str, recipe_dir: Path) -> bool:
    """Whether every file that this kind would read of a folder is of this kind."""
    try:
        source_files = file_kinds()[kind].model_validate({"kind": kind, "path": path}).files(recipe_dir)
        recognitions = (recognize_source_kind(FileSample.at(file)) for file in source_files)
        return all(recognition is not None and recognition.kind == kind for recognition in recognitions)
    except DataError:
        return False


def _look_at_folder(folder: Path) -> FileSample:
    names = tuple(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    below = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (path.as_posix() for path in below if not any(part.startswith(".") for part in path.parts))
    return FileSample(folder.name, "/", b"", names, tuple(sorted(islice(shown, _MOST_PATHS))))

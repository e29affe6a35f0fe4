"""From a path as a recipe writes it to the files that it means: one, a folder's, a pattern's, or those behind a URL."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import expand_env_vars, resolve_path
from luthier.core.system import net
from luthier.data.formats.files import SourceFile, list_remote_files

_SHOWN = 6
"""Files of a zip that are named to somebody."""
_PATTERN = re.compile(r"[*?\[]")


def is_url(path: str) -> bool:
    """Whether a path is a URL, also of this machine (`file://`)."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE) is not None


def is_url_or_glob(path: str) -> bool:
    """Whether a path is more than a place on this machine: a URL, or a pattern."""
    return is_url(path) or (_PATTERN.search(path) is not None and not Path(path).exists())


def list_matching_files(
    path: str, recipe_dir: Path, fits: Callable[[SourceFile], bool], known: str
) -> list[SourceFile]:
    """The files that a path means, in order of their names; of a folder, those that fit.

    `DataError` for a folder or a pattern without a fitting file, and for one that leads out of its folder.
    """
    whole = expand_env_vars(path)
    if is_url(whole):
        return _behind(whole, path, fits, known)
    location = resolve_path(path, recipe_dir)
    if (packed := _above(location)) is not None:
        return _some(_named(packed, location, path), path, fits, _held(packed))
    if location.is_dir():
        return _some(glob_inside(location, "**/*", path.rstrip("/")), path, fits, known)
    if _PATTERN.search(path) and not location.exists():
        root, pattern = _split(path)
        source_files = glob_inside(resolve_path(root or ".", recipe_dir), pattern, root.rstrip("/"))
        return _some(source_files, path, lambda file: True, "no file's name fits the pattern")
    return [SourceFile(location, path)]


def _above(location: Path) -> SourceFile | None:
    """The zip in which a place lies."""
    if location.exists():
        return None
    path = next((above for above in location.parents if above.name.lower().endswith(".zip") and above.is_file()), None)
    return None if path is None else SourceFile(path, path.name)


def _named(packed: SourceFile, location: Path, path: str) -> list[SourceFile]:
    """Of the files in a zip, the one that is named so, those in a folder of this name, or those that fit a pattern."""
    member_name = location.relative_to(packed.path).as_posix()
    before = path[: len(path) - len(member_name)]
    return [
        replace(source_file, name=f"{before}{source_file.member}")
        for source_file in packed.inside() or [packed]
        if source_file.member == member_name
        or source_file.member.startswith(f"{member_name}/")
        or fnmatchcase(source_file.member, member_name)
    ]


def _held(packed: SourceFile) -> str:
    """What a zip holds, for somebody who named what is not in it."""
    names = [source_file.member for source_file in packed.inside()]
    return f"it holds {format_file_names(names)}" if names else f"name {packed.name} itself: it holds one file"


def format_file_names(names: Sequence[str], between: str = ", ") -> str:
    """Some of the files of a zip for somebody to read, and how many more there are."""
    more = f"{between}… ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more


def _split(path: str) -> tuple[str, str]:
    """The folder before the first `*`, `?` or `[`, and the pattern below it."""
    match = _PATTERN.search(path)
    root = path[: match.start() if match else None].rpartition("/")[0]
    return root or ("/" if path.startswith("/") else ""), path[len(root) :].lstrip("/")


def _behind(url: str, path: str, fits: Callable[[SourceFile], bool], known: str) -> list[SourceFile]:
    if url.startswith("file://"):
        return list_matching_files(url.removeprefix("file://"), Path("/"), fits, known)
    shown = net.redact_url(url) if is_url(path) else path
    source_files = list_remote_files(url, shown)
    return (
        source_files
        if len(source_files) == 1 and source_files[0].name == shown
        else _some(source_files, shown, fits, known)
    )


def _some(found: list[SourceFile], path: str, fits: Callable[[SourceFile], bool], known: str) -> list[SourceFile]:
    fitting = [file for file in found if fits(file)]
    if not fitting:
        raise DataError("holds no file that can be read", where=SourceLocation(file=path), hint=known)
    return fitting


def glob_inside(root: Path, pattern: str, shown: str) -> list[SourceFile]:
    """The files below a folder that fit a pattern, hidden ones aside; a link that leads out of it is refused.

    Links to folders inside are not followed: what lies there is found in its own place.
    """
    try:
        paths = sorted(path for path in root.glob(pattern) if not _hidden(path, root))
    except (ValueError, NotImplementedError) as error:
        hint = "write a pattern such as *.jsonl or 2024/**/*.csv"
        raise DataError(
            f"{pattern!r} is not a pattern: {error}", where=SourceLocation(field="glob"), hint=hint
        ) from error
    return list(_contained(paths, root, shown))


def _contained(found: list[Path], root: Path, shown: str) -> Iterator[SourceFile]:
    whole = root.resolve()
    for path in found:
        if not (path.is_file() or path.is_symlink()):
            continue
        below = path.relative_to(root).as_posix()
        name = f"{shown}/{below}" if shown else below
        end = _end(path, name)
        if not end.is_relative_to(whole):
            hint = f"copy the file into the folder: it links to {end}"
            raise DataError("leads out of the folder", where=SourceLocation(file=name), hint=hint)
        if not end.exists():
            raise DataError(
                "is a link to what is not there", where=SourceLocation(file=name), hint="mend or delete the link"
            )
        if path.is_file():
            yield SourceFile(path, name)


def _end(path: Path, name: str) -> Path:
    """Where a path leads through all links."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            what, hint = "is a link that leads to itself", "delete the link"
            raise DataError(what, where=SourceLocation(file=name), hint=hint) from error
    return path.resolve()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.relative_to(root).parts)

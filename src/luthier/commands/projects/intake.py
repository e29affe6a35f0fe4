"""A new project from rows that somebody brings: the file is kept, what it holds is shown, and its recipe is written."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName
from luthier.core.files import translate_write_errors, write_atomically
from luthier.recipe.errors import NAME_PATTERN
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.commands.new import NewRecipe
    from luthier.data.suggest.propose import RecipeProposal

MOST_BYTES = 500_000_000
"""The largest file that is taken over HTTP; a larger one is put into a folder and named to `luthier new`."""
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx", ".xls", ".ods", ".parquet")
"""How the names of files that are taken end."""
_ZIP, _PARQUET, _OLE = b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0"
_BEGINNINGS = {".xlsx": _ZIP, ".ods": _ZIP, ".parquet": _PARQUET, ".xls": _OLE}
"""What a file of a kind begins with."""
_MARK = Path(".luthier/upload.json")
_COPIED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A project without a recipe yet: rows that were uploaded."""

    folder: Path
    source: Path
    """The file that came in."""

    @property
    def name(self) -> str:
        """The project's name."""
        return self.folder.name

    @property
    def bytes(self) -> int:
        """How large the file is."""
        return self.source.stat().st_size


@dataclass(frozen=True, kw_only=True)
class IntakeChoices:
    """What somebody chose after a look at their rows."""

    prompt: str | None = None
    answer: str | None = None
    without: tuple[str, ...] = ()
    technique: Literal["lora", "plain"] = "lora"
    model: str | None = None

    def words(self, draft: Draft) -> list[str]:
        """The command that does the same."""
        words = ["new", draft.name, "--from", draft.source.relative_to(draft.folder.parent).as_posix()]
        if self.prompt:
            words += ["--prompt", self.prompt.replace("\n", "\\n")]
        if self.answer:
            words += ["--answer", self.answer]
        for kind in self.without:
            words += ["--without", kind]
        words += ["--technique", self.technique] if self.technique != "lora" else []
        return [*words, *(["--model", self.model] if self.model else [])]


def create_draft(workspace: Workspace, name: str, filename: str, content: IO[bytes]) -> Draft:
    """Keep a file in a new project's folder; `InputError` for a name that is taken, and for what is no such file."""
    _check_name(workspace, name)
    folder = workspace.folder / name
    target = folder / "data" / safe_filename(filename)
    with _new_folder(folder), translate_write_errors(target):
        target.parent.mkdir()
        with target.open("xb") as file:
            shutil.copyfileobj(content, file, _COPIED)
        _check_content(target)
        source = target.relative_to(folder).as_posix()
        write_atomically(folder / _MARK, (json.dumps({"source": source}) + "\n").encode())
    return Draft(folder=folder, source=target)


def _check_name(workspace: Workspace, name: str) -> None:
    where = SourceLocation(field="name")
    if not re.fullmatch(NAME_PATTERN, name):
        hint = "use small letters, digits, - and _, such as support-tickets"
        raise InputError(f"{name[:80]!r} cannot name a project", where=where, hint=hint)
    folder = workspace.folder / name
    if folder.exists() or folder.is_symlink():
        raise InputError(
            f"there is a folder {name!r} already; it was not touched", where=where, hint="take another name"
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """A folder that goes again when something is wrong."""
    with translate_write_errors(folder):
        folder.mkdir()
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def safe_filename(filename: str) -> str:
    """The last part of a file's name, in plain letters; `InputError` where its ending is of no kind that is read."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", plain).lstrip("._-")
    stem, dot, ending = plain.rpartition(".")
    if f"{dot}{ending.lower()}" not in KINDS:
        hint = f"save it as one of {', '.join(KINDS)}; `luthier new NAME --from FILE` reads more kinds"
        where = SourceLocation(field="file")
        raise InputError(f"{last[:80]!r} is of no kind that is read here", where=where, hint=hint)
    return f"{stem[:80] or 'rows'}.{ending.lower()}"


def _check_content(path: Path) -> None:
    """Refuse an empty file, and one that is not what its name says."""
    with path.open("rb") as file:
        begin = file.read(8)
    where = SourceLocation(file=path.name)
    if not begin:
        raise DataError("is empty", where=where, hint="choose a file with rows")
    expected = _BEGINNINGS.get(path.suffix)
    packed = begin.startswith((_ZIP, _PARQUET, _OLE, b"\x1f\x8b", b"\x7fELF", b"%PDF"))
    if (expected is not None and not begin.startswith(expected)) or (expected is None and packed):
        raise DataError(f"is no {path.suffix} file", where=where, hint="give it the ending of what it is")


def list_drafts(workspace: Workspace) -> list[Draft]:
    """The uploads here that have no recipe yet."""
    found = (_draft(path.parent.parent) for path in sorted(workspace.folder.glob(f"*/{_MARK}")))
    return [draft for draft in found if draft is not None]


def find_draft(workspace: Workspace, name: str) -> Draft:
    """An upload by its project's name; `UnknownName` where there is none."""
    draft = _draft(workspace.folder / name) if re.fullmatch(NAME_PATTERN, name) else None
    if draft is None:
        raise UnknownName(f"there is no new project {name[:80]!r}", hint="it may have a recipe already")
    return draft


def _draft(folder: Path) -> Draft | None:
    if (folder / "recipe.yaml").exists() or not (folder / _MARK).is_file():
        return None
    source = folder / json.loads((folder / _MARK).read_text(encoding="utf-8"))["source"]
    inside = source.resolve().is_relative_to(folder.resolve())
    return Draft(folder=folder, source=source) if inside and source.is_file() else None


def discard_draft(draft: Draft) -> None:
    """Remove an upload that has no recipe."""
    folder = draft.folder
    for path in (draft.source, folder / _MARK):
        path.unlink(missing_ok=True)
    for path in (draft.source.parent, folder / _MARK.parent, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@dataclass(kw_only=True)
class ProposalCache:
    """Proposals for uploads: a look at large files takes seconds, and several pages ask for the same one."""

    most: int = 8
    _kept: dict[tuple[object, ...], RecipeProposal] = field(default_factory=dict)

    def propose(self, draft: Draft, choices: IntakeChoices) -> RecipeProposal:
        """What is proposed for the rows, with the columns that are chosen; `DataError` where they cannot be read."""
        from luthier.data.suggest.propose import propose_recipe

        about = draft.source.stat()
        key = (draft.source, about.st_mtime_ns, about.st_size, choices.prompt, choices.answer)
        if key not in self._kept:
            shown = draft.source.relative_to(draft.folder).as_posix()
            made = propose_recipe(str(draft.source), shown=shown, prompt=choices.prompt, answer=choices.answer)
            self._kept = dict([*self._kept.items(), (key, made)][-self.most :])
        return self._kept[key]


def write_draft_recipe(workspace: Workspace, draft: Draft, choices: IntakeChoices) -> NewRecipe:
    """Write the recipe of an upload, as `luthier new --from` does."""
    from luthier.commands.new import ProposalChoices, write_recipe

    return write_recipe(
        workspace, draft.name,
        str(draft.source), template=None, model=choices.model, prompt=choices.prompt,
        answer=choices.answer, choices=ProposalChoices(choices.without, choices.technique),
    )  # fmt: skip

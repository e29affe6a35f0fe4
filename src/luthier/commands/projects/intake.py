"""Make a project from an upload, a database or the traces of a model: drafts, proposals, recipes."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from luthier.commands.advise import AdviceOptions, RowsAdvice, advise_on_proposal
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.system.net import find_plain_secret
from luthier.data.database.address import parse_database_address
from luthier.recipe.errors import NAME_PATTERN
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.auto.advice.predict import TechniqueKind
    from luthier.commands.new import NewRecipe
    from luthier.data.suggest.propose import RecipeProposal, Want

SERVERS = frozenset({"postgresql", "mysql", "mariadb", "mssql", "oracle"})
"""Kinds of databases that are reached over the network."""
_PARAMETERS = frozenset({"sslmode", "application_name", "charset", "connect_timeout"})
"""Parameters of a URL that cannot lead elsewhere, or read a file."""
_METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "100.100.100.200", "fd00:ec2::254")))
"""Where clouds tell a machine its secrets."""


def check_database_url(workspace: Workspace, written: str) -> None:
    """Let a URL from a form pass, or say why not.

    A file of SQLite's must lie in the workspace; a server must be a database of a known kind, at no link-local,
    metadata, multicast or unspecified address. A password may only be named (`$NAME`), never written.

    Raises:
        InputError: the URL may not be used in a form.
        DataError: it is no URL of a database.
    """
    where = SourceLocation(field="database")
    if (secret := find_plain_secret(written)) is not None:
        hint = (
            "set it as an environment variable of the studio, and write its name: postgresql://user:$NAME@host/database"
        )
        raise InputError(f"holds a secret in clear ({secret})", where=where, hint=hint)
    address = parse_database_address(written, workspace.folder.absolute())
    if address.file is not None:
        if not address.file.resolve().is_relative_to(workspace.folder.resolve()):
            hint = "put the file into the workspace's folder, or use `luthier new NAME --from sqlite:///FILE`"
            raise InputError("the file lies outside the workspace", where=where, hint=hint)
        return
    kind = address.url.get_backend_name()
    if kind not in SERVERS:
        hint = f"take sqlite or one of {', '.join(sorted(SERVERS))}; `luthier new NAME --from URL` takes others"
        raise InputError(f"databases of the kind {kind[:40]!r} are not opened from a form", where=where, hint=hint)
    if odd := sorted(set(address.url.query) - _PARAMETERS):
        hint = f"leave it out; a form takes {', '.join(sorted(_PARAMETERS))}"
        raise InputError(f"the parameter {odd[0][:40]!r} is not taken from a form", where=where, hint=hint)
    _check_host(str(address.url.host or ""), address.url.port)


def _check_host(host: str, port: int | None) -> None:
    where = SourceLocation(field="database")
    if not host or host.startswith(("/", "@")) or "," in host:
        raise InputError("names no single host", where=where, hint="write postgresql://user:$NAME@host/database")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError) as error:
        raise DataError("its host cannot be found", where=where, hint="check the spelling of the host") from error
    for *_, sockaddr in found:
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain in _METADATA:
            hint = "name the database's own host; link-local and metadata addresses are not asked"
            raise InputError(f"the host {host[:80]!r} is at an inner address", where=where, hint=hint)


MOST_BYTES = 500_000_000
"""The largest file that is taken over HTTP; a larger one is put into a folder and named to `luthier new`."""
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx", ".xls", ".ods", ".parquet", ".zip")
"""How the names of files that are taken end."""
_ZIP, _PARQUET, _OLE = b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0"
_BEGINNINGS = {".xlsx": _ZIP, ".zip": _ZIP, ".ods": _ZIP, ".parquet": _PARQUET, ".xls": _OLE}
"""What a file of a kind begins with."""
_MARK = Path(".luthier/upload.json")
_COPIED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A project without a recipe yet: rows that were uploaded, or a database that holds them."""

    folder: Path
    source: Path | None = None
    """The file that came in."""
    database: str = ""
    """The URL of the database, with names in place of secrets."""
    table: str = ""
    """Which table or view of it; empty before one is chosen."""

    @property
    def name(self) -> str:
        """The project's name."""
        return self.folder.name

    @property
    def shown(self) -> str:
        """Where the rows come from, in words."""
        if self.source is not None:
            return self.source.name
        return f"{self.database} ({self.table})" if self.table else self.database

    @property
    def bytes(self) -> int | None:
        """How large the file is."""
        return self.source.stat().st_size if self.source is not None else None


@dataclass(frozen=True, kw_only=True)
class IntakeChoices:
    """What somebody chose after a look at their rows."""

    prompt: str | None = None
    answer: str | None = None
    without: tuple[str, ...] = ()
    technique: TechniqueKind | Literal["auto"] = "auto"
    model: str | None = None
    want: Want | None = None

    def words(self, draft: Draft) -> list[str]:
        """The command that does the same."""
        source = draft.source.relative_to(draft.folder.parent).as_posix() if draft.source else draft.database
        words = ["new", draft.name, "--from", source, *(["--table", draft.table] if draft.table else [])]
        if self.prompt:
            words += ["--prompt", self.prompt.replace("\n", "\\n")]
        if self.answer:
            words += ["--answer", self.answer]
        for kind in self.without:
            words += ["--without", kind]
        words += ["--want", self.want] if self.want is not None else []
        words += ["--technique", self.technique] if self.technique != "auto" else []
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


def create_database_draft(workspace: Workspace, name: str, url: str) -> Draft:
    """A new project from a database; `InputError` for a name that is taken, and for a URL that a form may not name."""
    _check_name(workspace, name)
    check_database_url(workspace, url)
    draft = Draft(folder=workspace.folder / name, database=url)
    with _new_folder(draft.folder):
        _mark_database(draft)
    return draft


def list_draft_tables(workspace: Workspace, draft: Draft) -> list[str]:
    """The tables and views of a draft's database; `DataError` where it cannot be reached."""
    from luthier.data.database.propose import list_database_tables

    check_database_url(workspace, draft.database)
    return list_database_tables(draft.database, workspace.folder.absolute())


def choose_draft_table(workspace: Workspace, draft: Draft, table: str) -> Draft:
    """The draft with one of its tables chosen; `UnknownName` for one that there is not."""
    known = list_draft_tables(workspace, draft)
    if table not in known:
        raise UnknownName(f"there is no table {table[:80]!r}", hint=did_you_mean(table, known))
    chosen = replace(draft, table=table)
    _mark_database(chosen)
    return chosen


def _mark_database(draft: Draft) -> None:
    mark = json.dumps({"database": draft.database, "table": draft.table})
    with translate_write_errors(draft.folder):
        (draft.folder / _MARK).parent.mkdir(exist_ok=True)
    write_atomically(draft.folder / _MARK, f"{mark}\n".encode())


def list_traffic_projects(workspace: Workspace) -> list[str]:
    """The projects whose models were asked something that is kept, by id."""
    from luthier.commands.projects.workspace import project_id
    from luthier.commands.traces import resolve_traffic_folder
    from luthier.traces.retention import has_traffic

    files = workspace.list_recipes()
    return [project_id(workspace, file) for file in files if has_traffic(resolve_traffic_folder(workspace, file))]


def write_traffic_recipe(workspace: Workspace, name: str, project: str, where: str) -> NewRecipe:
    """Write a recipe from what a project's models were asked, as `luthier new --from traces` does."""
    from luthier.commands.new import write_recipe
    from luthier.commands.projects.workspace import find_project_file
    from luthier.commands.traces import require_traffic_folder

    _check_name(workspace, name)
    folder = require_traffic_folder(workspace, find_project_file(workspace, project))
    return write_recipe(workspace, name, folder, template=None, model=None, where=where.strip() or None)


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
    drafts = (_draft(path.parent.parent) for path in sorted(workspace.folder.glob(f"*/{_MARK}")))
    return [draft for draft in drafts if draft is not None]


def find_draft(workspace: Workspace, name: str) -> Draft:
    """An upload by its project's name; `UnknownName` where there is none."""
    draft = _draft(workspace.folder / name) if re.fullmatch(NAME_PATTERN, name) else None
    if draft is None:
        raise UnknownName(f"there is no new project {name[:80]!r}", hint="it may have a recipe already")
    return draft


def _draft(folder: Path) -> Draft | None:
    if (folder / "recipe.yaml").exists() or not (folder / _MARK).is_file():
        return None
    mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    if mark.get("database"):
        return Draft(folder=folder, database=str(mark["database"]), table=str(mark.get("table", "")))
    source = folder / mark["source"]
    inside = source.resolve().is_relative_to(folder.resolve())
    return Draft(folder=folder, source=source) if inside and source.is_file() else None


def discard_draft(draft: Draft) -> None:
    """Remove an upload that has no recipe."""
    folder = draft.folder
    for path in (*([draft.source] if draft.source else []), folder / _MARK):
        path.unlink(missing_ok=True)
    for path in (*([draft.source.parent] if draft.source else []), folder / _MARK.parent, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@dataclass(kw_only=True)
class ProposalCache:
    """Proposals for uploads: a look at large files takes seconds, and several pages ask for the same one."""

    most: int = 8
    _kept: dict[tuple[object, ...], RecipeProposal] = field(default_factory=dict)

    def propose(self, workspace: Workspace, draft: Draft, choices: IntakeChoices) -> RecipeProposal:
        """What is proposed for the rows, with the columns that are chosen; `DataError` where they cannot be read, and
        `InputError` where they are none for what is wanted."""
        about = draft.source.stat() if draft.source else None
        version = (about.st_mtime_ns, about.st_size) if about else (draft.database, draft.table)
        key = (draft.folder, version, choices.prompt, choices.answer, choices.want)
        if key not in self._kept:
            recipe_proposal = _propose(workspace, draft, choices)
            self._kept = dict([*self._kept.items(), (key, recipe_proposal)][-self.most :])
        return self._kept[key]


def _propose(workspace: Workspace, draft: Draft, choices: IntakeChoices) -> RecipeProposal:
    from luthier.data.columns.layouts import Layout
    from luthier.data.database.propose import propose_table_recipe
    from luthier.data.suggest.propose import propose_recipe

    if draft.source is None:
        check_database_url(workspace, draft.database)
        layout = Layout(prompt=choices.prompt, answer=choices.answer)
        here = workspace.folder.absolute()
        return propose_table_recipe(draft.database, draft.table, here, draft.folder.absolute(), layout, choices.want)
    shown = draft.source.relative_to(draft.folder).as_posix()
    return propose_recipe(
        str(draft.source), shown=shown, prompt=choices.prompt, answer=choices.answer, want=choices.want
    )


_MODELS = ("smollm2-360m-instruct", "qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct")
"""Base models over which LoRA is ranked, too, beside all techniques over the default one."""


def advise_on_draft(workspace: Workspace, draft: Draft, proposal: RecipeProposal, options: AdviceOptions) -> RowsAdvice:
    """Rank the techniques for a draft.

    Raises:
        InputError: an option that cannot be read, or rows that cannot be.
    """
    own = workspace.with_folder(draft.folder)
    return advise_on_proposal(own, proposal, draft.folder, options, models=_MODELS)


def write_draft_recipe(workspace: Workspace, draft: Draft, choices: IntakeChoices) -> NewRecipe:
    """Write the recipe of an upload, as `luthier new --from` does."""
    from luthier.commands.new import ProposalChoices, write_recipe

    return write_recipe(
        workspace, draft.name,
        str(draft.source or draft.database), template=None, model=choices.model, table=draft.table or None,
        prompt=choices.prompt, answer=choices.answer,
        choices=ProposalChoices(choices.without, choices.technique, choices.want),
    )  # fmt: skip

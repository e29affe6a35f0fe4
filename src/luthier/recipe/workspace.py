"""A folder of recipes with its store and its database: what a command, a server or a script works in.

An entry point makes a `Workspace` once and hands it down; nothing below depends on the process's working directory, so
that one process can hold several. Store, ledger, traces and jobs lie in the folder's `.luthier`. Where several folders
are possible, the arguments of the command decide, and then the existing data: a folder whose models were served stays
the default when another recipe appears beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from luthier.core.artifact import Artifact
from luthier.core.db import Ledger, Run, ledger_url
from luthier.core.errors import RecipeError, SourceLocation, UnknownName
from luthier.core.files import cache_folder
from luthier.core.store import Store
from luthier.recipe.yaml import has_step, read_yaml

STORE = ".luthier"
"""The folder of a store beside its recipes."""
SQLITE = "sqlite:///"
"""How the URL of a ledger in a file begins."""
STORE_VARIABLE, LEDGER_VARIABLE = "LUTHIER_STORE", "LUTHIER_LEDGER"
"""Environment variables that name one store, and one database, for all recipes."""
_RECIPE_FILES = ("*.yaml", "*.yml", "*/recipe.yaml", "recipes/*/recipe.yaml")


@dataclass(frozen=True)
class Workspace:
    """A folder with recipes, and where their artifacts and records are kept."""

    folder: Path
    """Relative paths in words and recipes start here."""
    store: str | None = None
    """A path or URL of one store for all recipes; None: the store that the folder lies in, or `.luthier` in it."""
    database: str | None = None
    """A URL of one database for all recipes; None: an SQLite file in the store."""

    @classmethod
    def open_current(cls) -> Self:
        """The process's working directory, with relative paths as a person types and reads them; for entry points."""
        return cls.open(Path())

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """A folder, with the store and the database that `LUTHIER_STORE` and `LUTHIER_LEDGER` name, if they do."""
        return cls(Path(folder), os.environ.get(STORE_VARIABLE) or None, os.environ.get(LEDGER_VARIABLE) or None)

    def with_folder(self, folder: Path) -> Self:
        """Another folder with the same store and database, where these are one for all."""
        return replace(self, folder=folder)

    def resolve(self, word: Path | str) -> Path:
        """A path that was given in words."""
        return self.folder / word

    def format_path(self, path: Path) -> Path:
        """A path as messages have it: from the folder on where that is the working directory, else as it is."""
        return path.relative_to(Path.cwd()) if self.folder == Path() and path.is_relative_to(Path.cwd()) else path

    def shorten(self, path: Path) -> Path:
        """A path from the folder on where it lies in it, as a person in that folder types it; else as it is."""
        return path.relative_to(self.folder) if path.is_relative_to(self.folder) else path

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which another process finds the same store and database."""
        named = {STORE_VARIABLE: self.store, LEDGER_VARIABLE: self.database}
        return {name: value for name, value in named.items() if value}

    @property
    def store_location(self) -> str:
        """Where the store is: the one for all recipes, the one that the folder lies in (as a job's does), or
        `.luthier` in it."""
        if self.store:
            return self.store
        start = self.folder.absolute()
        return str(next((folder for folder in (start, *start.parents) if folder.name == STORE), start / STORE))

    def open_store(self) -> Store:
        """The store of the recipes in the folder, with the user's shared store behind it."""
        from luthier.core.remote_store import open_store

        return open_store(self.store_location, shared=open_shared_store())

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        from luthier.core.remote_store import find_store_root

        return self.database or ledger_url(find_store_root(self.store_location))

    def open_ledger(self) -> Ledger:
        """The ledger of the recipes in the folder; it is made where there is none."""
        return Ledger(self.ledger_url)

    def has_ledger(self) -> bool:
        """Whether there is a ledger already."""
        url = self.ledger_url
        return not url.startswith(SQLITE) or Path(url.removeprefix(SQLITE)).is_file()

    def list_recipes(self) -> list[Path]:
        """The recipes in the folder and in the folders that `new` makes in it."""
        return sorted({path for pattern in _RECIPE_FILES for path in self.folder.glob(pattern) if _is_recipe(path)})

    def find_recipe(self, word: Path | str | None, *, step: str = "") -> Path:
        """The recipe that was named; or `recipe.yaml` here; or the only recipe nearby.

        `step` is what is asked of the recipe (`:tune`), for the error that says how one is named.
        """
        if word is not None:
            path = self.resolve(word)
            if not path.exists():
                self._refuse_step(str(word))
            return path / "recipe.yaml" if (path / "recipe.yaml").exists() else path
        if (here := self.resolve("recipe.yaml")).is_file():
            return here
        paths = self.list_recipes()
        if len(paths) == 1:
            return paths[0]
        what = "no recipe here" if not paths else f"{len(paths)} recipes here: {', '.join(map(str, paths[:6]))}"
        hint = (
            f"name one, such as {paths[0]}{step}"
            if paths
            else "`luthier new NAME --from FILE` writes one from your data"
        )
        raise RecipeError(what, where=self.location, hint=hint)

    @property
    def location(self) -> SourceLocation:
        """The folder, for messages."""
        return SourceLocation(file=str(self.folder.absolute()))

    def _refuse_step(self, name: str) -> None:
        """`RecipeError` for the name of a step where a recipe was wanted: `--only data validate` means two steps."""
        for recipe in sorted(self.list_recipes(), key=lambda path: path != self.resolve("recipe.yaml")):
            if has_step(name, _content(recipe)):
                what = f"there is no such recipe; it is the name of a step of {recipe}"
                hint = f"`--only` stands before every step: luthier run {recipe} --only {name}"
                raise RecipeError(what, where=SourceLocation(file=name), hint=hint)

    def find_meant(self, words: Iterable[str] = ()) -> Self:
        """The workspace that is meant: that of the recipe in the words (`RECIPE:STEP`, `recipe.yaml`); else that of the
        recipe here; else, among several, the one from which models are served; else this one.

        `RecipeError` where that could be more than one.
        """
        named = {folder for word in words if (folder := self._folder_of(word)) is not None}
        if len(named) == 1:
            return self.with_folder(named.pop())
        own = self.resolve("recipe.yaml").is_file()
        recipe_dirs = [] if own else sorted({path.parent for path in self.list_recipes()})
        if len(recipe_dirs) == 1:
            return self.with_folder(recipe_dirs[0])
        used = (
            [folder for folder in [self.folder, *recipe_dirs] if self.with_folder(folder)._serves()]
            if recipe_dirs
            else []
        )
        if len(used) > 1 and self.folder not in used:
            what = f"models are served from {len(used)} folders here: {', '.join(map(str, used))}"
            raise RecipeError(what, where=self.location, hint="go into the one that is meant")
        return self if self.folder in used or not used else self.with_folder(used[0])

    def _folder_of(self, word: str) -> Path | None:
        """The folder of the recipe that a word names, or of the run; None where it names neither."""
        file, colon, _ = word.rpartition(":")
        path = Path(file if colon else word)
        if (run := self.find_run(str(path))) is not None:
            return Path(run.folder)
        if not (colon and file) and path.suffix not in {".yaml", ".yml"}:
            return None
        recipe = self.find_recipe(path)
        return recipe.parent if recipe.is_file() else None

    def find_run(self, beginning: str) -> Run | None:
        """The run of a recipe nearby whose id begins so (at least six digits); None where there is none.

        `UnknownName` where several ids begin so.
        """
        if not re.fullmatch(r"[0-9a-f]{6,12}", beginning) or self.resolve(beginning).exists():
            return None
        found: dict[str, Run] = {}
        for ledger in self.open_ledgers_nearby():
            found |= {run.id: run for run in ledger.find_runs(beginning)}
        if len(found) > 1:
            hint = "give more digits; `luthier runs` lists them"
            raise UnknownName(f"{len(found)} runs have an id that begins with {beginning!r}", hint=hint)
        return next(iter(found.values()), None)

    def open_ledgers_nearby(self) -> Iterator[Ledger]:
        """The ledgers of the folders nearby that have one."""
        for url in sorted(
            {workspace.ledger_url for workspace in (*self.list_nearby(), self) if workspace.has_ledger()}
        ):
            with Ledger(url) as ledger:
                yield ledger

    def _serves(self) -> bool:
        """Whether the folder holds what serving leaves there: traffic, jobs, names of models, keys."""
        from luthier.traces.api_keys import list_keys
        from luthier.traces.releases import current_releases

        path = self.folder / STORE
        if (path / "traffic").is_dir() or (path / "jobs").is_dir():
            return True
        if self.database or not self.has_ledger():
            return False  # there is none, or one for all folders
        with self.open_ledger() as ledger:
            return bool(current_releases(ledger) or list_keys(ledger))

    def list_nearby(self) -> list[Self]:
        """This workspace and those of the recipes nearby, as far as they were ever used."""
        folders = [self.folder, *sorted({path.parent for path in self.list_recipes()})]
        return [self.with_folder(folder) for folder in dict.fromkeys(folders) if (folder / STORE).is_dir()]

    def list_enclosing(self) -> list[Self]:
        """Workspaces that may have this one nearby, as far as they were ever used."""
        return [self.with_folder(folder) for folder in self.folder.absolute().parents[:2] if (folder / STORE).is_dir()]

    def find_alias(self, alias: str, words: Iterable[str] = ()) -> Self:
        """The workspace whose ledger knows a name; where none nearby does, the one that is meant."""
        from luthier.traces.releases import current_releases

        for entry in self.list_nearby():
            with entry.open_ledger() as ledger:
                if alias in current_releases(ledger):
                    return entry
        return self.find_meant(words)

    def find_digest(self, beginning: str) -> Artifact:
        """A finished artifact by the beginning of its digest, in one of the stores nearby."""
        stores = {
            store.location: store for store in (workspace.open_store() for workspace in (*self.list_nearby(), self))
        }
        missed: list[UnknownName] = []
        for store in stores.values():
            try:
                return store.find(beginning)
            except UnknownName as error:
                missed.append(error)
        raise missed[0]


def open_shared_store() -> Store:
    """The store of this user in which converted base models are kept."""
    return Store(cache_folder() / "store")


def list_store_recipes(store: Store) -> list[Path]:
    """The recipes whose artifacts a store holds: those in the folder that the store is in."""
    folder = store.root.parent
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern) if _is_recipe(path))


def _content(recipe: Path) -> Any:
    """What stands in a recipe; nothing where it cannot be read."""
    try:
        return read_yaml(recipe).data
    except RecipeError:
        return None


def _is_recipe(path: Path) -> bool:
    """Whether a file says that it is a recipe; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^luthier\s*:", file.read(8192), re.MULTILINE) is not None
    except OSError:
        return False

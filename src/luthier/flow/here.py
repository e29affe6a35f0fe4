"""Which folder a command means: its store, its ledger, its traffic and its jobs are those in that folder's `.luthier`.

Where several recipes stand nearby, the words of the command decide, and then what is there already: a folder from which
models were served goes on being meant when another recipe comes to stand beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, UnknownName, Where
from luthier.core.ledger import Ledger, Run, ledger_url
from luthier.core.store import Store
from luthier.flow.nearby import find_recipe, recipes_here
from luthier.flow.plan import SQLITE, STORE, has_ledger, recipe_store


def folder_here(words: Iterable[str] = ()) -> Path:
    """The folder that is meant: that of the recipe in the words (`RECIPE:STEP`, `recipe.yaml`); else that of the recipe
    here; else, among several, the one from which models are served; else this one.

    `RecipeError` where that could be more than one.
    """
    named = {folder for word in words if (folder := _folder_of(word)) is not None}
    if len(named) == 1:
        return named.pop()
    beside = [] if Path("recipe.yaml").is_file() else sorted({path.parent for path in recipes_here()})
    if len(beside) == 1:
        return beside[0]
    used = [folder for folder in [Path(), *beside] if _serves(folder)] if beside else []
    if len(used) > 1 and Path() not in used:
        what = f"models are served from {len(used)} folders here: {', '.join(map(str, used))}"
        raise RecipeError(what, where=Where(file=str(Path.cwd())), remedy="go into the one that is meant")
    return Path() if Path() in used or not used else used[0]


def _folder_of(word: str) -> Path | None:
    """The folder of the recipe that a word names, or of the run; None where it names neither."""
    file, colon, _ = word.rpartition(":")
    path = Path(file if colon else word)
    if (run := find_run(str(path))) is not None:
        return Path(run.folder)
    if not (colon and file) and path.suffix not in {".yaml", ".yml"}:
        return None
    recipe = find_recipe(path)
    return recipe.parent if recipe.is_file() else None


def find_run(beginning: str) -> Run | None:
    """The run of a recipe nearby whose id begins so (at least six digits); None where there is none.

    `UnknownName` where several ids begin so.
    """
    if not re.fullmatch(r"[0-9a-f]{6,12}", beginning) or Path(beginning).exists():
        return None
    found: dict[str, Run] = {}
    for ledger in _ledgers_near():
        found |= {run.id: run for run in ledger.find_runs(beginning)}
    if len(found) > 1:
        remedy = "give more digits; `luthier runs` lists them"
        raise UnknownName(f"{len(found)} runs have an id that begins with {beginning!r}", remedy=remedy)
    return next(iter(found.values()), None)


def _ledgers_near() -> Iterator[Ledger]:
    """The ledgers of the folders nearby that have one."""
    stores = [store for folder in [*folders_near(), Path()] if has_ledger(store := recipe_store(folder))]
    for url in sorted({ledger_url(store.root) for store in stores}):
        with Ledger(url) as ledger:
            yield ledger


def _serves(folder: Path) -> bool:
    """Whether a folder holds what serving leaves there: traffic, jobs, names of models, keys."""
    from luthier.traffic.keys import list_keys
    from luthier.traffic.releases import current

    kept = folder / STORE
    if (kept / "traffic").is_dir() or (kept / "jobs").is_dir():
        return True
    file = recipe_store(folder).root.absolute() / "ledger.db"
    if not file.is_file() or ledger_url(file.parent) != f"{SQLITE}{file}":
        return False  # there is none, or one for all folders
    with ledger_of(folder) as ledger:
        return bool(current(ledger) or list_keys(ledger))


def store_here(words: Iterable[str] = ()) -> Store:
    """The store of the folder that is meant."""
    return recipe_store(folder_here(words))


def ledger_of(folder: Path) -> Ledger:
    """The ledger of a folder's store."""
    return Ledger(ledger_url(recipe_store(folder).root))


def folders_near() -> list[Path]:
    """This folder and those of the recipes nearby, as far as they were ever used."""
    folders = [Path(), *sorted({path.parent for path in recipes_here()})]
    return [folder for folder in dict.fromkeys(folders) if (folder / STORE).is_dir()]


def folders_above() -> list[Path]:
    """Folders that may have this one nearby, as far as they were ever used."""
    here = Path.cwd()
    return [folder for folder in here.parents[:2] if (folder / STORE).is_dir()]


def folder_of_alias(alias: str, words: Iterable[str] = ()) -> Path:
    """The folder whose ledger knows a name; where none nearby does, the one that is meant."""
    from luthier.traffic.releases import current

    for folder in folders_near():
        with ledger_of(folder) as ledger:
            if alias in current(ledger):
                return folder
    return folder_here(words)


def find_digest(beginning: str) -> Artifact:
    """A finished artifact by the beginning of its digest, in one of the stores nearby."""
    stores = {store.place: store for store in map(recipe_store, [*folders_near(), Path()])}
    missed: list[UnknownName] = []
    for store in stores.values():
        try:
            return store.find(beginning)
        except UnknownName as error:
            missed.append(error)
    raise missed[0]

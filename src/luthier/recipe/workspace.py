"""The folder that a command works in: its recipes, store, ledger, API keys and artifacts.

Store, ledger, traces and jobs lie in the folder's `.luthier`. Where several folders are possible, the arguments of the
command decide, and then the existing data: a folder whose models were served stays the default when another recipe
appears beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.db import Ledger, Run, ledger_url
from luthier.core.errors import RecipeError, SourceLocation, UnknownName
from luthier.core.store import Store
from luthier.models.load import get_training_data
from luthier.recipe.planner import SQLITE, STORE, has_ledger, open_recipe_store
from luthier.recipe.yaml import has_step, read_yaml
from luthier.traces.api_keys import Scope, add_key, list_keys, revoke_key


def get_training_system_message(artifact: Artifact) -> str | None:
    """The system message with which all training rows of a tuned model began; None where they share none, or where the
    model has a chosen prompt in its place."""
    from luthier.artifacts.dataset import has_split, read_example_batches

    data = get_training_data(artifact)
    if data is None or PromptPrefix.of(artifact).instruction is not None or not has_split(data, "train"):
        return None
    shared: str | None = None
    for example in (example for batch in read_example_batches(data, "train") for example in batch):
        first = example.messages[0]
        if first.role != "system" or shared not in (None, first.content):
            return None
        shared = first.content
    return shared


_RECIPE_FILES = ("*.yaml", "*.yml", "*/recipe.yaml", "recipes/*/recipe.yaml")


def find_recipe(given: Path | None, *, step: str = "") -> Path:
    """The recipe that was named; or `recipe.yaml` here; or the only recipe nearby.

    `step` is what is asked of the recipe (`:tune`), for the error that says how one is named.
    """
    if given is not None:
        if not given.exists():
            _refuse_step(str(given))
        return given / "recipe.yaml" if (given / "recipe.yaml").exists() else given
    here = Path("recipe.yaml")
    if here.is_file():
        return here
    found = list_nearby_recipes()
    if len(found) == 1:
        return found[0]
    what = "no recipe here" if not found else f"{len(found)} recipes here: {', '.join(map(str, found[:6]))}"
    hint = (
        f"name one, such as {found[0]}{step}" if found else "`luthier new NAME --from FILE` writes one from your data"
    )
    raise RecipeError(what, where=SourceLocation(file=str(Path.cwd())), hint=hint)


def _refuse_step(name: str) -> None:
    """`RecipeError` for the name of a step where a recipe was wanted: `--only data validate` means two steps."""
    for recipe in sorted(list_nearby_recipes(), key=lambda path: path != Path("recipe.yaml")):
        if has_step(name, _content(recipe)):
            what = f"there is no such recipe; it is the name of a step of {recipe}"
            hint = f"`--only` stands before every step: luthier run {recipe} --only {name}"
            raise RecipeError(what, where=SourceLocation(file=name), hint=hint)


def _content(recipe: Path) -> Any:
    """What stands in a recipe; nothing where it cannot be read."""
    try:
        return read_yaml(recipe).data
    except RecipeError:
        return None


def list_nearby_recipes() -> list[Path]:
    """The recipes in this folder and in the folders that `new` makes in it."""
    return sorted({path for pattern in _RECIPE_FILES for path in Path().glob(pattern) if _is_recipe(path)})


def list_store_recipes(store: Store) -> list[Path]:
    """The recipes whose artifacts a store holds: those in the folder that the store is in."""
    folder = store.root.parent
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern) if _is_recipe(path))


def _is_recipe(path: Path) -> bool:
    """Whether a file says that it is a recipe; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^luthier\s*:", file.read(8192), re.MULTILINE) is not None
    except OSError:
        return False


def find_workspace_folder(words: Iterable[str] = ()) -> Path:
    """The folder that is meant: that of the recipe in the words (`RECIPE:STEP`, `recipe.yaml`); else that of the recipe
    here; else, among several, the one from which models are served; else this one.

    `RecipeError` where that could be more than one.
    """
    named = {folder for word in words if (folder := _folder_of(word)) is not None}
    if len(named) == 1:
        return named.pop()
    recipe_dirs = [] if Path("recipe.yaml").is_file() else sorted({path.parent for path in list_nearby_recipes()})
    if len(recipe_dirs) == 1:
        return recipe_dirs[0]
    used = [folder for folder in [Path(), *recipe_dirs] if _serves(folder)] if recipe_dirs else []
    if len(used) > 1 and Path() not in used:
        what = f"models are served from {len(used)} folders here: {', '.join(map(str, used))}"
        raise RecipeError(what, where=SourceLocation(file=str(Path.cwd())), hint="go into the one that is meant")
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
        hint = "give more digits; `luthier runs` lists them"
        raise UnknownName(f"{len(found)} runs have an id that begins with {beginning!r}", hint=hint)
    return next(iter(found.values()), None)


def _ledgers_near() -> Iterator[Ledger]:
    """The ledgers of the folders nearby that have one."""
    stores = [store for folder in [*list_nearby_folders(), Path()] if has_ledger(store := open_recipe_store(folder))]
    for url in sorted({ledger_url(store.root) for store in stores}):
        with Ledger(url) as ledger:
            yield ledger


def _serves(folder: Path) -> bool:
    """Whether a folder holds what serving leaves there: traffic, jobs, names of models, keys."""
    from luthier.traces.api_keys import list_keys
    from luthier.traces.releases import current_releases

    kept = folder / STORE
    if (kept / "traffic").is_dir() or (kept / "jobs").is_dir():
        return True
    file = open_recipe_store(folder).root.absolute() / "ledger.db"
    if not file.is_file() or ledger_url(file.parent) != f"{SQLITE}{file}":
        return False  # there is none, or one for all folders
    with open_folder_ledger(folder) as ledger:
        return bool(current_releases(ledger) or list_keys(ledger))


def open_workspace_store(words: Iterable[str] = ()) -> Store:
    """The store of the folder that is meant."""
    return open_recipe_store(find_workspace_folder(words))


def open_folder_ledger(folder: Path) -> Ledger:
    """The ledger of a folder's store."""
    return Ledger(ledger_url(open_recipe_store(folder).root))


def list_nearby_folders() -> list[Path]:
    """This folder and those of the recipes nearby, as far as they were ever used."""
    folders = [Path(), *sorted({path.parent for path in list_nearby_recipes()})]
    return [folder for folder in dict.fromkeys(folders) if (folder / STORE).is_dir()]


def list_enclosing_folders() -> list[Path]:
    """Folders that may have this one nearby, as far as they were ever used."""
    here = Path.cwd()
    return [folder for folder in here.parents[:2] if (folder / STORE).is_dir()]


def find_alias_folder(alias: str, words: Iterable[str] = ()) -> Path:
    """The folder whose ledger knows a name; where none nearby does, the one that is meant."""
    from luthier.traces.releases import current_releases

    for folder in list_nearby_folders():
        with open_folder_ledger(folder) as ledger:
            if alias in current_releases(ledger):
                return folder
    return find_workspace_folder(words)


def find_digest(beginning: str) -> Artifact:
    """A finished artifact by the beginning of its digest, in one of the stores nearby."""
    stores = {store.location: store for store in map(open_recipe_store, [*list_nearby_folders(), Path()])}
    missed: list[UnknownName] = []
    for store in stores.values():
        try:
            return store.find(beginning)
        except UnknownName as error:
            missed.append(error)
    raise missed[0]


def create_api_key(name: str, scopes: Sequence[str], requests_per_minute: int | None) -> str:
    """Make a key; unknown scopes are refused there."""
    with _ledger() as ledger:
        return add_key(ledger, name, cast("Sequence[Scope]", scopes), requests_per_minute)


def list_api_keys() -> list[dict[str, Any]]:
    """All keys."""
    with _ledger() as ledger:
        return [vars(key) for key in list_keys(ledger)]


def revoke_api_key(name: str) -> None:
    """Let a key open nothing any more."""
    with _ledger() as ledger:
        revoke_key(ledger, name)


def _ledger() -> Ledger:
    return open_folder_ledger(find_workspace_folder())

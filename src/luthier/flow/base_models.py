"""Base models outside a recipe: which are known, bringing one here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.events import Events
from luthier.core.step import Outline, Outlook
from luthier.flow.plan import plan, shared_store
from luthier.flow.recipe import MODEL_STEP, Recipe
from luthier.flow.run import run
from luthier.models.catalog import CATALOG, ENCODERS, resolve
from luthier.models.source import is_hub_id
from luthier.models.sources.hub import Hub
from luthier.models.steps.base import Base


def _recipe(name: str) -> Recipe:
    """The smallest recipe there is: bring one model."""
    return Recipe(name="base", steps={MODEL_STEP: Base(source=resolve(name, Path()))})


def list_models() -> list[dict[str, Any]]:
    """The catalogue, and which of it is here."""
    rows = []
    for name, entry in CATALOG.items():
        here = plan(_recipe(name), costs_of=())[MODEL_STEP].cached
        source = " ".join(
            str(value) for key, value in entry.source.items() if key in ("kind", "package", "version", "id")
        )
        row = {"name": name, "source": source, "licence": entry.licence, "parameters": entry.parameters, "here": here}
        rows.append(row)
    return rows


def is_base_model(word: str) -> bool:
    """Whether a word names a base model: by the catalog, by its folder or GGUF file, or by its id on the hub."""
    path = Path(word)
    if word in CATALOG or (path / "config.json").is_file() or (word.endswith(".gguf") and path.is_file()):
        return True
    return is_hub_id(word) and not path.exists()


def base_model(name: str, events: Events | None = None) -> Artifact:
    """The artifact of a base model; taken from its source when it is not here."""
    return run(_recipe(name), events)[MODEL_STEP].artifact


def known_base(name: str) -> Outline:
    """What is known of a base model without bringing it here: by its files where they are, else by the catalogue."""
    what = plan(_recipe(name), costs_of=())[MODEL_STEP]
    if what.cached:
        return Outline(tokenizer=shared_store().open(what.digest).folder)
    return what.step.outline(Outlook(inputs={}, upstream={}, base=Path()))


def get_model(name: str, events: Events | None = None) -> Path:
    """Bring a base model or a text encoder here, from the hub too; returns the folder, in Hugging Face's layout.

    Files that are here are not fetched again.
    """
    said, is_encoder = (events or Events()).of(name), name in ENCODERS
    source = resolve(name, Path(), ENCODERS) if is_encoder else resolve(name, Path())
    is_here = not is_encoder and plan(_recipe(name), costs_of=())[MODEL_STEP].cached
    if isinstance(source, Hub) and not is_here:
        said.note(f"fetching {source.id} (revision {source.revision}) from the hub")
        source.bring(lambda done, total: said.progress(done / 1e6, total / 1e6, "MB"), encoder=is_encoder)
    if is_encoder:
        return source.in_place(Path(), said.note)
    return base_model(name, events).folder

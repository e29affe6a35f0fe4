"""A published model's parts, read from their folder on this machine and nowhere else, with a plain word when not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, Where
from luthier.core.quiet import no_bars


def opened(folder: Path, what: Any, **more: Any) -> Any:
    """What one of transformers' Auto classes reads from a folder; no code that came with it is run."""
    where, remedy = Where(file=str(folder)), "give a model's whole folder, in Hugging Face's layout"
    if not (folder / "config.json").is_file():
        raise ModelError("there is no model here: config.json is missing", where=where, remedy=remedy)
    try:
        with no_bars():
            return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        said = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"no model can be read: {said}", where=where, remedy=remedy) from error

"""Settings of models that read pictures: which parts learn, how large a picture is, which frames of films are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luthier.core.component import components_by_kind
from luthier.core.errors import InputError, SourceLocation
from luthier.recipe.importers.import_report import ImportOptionReader
from luthier.tune.technique import Technique

PARTS: Mapping[str, str] = {
    "freeze_language": "language", "freeze_projector": "projector", "freeze_vision": "vision",
}  # fmt: skip
"""Common names of options that hold a part of a model still, and the part."""
_PATH = "steps.tune.technique"
_DECODER = "*language_model*"
"""The names of a decoder's weights in transformers' models that read pictures."""
_REGEX = re.compile(r"[\\^$*+?()\[\]|]")


def build_vision_settings(options: ImportOptionReader, technique: dict[str, Any], *, shows: bool) -> dict[str, Any]:
    """A technique that moves the parts that the other tool moves; the same one for a model of text.

    `shows` says that rows hold pictures, so that the other tool's defaults count as well.
    """
    if not shows and not any(map(options.asks, PARTS)):
        return technique
    frozen = {part: bool(options.get(name)) for name, part in PARTS.items()}
    moving = [part for part in PARTS.values() if not frozen[part]]
    if moving in ([], ["projector"]):
        what = "the file lets the projector alone learn" if moving else "the file holds every part of the model still"
        hint = "`technique: {kind: layers, last: 0, names: ['*projector*']}` moves a projector alone; import the rest "
        hint += "without these options"
        raise InputError(what, where=SourceLocation(field=_option_names(options)), hint=hint)
    members = components_by_kind(Technique)[technique["kind"]].model_fields
    if "on" in members:
        for name in PARTS:
            options.take(name, f"{_PATH}.on")
        return {**technique, "on": [part for part in ("language", "projector", "vision") if part in moving]}
    if technique["kind"] == "full" and moving == ["language"]:
        for name in PARTS:
            options.take(name, f"{_PATH} (the decoder alone moves)")
        return {"kind": "layers", "last": 0, "names": [_DECODER], "head": True}
    for name, part in PARTS.items():
        if frozen[part]:
            options.leave(name, f"the technique {technique['kind']} moves all parts; take `lora` with `on`")
        else:
            options.take(name, _PATH)
    return technique


def _option_names(options: ImportOptionReader) -> str:
    return ", ".join(name for name in map(options.name_of, PARTS) if name)


def expand_module_pattern(pattern: str) -> list[str] | None:
    """The names of layers that a regular expression of PEFT's `target_modules` means by its end, such as
    `language_model.*(q|v)_proj`; None for one that cannot be told by its end."""
    if not _REGEX.search(pattern):
        return None
    end = pattern.rstrip("$")
    begin = len(end)
    while begin and (end[begin - 1].isalnum() or end[begin - 1] == "_"):
        begin -= 1
    names = [end[begin:]]
    if begin and end[begin - 1] == ")":
        group = end[: begin - 1].rpartition("(")[2]
        names = [f"{entry}{end[begin:]}" for entry in group.split("|")]
    return names if all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names) else None

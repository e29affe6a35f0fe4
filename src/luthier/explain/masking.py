"""Personal data taken out of an explanation, by the rules by which it is taken out of traces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord
from luthier.pii.recognizer import TextPart
from luthier.traces.redact import Redactor


def mask_explanation(record: ExplanationRecord, redactor: Redactor) -> ExplanationRecord:
    """Replace personal data in an explanation by its kind, also across several units.

    Positions and scores of units do not change. Images are not shown, since their content is unknown.
    """
    units: list[ExplainedUnit] = []
    for (_, is_text), group in groupby(record.units, key=lambda unit: (unit.message, unit.patch is None)):
        own = list(group)
        units += _mask_units(own, redactor) if is_text else own
    texts = {name: redactor.text(text, "answer") for name, text in record.target if isinstance(text, str)}
    target = record.target.model_copy(update={**texts, "kind": record.target.kind})
    pictures = tuple(picture.model_copy(update={"url": ""}) for picture in record.pictures)
    return record.model_copy(update={"units": tuple(units), "target": target, "pictures": pictures})


def _mask_units(units: Sequence[ExplainedUnit], redactor: Redactor) -> list[ExplainedUnit]:
    """Units of one message, which are read as one text."""
    part: TextPart = "system" if units[0].role == "system" else "prompt"
    texts = mask_texts([unit.text for unit in units], redactor, part)
    leaves = mask_texts([piece.text for unit in units for piece in unit.parts or (unit,)], redactor, part)
    masked, pieces = list[ExplainedUnit](), iter(leaves)
    for unit, text in zip(units, texts, strict=True):
        own = [next(pieces) for _ in unit.parts or (unit,)]
        parts = tuple(piece.model_copy(update={"text": word}) for piece, word in zip(unit.parts, own, strict=False))
        masked.append(unit.model_copy(update={"text": text, "parts": parts}))
    return masked


def mask_texts(texts: Sequence[str], redactor: Redactor, part: TextPart) -> list[str]:
    """Texts that follow one another, each with its share of every find replaced by the kind of that."""
    finds = redactor.find("".join(texts), part)
    masked, begin = list[str](), 0
    for text in texts:
        made, end = text, begin + len(text)
        for start, stop, kind in reversed(finds):
            if start < end and stop > begin:
                first, last = max(0, start - begin), min(len(text), stop - begin)
                made = f"{made[:first]}[{kind.upper()}]{made[last:]}"
        masked.append(made)
        begin = end
    return masked

"""Personal data in texts that a page shows: what patterns recognise is replaced by its kind (`[EMAIL]`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from luthier.commands.lineage import ExampleLineage
from luthier.commands.projects.rows import RowsPage

_TEXTS = ("messages", "meta", "events")


@lru_cache(maxsize=4096)
def mask_text(text: str) -> str:
    """A text without the personal data that patterns recognise: e-mail and postal addresses, numbers, keys. Names of
    people are not recognised: that takes a model."""
    from luthier.pii.detect import find_pii

    for pii_span in sorted(find_pii(text), key=lambda entry: -entry.start):
        text = f"{text[: pii_span.start]}[{pii_span.kind.upper()}]{text[pii_span.end :]}"
    return text


def mask_value(value: Any) -> Any:
    """The same for whatever JSON can say."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: mask_value(item) for key, item in value.items()}
    return [mask_value(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def mask_rows(page: RowsPage) -> RowsPage:
    """A page of rows with their texts masked."""
    rows = [row._replace(prompt=mask_text(row.prompt), answer=mask_text(row.answer)) for row in page.rows]
    return replace(page, rows=rows)


def mask_lineage(found: ExampleLineage) -> ExampleLineage:
    """The history of a row with its texts masked."""
    texts = {name: mask_value(found.lineage[name]) for name in _TEXTS if found.lineage.get(name)}
    answers = [{**answer, "prediction": mask_value(answer["prediction"])} for answer in found.answers]
    return replace(found, lineage={**found.lineage, **texts}, answers=answers, later=mask_value(found.later))

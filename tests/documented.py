"""Whether a part says what its settings are for."""

from __future__ import annotations

from luthier.core.component import Component, field_descriptions


def undescribed(part: type[Component]) -> list[str]:
    """The settings of which nothing is said."""
    return sorted(part.model_fields.keys() - {"kind", *field_descriptions(part)})

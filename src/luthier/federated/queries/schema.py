"""The columns of the rows, and the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.artifacts.dataset import MADE
from luthier.data.check import RowNames
from luthier.federated.analytics.names import CLASS, FIELD
from luthier.federated.analytics.query import SiteQuery, SiteRows
from luthier.metrics.counts import CountGroup, Counts

SCHEMA_FILE = "schema.json"
"""File of a coordinator with the agreed schema."""
ROWS = "rows"
ROLES = ("system", "user", "assistant", "tool")
MOST_TURNS = 9
YES, NO = "yes", "no"
EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})


class SchemaQuery(SiteQuery):
    """What the rows of all sites look like: roles, turns, pictures and sounds, labels, columns, and the list of
    classes. A class or a column is named only where enough rows have it."""

    kind: Literal["schema"] = "schema"
    asks_names: ClassVar[bool] = True

    def list_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Rows, splits, roles, turns, media and labels; rows of each class, and those with a value in each column."""
        classes = [CountGroup("class", names.classes)] if names.classes else []
        return [
            CountGroup(ROWS, (ROWS,)),
            CountGroup("split", ("train", "validation", "test")),
            CountGroup("turns", tuple(map(str, range(1, MOST_TURNS + 1)))),
            *(CountGroup(f"has/{what}", (YES, NO)) for what in (*ROLES, "label", "picture", "sound", "tool call")),
            *classes,
            *(CountGroup(f"field/{name}", (YES, NO)) for name in names.fields),
        ]

    def count(self, rows: SiteRows, names: RowNames) -> Counts:
        """Count one site's rows."""
        counts: dict[str, Counter[str]] = {group.name: Counter() for group in self.list_groups(names)}
        classes = set(names.classes)
        for row in rows.data.rows:
            media = {medium.kind for turn in row.messages for medium in turn.media}
            facts = {
                **{role: any(turn.role == role for turn in row.messages) for role in ROLES},
                "label": row.label is not None,
                "picture": "image" in media,
                "sound": "audio" in media,
                "tool call": any(turn.tool_calls for turn in row.messages),
            }
            counts[ROWS][ROWS] += 1
            counts["split"][row.split] += 1
            counts["turns"][str(min(len(row.messages), MOST_TURNS))] += 1
            for name, holds in facts.items():
                counts[f"has/{name}"][YES if holds else NO] += 1
            if row.label in classes:
                counts["class"][row.label or ""] += 1
            for name in names.fields:
                counts[f"field/{name}"][NO if row.meta.get(name) in EMPTY_VALUES else YES] += 1
        return counts

    def count_names(self, rows: SiteRows) -> dict[str, int]:
        """Rows of each class, and rows with a value in each column."""
        found = Counter(f"{CLASS}{row.label}" for row in rows.data.rows if row.label)
        for row in rows.data.rows:
            found.update(f"{FIELD}{name}" for name, value in row.meta.items() if value not in EMPTY_VALUES)
        found.pop(f"{FIELD}{MADE}", None)
        return dict(found)

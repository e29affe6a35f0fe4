"""Groups of held-out rows by a column of theirs."""

from __future__ import annotations

from luthier.core.counted import counted
from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.eval.rows import Task


def groups_by(task: Task, column: str, least: int, kind: str) -> dict[str, list[int]]:
    """Row numbers of each group with at least `least` rows, by name; `RecipeError` unless two are that large."""
    where = Where(field="probes")
    if task.kind != "label":
        raise RecipeError(f"{kind} compares labels, which a task of texts does not have", where=where)
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(task.examples):
        if example.meta.get(column) is not None:
            groups.setdefault(str(example.meta[column]), []).append(row)
    if not groups:
        known = {name for example in task.examples for name in example.meta}
        raise RecipeError(f"no row has {column!r}", where=where, remedy=did_you_mean(column, known))
    large = {name: rows for name, rows in sorted(groups.items()) if len(rows) >= least}
    if len(large) < 2:
        what = f"column {column!r} has {counted(len(large), 'group')} of at least {least} rows; two are needed"
        raise RecipeError(what, where=where, remedy="evaluate more rows, or set a smaller `least`")
    return large

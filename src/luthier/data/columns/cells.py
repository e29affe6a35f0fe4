"""What can be wrong with a row's cell, and JSON that stands in one."""

from __future__ import annotations

import json
from typing import Any


class UnusableRowError(Exception):
    """A row that cannot become an example: what was wanted, what came."""

    def __init__(self, problem: str, field: str | None = None, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field
        self.hint = hint


def from_json(text: str, field: str) -> Any:
    """JSON inside a cell."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRowError("expected JSON in this cell", field) from error

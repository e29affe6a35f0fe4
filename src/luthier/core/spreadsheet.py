"""Tables that are safe to open in a spreadsheet: no cell is read as a formula (OWASP, CSV Injection)."""

from __future__ import annotations

from typing import Any

_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What makes a spreadsheet read a cell as a formula, with the full-width forms."""


def is_formula(cell: Any) -> bool:
    """Whether a spreadsheet could read this cell as a formula."""
    return isinstance(cell, str) and cell.startswith(_STARTS)


def escape_formula(cell: Any) -> Any:
    """The cell, with an apostrophe before what could be read as a formula."""
    return f"'{cell}" if is_formula(cell) else cell


def unescape_formula(cell: Any) -> Any:
    """The cell as it was before `escape_formula`."""
    is_escaped = isinstance(cell, str) and cell.startswith("'") and is_formula(cell[1:])
    return cell[1:] if is_escaped else cell

"""A row of two answers to one question, of which one is preferred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.digest import digest_of
from luthier.data.row import Row
from luthier.text.messages import Message


def pair_row(asked: tuple[Message, ...], chosen: str, meta: Mapping[str, Any], place: tuple[str, str, int]) -> Row:
    """A row whose answer is the chosen one; `meta` has the rejected one, and `place` is source, file and line."""
    source, file, line = place
    messages = (*asked, Message(role="assistant", content=chosen))
    name = digest_of([[message.model_dump(mode="json") for message in messages], meta["rejected"]])[:16]
    return Row(
        n=line - 1, id=name, source=source, file=file, line=line, kind="preference", messages=messages, meta=dict(meta)
    )

"""Why a message or an order is refused."""

from __future__ import annotations

from luthier.core.errors import InputError, ModelError, SourceLocation


class MessageRefused(InputError):
    """A message that is not what was agreed: nothing of it was used, and nothing was sent for it."""

    def __init__(self, message: str, *, where: SourceLocation | None = None, hint: str = "") -> None:
        """Control characters, by which somebody else's words could write over a terminal, are replaced."""
        super().__init__(replace_control_characters(message), where=where, hint=hint)


class SiteRefusal(ModelError):
    """A site's answer that it does not do what it was asked, with its reason."""


class OrderRefused(InputError):
    """An order that cannot be done here; its words tell of settings and digests, and of no row."""


def replace_control_characters(text: str) -> str:
    """One line of printable characters, from words that somebody else chose."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)

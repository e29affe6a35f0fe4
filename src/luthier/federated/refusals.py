"""Why a message or an order is refused."""

from __future__ import annotations

from luthier.core.errors import InputError


class MessageRefused(InputError):
    """A message that is not what was agreed: nothing of it was used, and nothing was sent for it."""


class OrderRefused(InputError):
    """An order that cannot be done here; its words tell of settings and digests, and of no row."""

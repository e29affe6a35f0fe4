"""Personal data on pages: masked, until somebody with the right asks to see it, which stands in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from luthier.people.audit import record_audit
from luthier.people.rights import Person
from luthier.studio.state import Studio
from luthier.studio.translation import gettext as _

Shown = TypeVar("Shown")
PARAMETER = "unmasked"
"""What an address says that asks to see it."""


def hide_personal_data(
    request: Request, studio: Studio, person: Person, project: str, shown: Shown, mask: Callable[[Shown], Shown]
) -> tuple[Shown, bool]:
    """What a page may show of something, and whether anything of it is masked.

    `?unmasked=true` shows all of it to people with the right `review`: 403 for others.
    """
    masked = mask(shown)
    if masked == shown:
        return shown, False
    if request.query_params.get(PARAMETER) != "true":
        return masked, True
    if not person.may("review", project):
        raise HTTPException(403, _("You have no right to see personal data here."))
    record_audit(studio.ledger, person.id, "personal_data.show", project=project, subject=request.url.path)
    return shown, False

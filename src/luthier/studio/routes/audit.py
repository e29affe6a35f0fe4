"""The audit log, for owners of the workspace."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from luthier.core.errors import CorruptArtifact
from luthier.people.audit import list_entries, verify_audit
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import StudioDep

router = APIRouter()
_PAGE = 100


@router.get("/audit", dependencies=[Depends(allow("own"))])
def show(
    request: Request, studio: StudioDep, person: str = "", before: int | None = None, verify: bool = False
) -> Response:  # fmt: skip
    """The latest entries, and whether the log is whole."""
    head, error = None, None
    if verify:
        try:
            head = verify_audit(studio.ledger)
        except CorruptArtifact as broken:
            error = broken
    entries = list_entries(studio.ledger, limit=_PAGE + 1, before=before, person=person)
    more = entries[_PAGE - 1].number if len(entries) > _PAGE else None
    return render(
        request, "audit.html.jinja", entries=entries[:_PAGE], person=person, more=more, head=head, error=error
    )  # fmt: skip

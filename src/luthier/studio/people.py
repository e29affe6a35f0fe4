"""Access control of the studio: every route declares the right that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request

from luthier.annotation.project import find_recipe_of
from luthier.core.errors import UnknownName
from luthier.people.rights import Person, Right
from luthier.studio.security import SAFE, Change
from luthier.studio.translation import gettext as _

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.dependencies.models import Dependant

    from luthier.studio.state import Studio

__all__ = ["Person", "PersonDep", "Right", "allow", "everybody", "find_person", "member", "require_right"]
_WRITTEN_DOWN: frozenset[Right] = frozenset({"review", "edit", "own"})
"""What needs one of these rights and changes something stands in the audit log."""


def find_person(request: Request) -> Person:
    """Who makes a request; 401 for nobody."""
    person: Person | None = request.state.person
    if person is None:
        raise HTTPException(401, _("Log in first."))
    return person


PersonDep = Annotated[Person, Depends(find_person)]


class RightCheck:
    """A dependency of a route: it refuses people without a right for the project in the address."""

    def __init__(self, right: Right, *, anywhere: bool, action: str | None) -> None:
        self.right, self._anywhere, self._action = right, anywhere, action

    def __call__(self, request: Request, person: PersonDep) -> None:
        """403 for a person without the right; else, what is changed is written down once it is."""
        is_written = request.method not in SAFE and self.right in _WRITTEN_DOWN and self._action != ""
        if not is_written and person.may(self.right):
            return
        projects = () if self._anywhere else find_request_projects(request)
        if not (person.may_somewhere(self.right) if self._anywhere else person.may(self.right, *projects)):
            raise _refusal()
        if is_written:
            action = self._action or f"{request.method} {request.scope['route'].path}"
            request.state.change = Change(person.id, action, next(iter(projects), ""), request.url.path)


def allow(right: Right, *, anywhere: bool = False, action: str | None = None) -> RightCheck:
    """A dependency of a route: people without this right for the project in the address are refused.

    `anywhere` lets in whoever has it in some project: the page shows what is theirs, and a form that names a project
    is checked by `require_right`. What a form of a route changes is written into the audit log as `action`, by default
    its method and path; `""` where it changes nothing.
    """
    return RightCheck(right, anywhere=anywhere, action=action)


def require_right(request: Request, person: Person, right: Right, *projects: str) -> None:
    """403 for a person without a right in one of these projects, which the address does not name."""
    if not person.may(right, *projects):
        raise _refusal()
    change: Change | None = getattr(request.state, "change", None)
    if change is not None:
        request.state.change = change._replace(project=next(iter(projects), ""))


def require_recipe_right(request: Request, person: Person, project_id: str) -> None:
    """403 for a person who may not change the recipe that a set of items belongs to: the right to change the set alone
    does not suffice."""
    studio: Studio = request.app.state.studio
    owner = find_recipe_of(studio.ledger, project_id)
    require_right(request, person, "edit", *((owner,) if owner else ()))


def _refusal() -> HTTPException:
    return HTTPException(403, _("You have no right to do this here. An owner of the project can give it to you."))


def everybody() -> None:
    """A dependency of a route that needs no session."""


def member(person: PersonDep) -> None:
    """A dependency of a route that needs a session and no right."""


def find_request_projects(request: Request) -> tuple[str, ...]:
    """Return the projects that a request's path names; empty for the whole workspace."""
    parts = request.path_params
    studio: Studio = request.app.state.studio
    if "name" in parts:
        return (str(parts["name"]),)
    if "run" in parts:
        try:
            return (studio.project_of(studio.queue.get(str(parts["run"]))),)
        except UnknownName:
            return ()  # nobody learns which runs there are but those who may see all
    items = parts.get("project_id", parts.get("study"))
    return () if items is None else studio.find_labelling(str(items))


def list_undeclared_routes(app: FastAPI) -> list[str]:
    """Routes that do not say which right they need."""
    return [path for path, checks in list_routes(app) if not checks]


def list_routes(app: FastAPI) -> list[tuple[str, list[object]]]:
    """Each route (`POST /projects/{name}/run`), with what it declares."""
    from fastapi.routing import APIRoute

    found: list[tuple[str, list[object]]] = []
    for outer in app.routes:
        router = getattr(outer, "original_router", None)
        for route in router.routes if router is not None else [outer]:
            if not isinstance(route, APIRoute):
                found.append((str(route), []))
                continue
            found += [(f"{method} {route.path}", _declared(route.dependant)) for method in sorted(route.methods or ())]
    return found


def _declared(dependant: Dependant) -> list[object]:
    calls = [dependency.call for dependency in dependant.dependencies]
    return [call for call in calls if isinstance(call, RightCheck) or call in (everybody, member)]

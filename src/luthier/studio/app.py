"""The studio's application: its pages, what stands in front of them, and what is said when one fails."""

from __future__ import annotations

import importlib
import logging
import pkgutil

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from luthier.commands.projects.intake import MOST_BYTES
from luthier.core.errors import LuthierError
from luthier.studio import routes
from luthier.studio.pages import render_closed, render_error
from luthier.studio.people import list_undeclared_routes
from luthier.studio.security import StudioGuard
from luthier.studio.state import Studio
from luthier.studio.translation import gettext as _

_LOG = logging.getLogger("luthier.studio")


def build_app(studio: Studio, *, upload_bytes: int = MOST_BYTES) -> FastAPI:
    """The application over a workspace: the current folder."""
    app = FastAPI(title="Luthier Studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=studio.running)
    app.state.studio = studio
    names = (found.name for found in pkgutil.iter_modules(routes.__path__))
    for name in sorted(names, reverse=True):  # `/label/new` (label_manage) before `/label/{project_id}` (label)
        module = importlib.import_module(f"{routes.__name__}.{name}")
        app.include_router(module.router)
    app.add_exception_handler(LuthierError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_wrong)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_fault)
    if undeclared := list_undeclared_routes(app):
        raise RuntimeError(f"these routes say no right: {', '.join(undeclared)}")
    app.add_middleware(
        StudioGuard,
        ledger=studio.ledger,
        sessions=studio.sessions,
        names=studio.names,
        upload_bytes=upload_bytes,
        uploads=frozenset({"/new", "/label/new"}),
        closed=render_closed,
    )
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LuthierError), "it is registered for these"
    return render_error(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it is registered for these"
    message = _("There is no such page.") if error.status_code == 404 else str(error.detail)
    hint = "`luthier new NAME --from FILE` reads larger files" if error.status_code == 413 else ""
    response = render_error(request, LuthierError(message, hint=hint), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """A browser that left before its form was read whole: nobody reads the answer, and nothing is at fault."""
    return Response(status_code=400)


async def _on_wrong(request: Request, error: Exception) -> Response:
    return render_error(request, LuthierError(_("The address or the form is not as expected.")), 400)


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of the studio's own; the server's log has its traceback."""
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = _("A fault of the studio's own. The terminal that it was started from shows the details.")
    return render_error(request, LuthierError(message), 500)

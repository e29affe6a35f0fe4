"""The application: the gateway's routes behind its door, with a description that other programs read."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from luthier.core.errors import LuthierError
from luthier.serve.auth import LOOPBACK, AuthMiddleware, RequestLimits, build_error_body, build_error_headers
from luthier.serve.openai.protocol import APIError, ChatRequestBody, CompletionRequestBody, EmbeddingsBody, to_api_error
from luthier.serve.openai.responses import get_first_validation_error, wrong_content_type_error
from luthier.serve.openai.server import Gateway, get_caller, require_scope
from luthier.serve.openai.transcriptions import MOST_BYTES, TranscriptionBody
from luthier.traces.api_keys import KeyStore, Scope

if TYPE_CHECKING:
    from fastapi import APIRouter
    from starlette.types import ASGIApp

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequestBody,
    "/v1/completions": CompletionRequestBody,
    "/v1/embeddings": EmbeddingsBody,
}
TRANSCRIPTIONS = "/v1/audio/transcriptions"
_REFS = "#/components/schemas/{model}"


@dataclass(frozen=True, kw_only=True)
class ExtraRoutes:
    """Additional routes of the gateway, with the same authentication."""

    routers: Sequence[tuple[APIRouter, Scope]] = ()
    """Routes, each with the scope that a key needs for it."""
    bodies: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    """Request bodies of their paths that are parsed by hand, for the API's description."""
    larger: Mapping[str, int] = field(default_factory=dict)
    """Bytes of larger bodies, by how the path begins."""


def build_app(
    gateway: Gateway,
    *,
    ring: Callable[[], KeyStore],
    limits: RequestLimits | None = None,
    extra_routes: ExtraRoutes | None = None,
    hosts: Iterable[str] | None = LOOPBACK,
) -> ASGIApp:
    """The whole application."""
    extra_routes = extra_routes or ExtraRoutes()
    app = FastAPI(title="Luthier", version=version("luthier"), docs_url=None, redoc_url=None)
    _add_routes(app, gateway)
    for router, scope in extra_routes.routers:
        app.include_router(router, dependencies=[_needs(scope)], responses=_RESPONSES)
    app.add_exception_handler(LuthierError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_wrong)
    app.add_exception_handler(Exception, _on_fault)
    plain = app.openapi
    app.openapi = lambda: _describe_form(_described(plain(), {**_BODIES, **extra_routes.bodies}))  # type: ignore[method-assign]  # FastAPI's own way to extend it
    limits = limits or RequestLimits()
    whole = replace(limits, larger={TRANSCRIPTIONS: MOST_BYTES + 1_000_000, **limits.larger, **extra_routes.larger})
    return AuthMiddleware(app, ring=ring, limits=whole, hosts=hosts)


def _needs(scope: Scope) -> Any:
    def check(request: Request) -> None:
        require_scope(request, scope)

    return Depends(check)


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    route_options: dict[str, Any] = {"response_class": Response, "responses": _RESPONSES}
    app.add_api_route("/v1/chat/completions", gateway.chat, methods=["POST"], tags=["inference"], **route_options)
    app.add_api_route("/v1/completions", gateway.complete, methods=["POST"], tags=["inference"], **route_options)
    app.add_api_route("/v1/embeddings", gateway.embed, methods=["POST"], tags=["inference"], **route_options)
    app.add_api_route(TRANSCRIPTIONS, gateway.transcribe, methods=["POST"], tags=["inference"], **route_options)
    app.add_api_route("/v1/models", gateway.models, tags=["inference"], **route_options)
    app.add_api_route("/v1/models/{model:path}", gateway.model, tags=["inference"], **route_options)

    async def health() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok"}

    async def ready() -> Response:
        """New requests are welcome; 503 while the server stops."""
        return JSONResponse({"ready": gateway.ready}, status_code=200 if gateway.ready else 503)

    async def metrics(request: Request) -> Response:
        """Counts and times, for Prometheus, of the models that the key may ask; with `admin`, of all."""
        return Response(gateway.counts(get_caller(request)), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def docs(request: Request) -> Response:
        """This API, to be read by people; it loads nothing from elsewhere."""
        return HTMLResponse(_page(app.openapi()))

    app.add_api_route("/health", health, tags=["server"])
    app.add_api_route("/ready", ready, tags=["server"], response_class=JSONResponse)
    app.add_api_route("/metrics", metrics, tags=["server"], response_class=Response)
    app.add_api_route("/docs", docs, include_in_schema=False)


_RESPONSES: dict[int | str, Any] = {
    "4XX": {"description": "Refused: `error` holds `message`, `type`, `param` and `code`."},
    "5XX": {"description": "The server is to blame, in the same shape."},
}


def _described(openapi: dict[str, Any], bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """FastAPI's description, with the bodies that are read by hand."""
    _, defs = models_json_schema([(body, "validation") for body in bodies.values()], ref_template=_REFS)
    openapi.setdefault("components", {}).setdefault("schemas", {}).update(defs["$defs"])
    for path, body in bodies.items():
        schema = {"$ref": _REFS.format(model=body.__name__)}
        content = {"application/json": {"schema": schema}}
        openapi["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    return openapi


def _describe_form(openapi: dict[str, Any]) -> dict[str, Any]:
    """The description with the one body that is a form."""
    schema = TranscriptionBody.model_json_schema(ref_template=_REFS)
    properties = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    content = {"multipart/form-data": {"schema": {**schema, "properties": properties, "required": ["file", "model"]}}}
    openapi["paths"][TRANSCRIPTIONS]["post"]["requestBody"] = {"required": True, "content": content}
    return openapi


def _page(openapi: dict[str, Any]) -> str:
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Luthier</title>"]
    parts.append("<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}</style>")
    parts.append("<h1>Luthier</h1><p>OpenAI's API; <a href=openapi.json>the description for programs</a>.</p>")
    for path, verbs in openapi["paths"].items():
        for verb, about in verbs.items():
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = body.get("$ref", "").rpartition("/")[2]
            schema = openapi["components"]["schemas"].get(name, body)
            parts.append(f"<h2><code>{verb.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(about.get('description', about.get('summary', '')))}</p>")
            if schema:
                shown = html.escape(json.dumps(schema, indent=1))
                parts.append(f"<details><summary>Body</summary><pre>{shown}</pre></details>")
    return "".join(parts)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LuthierError)
    refusal = to_api_error(error)
    return JSONResponse(build_error_body(refusal), status_code=refusal.status, headers=build_error_headers(refusal))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = APIError(_said(request, error), status=error.status_code)
    headers = {**(error.headers or {}), **build_error_headers(refusal)}
    return JSONResponse(build_error_body(refusal), status_code=refusal.status, headers=headers)


def _said(request: Request, error: HTTPException) -> str:
    """Return the error for an unknown route, with a similar one."""
    path = request.url.path[:200]
    if error.status_code == 405:
        return f"expected {(error.headers or {}).get('Allow', 'another method')} {path}, got {request.method}"
    if error.status_code != 404:
        return str(error.detail)
    paths = {getattr(route, "path", "") for route in request.app.routes}
    near = f"did you mean /v1{path}?" if f"/v1{path}" in paths else "/docs tells what there is"
    return f"there is nothing at {path}; {near}"


async def _on_wrong(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if found[0]["loc"] == ("body",) and (other := wrong_content_type_error(request)) is not None:
        return await _on_error(request, other)
    return await _on_error(request, get_first_validation_error([{**entry, "loc": entry["loc"][1:]} for entry in found]))


async def _on_fault(request: Request, error: Exception) -> Response:
    return JSONResponse(build_error_body(APIError("a fault of the server's own", status=500)), status_code=500)

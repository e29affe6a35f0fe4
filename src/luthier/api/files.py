"""`/v1/files`: files come in, are listed, read and deleted, each by the key that brought it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import FileResponse, JSONResponse, Response

from luthier.api.multipart import MultipartForm, parse_multipart_request
from luthier.api.requests import check_query_params, run_in_thread
from luthier.api.schemas import file_to_json, page_to_json
from luthier.commands.jobs.check import validate_jsonl_file
from luthier.commands.jobs.files import IncomingUpload
from luthier.commands.jobs.records import Upload
from luthier.commands.jobs.service import JobService
from luthier.serve.openai.protocol import APIError
from luthier.serve.openai.server import get_caller

MOST_LISTED = 10_000
_KNOWN = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}
File = Annotated[str, Path(min_length=1, max_length=100)]
After = Annotated[str | None, Query(max_length=100)]


def build_file_routes(service: JobService) -> APIRouter:
    """The routes for files."""
    router = APIRouter(prefix="/v1/files", tags=["files"])
    files = service.files

    @router.post("", response_class=Response, openapi_extra=_FORM)
    async def create(request: Request) -> Response:
        """Bring a file: JSON lines to learn from (`purpose: fine-tune`)."""
        check_query_params(request)
        with files.receiving(get_caller(request).key) as incoming:
            form = await parse_multipart_request(request, incoming)
            expires_s = _check_fields(form)
            return JSONResponse(file_to_json(await run_in_thread(_keep, incoming, form.filename, expires_s)))

    @router.get("", response_class=Response)
    async def listed(
        request: Request,
        purpose: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        order: Literal["asc", "desc"] = "desc",
        after: After = None,
    ) -> Response:
        """This key's files."""
        check_query_params(request, "purpose", "limit", "order", "after")
        key = get_caller(request).key
        uploads = await run_in_thread(
            files.listed, key, purpose=purpose, after=after, limit=limit + 1, newest=order == "desc"
        )
        return JSONResponse(page_to_json(map(file_to_json, uploads[:limit]), more=len(uploads) > limit))

    @router.get("/{file_id}", response_class=Response)
    async def retrieve(request: Request, file_id: File) -> Response:
        """One of them."""
        return JSONResponse(file_to_json(await run_in_thread(files.get, get_caller(request).key, file_id, "file_id")))

    @router.get("/{file_id}/content", response_class=Response)
    async def content(request: Request, file_id: File) -> Response:
        """Its bytes."""
        upload: Upload = await run_in_thread(files.get, get_caller(request).key, file_id, "file_id")
        path = files.path(upload.id)
        if not path.is_file():
            raise APIError(f"there is no file {file_id!r}", param="file_id", code="file_not_found", status=404)
        return FileResponse(path, media_type="application/octet-stream", filename=upload.filename)

    @router.delete("/{file_id}", response_class=Response)
    async def delete(request: Request, file_id: File) -> Response:
        """Forget it."""
        await run_in_thread(files.delete, get_caller(request).key, file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    return router


def _check_fields(form: MultipartForm) -> int | None:
    """Seconds after which a file expires; `APIError` for what has no counterpart here."""
    for name in form.fields:
        if name not in _KNOWN:
            raise APIError(f"this server has no parameter {name!r}", param=name, code="unsupported_parameter")
    purpose = form.fields.get("purpose")
    if purpose != "fine-tune":
        reason = "the form has no `purpose`" if purpose is None else f"{purpose[:40]!r} is no purpose here"
        raise APIError(f"{reason}; files are for 'fine-tune'", param="purpose", code="invalid_purpose")
    return _expiry(form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"))


def _expiry(anchor: str | None, seconds: str | None) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise APIError("expected the anchor 'created_at'", param="expires_after.anchor")
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or not 3600 <= int(seconds[:9]) <= 2592000:
        raise APIError("expected seconds from 3600 to 2592000", param="expires_after.seconds")
    return int(seconds)


def _keep(incoming: IncomingUpload, filename: str, expires_s: int | None) -> Upload:
    """Keep a file that holds JSON lines."""
    incoming.flush()
    validate_jsonl_file(incoming.path)
    return incoming.keep(filename, "fine-tune", expires_s)

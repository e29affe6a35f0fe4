"""Routes for fine-tuning jobs and the models that they made, and all routes with the scope that they ask of a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, Response

from luthier.api.files import build_file_routes
from luthier.api.requests import check_query_params, run_in_thread
from luthier.api.schemas import FineTuningJobRequest, checkpoint_to_json, event_to_json, job_to_json, page_to_json
from luthier.commands.jobs.files import FILE_BYTES
from luthier.commands.jobs.records import FineTuningJob
from luthier.commands.jobs.service import JobService
from luthier.serve.app import ExtraRoutes
from luthier.serve.openai.protocol import APIError
from luthier.serve.openai.responses import read_json_body, validate_body
from luthier.serve.openai.server import get_caller
from luthier.traces.api_keys import Scope

PATH = "/v1/fine_tuning/jobs"
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
Name = Annotated[str, Path(min_length=1, max_length=100)]
After = Annotated[str | None, Query(max_length=100)]
Limit = Annotated[int, Query(ge=1, le=100)]


def build_job_routes(service: JobService) -> APIRouter:
    """The routes for jobs."""
    router = APIRouter(prefix=PATH, tags=["fine-tuning"])

    _add_job_actions(router, service)
    _add_job_details(router, service)
    return router


def _find(service: JobService, request: Request, job: str) -> FineTuningJob:
    return service.book.get(get_caller(request).key, job)


def _add_job_actions(router: APIRouter, service: JobService) -> None:
    """Making jobs, finding them, and stopping them."""
    find = partial(_find, service)

    @router.post("", response_class=Response)
    async def create(request: Request) -> Response:
        """Let a base model be tuned on an uploaded file."""
        check_query_params(request)
        job_request = validate_body(await read_json_body(request), FineTuningJobRequest).to_job_request()
        return JSONResponse(job_to_json(await run_in_thread(service.create, get_caller(request).key, job_request)))

    @router.get("", response_class=Response)
    async def listed(request: Request, after: After = None, limit: Limit = 20) -> Response:
        """This key's jobs, the latest first; `metadata[NAME]=VALUE` chooses."""
        check_query_params(request, "after", "limit", "metadata", but="metadata[")
        metadata, key = _metadata(request), get_caller(request).key
        tuning_jobs = await run_in_thread(service.book.listed, key, after=after, limit=limit + 1, metadata=metadata)
        return JSONResponse(page_to_json(map(job_to_json, tuning_jobs[:limit]), more=len(tuning_jobs) > limit))

    @router.get("/{fine_tuning_job_id}", response_class=Response)
    async def retrieve(request: Request, fine_tuning_job_id: Name) -> Response:
        """One of them."""
        job = await run_in_thread(find, request, fine_tuning_job_id)
        return JSONResponse(job_to_json(job, await run_in_thread(service.estimated_finish, job)))

    @router.post("/{fine_tuning_job_id}/cancel", response_class=Response)
    async def cancel(request: Request, fine_tuning_job_id: Name) -> Response:
        """End it for good."""
        return JSONResponse(
            job_to_json(await run_in_thread(service.cancel, await run_in_thread(find, request, fine_tuning_job_id)))
        )

    @router.post("/{fine_tuning_job_id}/pause", response_class=Response)
    async def pause(request: Request, fine_tuning_job_id: Name) -> Response:
        """Stop it, to go on later."""
        return JSONResponse(
            job_to_json(await run_in_thread(service.pause, await run_in_thread(find, request, fine_tuning_job_id)))
        )

    @router.post("/{fine_tuning_job_id}/resume", response_class=Response)
    async def resume(request: Request, fine_tuning_job_id: Name) -> Response:
        """Go on with it."""
        return JSONResponse(
            job_to_json(await run_in_thread(service.resume, await run_in_thread(find, request, fine_tuning_job_id)))
        )


def _add_job_details(router: APIRouter, service: JobService) -> None:
    """What happened to a job, and what came of it."""
    find = partial(_find, service)

    @router.get("/{fine_tuning_job_id}/events", response_class=Response)
    async def events(request: Request, fine_tuning_job_id: Name, after: After = None, limit: Limit = 20) -> Response:
        """What happened to it, the latest first."""
        check_query_params(request, "after", "limit")
        job = await run_in_thread(find, request, fine_tuning_job_id)
        job_events, more = await run_in_thread(service.events, job, limit, after)
        return JSONResponse(page_to_json(map(event_to_json, job_events), more=more))

    @router.get("/{fine_tuning_job_id}/checkpoints", response_class=Response)
    async def checkpoints(
        request: Request, fine_tuning_job_id: Name, after: After = None, limit: Limit = 10
    ) -> Response:
        """Models that can be asked, the latest first: those after the last epochs, once the job is done."""
        check_query_params(request, "after", "limit")
        job = await run_in_thread(find, request, fine_tuning_job_id)
        found = [
            checkpoint_to_json(job, job_checkpoint) for job_checkpoint in await run_in_thread(service.checkpoints, job)
        ]
        known = [entry["id"] for entry in found]
        if after is not None and after not in known:
            raise APIError(f"there is no checkpoint {after!r}", param="after")
        rest = found[known.index(after) + 1 :] if after is not None else found
        return JSONResponse(page_to_json(rest[:limit], more=len(rest) > limit))


def _metadata(request: Request) -> Mapping[str, str] | None:
    """What a job's metadata must be."""
    found: dict[str, str] = {}
    for name, value in request.query_params.items():
        if (key := _METADATA.fullmatch(name)) is not None:
            found[key[1]] = value
        elif name.startswith("metadata") and (name, value) != ("metadata", "null"):
            raise APIError("expected metadata[NAME]=VALUE", param="metadata")
    return found or None


BODIES: Mapping[str, Any] = {PATH: FineTuningJobRequest}
"""What is read by hand, for the API's description."""


_FORM_BYTES = 1 << 20
"""What a form may weigh beside its file."""


def build_fine_tuning_routes(service: JobService) -> ExtraRoutes:
    """Build the HTTP routes for fine-tuning jobs, files and tuned models."""
    routers: Sequence[tuple[APIRouter, Scope]] = [
        (build_file_routes(service), "tune"),
        (build_job_routes(service), "tune"),
        (build_model_delete_routes(service), "tune"),
    ]
    return ExtraRoutes(routers=routers, bodies=BODIES, larger={"/v1/files": FILE_BYTES + _FORM_BYTES})


ModelName = Annotated[str, Path(min_length=1, max_length=200)]


def build_model_delete_routes(service: JobService) -> APIRouter:
    """Build the route that deletes a model which a fine-tuning job made."""
    router = APIRouter(prefix="/v1/models", tags=["fine-tuning"])

    @router.delete("/{model:path}", response_class=Response)
    async def delete(request: Request, model: ModelName) -> Response:
        """Forget a tuned model; refused while a released name means it."""
        check_query_params(request)
        caller = get_caller(request)
        await run_in_thread(service.forget, caller.key, model, everybodys=caller.may("admin"))
        return JSONResponse({"id": model, "object": "model", "deleted": True})

    return router

"""`DELETE /v1/models/{ft:…}`: a model that a job made is forgotten by whoever had it made."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from luthier.api.asking import check_query_params, run_in_thread
from luthier.commands.jobs.service import JobService
from luthier.serve.openai.server import get_caller

Name = Annotated[str, Path(min_length=1, max_length=200)]


def build_model_delete_routes(service: JobService) -> APIRouter:
    """Build the route that deletes a model which a fine-tuning job made."""
    router = APIRouter(prefix="/v1/models", tags=["fine-tuning"])

    @router.delete("/{model:path}", response_class=Response)
    async def delete(request: Request, model: Name) -> Response:
        """Forget a tuned model; refused while a released name means it."""
        check_query_params(request)
        caller = get_caller(request)
        await run_in_thread(service.forget, caller.key, model, everybodys=caller.may("admin"))
        return JSONResponse({"id": model, "object": "model", "deleted": True})

    return router

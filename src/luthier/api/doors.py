"""All routes of this door, with the scope that they ask of a key, and how much they may be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.api.files import file_routes
from luthier.api.jobs import BODIES, job_routes
from luthier.api.models import build_model_delete_routes
from luthier.commands.jobs.files import FILE_BYTES
from luthier.commands.jobs.service import JobService
from luthier.serve.app import ExtraRoutes
from luthier.traces.api_keys import Scope

if TYPE_CHECKING:
    from fastapi import APIRouter

_FORM_BYTES = 1 << 20
"""What a form may weigh beside its file."""


def build_fine_tuning_routes(service: JobService) -> ExtraRoutes:
    """Build the HTTP routes for fine-tuning jobs, files and tuned models."""
    routers: Sequence[tuple[APIRouter, Scope]] = [
        (file_routes(service), "tune"),
        (job_routes(service), "tune"),
        (build_model_delete_routes(service), "tune"),
    ]
    return ExtraRoutes(routers=routers, bodies=BODIES, larger={"/v1/files": FILE_BYTES + _FORM_BYTES})

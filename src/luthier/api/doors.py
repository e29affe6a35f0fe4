"""All routes of this door, with the scope that they ask of a key, and how much they may be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.api.files import file_routes
from luthier.api.jobs import BODIES, job_routes
from luthier.api.models import model_routes
from luthier.flow.jobs.desk import Desk
from luthier.flow.jobs.files import FILE_BYTES
from luthier.serve.app import Beside
from luthier.traffic.keys import Scope

if TYPE_CHECKING:
    from fastapi import APIRouter

_FORM_BYTES = 1 << 20
"""What a form may weigh beside its file."""


def doors(desk: Desk) -> Beside:
    """What stands beside the gateway."""
    routers: Sequence[tuple[APIRouter, Scope]] = [
        (file_routes(desk), "tune"),
        (job_routes(desk), "tune"),
        (model_routes(desk), "tune"),
    ]
    return Beside(routers=routers, bodies=BODIES, larger={"/v1/files": FILE_BYTES + _FORM_BYTES})

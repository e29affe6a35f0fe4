"""What the gateway answers about feedback: thumbs, ratings, labels, corrections and comments by a request's id."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.described import described
from luthier.traffic.opinion import Opinion
from luthier.traffic.record import Feedback

if TYPE_CHECKING:
    from fastapi import APIRouter


class Received(BaseModel):
    """The answer to an opinion."""

    model_config = ConfigDict(json_schema_extra=described)

    id: str
    """Of the completion that it is about."""
    object: Literal["feedback"] = "feedback"
    created: int
    """In seconds since 1970."""


def feedback_routes(record: Callable[[Feedback], None]) -> APIRouter:
    """`POST /v1/feedback`; whoever mounts it sees to keys, limits and the shape of errors.

    An opinion about a request of which no trace is kept is taken as well: the trace may be on its way.
    """
    from fastapi import APIRouter

    routes = APIRouter(tags=["feedback"])

    async def give(opinion: Opinion) -> Any:
        """Say what an answer was worth, or what it should have been."""
        now = datetime.now(UTC)
        record(opinion.feedback(now))
        return Received(id=opinion.id, created=int(now.timestamp()))

    routes.add_api_route("/v1/feedback", give, methods=["POST"], response_model=Received, operation_id="give_feedback")
    return routes

"""What the gateway answers about feedback: thumbs, ratings, labels, corrections and comments by a request's id."""

from __future__ import annotations

import asyncio
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


def feedback_routes(
    record: Callable[[Feedback], None], check: Callable[[Feedback], Feedback] | None = None
) -> APIRouter:
    """`POST /v1/feedback`; whoever mounts it sees to keys, limits and the shape of errors.

    An opinion about a request of which no trace is kept is taken as well: the trace may be on its way. `check` looks at
    true classes, in a thread, one at a time: it returns what is to be recorded, or raises.
    """
    from fastapi import APIRouter

    routes = APIRouter(tags=["feedback"])
    one_at_a_time = asyncio.Semaphore(1)

    async def give(opinion: Opinion) -> Any:
        """Say what an answer was worth, or what it should have been."""
        now = datetime.now(UTC)
        said = opinion.feedback(now)
        if check is not None and opinion.names_class and not opinion.new_class:
            async with one_at_a_time:
                said = await asyncio.to_thread(check, said)
        await asyncio.to_thread(record, said)  # names are looked for before it is kept
        return Received(id=opinion.id, created=int(now.timestamp()))

    routes.add_api_route("/v1/feedback", give, methods=["POST"], response_model=Received, operation_id="give_feedback")
    return routes

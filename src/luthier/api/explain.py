"""`POST /v1/explain`: why a served model answers so, for a text, a conversation, a kept request or a training row."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response

from luthier.api.requests import check_query_params
from luthier.artifacts.explanation import ExplanationRecord, PartKind, UnitKind
from luthier.chat.messages import Message
from luthier.commands.explain_service import ExplanationService
from luthier.core.component import add_field_descriptions
from luthier.explain.explainer import Explainer
from luthier.metrics.files import parse_component_spec
from luthier.serve.app import ExtraRoutes
from luthier.serve.openai.protocol import APIError, MessageBody, RequestBody, Text, WholeNumber
from luthier.serve.openai.responses import read_json_body, validate_body
from luthier.serve.openai.server import get_caller
from luthier.serve.openai.sse import ClientDisconnected, cancel_on_disconnect

_Name = Annotated[str, Field(min_length=1, max_length=512)]
_ASKED = ("input", "messages", "trace", "row")


class ExplainBody(RequestBody):
    """What is to be explained: one of `input`, `messages`, `trace` and `row`."""

    model: _Name | None = None
    """The model that answers; of a trace, the one that answered."""
    input: Text | None = None
    """What the model is asked, as one message of the user."""
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=512)] | None = None
    """A conversation that is to be answered."""
    trace: _Name | None = None
    """The id of a request that was kept (`chatcmpl-…`): of this key, or with the scope `data` of any."""
    row: _Name | None = None
    """A row of the model's training data by the beginning of its id, with the scope `data`."""
    answer: Text | None = None
    """The answer or class to explain; the model's own, or that of the trace, when not given."""
    part: Text = ""
    """The part of the answer to explain."""
    instead: Text = ""
    """Explain why the answer, or class, and not this one."""
    methods: Annotated[tuple[_Name, ...], Field(max_length=3)] = ()
    """Kinds of explainers, with settings as in `shapley:orders=16`; `attnlrp`, or `leave_one_out` without weights."""
    units: UnitKind | Literal["auto"] = "auto"
    """What is scored."""
    refine: PartKind | None = None
    """What the strongest units are cut into for a closer look."""
    orders: Annotated[WholeNumber, Field(ge=0, le=199)] = 19
    """Random orders of the units that the ranking is compared with; 0: faithfulness is not measured."""
    seed: WholeNumber = 0
    """Draws random orders."""

    @model_validator(mode="after")
    def _asks_one_thing(self) -> ExplainBody:
        given = [name for name in _ASKED if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(_ASKED)}, got {' and '.join(given) or 'none of them'}")
        if (self.model is None) != (self.trace is not None):
            what = "a trace names the model that answered: leave `model` out" if self.trace else "`model` is missing"
            raise ValueError(what)
        for method in self.methods:
            parse_component_spec(Explainer, method)
        return self

    def conversation(self) -> Sequence[Message]:
        """The messages that are to be answered."""
        if self.messages is not None:
            return [message.as_message() for message in self.messages]
        return [Message(role="user", content=self.input or "")]

    def options(self) -> dict[str, Any]:
        """How it is explained."""
        names = ("answer", "part", "instead", "methods", "units", "refine", "orders", "seed")
        return {name: getattr(self, name) for name in names}


class ExplainResponse(BaseModel):
    """Explanations of one answer."""

    model_config = ConfigDict(json_schema_extra=add_field_descriptions)

    id: str
    object: Literal["explanation"] = "explanation"
    created: int
    """In seconds since 1970."""
    model: str
    """The name that was asked for, or the trace whose answer is explained."""
    release: str
    """Digest of the model that is explained."""
    explanations: list[ExplanationRecord]
    """One a method. Personal data is replaced by its kind (`[EMAIL]`), as in traces."""


def build_explain_routes(service: ExplanationService) -> ExtraRoutes:
    """Build the route for explanations."""
    router = APIRouter(prefix="/v1", tags=["explanations"])

    @router.post("/explain", response_class=Response)
    async def explain(request: Request) -> Response:
        """Explain an answer: which parts of the prompt it comes from, and how faithful that is."""
        check_query_params(request)
        body = validate_body(await read_json_body(request), ExplainBody)
        try:
            found = await cancel_on_disconnect(request.receive, _explain(service, body, request))
        except ClientDisconnected:
            return Response(status_code=204)  # nobody hears it
        return JSONResponse(found.model_dump(mode="json"))

    return ExtraRoutes(routers=[(router, "explain")], bodies={"/v1/explain": ExplainBody})


async def _explain(service: ExplanationService, body: ExplainBody, request: Request) -> ExplainResponse:
    caller, options = get_caller(request), body.options()
    characters = sum(len(message.content) for message in body.conversation())
    if characters > _CHARACTERS_A_TOKEN * service.limits.max_tokens:
        what = f"the prompt has {characters:,} characters; at most {service.limits.max_tokens:,} tokens are explained"
        raise APIError(what, param="messages" if body.messages else "input", code="context_length_exceeded")
    if body.trace is not None:
        release, records = await service.explain_trace(body.trace, caller, options)
    elif body.row is not None:
        release, records = await service.explain_row(str(body.model), body.row, caller, options)
    else:
        release, records = await service.explain_conversation(str(body.model), body.conversation(), caller, options)
    return ExplainResponse(
        id=f"expl-{secrets.token_hex(12)}", created=int(time.time()), model=body.model or str(body.trace),
        release=release, explanations=records,
    )  # fmt: skip


_CHARACTERS_A_TOKEN = 12
"""More characters than a token has; what is longer is refused before a tokenizer reads it."""
